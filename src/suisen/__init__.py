"""Suisen: event log in, measured two-stage recommender out.

The names below are loaded at first use, so that ``import suisen`` stays cheap.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suisen.version import __version__

if TYPE_CHECKING:
    from suisen.data.dataset import Dataset
    from suisen.data.k_core import k_core
    from suisen.data.sources import load_data
    from suisen.data.splits import ClickRatio, GlobalTime, LeaveLast, Ratio, Sessions
    from suisen.data.synthetic import World
    from suisen.errors import InputError, SuisenError
    from suisen.evaluation import compare
    from suisen.models import (
        DNN,
        EASE,
        FFM,
        FM,
        GMF,
        IALS,
        MF,
        MLP,
        BERT4Rec,
        DCNv2,
        DeepFM,
        GRU4Rec,
        ItemKNN,
        LightGCN,
        NeuMF,
        Popularity,
        SASRec,
        TwoTower,
        WideDeep,
    )
    from suisen.pipeline import Recommender, evaluate
    from suisen.retrieval import HNSW, IVFPQ, IVFSQ8, Exact, Flat
    from suisen.training.options import RunOptions

_HOMES = {
    "suisen.data.dataset": ("Dataset",),
    "suisen.data.k_core": ("k_core",),
    "suisen.data.sources": ("load_data",),
    "suisen.data.splits": ("ClickRatio", "GlobalTime", "LeaveLast", "Ratio", "Sessions"),
    "suisen.data.synthetic": ("World",),
    "suisen.errors": ("InputError", "SuisenError"),
    "suisen.evaluation": ("compare",),
    "suisen.models": (
        "DNN",
        "EASE",
        "FFM",
        "FM",
        "GMF",
        "IALS",
        "MF",
        "MLP",
        "BERT4Rec",
        "DCNv2",
        "DeepFM",
        "GRU4Rec",
        "ItemKNN",
        "LightGCN",
        "NeuMF",
        "Popularity",
        "SASRec",
        "TwoTower",
        "WideDeep",
    ),
    "suisen.pipeline": ("Recommender", "evaluate"),
    "suisen.retrieval": ("HNSW", "IVFPQ", "IVFSQ8", "Exact", "Flat"),
    "suisen.training.options": ("RunOptions",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def load(folder: str | Path) -> Recommender:
    """The Recommender saved in a bundle or in a run folder."""
    from suisen.pipeline import Recommender

    return Recommender.load(folder)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'suisen' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOME_OF, "__version__", "load"])


__all__ = [
    "DNN", "EASE", "FFM", "FM", "GMF", "HNSW", "IALS", "IVFPQ", "IVFSQ8", "MF", "MLP", "BERT4Rec", "ClickRatio",
    "DCNv2", "Dataset", "DeepFM", "Exact", "Flat", "GRU4Rec", "GlobalTime", "InputError", "ItemKNN", "LeaveLast",
    "LightGCN", "NeuMF", "Popularity", "Ratio", "Recommender", "RunOptions", "SASRec", "Sessions", "SuisenError",
    "TwoTower", "WideDeep", "World", "__version__", "compare", "evaluate", "k_core", "load", "load_data",
]  # fmt: skip
