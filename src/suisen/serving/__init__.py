"""the HTTP service"""
