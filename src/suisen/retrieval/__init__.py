"""the Index contract and its implementations"""
