"""events → Dataset: reading, ids, features, splits, views, sources"""
