"""Fixtures of fitted Recommenders."""

from tests.fitted import rec, split

__all__ = ["rec", "split"]
