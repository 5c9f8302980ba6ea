"""The configuration of a run: which settings there are, from flags and a file to objects, and back to a file.

    [data]       a data set by name, or a file of events with the names of its columns
    [split]      which rule, with its parameters
    [retriever]  which model, with its hyper-parameters
    [ranker]     likewise
    [index]      which index, with its parameters
    [lists]      how the lists are made that the ranker learns on
    [run]        seed, device, threads, patience, metrics, …

In each of split, retriever, ranker and index the key ``name`` picks the class and the other keys are its fields.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from suisen.data.dataset import Dataset, Split
from suisen.data.k_core import k_core
from suisen.data.read import ReadOptions, read_path
from suisen.data.sources import SOURCES, load
from suisen.data.splits import SPLITS
from suisen.errors import InputError, unknown
from suisen.evaluation.metrics import parse_all
from suisen.models import RETRIEVERS, SECOND_STAGES
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.tuning import TuneSettings
from suisen.pipeline.two_stage import RankerLists
from suisen.retrieval import INDEXES
from suisen.runs import toml
from suisen.runs.settings import Setting, plain, settings_of, values_of
from suisen.training.options import RunOptions, pick_device
from suisen.version import __version__

CHOICES: dict[str, dict[str, type[Any]]] = {
    "split": SPLITS,
    "retriever": RETRIEVERS,
    "ranker": SECOND_STAGES,
    "index": INDEXES,
}
"""Sections whose ``name`` picks a class."""
DEFAULTS = {"split": "leave-last"}
"""Choices where nothing is said."""
SECTIONS = ("data", "split", "retriever", "ranker", "index", "lists", "run")
FLAGS = {"kinds": "--kind", "event_weights": "--event-weight", "name": "--data"}
"""Flags that read better than the key they set."""
FOR_NAMES = {"name", "data_dir", "positive_from", "k_core"}
"""Keys of [data] that go with a data set known by name."""
Raw = dict[str, dict[str, Any]]
"""Section → key → value as it was written."""


@dataclass(frozen=True)
class Place:
    """Where the data are."""

    name: str | None = None
    """A data set known by name: ml-100k, ml-1m, … (see ``suisen data fetch --help``)."""
    data_dir: str | None = None
    """Folder or zip file that holds it; without it the cache, then the official server."""
    events: str | None = None
    """A file of events instead: CSV, TSV, JSON lines, Parquet, Arrow or RecBole's .inter; .gz allowed."""
    k_core: int = 0
    """Keep only users and items of at least so many events, until nothing falls any more; 0: keep all."""


@dataclass(frozen=True)
class RunSettings:
    """How the run goes, apart from the models."""

    candidates: int = 500
    """Items that the retriever hands to the ranker."""
    seed: int = 0
    """The same seed, threads and data give the same weights."""
    threads: int = 0
    """Threads of torch; 0: one a core."""
    device: str = "auto"
    """auto (CUDA where there is one, else the CPU), cpu, cuda, cuda:1, …"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 on a CUDA device that has it, else float32."""
    patience: int = 5
    """Epochs without a better validation metric before training stops."""
    clip: float | None = 10.0
    """Largest norm of the gradient."""
    average: float = 0.0
    """Decay a step of a moving average of the weights, like 0.99, which is then what is kept; 0: none."""
    max_seconds: float | None = None
    """A phase of training stops after the epoch in which so many seconds have passed."""
    checkpoint_seconds: float = 30.0
    """At least so long between two checkpoints of a phase."""
    metrics: tuple[str, ...] = ()
    """What is measured, like ndcg@10,recall@100; the first one is compared; default: what fits the data."""


def data_settings() -> list[Setting]:
    """Of [data]."""
    out = [*settings_of(Place, "data", "--"), *settings_of(ReadOptions, "data", "--")]
    return [replace(each, flag=FLAGS.get(each.key, each.flag)) for each in out]


def run_settings() -> list[Setting]:
    """Of [run]."""
    return settings_of(RunSettings, "run", "--")


def list_settings() -> list[Setting]:
    """Of [lists]; the two fields that follow from other sections are left out."""
    return settings_of(RankerLists, "lists", "--lists.", skip=("candidates", "history"))


def tune_settings() -> list[Setting]:
    """Of [tune], which ``suisen tune`` alone has."""
    return settings_of(TuneSettings, "tune", "--")


def choice_settings(section: str, name: str | None) -> list[Setting]:
    """Of the class that ``name`` picks in a section; none without a name."""
    if name is None:
        return []
    if name not in CHOICES[section]:
        raise unknown(section, name, CHOICES[section])
    return settings_of(CHOICES[section][name], section, f"--{section}.")


def settings_in(section: str, name: str | None = None) -> list[Setting]:
    """All settings of a section."""
    plain_sections = {"data": data_settings, "run": run_settings, "lists": list_settings, "tune": tune_settings}
    return plain_sections[section]() if section in plain_sections else choice_settings(section, name)


# -- flags over file ---------------------------------------------------------------------------------------------------


def read_file(path: Path, more: Sequence[str] = ()) -> Raw:
    """Sections of a TOML file, their names and shapes checked; keys are checked when they meet their class.

    ``more``: sections beside those of a run.
    """
    tables = toml.load(path)
    for name, table in tables.items():
        if name not in (*SECTIONS, *more):
            raise unknown(f"{path}: section", name, SECTIONS)
        if not isinstance(table, dict):
            raise InputError(f"{path}: {name} = {table!r} must be a section, [{name}]")
    return tables


def merged(file: Raw, flags: Raw, say: Callable[[str], None]) -> Raw:
    """Flags win; what the file says of another choice than the flag's goes, and ``say`` is told so."""
    out: Raw = {}
    for section in SECTIONS:
        theirs, ours = dict(file.get(section, {})), dict(flags.get(section, {}))
        gone = _outdone(section, theirs, ours)
        if gone:
            say(f"[{section}] of the file is for another choice and not used: {', '.join(gone)}")
        kept = {key: value for key, value in theirs.items() if key not in gone}
        if kept or ours:
            out[section] = {**kept, **ours}
    return out


def _outdone(section: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Keys of the file that belong to a choice which a flag has changed."""
    if section in CHOICES:
        other = "name" in ours and "name" in theirs and ours["name"] != theirs["name"]
        return [key for key in theirs if other and key != "name"]
    if section == "data" and "name" in ours and "events" in theirs:
        return [key for key in theirs if key not in FOR_NAMES]
    if section == "data" and "events" in ours:
        return [key for key in theirs if key in ("name", "data_dir")]
    return []


# -- the resolved configuration ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """All that a run is made from."""

    place: Place
    reading: dict[str, Any]
    """Options of ``read_path`` that were given."""
    split: Any
    retriever: Any
    ranker: Any
    index: Any
    lists: RankerLists
    run: RunSettings
    names: dict[str, str] = field(default_factory=dict)
    """Section → name of its choice."""

    def tables(self) -> Raw:
        """Sections of a file that makes the same Config, every default written out."""
        out: Raw = {"data": {key: plain(value) for key, value in self._data().items()}}
        for section in CHOICES:
            if section in self.names:
                settings = choice_settings(section, self.names[section])
                out[section] = {"name": self.names[section], **values_of(getattr(self, section), settings)}
        if self.retriever is not None and self.ranker is not None:
            out["lists"] = values_of(self.lists, list_settings())
        out["run"] = values_of(self.run, run_settings())
        return out

    def _data(self) -> dict[str, Any]:
        settings = settings_of(Place, "data", "--")
        reading = {key: "none" if value is None else value for key, value in self.reading.items()}
        return {**values_of(self.place, settings), **reading}

    def toml(self, head: str = "suisen train --config THIS_FILE repeats the run") -> str:
        """The file."""
        return toml.dumps(self.tables(), f"suisen {__version__}\n{head}")

    def dataset(self) -> Dataset:
        """The data, read anew."""
        place = self.place
        if place.events is not None:
            log = read_path(place.events, ReadOptions(**self.reading))
        else:
            log = load(str(place.name), place.data_dir, positive_from=self.reading.get("positive_from"))
        return Dataset.of(log) if not place.k_core else k_core(log, place.k_core, place.k_core)

    def cut(self, data: Dataset) -> Split:
        """Train, valid and test."""
        return data.split(self.split)

    def options(self, **more: Any) -> RunOptions:
        """How the run goes, for the trainer."""
        run = self.run
        return RunOptions(
            seed=run.seed,
            device=run.device,
            precision=run.precision,
            patience=run.patience,
            clip=run.clip,
            average=run.average,
            max_seconds=run.max_seconds,
            checkpoint_seconds=run.checkpoint_seconds,
            **more,
        )

    def check(self) -> None:
        """What would otherwise be refused after hours: device, options, metrics, sizes."""
        self.options()
        self.recommender()
        parse_all(self.run.metrics)
        pick_device(self.run.device)

    def recommender(self) -> Recommender:
        """Not fitted yet."""
        return Recommender(
            self.retriever,
            self.ranker,
            candidates=self.run.candidates,
            index=self.index,
            seed=self.run.seed,
            lists=self.lists,
        )


def resolve(raw: Raw, models: bool = True) -> Config:
    """The objects that raw values describe, all checked.

    Without ``models`` the models may be missing (to look at data).  Raises InputError.
    """
    raw = {**raw, "split": {"name": DEFAULTS["split"], **raw.get("split", {})}}
    read = {section: _read(section, dict(raw.get(section, {}))) for section in SECTIONS}
    names = {section: read[section].pop("name") for section in CHOICES if "name" in read[section]}
    place = {key: read["data"].pop(key) for key in list(read["data"]) if key in Place.__dataclass_fields__}
    made = {section: _made(section, names[section], read[section]) for section in CHOICES if section in names}
    if models and "retriever" not in made and "ranker" not in made:
        known = f"--retriever ({', '.join(RETRIEVERS)}), --ranker ({', '.join(SECOND_STAGES)})"
        raise InputError(f"no model is named; pass {known} or both")
    run = RunSettings(**read["run"])
    if run.threads < 0:
        raise InputError(f"threads = {run.threads} must be 0 (one a core) or more")
    run = replace(run, threads=run.threads or os.cpu_count() or 1)
    where, reading = _data(Place(**place), read["data"])
    split, retriever, ranker, index = (made.get(section) for section in CHOICES)
    return Config(where, reading, split, retriever, ranker, index, RankerLists(**read["lists"]), run, names)


def tuning_of(table: Mapping[str, Any]) -> TuneSettings:
    """The values of [tune], converted and checked."""
    return TuneSettings(**_read("tune", dict(table)))


def with_epochs(raw: Raw, epochs: int | None, given: Mapping[str, Any]) -> Raw:
    """``epochs`` in each model that has epochs, over what a file says; a flag of the model's own wins."""
    out = {section: dict(table) for section, table in raw.items()}
    for section in ("retriever", "ranker"):
        name = out.get(section, {}).get("name")
        keys = [setting.key for setting in choice_settings(section, name)]
        if epochs is not None and "epochs" in keys and given.get(f"{section}__epochs") is None:
            out[section]["epochs"] = epochs
    return out


def _read(section: str, table: dict[str, Any]) -> dict[str, Any]:
    """A section's values converted, its keys checked."""
    name = str(table.pop("name")) if section in CHOICES and "name" in table else None
    settings = {setting.key: setting for setting in settings_in(section, name)}
    out: dict[str, Any] = {} if name is None else {"name": name}
    for key, value in table.items():
        if key not in settings:
            if section in CHOICES and name is None:
                raise InputError(f"{section}.{key} needs --{section} NAME; known: {', '.join(CHOICES[section])}")
            raise unknown(f"[{section}] key", key, ["name", *settings] if section in CHOICES else settings)
        out[key] = settings[key].read(value)
    return out


def _made(section: str, name: str, values: dict[str, Any]) -> Any:
    try:
        return CHOICES[section][name](**values)
    except TypeError as error:  # a plain dataclass was given a type that it cannot compare
        raise InputError(f"{section} {name}: {error}") from None


def _data(place: Place, reading: dict[str, Any]) -> tuple[Place, dict[str, Any]]:
    """[data], its two kinds kept apart; paths become absolute, so that the file works from anywhere."""
    if (place.name is None) == (place.events is None):
        both = "both --data and --events are" if place.name is not None else "neither --data nor --events is"
        raise InputError(f"{both} given; name a data set ({', '.join(SOURCES)}) or a file of events")
    if place.name is not None:
        if place.name not in SOURCES:
            raise unknown("data", place.name, SOURCES)
        for key in reading:
            if key not in FOR_NAMES:
                raise InputError(f"data.{key} goes with --events FILE; {place.name} knows its own columns")
    if place.k_core < 0:
        raise InputError(f"data.k_core = {place.k_core} must be 0 or more")
    reading = {key: absolute(v) if key in ("user_features", "item_features") else v for key, v in reading.items()}
    if "delimiter" in reading and reading["delimiter"] is not None:
        reading["delimiter"] = reading["delimiter"].replace("\\t", "\t")
    moved = replace(place, data_dir=absolute(place.data_dir), events=absolute(place.events))
    return moved, reading


def absolute(path: str | None) -> str | None:
    """A path that means the same from any folder."""
    return None if path is None else str(Path(path).expanduser().absolute())


def threads(config: Config) -> None:
    """Gives torch the threads that the run asks for."""
    import torch

    torch.set_num_threads(config.run.threads)


def flags_of(given: Mapping[str, Any]) -> Raw:
    """The flags that were given, by section."""
    out: Raw = {}
    for parameter, value in given.items():
        section, sign, key = parameter.partition("__")
        if sign and value is not None and value != ():
            out.setdefault(section, {})[key] = list(value) if isinstance(value, tuple) else value
    return out


__all__: Sequence[str] = ("Config", "Place", "RunSettings", "flags_of", "merged", "read_file", "resolve")
