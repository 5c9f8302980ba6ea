"""Finding the largest inner products: the contract, exact search on torch, approximate search on FAISS."""

from pathlib import Path
from typing import Any

from suisen.arguments import shown
from suisen.errors import BundleError, InputError, unknown
from suisen.retrieval.contract import Description, Excluded, Index, IndexSettings
from suisen.retrieval.exact import Exact, search_among
from suisen.retrieval.faiss import HNSW, IVFPQ, IVFSQ8, Flat
from suisen.retrieval.recall import measured_recall

INDEXES: dict[str, type[Any]] = {settings.name: settings for settings in (Exact, Flat, HNSW, IVFSQ8, IVFPQ)}
"""The settings of every index by its name.  A new one is its file, its test and a word here."""


def create_index(settings: IndexSettings) -> Index:
    """An empty index; call ``build`` next.  Raises InputError for what is not the settings of a registered index."""
    if type(settings) not in INDEXES.values():
        known = ", ".join(f"{cls.__name__}()" for cls in INDEXES.values())
        raise InputError(f"index = {shown(settings)} is not the settings of an index; give one of {known}")
    return settings.create()


def open_index(description: Description, folder: Path) -> Index:
    """The index that was saved into ``folder`` and described itself so.

    Raises InputError for an index that does not exist; BundleError for an incomplete description and damaged files.
    """
    settings = dict(description)
    if "kind" in settings:  # what bundles called the name at first
        settings["name"] = settings.pop("kind")
    for field in ("name", "n", "d"):
        if field not in settings:
            raise BundleError(f"the description of the index in {folder} lacks {field!r}; save the bundle again")
    name, n, d = (settings.pop(field) for field in ("name", "n", "d"))
    for field, value in (("n", n), ("d", d)):
        if type(value) is not int or value < 1:
            raise BundleError(f"the description of the index in {folder} says {field} = {shown(value)}: no size")
    if name not in INDEXES:
        raise unknown("index", name, INDEXES)
    index = create_index(INDEXES[name](**settings))
    index.load(folder, (n, d))
    return index
