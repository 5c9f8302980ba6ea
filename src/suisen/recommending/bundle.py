"""The bundle: a folder that a System is saved to and loaded from, without pickle and without running code.

    manifest.json            format, models and hyper-parameters, encoders, index, metrics, SHA-256 of each file and
                             of the manifest's own content
    retriever.safetensors    weights of the networks
    ranker.safetensors
    pairs.safetensors        what the features of pairs are made of, where the ranker reads such
    sources/NAME/            of each of several sources, in place of the retriever: weights, index
    users.arrow items.arrow  raw ids, trained marks, histories, counts, raw features and titles; row i = dense id i
    index/                   the index in its own format
    plan/                    tables of the fast way, made of the weights; absent where everything runs on torch
    parity.json              requests with their expected answers

It is written into a hidden folder beside its place and renamed, so that a reader never sees half of one.  An older
bundle in that place is renamed first and deleted last: between the two renames, some microseconds, there is none.
"""

import json
import platform
import shutil
import time
from collections.abc import Callable
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from suisen.arguments import shown
from suisen.data.batch import Schema
from suisen.data.ragged import Ragged
from suisen.errors import BundleError, MissingExtra, SuisenError, one_line
from suisen.files import replacing
from suisen.models import model_of, name_of
from suisen.models.contract import Net
from suisen.recommending import manifest as manifests
from suisen.recommending import parity, planning, signing, tables
from suisen.recommending.engine import Engine
from suisen.recommending.manifest import FORMAT, PARITY, SOURCES
from suisen.recommending.manifest import digest as _digest
from suisen.recommending.manifest import sha256_of as _sha256
from suisen.recommending.pairs.tables import PairTables
from suisen.recommending.place import MANIFEST, find
from suisen.recommending.plan import Plan
from suisen.recommending.rules.declared import Rules
from suisen.recommending.sources import Source, models_of, names_of, pair_names
from suisen.recommending.standin import Undrawn, build_ranker
from suisen.recommending.store import Store
from suisen.recommending.system import System
from suisen.retrieval import Index, open_index
from suisen.version import __version__

N = TypeVar("N", bound=Net)
PLAN = "plan"
MISFITS = (
    *(KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError, OSError, OverflowError, MemoryError),
    *(AssertionError, SafetensorError, pl.exceptions.PolarsError, pl.exceptions.PanicException),
)
"""What reading raises where manifest and files do not fit each other."""
ALIGNMENT = 64
"""Bytes: where torch's tensors begin on a CPU."""


# -- saving ------------------------------------------------------------------------------------------------------------


def save(
    system: System,
    folder: Path,
    *,
    metrics: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
    identical: float = planning.IDENTICAL,
    plan: bool = True,
) -> Path:
    """Writes the bundle and returns its folder; an older bundle in its place is replaced.

    ``metrics`` (with their protocol) and ``run`` (options, environment) go into the manifest as they are.  The bundle's
    plan is made here, and answers once the bundle is loaded: the fastest whose lists are identical to the precise ones
    for a share ``identical`` of held-back queries; ``plan`` False makes none: a bundle that is measured, not served.
    """
    folder = folder.resolve()
    is_bundle = (folder / MANIFEST).is_file()
    if folder.exists() and not is_bundle and (folder.is_file() or any(folder.iterdir())):
        raise BundleError(f"{folder} holds something else than a bundle; save to another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid4().hex[:8]
    aside, old = (folder.with_name(f".{folder.name}.{what}-{mark}") for what in ("new", "old"))
    try:
        aside.mkdir()
        planned = planning.make(system, identical) if plan else "it was saved without a plan"
        system = replace(system, engine=_with_plan(copy(system.engine), planned))
        facts = {"metrics": metrics or {}, "run": run or {}}
        facts = {**manifests.finite(facts), "plan": planning.save(planned, aside / PLAN)}
        _write(system, aside, facts)
        _swap(aside, folder, old)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _swap(new: Path, place: Path, old: Path) -> None:
    """Puts ``new`` in its place; what stood there goes to ``old``, and comes back where that fails."""
    if place.exists():
        place.rename(old)
    try:
        new.rename(place)
    except BaseException:
        if old.exists():
            old.rename(place)
        raise


def _with_plan(engine: Engine, planned: Plan | str) -> Engine:
    """The engine, given its plan or the reason why it has none."""
    engine.plan, engine.on_torch = (None, planned) if isinstance(planned, str) else (planned, "")
    return engine


def _write(system: System, aside: Path, facts: dict[str, Any]) -> None:
    engine, store = system.engine, system.store
    for source, place in _places(engine, aside):
        _save_net(source.net, place / "retriever.safetensors")
        if source.index is not None:
            source.index.save(place / "index")
    if engine.ranker is not None:
        _save_net(engine.ranker, aside / "ranker.safetensors")
    if engine.pairs is not None:
        engine.pairs.save(aside)
    _users(store).write_ipc(aside / "users.arrow")
    _items(store).write_ipc(aside / "items.arrow")
    (aside / PARITY).write_text(
        json.dumps(parity.make(system), ensure_ascii=False, indent=1, allow_nan=False), encoding="utf-8"
    )
    manifest = {
        "format": FORMAT,
        "suisen": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "libraries": {"python": platform.python_version(), "torch": torch.__version__, "polars": pl.__version__},
        "retriever": None if engine.union is not None else _described(system.retriever),
        "ranker": _described(system.ranker),
        "candidates": engine.candidates,
        "seed": system.seed,
        "data": {
            "fingerprint": store.fingerprint(),
            "users": len(store.users) - 1,
            "items": len(store.items) - 1,
            "events": int(store.item_counts.sum()),
            "has_time": store.has_time,
        },
        "encoders": {owner: encoder.to_json() for owner, encoder in store.encoders.items()},
        "index": None if engine.index is None else engine.index.description,
        "index_recall": system.index_recall,
        "notes": list(system.notes),
        "exclude_seen": system.exclude_seen,
        "epochs": {stage: list(each) for stage, each in system.epochs.items()},
        "lists": dict(system.lists),
        "refitted": system.refitted,
        **({} if engine.pairs is None else {"pair_features": list(engine.pairs.names)}),
        **({} if engine.union is None else {"sources": _sources(system), "quotas": engine.union.quotas}),
        "rules": system.rules.to_json(),
        **facts,
        "files": {
            path.relative_to(aside).as_posix(): _sha256(path) for path in sorted(aside.rglob("*")) if path.is_file()
        },
    }
    manifest = json.loads(json.dumps(manifest))  # as a reader will see it
    manifest = {"sha256": _digest(manifest), **manifest}
    (aside / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8")


def _places(engine: Engine, folder: Path) -> list[tuple[Source, Path]]:
    """The sources of an engine, and the folder in which each has its files."""
    if engine.union is not None:
        return [(source, folder / SOURCES / source.name) for source in engine.sources]
    return [] if engine.retriever is None else [(engine.sources[0], folder)]


def _save_net(net: Net, path: Path) -> None:
    weights = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        save_file(weights, part)


def _sources(system: System) -> list[dict[str, Any]]:
    """Each of several sources for a manifest: its own name, its model, its index."""
    out = []
    for source, model in zip(system.engine.sources, models_of(system.retriever), strict=True):
        index = None if source.index is None else source.index.description
        out.append({"name": source.name, "model": _described(model), "index": index})
    return out


def _described(model: Any) -> dict[str, Any] | None:
    return None if model is None else {"name": name_of(model), "hyper": asdict(model)}


def _users(store: Store) -> pl.DataFrame:
    first = pl.Series("__raw", [None], dtype=store.users.raw_ids.dtype)
    return pl.DataFrame(
        [
            pl.concat([first, store.users.raw_ids.alias("__raw")]),
            pl.Series("__trained", store.trained_users.numpy()),
            _list_column("__history", store.histories),
            _list_column("__times", store.histories.with_values(store.history_times)),
        ]
    ).hstack(store.user_frame)


def _items(store: Store) -> pl.DataFrame:
    first = pl.Series("__raw", [None], dtype=store.items.raw_ids.dtype)
    return pl.DataFrame(
        [
            pl.concat([first, store.items.raw_ids.alias("__raw")]),
            pl.Series("__trained", store.trained_items.numpy()),
            pl.Series("__count", store.item_counts.numpy()),
        ]
    ).hstack(store.item_frame)


def _list_column(name: str, rows: Ragged) -> pl.Series:
    """A list column of ragged rows."""
    flat = pl.DataFrame({"row": rows.rows().numpy(), name: rows.values.numpy()})
    lists = flat.group_by("row", maintain_order=True).agg(name)
    every = pl.DataFrame({"row": pl.int_range(len(rows), dtype=pl.Int64, eager=True)})
    return every.join(lists, on="row", how="left", maintain_order="left")[name].fill_null([])


# -- loading -----------------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, checked whole, and the SHA-256 of every file verified.  Raises BundleError."""
    manifest, _ = manifests.read(folder)
    manifests.verify(folder, manifest["files"])
    return manifest


def load(folder: Path, trusted_keys: Path | None = None, *, held: bool = False) -> System:
    """The System saved in ``folder`` (a bundle, or a run folder that holds one).

    Scores are bit for bit those before saving, at equal batch shapes.  ``trusted_keys``: a file or folder of public
    keys, of which one must have signed the bundle; None: nobody need have.  ``held``: it is a private copy that
    ``suisen.recommending.held`` verified, which is not done again.  Vectors and tables are memory-mapped: whoever
    changes the files of a bundle that is loaded changes what it answers.  Raises BundleError naming the file.
    """
    place = find(folder)
    began_with = _sha256(place / MANIFEST)
    try:
        return _loaded(place, trusted_keys, held)
    except BundleError:
        if _sha256(find(folder) / MANIFEST) == began_with:
            raise
        return _loaded(place, trusted_keys, held)  # another bundle was saved in its place while it was read


def _loaded(place: Path, trusted_keys: Path | None, held: bool) -> System:
    if trusted_keys is not None:
        signing.check(place, trusted_keys)
    manifest = manifests.read(place)[0] if held else read_manifest(place)
    try:
        return _read(place, manifest)
    except (BundleError, MissingExtra):
        raise
    except (SuisenError, *MISFITS) as error:
        raise BundleError(f"{place / MANIFEST} does not fit its files ({_why(error)}); save the bundle again") from None


def _why(error: BaseException) -> str:
    """The last line of what a library says, or the error's name where it says nothing."""
    lines = str(error).strip().splitlines()
    return one_line(lines[-1].strip()) if lines else type(error).__name__


def _read(place: Path, manifest: dict[str, Any]) -> System:
    store = tables.read(place, manifest)
    ranker = _model(manifest["ranker"])
    sources = _first_stage(place, manifest, store)
    models = tuple(source.model for source in sources)
    retriever = models[0] if len(models) == 1 else models or None
    pairs = _pairs(place, manifest, store)
    pair = (*pair_names(names_of(models)), *(() if pairs is None else pairs.names)) if sources else ()
    second = None if ranker is None else _net(place / "ranker.safetensors", partial(build_ranker, ranker), store, pair)
    nets, indexes = [source.net for source in sources], [source.index for source in sources]
    made = (retriever, ranker), (nets, second), store.trained_items, manifest["candidates"], indexes
    engine = Engine.of(*made, manifest.get("quotas"), pairs)
    plan = manifest.get("plan") if pairs is None else {"torch": planning.OF_REQUESTS}
    _with_plan(engine, planning.load(plan, place / PLAN, engine))
    notes = tuple(manifest["notes"])
    system = System(retriever, ranker, store, engine, manifest["seed"], manifest["index_recall"], notes)
    parity.complete(store, "history" in system.abilities, fixture(place), place / PARITY)
    known = {
        name: manifest[name] for name in ("exclude_seen", "epochs", "lists", "refitted", "created") if name in manifest
    }
    version = f"{system.name.replace(' ', '')}-{_sha256(place / MANIFEST)[:12]}"
    system = replace(system, **known, rules=Rules.of(manifest.get("rules")), version=version)
    _ = system.bound_rules  # rules that do not fit the catalogue are refused now
    return system


def _pairs(place: Path, manifest: dict[str, Any], store: Store) -> PairTables | None:
    """What makes the features of pairs that the manifest names; None where it names none."""
    names = tuple(manifest.get("pair_features", ()))
    if names and (manifest["ranker"] is None or not (manifest["retriever"] or manifest.get("sources"))):
        raise BundleError(f"{place / MANIFEST}: pair_features = {list(names)} needs two stages; save the bundle again")
    return PairTables.load(place, names, store) if names else None


@dataclass(frozen=True)
class _Source:
    """A source as it lies in a bundle."""

    model: Any
    net: Net
    index: Index | None


def _first_stage(place: Path, manifest: dict[str, Any], store: Store) -> list[_Source]:
    """The sources of a bundle, in order; none where a ranker ranks everything by itself.

    Raises BundleError where their names are not those of their models.
    """
    if manifest["retriever"] is not None:
        return [_source(place, place, manifest["retriever"], manifest["index"], store)]
    if manifest["index"] is not None:
        _check_index(place, (), None, store)
    given = manifest.get("sources") or []
    found = [_source(place, place / SOURCES / one["name"], one["model"], one["index"], store) for one in given]
    names = names_of([source.model for source in found])
    if names != [one["name"] for one in given]:
        what = f"its sources are called {shown([one['name'] for one in given])}, their models {shown(names)}"
        raise BundleError(f"{place / MANIFEST} does not fit its files ({what}); save the bundle again")
    return found


def _source(
    place: Path, folder: Path, described: dict[str, Any], index: dict[str, Any] | None, store: Store
) -> _Source:
    """The source in a folder of the bundle in ``place``."""
    model = _model(described)
    net = _net(folder / "retriever.safetensors", model.build, store, ())
    found = None if index is None else open_index(index, folder / "index")
    if found is not None:
        _check_index(place, found.vectors.shape, net, store)
    return _Source(model, net, found)


def fixture(folder: Path) -> list[dict[str, Any]]:
    """The parity fixture of a bundle."""
    return parity.read(find(folder) / PARITY)


def _model(described: dict[str, Any] | None) -> Any:
    if described is None:
        return None
    lists = {name: tuple(v) if isinstance(v, list) else v for name, v in described["hyper"].items()}
    return model_of(described["name"], **lists)


def _net(path: Path, build: Callable[[Schema], N], store: Store, pair: tuple[str, ...]) -> N:
    """The network with the weights of a file."""
    with Undrawn():
        net = build(replace(store.schema, pair=pair))
    net.bind(store.item_table)
    expected = {name: value.dtype for name, value in net.state_dict().items()}
    try:
        net.load_state_dict({name: _aligned(value) for name, value in load_file(path).items()}, assign=True)
    except MISFITS as error:
        raise BundleError(f"{path} does not fit the model ({_why(error)}); save the bundle again") from None
    _check_weights(path, net, expected)
    net.requires_grad_(False)
    return net.eval()


def _check_weights(path: Path, net: Net, expected: dict[str, torch.dtype]) -> None:
    """Raises BundleError for weights of another type, and for such as no training ends with.  One pass over them."""
    for name, value in net.state_dict().items():
        if value.dtype != expected[name]:
            what = f"{name} is {value.dtype}, the model needs {expected[name]}"
            raise BundleError(f"{path} does not fit the model ({what}); save the bundle again")
        if value.is_floating_point() and value.numel() and not bool(torch.isfinite(torch.stack(value.aminmax())).all()):
            raise BundleError(f"{path} does not fit the model ({name} holds NaN or infinity); save the bundle again")
    if flaw := net.flaw:
        raise BundleError(f"{path} does not fit the model ({flaw}); save the bundle again")


@torch.no_grad()
def _check_index(place: Path, shape: tuple[int, ...], first: Net | None, store: Store) -> None:
    """Raises BundleError where the index is not one of the retriever's item vectors, by its shape."""
    if first is None or first.prepare_items() is None:
        raise BundleError(
            f"{place / MANIFEST} does not fit its files (it has an index, and no vectors to be found in it)"
        )
    d = first.prepare_contexts(store.contexts(torch.zeros(1, dtype=torch.int64), 0)).shape[1]
    wanted = (store.schema.n_items - 1, d)
    if shape != wanted:
        raise BundleError(f"{place / 'index'} holds vectors {shape}, the model's are {wanted}; save the bundle again")


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor where torch itself would have put it: vector instructions round sums elsewhere differently."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()
