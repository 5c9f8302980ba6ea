"""Experiments: from assignment to a verdict one can defend.

The public names stand in ``__init__.pyi``; each is loaded at its first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
