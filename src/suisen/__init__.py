"""Suisen: event log in, measured two-stage recommender out."""

__version__ = "0.1.0"
