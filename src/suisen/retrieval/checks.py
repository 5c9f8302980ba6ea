"""What every index checks, builds and saves in the same way: vectors, searches, files."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suisen.errors import BundleError, InputError
from suisen.files import replacing
from suisen.retrieval.contract import Bools, Description, Excluded, Floats, Ints

MAX_COORDINATE = 1e15
"""Bound of a coordinate: the inner product of two such vectors still fits float32 at any usual d."""
VECTORS_FILE = "vectors.npy"


class CheckedSearch(NamedTuple):
    """What ``Index.search`` was given, checked: B queries over (n, d) vectors."""

    queries: Floats
    """(B, d), contiguous, our own."""
    k: int
    """Positions per query."""
    gone: Ints
    """Sorted unique row · n + position of everything excluded."""
    n_gone: Ints
    """(B,) number of positions excluded for each query."""
    allowed: Bools | None
    """(n,): the only positions that any query may get; None = all."""
    wanted: Ints
    """(B,): min(k, positions that are allowed and not excluded): what each query must get."""

    def take(self, rows: Ints, n: int) -> "CheckedSearch":
        """The queries named by ascending row numbers, in that order, as a search of their own."""
        gone_rows, gone_positions = np.divmod(self.gone, n)
        kept = np.isin(gone_rows, rows)
        gone = np.searchsorted(rows, gone_rows[kept]) * n + gone_positions[kept]
        return CheckedSearch(self.queries[rows], self.k, gone, self.n_gone[rows], self.allowed, self.wanted[rows])


def checked_vectors(vectors: Floats) -> Floats:
    """A contiguous copy of (n, d) float32 vectors, n and d at least 1, every number finite."""
    out = _checked("vectors", vectors)
    if not out.size:
        raise InputError(f"vectors has shape {out.shape}; an index needs at least one row and one column")
    if len(out) >= 2**32:
        raise InputError(f"vectors has {len(out)} rows; an index holds fewer than 2^32: use several indexes")
    return out


def checked_search(
    vectors: Floats, queries: Floats, k: int, exclude: Excluded | None, allowed: Bools | None
) -> CheckedSearch:
    """A search in an index of (n, d) vectors; InputError names what is wrong with it."""
    n, d = vectors.shape
    own = _checked("queries", queries)
    width = own.shape[1]
    if width != d:
        raise InputError(f"queries has {width} dimensions, the index {d}; use the model the index was built from")
    if k < 0:
        raise InputError(f"k = {k} is negative; give 0 or more")
    if allowed is not None and (allowed.shape != (n,) or allowed.dtype != np.bool_):
        raise InputError(f"allowed is {allowed.dtype} of shape {allowed.shape}; give bool of shape ({n},)")
    gone = _gone(len(own), n, exclude)
    rows, positions = np.divmod(gone, n)
    n_gone = np.bincount(rows, minlength=len(own))
    if allowed is None:
        free = n - n_gone
    else:
        free = np.count_nonzero(allowed) - np.bincount(rows[allowed[positions]], minlength=len(own))
    return CheckedSearch(own, k, gone, n_gone, allowed, np.minimum(free, k))


def _gone(rows: int, n: int, exclude: Excluded | None) -> Ints:
    """Sorted unique row · n + position: one number for each pair, so that a set of pairs is a set of numbers."""
    if exclude is None:
        return np.zeros(0, dtype=np.int64)
    values, offsets = (np.asarray(part, dtype=np.int64) for part in exclude)
    lengths = np.diff(offsets)
    if len(offsets) != rows + 1 or offsets[0] != 0 or offsets[-1] != len(values) or (lengths < 0).any():
        raise InputError(f"exclude.offsets must be {rows + 1} numbers (queries + 1) rising from 0 to {len(values)}")
    wrong = (values < 0) | (values >= n)
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(f"exclude.values[{at}] = {values[at]} is not a position; positions are 0 to {n - 1}")
    return np.unique(np.repeat(np.arange(rows), lengths) * n + values)


def _checked(name: str, array: Floats) -> Floats:
    """A contiguous copy of a finite float32 matrix."""
    given = np.asarray(array)
    if given.dtype != np.float32:
        raise InputError(f"{name} is {given.dtype}; indexes hold float32: convert with .astype(np.float32)")
    if given.ndim != 2:
        raise InputError(f"{name} has shape {given.shape}; give a matrix with one vector per row")
    own = np.array(given, order="C")
    if own.size and not max(float(own.max()), -float(own.min())) <= MAX_COORDINATE:  # NaN compares false
        row = int(np.flatnonzero(~(np.abs(own) <= MAX_COORDINATE).all(axis=1))[0])
        what = f"NaN, infinity or a number beyond ±{MAX_COORDINATE:g}"
        raise InputError(f"{name}[{row}] holds {what}; find where it comes from")
    return own


class StoredVectors:
    """What indexes have in common: settings, and the vectors that they were given."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self._vectors: Floats | None = None

    @property
    def vectors(self) -> Floats:
        """(n, d): what was given to ``build``; InputError where nothing was."""
        if self._vectors is None:
            raise InputError("the index is empty; call build(vectors) first")
        return self._vectors

    @property
    def description(self) -> Description:
        """Plain data for a manifest: name, n, d and settings."""
        n, d = self.vectors.shape
        return {"name": self.settings.name, "n": n, "d": d, **asdict(self.settings)}

    def save(self, folder: Path) -> None:
        """Writes the vectors as .npy."""
        with replacing(folder / VECTORS_FILE) as path:
            np.save(path, self.vectors, allow_pickle=False)

    def load(self, folder: Path, shape: tuple[int, int]) -> None:
        """Maps the vectors into memory: pages are read when touched and shared between processes."""
        path = folder / VECTORS_FILE
        try:
            # Copy-on-write rather than read-only, because torch warns of arrays that it could write to; nobody does.
            vectors: Any = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{path} cannot be read ({error}); save the bundle again") from error
        if vectors.dtype != np.float32 or vectors.shape != shape:
            raise BundleError(f"{path} holds {vectors.dtype} {vectors.shape}, the description says float32 {shape}")
        self._vectors = finite(path, np.asarray(vectors))


def finite(path: Path, vectors: Floats) -> Floats:
    """The vectors themselves.  Raises BundleError where some coordinate is none of ``checked_vectors``; one pass over
    them, 0.1 s per GB.
    """
    if not max(float(vectors.max(initial=0)), -float(vectors.min(initial=0))) <= MAX_COORDINATE:  # NaN compares false
        raise BundleError(f"{path} holds NaN, infinity or a number beyond ±{MAX_COORDINATE:g}; save the bundle again")
    return vectors
