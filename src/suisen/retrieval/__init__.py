"""Finding the largest inner products: the contract, exact search on torch, approximate search on FAISS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from suisen.errors import BundleError, unknown
from suisen.retrieval.contract import Description, Excluded, Index
from suisen.retrieval.exact import ExactIndex
from suisen.retrieval.faiss import FaissIndex
from suisen.retrieval.recall import measured_recall
from suisen.retrieval.settings import HNSW, IVFPQ, IVFSQ8, Exact, Flat, IndexSettings

KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    Exact.kind: (Exact, ExactIndex),
    Flat.kind: (Flat, FaissIndex),
    HNSW.kind: (HNSW, FaissIndex),
    IVFSQ8.kind: (IVFSQ8, FaissIndex),
    IVFPQ.kind: (IVFPQ, FaissIndex),
}
"""Every kind of index: its parameters and its class.  A new one is its file, its test and one line here."""


def index_named(kind: str, **parameters: Any) -> IndexSettings:
    """Parameters by name, for a command line or a TOML file: ``index_named("hnsw", m=16)``."""
    if kind not in KINDS:
        raise unknown("index", kind, KINDS)
    settings: IndexSettings = KINDS[kind][0](**parameters)
    return settings


def create_index(settings: IndexSettings) -> Index:
    """An empty index; call ``build`` next."""
    index: Index = KINDS[settings.kind][1](settings)
    return index


def open_index(description: Description, folder: Path) -> Index:
    """The index that was saved into ``folder`` and described itself so.

    InputError for a kind that does not exist; BundleError for a description without n or d and for damaged files.
    """
    for field in ("kind", "n", "d"):
        if field not in description:
            raise BundleError(f"the description of the index in {folder} lacks {field!r}; save the bundle again")
    if description["kind"] not in KINDS:
        raise unknown("index", description["kind"], KINDS)
    index: Index = KINDS[description["kind"]][1].load(folder, description)
    return index


__all__ = [
    "HNSW",
    "IVFPQ",
    "IVFSQ8",
    "Exact",
    "Excluded",
    "Flat",
    "Index",
    "IndexSettings",
    "create_index",
    "index_named",
    "measured_recall",
    "open_index",
]
