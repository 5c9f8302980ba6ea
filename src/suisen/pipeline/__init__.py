"""the Recommender: retrieve, filter, rank, diversify; bundles and the funnel"""
