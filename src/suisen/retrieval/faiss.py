"""Indexes on FAISS (Douze et al. 2024).  FAISS is imported when an index is built, loaded or searched, not before.

Scores are true inner products: the answers of a quantised index are re-scored with the float32 vectors, which are kept
beside it (FAISS's own copy where the index stores them whole).  Exclusion never shortens an answer: a query asks for k
and as many more as *it* excludes; a query that still lacks something asks again with more effort, and at last every
vector is scored for it.  A build with several threads may place the links of HNSW differently; the rest repeats.
FAISS's own thread setting is respected and nothing global is changed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np

from suisen.errors import BundleError, InputError
from suisen.retrieval.checks import Request, checked_request, checked_vectors, load_vectors, replacing, save_vectors
from suisen.retrieval.contract import Bools, Description, Excluded, Floats, Ints
from suisen.retrieval.exact import inner_products, scan
from suisen.retrieval.select import NONE, Keys, pack, unpack
from suisen.retrieval.settings import HNSW, IVFPQ, IVFSQ8, Flat

FaissSettings = Flat | HNSW | IVFSQ8 | IVFPQ
INDEX_FILE = "index.faiss"
END = b"\nsuisen\n"
"""Behind FAISS's own bytes: FAISS does not notice it when the last list of a mapped file is cut short."""
FEWEST = 1_000
"""An IVF index of fewer vectors is refused: scoring them all is faster."""
A_LIST = 39
"""Fewest training vectors for a centroid, FAISS's own bound."""
MOST_FETCHED = 16_384
"""A query that would have to ask for more than this, or a quarter of the vectors, is scored exactly instead."""
FEW_ALLOWED = 10_000
"""Where no more than this, or a twentieth of the vectors, is allowed, these are scored exactly."""
EFFORTS = (1, 4, 16)
"""A repeated search looks into this many times as many lists or candidates."""
WIDTH = 16
"""A search looks into lists that hold at least this many vectors for each of the k (on average)."""
EXTRA = 4
"""A search looks into lists that hold this many vectors more for each that the query excludes."""


class FaissIndex:
    """The ``Index`` of ``Flat``, ``HNSW``, ``IVFSQ8`` and ``IVFPQ``."""

    def __init__(self, settings: FaissSettings) -> None:
        self.settings = settings
        self._index: Any = None
        self._vectors: Floats | None = None

    @property
    def vectors(self) -> Floats:
        """(n, d): what was given to ``build``."""
        if self._vectors is None:
            raise InputError("the index is empty; call build(vectors) first")
        return self._vectors

    @property
    def description(self) -> Description:
        """Plain data for a manifest; ``lists`` is the number that was chosen."""
        n, d = self.vectors.shape
        chosen = {"lists": int(self._index.nlist)} if self._quantised else {}
        return {"kind": self.settings.kind, "n": n, "d": d, **asdict(self.settings), **chosen}

    @property
    def _quantised(self) -> bool:
        return isinstance(self.settings, IVFSQ8 | IVFPQ)

    def build(self, vectors: Floats) -> None:
        """Takes in a copy of (n, d) vectors; IVF kinds refuse fewer than 1,000 and more than n / 39 lists."""
        own = checked_vectors(vectors)
        lists = _lists(self.settings, len(own)) if isinstance(self.settings, IVFSQ8 | IVFPQ) else 0
        self._index = _empty_index(self.settings, own.shape[1], lists)
        stored = _even(own) if isinstance(self.settings, IVFPQ) else own
        self._index.train(stored)
        self._index.add(stored)
        self._vectors = own if self._quantised else _stored_vectors(self._index)

    def search(
        self, queries: Floats, k: int, exclude: Excluded | None = None, allowed: Bools | None = None
    ) -> tuple[Ints, Floats]:
        """(B, k) positions and inner products: see ``Index.search``."""
        n, d = self.vectors.shape
        request = checked_request((n, d), queries, k, exclude, allowed)
        if allowed is not None and np.count_nonzero(allowed) <= max(FEW_ALLOWED, n // 20):
            return unpack(scan(self.vectors, request), k)
        keys = np.full((len(request.queries), k), NONE, dtype=np.uint64)
        lacking = np.flatnonzero(request.wanted > 0)
        select = _selector(allowed)
        for effort in EFFORTS:
            for rows, fetch, gone in self._groups(request, lacking):
                params = self._params(effort, k, gone, select)
                if params is not None:
                    keys[rows] = self._ask(request, rows, fetch, params)
            lacking = lacking[np.count_nonzero(keys[lacking] != NONE, axis=1) < request.wanted[lacking]]
            if not len(lacking):
                break
        if len(lacking):
            best = scan(self.vectors, request.take(lacking, n))
            keys[lacking, : best.shape[1]] = best
        return unpack(keys, k)

    def _params(self, effort: int, k: int, gone: int, select: dict[str, Any]) -> Any:
        """FAISS's search parameters; None where an exact scan costs no more.

        A long answer needs a wide search, whatever was set for short ones (FAISS does not see to it); and what a query
        excludes is mostly what lies nearest, so its search is widened by that, too.
        """
        settings, n = self.settings, len(self.vectors)
        if isinstance(settings, Flat):
            return _faiss().SearchParameters(**select)
        if isinstance(settings, HNSW):
            width = max(settings.ef_search, 2 * k) * effort + 2 * gone
            return _faiss().SearchParametersHNSW(efSearch=width, **select)
        lists = int(self._index.nlist)
        probe = max(min(settings.probe, lists), WIDTH * k * lists // n) * effort + EXTRA * gone * lists // n
        if probe * 2 > lists and probe > settings.probe:
            return None
        return _faiss().SearchParametersIVF(nprobe=min(probe, lists), **select)

    def _groups(self, request: Request, rows: Ints) -> Iterator[tuple[Ints, int, int]]:
        """(rows, how many to ask for, most exclusions): like exclusions together; no row that has to ask too much."""
        factor = self.settings.refine if isinstance(self.settings, IVFPQ) else 1
        fetch = request.k * factor + request.n_gone[rows] * min(factor, 2)
        cheap = fetch <= min(MOST_FETCHED, len(self.vectors) // 4)
        rows, fetch = rows[cheap], fetch[cheap]
        step = np.ceil(np.log2(np.maximum(fetch, 1))).astype(np.int64)
        for size in np.unique(step):
            group = step == size
            yield rows[group], int(fetch[group].max()), int(request.n_gone[rows[group]].max())

    def _ask(self, request: Request, rows: Ints, fetch: int, params: Any) -> Keys:
        """(len(rows), k) sorted keys of what one search finds and the queries do not exclude."""
        queries = request.queries[rows]
        asked = _even(queries) if isinstance(self.settings, IVFPQ) else queries
        scores, ids = self._index.search(asked, fetch, params=params)
        good = ids >= 0
        if len(request.gone):
            good &= ~_member(request.gone, rows[:, None] * len(self.vectors) + ids)
        ids = np.where(good, ids, 0)
        if self._quantised:
            scores = inner_products(self.vectors, queries, ids)
        keys = np.where(good, pack(scores, ids), NONE)
        keys.sort(axis=1)
        return keys[:, : request.k]

    def save(self, folder: Path) -> None:
        """Writes index.faiss, and vectors.npy where the index does not hold them whole."""
        vectors = self.vectors
        with replacing(folder / INDEX_FILE) as path:
            _faiss().write_index(self._index, str(path))
            with path.open("ab") as file:
                file.write(END)
        if self._quantised:
            save_vectors(folder, vectors)

    @classmethod
    def load(cls, folder: Path, description: Description) -> Self:
        """Maps the files into memory; BundleError names the one that is missing, damaged or another index's."""
        parameters = {key: value for key, value in description.items() if key not in {"kind", "n", "d"}}
        index = cls(_KINDS[description["kind"]](**parameters))
        shape = (int(description["n"]), int(description["d"]))
        index._index = _read(folder / INDEX_FILE)
        held = _shape(index._index, index.settings, shape[1])
        if held != (type(_empty_index(index.settings, shape[1], 1)), *shape):
            raise BundleError(
                f"{folder / INDEX_FILE} holds {held[0].__name__} of {held[1:]}, the description says "
                f"{description['kind']} of {shape}; save the bundle again"
            )
        index._vectors = load_vectors(folder, shape) if index._quantised else _stored_vectors(index._index)
        return index


_KINDS: dict[str, Any] = {kind.kind: kind for kind in (Flat, HNSW, IVFSQ8, IVFPQ)}


def _faiss() -> Any:
    """FAISS, loaded at first use: ``import suisen.retrieval`` stays cheap."""
    import faiss

    return faiss


def _selector(allowed: Bools | None) -> dict[str, Any]:
    """What search parameters take to see allowed positions only."""
    return {} if allowed is None else {"sel": _faiss().IDSelectorBitmap(np.packbits(allowed, bitorder="little"))}


def _lists(settings: IVFSQ8 | IVFPQ, n: int) -> int:
    """The number of lists: as set, or 4·√n and no more than leave 39 vectors to train each."""
    if n < FEWEST:
        raise InputError(f"{type(settings).__name__} needs at least {FEWEST} vectors, there are {n}; use Exact()")
    most = n // A_LIST
    if settings.lists is None:
        return min(round(4 * math.sqrt(n)), most)
    if settings.lists > most:
        raise InputError(
            f"lists = {settings.lists} needs {A_LIST * settings.lists} vectors ({A_LIST} a list), there are {n}; "
            f"leave it out or give at most {most}"
        )
    return settings.lists


def _empty_index(settings: FaissSettings, d: int, lists: int) -> Any:
    metric = _faiss().METRIC_INNER_PRODUCT
    if isinstance(settings, Flat):
        return _faiss().IndexFlatIP(d)
    if isinstance(settings, HNSW):
        graph = _faiss().IndexHNSWFlat(d, settings.m, metric)
        graph.hnsw.efConstruction = settings.ef_construction
        return graph
    width = d + d % 2
    index: Any
    if isinstance(settings, IVFSQ8):
        index = _faiss().IndexIVFScalarQuantizer(
            _faiss().IndexFlatIP(d), d, lists, _faiss().ScalarQuantizer.QT_8bit, metric
        )
    else:
        index = _faiss().IndexIVFPQFastScan(_faiss().IndexFlatIP(width), width, lists, width // 2, 4, metric)
    index.cp.niter = 10
    index.cp.max_points_per_centroid = 64
    return index


def _even(vectors: Floats) -> Floats:
    """The vectors with a zero behind them where d is odd: no inner product changes, and pairs of dimensions fit."""
    return np.pad(vectors, ((0, 0), (0, vectors.shape[1] % 2)))


def _stored_vectors(index: Any) -> Floats:
    """The vectors inside a flat index or an HNSW graph, without a copy: valid as long as the index is kept."""
    flat = _faiss().downcast_index(index.storage) if isinstance(index, _faiss().IndexHNSW) else index
    stored: Floats = _faiss().rev_swig_ptr(flat.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
    return stored


def _shape(index: Any, settings: FaissSettings, d: int) -> tuple[type, int, int]:
    """(type, n, d) of what was read; the zero that makes d even does not count."""
    padding = d % 2 if isinstance(settings, IVFPQ) else 0
    return type(index), int(index.ntotal), int(index.d) - padding


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            file.seek(-len(END), os.SEEK_END)
            if file.read() != END:
                raise ValueError("its end is missing")
        return _faiss().read_index(str(path), _faiss().IO_FLAG_MMAP_IFC)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[-1]
        raise BundleError(f"{path} cannot be read ({reason}); save the bundle again") from error


def _member(sorted_values: Ints, asked: Ints) -> Bools:
    """Which of the asked are among the sorted values."""
    places = np.searchsorted(sorted_values, asked).clip(max=len(sorted_values) - 1)
    found: Bools = sorted_values[places] == asked
    return found
