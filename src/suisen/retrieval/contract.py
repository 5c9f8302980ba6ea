"""The contract of an index, whole: what finds the largest inner products, behind five verbs.

Arrays are NumPy at this door (``tensor.numpy()`` shares memory with torch on a CPU); vectors and queries are float32,
other types are refused.  Ids are positions in the array given to ``build``.  No array of the caller is ever written to,
and none is kept: ``build`` copies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Description = dict[str, Any]


class Excluded(NamedTuple):
    """Positions that query i must not get: ``values[offsets[i]:offsets[i + 1]]``, any order, repeats allowed."""

    values: Ints
    """(n excluded,) positions."""
    offsets: Ints
    """(B + 1,) starting at 0, never falling."""


class Index(Protocol):
    """Finds the largest inner products; every query gets exactly min(k, allowed positions) of them, for every kind."""

    @property
    def description(self) -> Description:
        """Plain data for a manifest: kind, parameters, n, d.  ``open_index`` reads it."""

    @property
    def vectors(self) -> Floats:
        """(n, d): what was given to ``build``; not to be written to."""

    def build(self, vectors: Floats) -> None:
        """Takes in (n, d) vectors; row i is position i.  Replaces what was there."""

    def search(
        self, queries: Floats, k: int, exclude: Excluded | None = None, allowed: Bools | None = None
    ) -> tuple[Ints, Floats]:
        """(B, k) positions, -1 = none, and (B, k) true inner products, descending, -inf beside none.

        ``exclude``: positions of each query; ``allowed``: (n,) one mask for all.  Equal scores: lower position first.
        """

    def save(self, folder: Path) -> None:
        """Writes its files into ``folder``, which is made where it is missing."""

    @classmethod
    def load(cls, folder: Path, description: Description) -> Self:
        """The inverse of ``save``, memory-mapped; BundleError names a file that is missing or damaged."""
