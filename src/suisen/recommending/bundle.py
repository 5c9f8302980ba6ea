"""The bundle: a folder that a System is saved to and loaded from, without pickle and without running code.

    manifest.json            format, models and hyper-parameters, encoders, index, metrics, SHA-256 of each file and
                             of the manifest's own content
    retriever.safetensors    weights of the networks
    ranker.safetensors
    users.arrow items.arrow  raw ids, trained marks, histories, counts, raw features and titles; row i = dense id i
    index/                   the index in its own format
    plan/                    tables of the fast way, made of the weights; absent where everything runs on torch
    parity.json              requests with their expected answers

It is written into a hidden folder beside its place and renamed, so that a reader never sees half of one.  An older
bundle in that place is renamed first and deleted last: between the two renames, some microseconds, there is none.
"""

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable
from copy import copy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from suisen.data.batch import Schema
from suisen.data.encode import Encoder
from suisen.data.ids import IdMap
from suisen.data.ragged import Ragged, offsets_of
from suisen.errors import BundleError, SuisenError
from suisen.files import replacing
from suisen.models import model_of, name_of
from suisen.models.contract import Model, Net
from suisen.recommending import parity, planning
from suisen.recommending.engine import PAIR, Engine, recommendable
from suisen.recommending.place import MANIFEST, find
from suisen.recommending.plan import Plan
from suisen.recommending.standin import Undrawn, build_ranker
from suisen.recommending.store import Store
from suisen.recommending.system import System, first_of
from suisen.retrieval import open_index
from suisen.version import __version__

N = TypeVar("N", bound=Net)
FORMAT = 2
"""1: the context features were called request features (``encoders.request``, crosses of ``request.device``)."""
PARITY, PLAN = "parity.json", "plan"
MISFITS = (KeyError, ValueError, TypeError, RuntimeError, OSError, SafetensorError, pl.exceptions.PolarsError)
"""What reading raises where manifest and files do not fit each other."""
ALIGNMENT = 64
"""Bytes: where torch's tensors begin on a CPU."""
OWN = ("__raw", "__trained", "__history", "__times", "__count")
"""Columns of ours in the Arrow tables; features and titles keep their names."""


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
        facts = {"metrics": metrics or {}, "run": run or {}, "plan": planning.save(planned, aside / PLAN)}
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
    for name, net in (("retriever", engine.retriever), ("ranker", engine.ranker)):
        if net is not None:
            weights = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
            with replacing(aside / f"{name}.safetensors") as part:
                save_file(weights, part)
    _users(store).write_ipc(aside / "users.arrow")
    _items(store).write_ipc(aside / "items.arrow")
    if engine.index is not None:
        engine.index.save(aside / "index")
    (aside / PARITY).write_text(json.dumps(parity.make(system), ensure_ascii=False, indent=1), encoding="utf-8")
    manifest = {
        "format": FORMAT,
        "suisen": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "libraries": {"python": platform.python_version(), "torch": torch.__version__, "polars": pl.__version__},
        "retriever": _described(system.retriever),
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
        **facts,
        "files": {str(path.relative_to(aside)): _sha256(path) for path in sorted(aside.rglob("*")) if path.is_file()},
    }
    manifest = json.loads(json.dumps(manifest))  # as a reader will see it
    manifest = {"sha256": _digest(manifest), **manifest}
    (aside / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8")


def _digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of all that the manifest says beside it."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _described(model: Model | None) -> dict[str, Any] | None:
    return None if model is None else {"name": name_of(model), "hyper": asdict(model)}  # type: ignore[call-overload]


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- loading -----------------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, its format checked, its hash and that of every file verified.  Raises BundleError."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, files, digest = int(manifest["format"]), dict(manifest["files"]), str(manifest.get("sha256"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is damaged ({type(error).__name__}: {error}); copy the bundle again") from None
    if version > FORMAT:
        raise BundleError(
            f"{path}: format = {version} is newer than {FORMAT}, the newest this Suisen reads; upgrade it"
        )
    if digest != _digest(manifest):
        raise BundleError(f"{path} is damaged: its SHA-256 is not what it says of itself; copy the bundle again")
    for name, expected in files.items():
        file = folder / name
        if not file.is_file():
            raise BundleError(f"{file} is missing; copy the bundle again")
        if _sha256(file) != expected:
            raise BundleError(f"{file} is damaged: its SHA-256 is not the manifest's; copy the bundle again")
    return manifest


def load(folder: Path) -> System:
    """The System saved in ``folder`` (a bundle, or a run folder that holds one).

    Scores are bit for bit those before saving, at equal batch shapes.  Raises BundleError naming the file.
    """
    place = find(folder)
    began_with = _sha256(place / MANIFEST)
    try:
        return _loaded(place)
    except BundleError:
        if _sha256(find(folder) / MANIFEST) == began_with:
            raise
        return _loaded(place)  # another bundle was saved in its place while it was read


def _loaded(place: Path) -> System:
    manifest = _of_this_format(read_manifest(place))
    try:
        return _read(place, manifest)
    except BundleError:
        raise
    except (SuisenError, *MISFITS) as error:
        raise BundleError(f"{place / MANIFEST} does not fit its files ({error}); save the bundle again") from None


def _of_this_format(manifest: dict[str, Any]) -> dict[str, Any]:
    """An older manifest in this format's words."""
    if manifest["format"] >= FORMAT:
        return manifest
    encoders = dict(manifest["encoders"])
    encoders["context"] = encoders.pop("request")
    models = {name: _renamed(manifest[name]) for name in ("retriever", "ranker")}
    return {**manifest, "encoders": encoders, **models}


def _renamed(described: dict[str, Any] | None) -> dict[str, Any] | None:
    """A format-1 model whose declared crosses name ``request.device``, not ``context.device``."""
    if described is None or "crosses" not in described["hyper"]:
        return described
    crosses = [[name.replace("request.", "context.") for name in cross] for cross in described["hyper"]["crosses"]]
    return {**described, "hyper": {**described["hyper"], "crosses": crosses}}


def _read(place: Path, manifest: dict[str, Any]) -> System:
    retriever, ranker = (_model(manifest[name]) for name in ("retriever", "ranker"))
    store = _store(place, manifest)
    first = None if retriever is None else _net(place / "retriever.safetensors", retriever.build, store, ())
    pair = () if retriever is None else PAIR
    second = None if ranker is None else _net(place / "ranker.safetensors", partial(build_ranker, ranker), store, pair)
    index = None if manifest["index"] is None else open_index(manifest["index"], place / "index")
    allowed = recommendable(first_of(retriever, ranker), store.trained_items)
    engine = Engine(first, second, allowed, manifest["candidates"], index)
    _with_plan(engine, planning.load(manifest.get("plan"), place / PLAN, engine))
    notes = tuple(manifest["notes"])
    system = System(retriever, ranker, store, engine, manifest["seed"], manifest["index_recall"], notes)
    known = {
        name: manifest[name] for name in ("exclude_seen", "epochs", "lists", "refitted", "created") if name in manifest
    }
    return replace(system, **known, version=f"{system.name.replace(' ', '')}-{_sha256(place / MANIFEST)[:12]}")


def fixture(folder: Path) -> list[dict[str, Any]]:
    """The parity fixture of a bundle."""
    rows: list[dict[str, Any]] = json.loads((find(folder) / PARITY).read_text(encoding="utf-8"))
    return rows


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
    try:
        net.load_state_dict({name: _aligned(value) for name, value in load_file(path).items()}, assign=True)
    except MISFITS as error:
        what = str(error).strip().splitlines()[-1].strip()
        raise BundleError(f"{path} does not fit the model ({what}); save the bundle again") from None
    net.requires_grad_(False)
    return net.eval()


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor where torch itself would have put it: vector instructions round sums elsewhere differently."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def _store(place: Path, manifest: dict[str, Any]) -> Store:
    users, items = (pl.read_ipc(place / name) for name in ("users.arrow", "items.arrow"))
    encoders = {owner: Encoder.from_json(columns) for owner, columns in manifest["encoders"].items()}
    schema = Schema(
        users.height, items.height, encoders["user"].schema, encoders["item"].schema, encoders["context"].schema
    )
    return Store(
        users=IdMap("user", users["__raw"].slice(1).alias("raw")),
        items=IdMap("item", items["__raw"].slice(1).alias("raw")),
        schema=schema,
        encoders=encoders,
        user_frame=users.drop(OWN, strict=False),
        item_frame=items.drop(OWN, strict=False),
        trained_users=_tensor(users["__trained"]),
        trained_items=_tensor(items["__trained"]),
        item_counts=_tensor(items["__count"]),
        histories=Ragged(_flat(users["__history"]), offsets_of(_tensor(users["__history"].list.len()).long())),
        history_times=_flat(users["__times"]),
        has_time=manifest["data"]["has_time"],
    )


def _flat(lists: pl.Series) -> Tensor:
    kept = lists.filter(lists.list.len() > 0)
    return _tensor(kept.explode()) if kept.len() else torch.zeros(0, dtype=torch.int64)


def _tensor(column: pl.Series) -> Tensor:
    return torch.from_numpy(column.to_numpy().copy())
