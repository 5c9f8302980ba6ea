"""Indexes on FAISS (Douze et al. 2024).  FAISS is imported when an index is built, loaded or searched, not before.

Scores are true inner products: the answers of a quantised index are re-scored with the float32 vectors, which are kept
beside it (FAISS's own copy where the index stores them whole).  Exclusion never shortens an answer: FAISS is asked for
k and as many more as the query excludes; a query that still lacks something is searched again with more effort, and at
last every vector is scored for it.  A build with several threads may place the links of HNSW differently; the rest
repeats.  FAISS's own thread setting is respected and nothing global is changed.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from suisen.errors import BundleError, InputError
from suisen.files import replacing
from suisen.parameters import parameters
from suisen.retrieval.checks import CheckedSearch, StoredVectors, checked_search, checked_vectors, finite
from suisen.retrieval.contract import Bools, Description, Excluded, Floats, Ints
from suisen.retrieval.exact import inner_products, most_scanned, scan
from suisen.retrieval.select import NONE, Keys, pack, unpack

INDEX_FILE = "index.faiss"
END = b"\nsuisen\n"
"""Behind FAISS's own bytes: FAISS does not notice it when the last list of a mapped file is cut short."""
MIN_IVF_VECTORS = 1_000
"""An IVF index of fewer vectors is refused: scoring them all is faster."""
MIN_VECTORS_PER_LIST = 39
"""Fewest training vectors for a centroid, FAISS's own bound."""
MAX_FETCHED = 16_384
"""A query that needs more than this from FAISS, or a quarter of the vectors, is scored exactly instead."""
EFFORTS = (1, 4, 16)
"""A repeated search looks into this many times as many lists or candidates."""
VECTORS_PER_RESULT = 16
"""A search looks into lists that hold at least this many vectors for each of the k (on average)."""
VECTORS_PER_EXCLUDED = 4
"""A search looks into lists that hold this many vectors more for each that the query excludes."""


class _OnFaiss:
    """What the settings of the four share."""

    exact: ClassVar[bool] = False
    recipe: ClassVar[str]
    """How FAISS's ``index_factory`` calls the index."""

    def create(self: Any) -> "FaissIndex":
        """An empty index."""
        return FaissIndex(self)


@parameters
class Flat(_OnFaiss):
    """Every inner product, on FAISS.  Memory: 4·n·d bytes."""

    name: ClassVar[str] = "flat"
    recipe: ClassVar[str] = "Flat"
    exact: ClassVar[bool] = True


@parameters
class HNSW(_OnFaiss):
    """A graph of neighbours (Malkov & Yashunin 2018).  Memory: (4·d + 8·m)·n bytes."""

    name: ClassVar[str] = "hnsw"
    recipe: ClassVar[str] = "HNSW{m}"
    m: Annotated[int, Field(ge=4, le=128)] = 32
    """Neighbours of a vector in the graph; twice as many at the lowest level."""
    ef_construction: Annotated[int, Field(ge=8, le=4096)] = 200
    """Candidates looked at when a vector is added: the higher, the better and slower the build."""
    ef_search: Annotated[int, Field(ge=1, le=16384)] = 128
    """Candidates kept in a search, at least 2·k: the higher, the better and slower."""


@parameters
class IVFSQ8(_OnFaiss):
    """Lists around centroids, one byte per dimension, answers re-scored with the vectors.  Memory: (5·d + 8)·n bytes,
    of which 4·d·n are memory-mapped after loading and touched only for the candidates.
    """

    name: ClassVar[str] = "ivf-sq8"
    recipe: ClassVar[str] = "IVF{lists},SQ8"
    lists: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Number of lists; None = min(4·√n, n / 39)."""
    probe: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Lists looked into in a search; more where these hold fewer than 16·k vectors on average."""


@parameters
class IVFPQ(_OnFaiss):
    """Lists around centroids, product-quantised to 4 bits for each 2 dimensions and scanned in registers (André et al.
    2015), the best re-scored with the vectors.  Memory: (4.25·d + 8)·n bytes, of which 4·d·n are memory-mapped after
    loading and touched only for the candidates.
    """

    name: ClassVar[str] = "ivf-pq"
    recipe: ClassVar[str] = "IVF{lists},PQ{pairs}x4fs"
    lists: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Number of lists; None = min(4·√n, n / 39)."""
    probe: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Lists looked into in a search; more where these hold fewer than 16·k vectors on average."""
    refine: Annotated[int, Field(ge=1, le=64)] = 4
    """refine · k candidates of the quantised scan are re-scored with the vectors."""


FaissSettings = Flat | HNSW | IVFSQ8 | IVFPQ


class FaissIndex(StoredVectors):
    """The ``Index`` of ``Flat``, ``HNSW``, ``IVFSQ8`` and ``IVFPQ``."""

    def __init__(self, settings: FaissSettings) -> None:
        super().__init__(settings)
        self._index: Any = None

    @property
    def description(self) -> Description:
        """Plain data for a manifest; ``lists`` is the number that was chosen."""
        said = super().description
        return {**said, "lists": int(self._index.nlist)} if self._quantised else said

    @property
    def _quantised(self) -> bool:
        return isinstance(self.settings, IVFSQ8 | IVFPQ)

    def build(self, vectors: Floats) -> None:
        """Takes in a copy of (n, d) vectors; IVF indexes refuse fewer than 1,000 and more than n / 39 lists."""
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
        n = len(self.vectors)
        search = checked_search(self.vectors, queries, k, exclude, allowed)
        if allowed is not None and np.count_nonzero(allowed) <= most_scanned(n):
            return unpack(scan(self.vectors, search), k)
        keys = np.full((len(search.queries), k), NONE, dtype=np.uint64)
        lacking = np.flatnonzero(search.wanted > 0)
        select = _selector(allowed)
        for effort in EFFORTS:
            for rows, fetch, gone in self._groups(search, lacking):
                params = self._params(effort, k, gone, select)
                if params is not None:
                    keys[rows] = self._found(search, rows, fetch, params)
            lacking = lacking[np.count_nonzero(keys[lacking] != NONE, axis=1) < search.wanted[lacking]]
            if not len(lacking):
                break
        if len(lacking):
            best = scan(self.vectors, search.take(lacking, n))
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
        least = max(min(settings.probe, lists), VECTORS_PER_RESULT * k * lists // n)
        probe = least * effort + VECTORS_PER_EXCLUDED * gone * lists // n
        if probe * 2 > lists and probe > settings.probe:
            return None
        return _faiss().SearchParametersIVF(nprobe=min(probe, lists), **select)

    def _groups(self, search: CheckedSearch, rows: Ints) -> Iterator[tuple[Ints, int, int]]:
        """(rows, how many to fetch, most exclusions): rows of like exclusions together, none that needs too many."""
        factor = self.settings.refine if isinstance(self.settings, IVFPQ) else 1
        fetch = search.k * factor + search.n_gone[rows] * min(factor, 2)
        cheap = fetch <= min(MAX_FETCHED, len(self.vectors) // 4)
        rows, fetch = rows[cheap], fetch[cheap]
        step = np.ceil(np.log2(np.maximum(fetch, 1))).astype(np.int64)
        for size in np.unique(step):
            group = step == size
            yield rows[group], int(fetch[group].max()), int(search.n_gone[rows[group]].max())

    def _found(self, search: CheckedSearch, rows: Ints, fetch: int, params: Any) -> Keys:
        """(len(rows), k) sorted keys of what one search finds and the queries do not exclude."""
        queries = search.queries[rows]
        even = _even(queries) if isinstance(self.settings, IVFPQ) else queries
        scores, ids = self._index.search(even, fetch, params=params)  # (rows, fetch)
        good = ids >= 0
        if len(search.gone):
            pairs = rows[:, None] * len(self.vectors) + ids
            places = np.searchsorted(search.gone, pairs).clip(max=len(search.gone) - 1)
            good &= search.gone[places] != pairs
        ids = np.where(good, ids, 0)
        if self._quantised:
            scores = inner_products(self.vectors, queries, ids)
        keys = np.where(good, pack(scores, ids), NONE)
        keys.sort(axis=1)
        return keys[:, : search.k]

    def save(self, folder: Path) -> None:
        """Writes index.faiss, and vectors.npy where the index does not hold them whole."""
        len(self.vectors)  # refuses an index that is empty
        with replacing(folder / INDEX_FILE) as path:
            _faiss().write_index(self._index, str(path))
            with path.open("ab") as file:
                file.write(END)
        if self._quantised:
            super().save(folder)

    def load(self, folder: Path, shape: tuple[int, int]) -> None:
        """Maps the files into memory; BundleError names the one that is missing, damaged or another index's."""
        index = self._index = _read(folder / INDEX_FILE)
        padding = shape[1] % 2 if isinstance(self.settings, IVFPQ) else 0  # the zero that makes d even
        held = (index.ntotal, index.d - padding)
        if not isinstance(index, type(_empty_index(self.settings, shape[1], 1))) or held != shape:
            found = f"{folder / INDEX_FILE} holds {type(index).__name__} of {held}"
            raise BundleError(f"{found}, the description says {self.settings.name} of {shape}; save the bundle again")
        if self._quantised:
            super().load(folder, shape)
            _check_lists(folder / INDEX_FILE, index)
        else:
            self._vectors = finite(folder / INDEX_FILE, _stored_vectors(self._index))
            if isinstance(self.settings, HNSW):
                _check_graph(folder / INDEX_FILE, index)


def _check_graph(path: Path, index: Any) -> None:
    """FAISS follows the links of a graph without looking: each must be a vector's position, or −1."""
    graph, n = index.hnsw, int(index.ntotal)
    levels, offsets = (_numbers(part) for part in (graph.levels, graph.offsets))
    links, entry, top = _numbers(graph.neighbors), int(graph.entry_point), int(graph.max_level)
    per_level = _numbers(graph.cum_nneighbor_per_level).astype(np.int64)
    whole = len(levels) == n and len(offsets) == n + 1 and 0 <= entry < n and len(per_level) > 0
    whole = whole and levels.min() >= 1 and levels.max() < len(per_level) and 0 <= top < levels[entry]
    whole = whole and per_level[0] == 0 and bool((np.diff(per_level) >= 0).all()) and offsets[0] == 0
    whole = whole and bool((np.diff(offsets.astype(np.int64)) == per_level[levels]).all()) and offsets[-1] == len(links)
    if not whole or links.min(initial=-1) < -1 or links.max(initial=-1) >= n:
        raise BundleError(f"{path} holds a graph whose links lead astray; save the bundle again")


def _check_lists(path: Path, index: Any) -> None:
    """Every position stands in one list of an IVF index."""
    lists, n = index.invlists, int(index.ntotal)
    sizes = [int(lists.list_size(number)) for number in range(index.nlist)]
    found = [_faiss().rev_swig_ptr(lists.get_ids(at), size).copy() for at, size in enumerate(sizes) if size]
    if not np.array_equal(np.sort(np.concatenate(found or [np.zeros(0, np.int64)])), np.arange(n)):
        raise BundleError(f"{path} holds lists that are not of all positions, each once; save the bundle again")


def _numbers(vector: Any) -> Ints:
    """A copy of a vector of FAISS's."""
    return np.array(_faiss().rev_swig_ptr(vector.data(), vector.size()))


def _faiss() -> Any:
    """FAISS, loaded at first use: ``import suisen.retrieval`` stays cheap."""
    import faiss

    return faiss


def _selector(allowed: Bools | None) -> dict[str, Any]:
    """What search parameters take to see allowed positions only."""
    return {} if allowed is None else {"sel": _faiss().IDSelectorBitmap(np.packbits(allowed, bitorder="little"))}


def _lists(settings: IVFSQ8 | IVFPQ, n: int) -> int:
    """The number of lists: as set, or 4·√n and no more than leave 39 vectors to train each."""
    if n < MIN_IVF_VECTORS:
        name = type(settings).__name__
        raise InputError(f"{name} needs at least {MIN_IVF_VECTORS} vectors, there are {n}; use Exact()")
    most = n // MIN_VECTORS_PER_LIST
    if settings.lists is None:
        return min(round(4 * math.sqrt(n)), most)
    if settings.lists > most:
        need = f"{MIN_VECTORS_PER_LIST * settings.lists} vectors ({MIN_VECTORS_PER_LIST} per list)"
        raise InputError(f"lists = {settings.lists} needs {need}, there are {n}; leave it out or give at most {most}")
    return settings.lists


def _empty_index(settings: FaissSettings, d: int, lists: int) -> Any:
    width = d + d % 2 if isinstance(settings, IVFPQ) else d
    recipe = settings.recipe.format(**{**asdict(settings), "lists": lists, "pairs": width // 2})
    index = _faiss().index_factory(width, recipe, _faiss().METRIC_INNER_PRODUCT)
    if isinstance(settings, HNSW):
        index.hnsw.efConstruction = settings.ef_construction
    elif not isinstance(settings, Flat):  # k-means, which finds the centroids
        index.cp.niter, index.cp.max_points_per_centroid = 10, 64
    return index


def _even(vectors: Floats) -> Floats:
    """The vectors with a zero behind them where d is odd: no inner product changes, and pairs of dimensions fit."""
    return np.pad(vectors, ((0, 0), (0, vectors.shape[1] % 2)))


def _stored_vectors(index: Any) -> Floats:
    """The vectors inside a flat index or an HNSW graph, without a copy: valid as long as the index is kept."""
    flat = _faiss().downcast_index(index.storage) if isinstance(index, _faiss().IndexHNSW) else index
    stored: Floats = _faiss().rev_swig_ptr(flat.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
    return stored


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
