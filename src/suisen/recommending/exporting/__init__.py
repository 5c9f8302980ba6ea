"""Exports: a System as ONNX graphs and plain arrays, or as a Triton model repository, for servers without torch."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from uuid import uuid4

import numpy as np
import polars as pl
import torch

from suisen.arguments import choice
from suisen.data.ids import IdMap
from suisen.data.ragged import Ragged
from suisen.errors import InputError, need_extra
from suisen.files import write_text
from suisen.models import name_of
from suisen.models.contract import Fold, Net, Ranker, Retriever
from suisen.recommending.engine import Engine, Filters
from suisen.recommending.exporting import exported, graphs, model
from suisen.recommending.planning import held_back
from suisen.recommending.sources import PAIR, models_of
from suisen.recommending.standin import StandIn
from suisen.recommending.store import Store
from suisen.recommending.system import System
from suisen.version import __version__

Written = graphs.Graph | Fold
"""How something is computed: by a graph, or by least squares, for which ONNX has no operator."""
Target = Literal["onnx", "triton"]
TARGETS: tuple[Target, ...] = get_args(Target)
ABOUT = "suisen.json"
JUDGED = 1_000
"""Users whose lists are compared after an export."""
IDENTICAL = 0.99
"""Least share of them whose lists must be those of ``Engine.lists``: sums are rounded otherwise, and scores may tie."""
K = 10
MAX_BATCH = 64
CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: {most}
input [
  {{ name: "user_id" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "history" data_type: TYPE_STRING dims: [ -1 ] optional: true allow_ragged_batch: true }},
  {{ name: "k" data_type: TYPE_INT32 dims: [ 1 ] optional: true }},
  {{ name: "exclude_seen" data_type: TYPE_BOOL dims: [ 1 ] optional: true }}
]
output [
  {{ name: "item_id" data_type: TYPE_STRING dims: [ -1 ] }},
  {{ name: "score" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "answered_by" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "version" data_type: TYPE_STRING dims: [ 1 ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: 500 }}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""
"""Of the model in a Triton repository; one instance per core is what to raise first."""


class Export(NamedTuple):
    """What was written."""

    folder: Path
    made: dict[str, Written]
    """By name: query, and context and combine of a second stage."""
    judged: int
    """Users whose lists were compared."""
    identical: float
    """Share of them whose first 10 items are those of the bundle, in its order."""


def export(system: System, folder: Path, to: Target = "onnx", name: str = "suisen") -> Export:
    """Writes a system for a server without torch, and compares what it answers with what the system does.

    ``onnx``: the graphs, item vectors and states, ids, histories and counts as .npy, and ``exported.py``, which answers
    from them with NumPy and ONNX Runtime.  ``triton``: the same as the model ``name`` of a Triton repository, which may
    hold others.  Raises InputError naming a model that has no graph, where the folder holds something else, and where
    the lists differ; MissingExtra without the extra.
    """
    need_extra("export", "onnx", "onnxscript", "onnxruntime")
    choice("to", to, TARGETS)
    check(system)
    place = folder / name if to == "triton" else folder
    _check_place(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f".{place.name}.new-{uuid4().hex[:8]}")
    try:
        data = aside / "1" / "data" if to == "triton" else aside
        data.mkdir(parents=True)
        made = _write(system, data)
        judged, identical = _compare(system, data)
        write_text(data / ABOUT, _about(system, made, {"users": judged, "identical": round(identical, 4)}))
        if to == "triton":
            write_text(aside / "config.pbtxt", CONFIG.format(name=name, most=MAX_BATCH))
            for part in (model, exported):
                shutil.copyfile(str(part.__file__), aside / "1" / f"{part.__name__.rpartition('.')[2]}.py")
        else:
            shutil.copyfile(exported.__file__, aside / "exported.py")
        if place.exists():
            shutil.rmtree(place)
        aside.rename(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Export(place, made, judged, identical)


def check(system: System) -> None:
    """Raises InputError naming the model that keeps a system from being exported, and why."""
    if system.engine.union is not None:
        raise InputError(f"{system.name} cannot be exported: several sources are joined by Suisen alone; export one")
    retriever = system.engine.retriever
    stages = ((models_of(system.retriever), retriever), (models_of(system.ranker), system.engine.ranker))
    for models, net in stages:
        if net is not None:
            graphs.check(net, name_of(models[0]))
    if retriever is None:
        raise InputError(f"{system.name} has no first stage that searches; export it behind a retriever with vectors")
    if system.engine.pairs is not None:
        which = ", ".join(system.engine.pairs.names)
        raise InputError(f"{system.name} cannot be exported: features of the pair ({which}) are made by Suisen alone")
    if system.rules:
        raise InputError(
            f"{system.name} cannot be exported: its rules are kept by Suisen alone; export it without them"
        )
    if not isinstance(retriever, Retriever):
        raise InputError(f"{system.name} cannot be exported: its first stage has no vectors, which sasrec, say, has")


def _check_place(place: Path) -> None:
    """Raises InputError where an export would replace what is none."""
    known = [place / ABOUT, place / "1" / "data" / ABOUT]
    if place.exists() and not any(path.is_file() for path in known) and (place.is_file() or any(place.iterdir())):
        raise InputError(f"{place} holds something else than an export; give another folder")


# -- what is written ---------------------------------------------------------------------------------------------------


def _write(system: System, folder: Path) -> dict[str, Written]:
    """Graphs, tables and ``suisen.json``."""
    engine, store = system.engine, system.store
    made = _computed(system, folder)
    names = {name for each in made.values() if isinstance(each, graphs.Graph) for name in each.inputs}
    stored = {f"{name}_stored": each.stored.float().numpy() for name, each in made.items() if isinstance(each, Fold)}
    for name, array in {**_of_items(engine, store), **_of_users(store, names), **stored}.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    write_text(folder / ABOUT, _about(system, made, None))
    return made


def _about(system: System, made: dict[str, Written], agreement: dict[str, float] | None) -> str:
    """``suisen.json``: what ``exported.py`` has to know, and how its lists agreed with the bundle's."""
    folds = {name: each for name, each in made.items() if isinstance(each, Fold)}
    about = {
        "format": exported.FORMAT,
        "suisen": __version__,
        "version": system.version or system.name,
        "models": system.name,
        "candidates": system.engine.candidates,
        "exclude_seen": system.exclude_seen,
        "has_time": system.store.has_time,
        "abilities": sorted(system.abilities),
        "graphs": {name: each.history for name, each in made.items() if isinstance(each, graphs.Graph)},
        "folds": {
            name: {"unobserved": each.unobserved, "l2": each.l2, "power": each.power, "items": each.items}
            for name, each in folds.items()
        },
        "agreement": agreement,
    }
    return json.dumps(about, ensure_ascii=False, indent=1)


def _computed(system: System, folder: Path) -> dict[str, Written]:
    """What each stage computes of contexts and pairs."""
    engine, schema = system.engine, system.store.schema
    first, second = engine.retriever, engine.ranker
    assert isinstance(first, Retriever)  # noqa: S101 - check
    fold = first.fold()
    made: dict[str, Written] = {
        "query": fold or graphs.write_query(first, schema, folder / "query.onnx", _named(first))
    }
    if second is not None and engine.states is not None:
        name, fold = _named(second), second.net.fold() if isinstance(second, StandIn) else None
        made["context"] = fold or graphs.write_context(second, schema, folder / "context.onnx", name)
        widths = _width_of_context(engine, system.store), engine.states.shape[1], len(PAIR)
        made["combine"] = graphs.write_combine(second, *widths, folder / "combine.onnx", name)
    return made


def _named(net: Net) -> str:
    return type(net.net if isinstance(net, StandIn) else net).__name__.removesuffix("Net")


@torch.no_grad()
def _width_of_context(engine: Engine, store: Store) -> int:
    ranker = engine.ranker
    assert isinstance(ranker, Ranker)  # noqa: S101 - asked of a second stage
    return int(ranker.context_state(store.contexts(torch.zeros(1, dtype=torch.int64), 0)).shape[1])


@torch.no_grad()
def _of_items(engine: Engine, store: Store) -> dict[str, Any]:
    vectors = engine.first.items
    assert vectors is not None  # noqa: S101 - a retriever's
    states = {} if engine.states is None else {"item_states": engine.states.float().numpy()}
    return {
        "item_vectors": vectors.float().numpy(),
        **states,
        "allowed": engine.allowed.numpy(),
        "item_trained": store.trained_items.numpy(),
        "item_counts": store.item_counts.numpy(),
        **_ids("item", store.items),
    }


def _of_users(store: Store, names: Iterable[str]) -> dict[str, Any]:
    """What is stored of users, and of their features and times what the graphs read."""
    features = store.user_features
    found: dict[str, Any] = {
        "user_trained": store.trained_users.numpy(),
        "user_featured": store.featured_users.numpy(),
        "history": store.histories.values.int().numpy(),
        "history_offsets": store.histories.offsets.numpy(),
        **_ids("user", store.users),
    }
    more = {"user_categorical": features.categorical.numpy(), "user_numeric": features.numeric.numpy()}
    more["history_time"] = store.history_times.numpy()
    found |= {name: array for name, array in more.items() if name in names}
    for place, bag in enumerate(features.multi):
        if f"user_multi_{place}" in names:
            found |= _rows(f"user_multi_{place}", bag)
    return found


def _rows(name: str, rows: Ragged) -> dict[str, Any]:
    return {name: rows.values.numpy(), f"{name}_offsets": rows.offsets.numpy()}


def _ids(kind: str, ids: IdMap) -> dict[str, Any]:
    """Raw ids: whole numbers, or the UTF-8 bytes of all of them and where each begins."""
    raw = ids.raw_ids
    if raw.dtype != pl.String:
        return {f"{kind}_ids": raw.to_numpy()}
    text = "".join(raw.to_list()).encode("utf-8")
    ends = np.concatenate([[0], np.cumsum(raw.str.len_bytes().cast(pl.Int64).to_numpy())])
    return {f"{kind}_ids": np.frombuffer(text, dtype=np.uint8), f"{kind}_ids_offsets": ends}


# -- the comparison ----------------------------------------------------------------------------------------------------


def _compare(system: System, folder: Path) -> tuple[int, float]:
    """How many users' lists were compared, and the share whose ordered top 10 is the same.  Raises InputError where
    fewer are than ``IDENTICAL``.
    """
    store, engine = system.store, system.engine
    users = held_back(store, system.abilities, JUDGED, system.seed).contexts.user
    users = users[users > 0]
    if not len(users):
        return 0, 1.0
    contexts = store.contexts(users, 0)
    wanted = engine.lists(contexts, K, Filters(contexts.history))[0].numpy()
    offsets = contexts.history.offsets.numpy()
    history, times = (exported.Rows(part.numpy(), offsets) for part in (contexts.history.values, contexts.history_time))
    found = exported.Exported(folder).lists(exported.Asked(users.numpy(), history, times, 0), K, history)[0]
    identical = float((wanted == found).all(1).mean())
    if identical < IDENTICAL:
        what = f"only {identical:.1%} of {len(users):,} lists are the bundle's"
        raise InputError(f"{system.name} cannot be exported: with ONNX Runtime {what}")
    return len(users), identical
