"""the contract, then one file a model"""
