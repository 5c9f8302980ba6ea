"""Suisen: event log in, measured two-stage recommender out.

The public names stand in ``__init__.pyi``; each is loaded at its first use, so that ``import suisen`` stays cheap.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
