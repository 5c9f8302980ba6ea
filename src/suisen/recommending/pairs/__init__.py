"""Features of a (context, candidate) pair beside the retrieval's own: co-visits, categories, numbers, age and trend"""
