"""metrics, protocols, intervals and paired tests"""
