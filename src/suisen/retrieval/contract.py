"""The contract of an index, whole: its frozen settings, and what finds the largest inner products.

Arrays are NumPy at this door (``tensor.numpy()`` shares memory with torch on a CPU); vectors and queries are float32,
other types are refused.  Ids are positions in the array given to ``build``.  No array of the caller is ever written to,
and none is kept: ``build`` copies.
"""

from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

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
    """Finds the largest inner products: every query gets exactly min(k, allowed positions) of them."""

    @property
    def description(self) -> Description:
        """Plain data for a manifest: name, n, d and settings.  ``open_index`` reads it."""

    @property
    def vectors(self) -> Floats:
        """(n, d): what was given to ``build``; not to be written to.  InputError where nothing was."""

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

    def load(self, folder: Path, shape: tuple[int, int]) -> None:
        """Takes in (n, d) vectors that ``save`` wrote, memory-mapped, in place of ``build``.

        BundleError names a file that is missing, damaged or another index's.
        """


class IndexSettings(Protocol):
    """The public name of an index, like ``HNSW(m=16)``: frozen parameters (``suisen.parameters``), nothing built."""

    name: ClassVar[str]
    """How a command line, a TOML file and a bundle's manifest call it."""
    exact: ClassVar[bool]
    """Whether its answers are the largest inner products, not just most of them."""

    def create(self) -> Index:
        """An empty index."""
