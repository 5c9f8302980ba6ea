"""The configuration of a run: which settings there are, from flags and a file to objects, and back to a file.

    [data]       a data set by name, or a file of events with the names of its columns
    [split]      which rule, with its parameters
    [retriever]  which model, with its hyper-parameters; or several, each with a table of its own, [retriever.ease]
    [ranker]     likewise
    [index]      which index, with its parameters
    [lists]      how the lists are made that the ranker learns on
    [run]        seed, device, threads, patience, metrics, …

In each of split, retriever, ranker and index the key ``name`` picks the class and the other keys are its fields.
"""

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from suisen.data.candidates import with_seen
from suisen.data.dataset import Dataset, Split
from suisen.data.given import read_parts
from suisen.data.k_core import core_of
from suisen.data.log import Log
from suisen.data.ordered import OrderedLog
from suisen.data.read import ReadOptions, read_path
from suisen.data.sources import SOURCES, load
from suisen.data.splits import SPLITS, Sessions
from suisen.errors import InputError, unknown
from suisen.evaluation.metrics import check_metric, parse_all
from suisen.models import RETRIEVERS, SECOND_STAGES
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.tuning import TuneSettings
from suisen.pipeline.two_stage import RankerLists
from suisen.recommending.sources import numbered
from suisen.retrieval import INDEXES
from suisen.runs.settings import NONE, Setting, plain, settings_of, values_of
from suisen.training.options import RunOptions, pick_device
from suisen.version import __version__

CHOICES = {"split": SPLITS, "retriever": RETRIEVERS, "ranker": SECOND_STAGES, "index": INDEXES}
"""Sections whose ``name`` picks a class."""
DEFAULTS = {"split": "leave-last"}
"""Choices where nothing is said."""
SECTIONS = ("data", *CHOICES, "lists", "run")
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
    """A file of events instead: CSV, TSV, JSON, Parquet (also a folder), Arrow, RecBole's .inter, or any --format;
    .gz allowed."""
    test_events: str | None = None
    """A file of test's events, where somebody else made the split; ``events`` is then train's."""
    valid_events: str | None = None
    """Likewise a file of valid's events."""
    k_core: int = 0
    """Keep only users and items of at least so many events, until nothing falls any more; 0: keep all."""


@dataclass(frozen=True, kw_only=True)
class RunSettings(RunOptions):
    """How the run goes: what the trainer is told, and what is beside it."""

    candidates: int = 500
    """Items that the retriever, or several together, hand to the ranker."""
    quotas: Mapping[str, int] = field(default_factory=dict)
    """Of several retrievers: name=candidates that one gives before all take turns, like ease=200."""
    threads: int = 0
    """Threads of torch; 0: one per core."""
    metrics: tuple[str, ...] = ()
    """What is measured, like ndcg@10,recall@100; the first one is compared; default: what fits the data."""
    exclude_seen: bool = True
    """Leave out what a user took before, in learning, measuring and serving; false where people take things again."""
    pair_features: tuple[str, ...] = ()
    """What a ranker behind a retriever reads of pairs beside the retrieval's score and rank: all, or names like
    covisit_5,last; -name leaves one out."""
    final: bool = True
    """Once measured, learn the models anew on all events, for as long as was found best; that is what serves."""
    rules: str | None = None
    """File of rules of the last stage, .toml or .json, that the bundle keeps (docs/rules.md); none: no rules."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads < 0:
            raise InputError(f"threads = {self.threads} must be 0 (one per core) or more")


CLASSES = {"data": (Place, ReadOptions), "lists": (RankerLists,), "run": (RunSettings,), "tune": (TuneSettings,)}
"""The other sections: their keys are the fields of these classes."""
DERIVED = {
    "lists": ("candidates", "history", "exclude_seen"),
    "run": ("checkpoint", "resume", "stage", "prefix", "callbacks"),
}
"""Fields that no setting sets: they follow from other sections, or the launcher gives them."""


def settings_in(section: str, name: str | None = None, source: str | None = None) -> list[Setting]:
    """All settings of a section; of split, retriever, ranker and index those of the class that ``name`` picks.

    ``source``: which of several retrievers.
    """
    if section in CHOICES:
        if name is not None and name not in CHOICES[section]:
            raise unknown(section, name, CHOICES[section])
        where = section if source is None else f"{section}.{source}"
        return [] if name is None else settings_of(CHOICES[section][name], where, f"--{where}.")
    prefix = "--lists." if section == "lists" else "--"
    found = [each for cls in CLASSES[section] for each in settings_of(cls, section, prefix, DERIVED.get(section, ()))]
    return [replace(each, flag=FLAGS.get(each.key, each.flag)) for each in found]


# -- flags over file ---------------------------------------------------------------------------------------------------


def read_file(path: Path, more: Sequence[str] = ()) -> Raw:
    """Sections of a TOML file, their names and shapes checked; keys are checked when they meet their class.

    ``more``: sections beside those of a run.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a TOML file such as a run's config.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from None
    for name, table in tables.items():
        if name not in (*SECTIONS, *more):
            raise unknown(f"{path}: section", name, SECTIONS)
        if not isinstance(table, dict):
            raise InputError(f"{path}: {name} = {table!r} must be a section, [{name}]")
    return tables


def written(tables: Raw, head: str) -> str:
    """The text of a TOML file: comment lines, then the sections."""
    comments = "".join(f"# {line}\n" for line in head.splitlines())
    return f"{comments}\n{tomli_w.dumps(tables)}"


def merged(file: Raw, flags: Raw, say: Callable[[str], None]) -> Raw:
    """Flags win; what the file says of another choice than the flag's goes, and ``say`` is told so."""
    out: Raw = {}
    for section in SECTIONS:
        theirs, ours = dict(file.get(section, {})), dict(flags.get(section, {}))
        gone = _outdone(section, theirs, ours)
        if gone:
            say(f"[{section}] of the file is for another choice and not used: {', '.join(gone)}")
        kept = {key: value for key, value in theirs.items() if key not in gone}
        for key, value in ours.items():
            kept[key] = {**kept.get(key, {}), **value} if isinstance(value, dict) else value
        if kept:
            out[section] = kept
    return out


def _outdone(section: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Keys of the file that belong to a choice which a flag has changed."""
    if section in CHOICES:
        other = "name" in ours and "name" in theirs and ours["name"] != theirs["name"]
        return [key for key in theirs if other and key != "name"]
    if section == "data" and "name" in ours and "events" in theirs:
        return [key for key in theirs if key not in FOR_NAMES]
    if section == "data" and "events" in ours:
        return [key for key in theirs if key in ("name", "data_dir", "test_events", "valid_events")]
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
    names: dict[str, Any] = field(default_factory=dict)
    """Section → name of its choice, of several retrievers a list of names."""

    @property
    def models(self) -> str:
        """Names of the retriever and the ranker, as far as they are there, with - between."""
        chosen = [_listed(self.names[section]) for section in ("retriever", "ranker") if section in self.names]
        return "-".join(name for names in chosen for name in names)

    def tables(self) -> Raw:
        """Sections of a file that makes the same Config, every default written out."""
        reading = {key: NONE if value is None else plain(value) for key, value in self.reading.items()}
        out: Raw = {"data": {**values_of(self.place, settings_of(Place, "data", "")), **reading}}
        for section, name in self.names.items():
            out[section] = {"name": name, **_values(section, name, getattr(self, section))}
        if self.retriever is not None and self.ranker is not None:
            out["lists"] = values_of(self.lists, settings_in("lists"))
        out["run"] = values_of(self.run, settings_in("run"))
        return out

    def toml(self, head: str = "suisen train --config THIS_FILE repeats the run") -> str:
        """The file."""
        return written(self.tables(), f"suisen {__version__}\n{head}")

    def read(self) -> Log:
        """The log, read anew; its k-core where that is wanted."""
        place = self.place
        if place.test_events is not None:
            log = read_parts(place.events, place.test_events, place.valid_events, ReadOptions(**self.reading))
        elif place.events is not None:
            log = read_path(place.events, ReadOptions(**self.reading))
        else:
            log = load(str(place.name), place.data_dir, positive_from=self.reading.get("positive_from"))
        return core_of(OrderedLog.of(log), place.k_core, place.k_core) if place.k_core else log

    def data(self) -> OrderedLog:
        """The log in order, from which ``cut`` makes train, valid and test; its features are fitted on train alone."""
        return OrderedLog.of(self.read())

    def cut(self, log: OrderedLog) -> Split:
        """Train, valid and test; seen items stay among the candidates of the queries where the run wants that."""
        split: Split = self.split.split(log)
        if self.run.exclude_seen:
            return split
        return replace(split, valid=None if split.valid is None else with_seen(split.valid), test=with_seen(split.test))

    def everything(self, log: OrderedLog) -> Dataset:
        """The whole log as train would be made of it: by sessions where the rule learns from sessions."""
        if isinstance(self.split, Sessions):
            return replace(self.split, test=0, valid=0).split(log).train
        return Dataset.of(log.log)

    def check(self) -> None:
        """What would otherwise be refused after hours: device, metrics, sizes."""
        self.recommender()
        parse_all(self.run.metrics)
        if self.run.stop_on is not None:
            check_metric(self.run.stop_on, "stop_on", "stop training")
        pick_device(self.run.device)

    def recommender(self) -> Recommender:
        """Not fitted yet."""
        run = self.run
        parts: dict[str, Any] = {"candidates": run.candidates, "quotas": run.quotas, "index": self.index}
        parts |= {"seed": run.seed, "lists": self.lists, "exclude_seen": run.exclude_seen}
        parts["pair_features"] = run.pair_features
        return Recommender(self.retriever, self.ranker, **parts).with_rules(run.rules)


def resolve(raw: Raw, models: bool = True) -> Config:
    """The objects that raw values describe, all checked.

    Without ``models`` the models may be missing (to look at data).  Raises InputError.
    """
    raw = {**raw, "split": {"name": _usual_split(raw), **raw.get("split", {})}}
    read = {section: _read(section, dict(raw.get(section, {}))) for section in SECTIONS}
    names = {section: read[section].pop("name") for section in CHOICES if "name" in read[section]}
    place = {key: read["data"].pop(key) for key in list(read["data"]) if key in Place.__dataclass_fields__}
    made = {section: _chosen(section, names[section], read[section]) for section in CHOICES if section in names}
    if models and "retriever" not in made and "ranker" not in made:
        known = f"--retriever ({', '.join(RETRIEVERS)}), --ranker ({', '.join(SECOND_STAGES)})"
        raise InputError(f"no model is named; pass {known} or both")
    run = RunSettings(**read["run"])
    run = replace(run, threads=run.threads or os.cpu_count() or 1, rules=absolute(run.rules))
    where, reading = _data(Place(**place), read["data"], names["split"])
    split, retriever, ranker, index = (made.get(section) for section in CHOICES)
    return Config(where, reading, split, retriever, ranker, index, RankerLists(**read["lists"]), run, names)


def tuning_of(table: Mapping[str, Any]) -> TuneSettings:
    """The values of [tune], converted and checked."""
    return TuneSettings(**_read("tune", dict(table)))


def with_epochs(raw: Raw, epochs: int | None, given: Mapping[str, Any]) -> Raw:
    """``epochs`` in each model that has epochs, over what a file says; a flag of the model's own wins."""
    out = {section: dict(table) for section, table in raw.items()}
    for section in ("retriever", "ranker"):
        names = _listed(out.get(section, {}).get("name"))
        for source, name in zip(numbered(names), names, strict=True):
            where = section if len(names) == 1 else f"{section}__{source.replace('-', '_')}"
            keys = [setting.key for setting in settings_in(section, name)]
            if epochs is None or "epochs" not in keys or given.get(f"{where}__epochs") is not None:
                continue
            if len(names) == 1:
                out[section]["epochs"] = epochs
            else:
                out[section][source] = {**out[section].get(source, {}), "epochs": epochs}
    return out


def _listed(name: Any) -> list[str]:
    """The names of a section's choice: one, several, or none."""
    return [] if name is None else [str(each) for each in name] if isinstance(name, list | tuple) else [str(name)]


def _read(section: str, table: dict[str, Any]) -> dict[str, Any]:
    """A section's values converted, its keys checked; of several retrievers a table of values of each."""
    names = _listed(table.pop("name", None)) if section in CHOICES else []
    if len(names) > 1 and section != "retriever":
        raise InputError(f"{section} = {', '.join(names)}: only retrievers may be several; name one")
    if len(names) < 2:
        return _converted(section, table, names[0] if names else None)
    sources = dict(zip(numbered(names), names, strict=True))
    for key, value in table.items():
        if key not in sources:
            who, flag = " or ".join(sources), f"--retriever.NAME.{key.replace('_', '-')}"
            raise InputError(f"retriever.{key}: of which one, {who}? write {flag}, or [retriever.NAME]")
        if not isinstance(value, dict):
            raise InputError(f"retriever.{key} = {value!r} must be a section, [retriever.{key}]")
    out: dict[str, Any] = {"name": names}
    for source, name in sources.items():
        out[source] = _converted("retriever", dict(table.get(source, {})), name, source)
        del out[source]["name"]
    return out


def _converted(section: str, table: dict[str, Any], name: str | None, source: str | None = None) -> dict[str, Any]:
    """One choice's values converted, its keys checked."""
    settings = {setting.key: setting for setting in settings_in(section, name, source)}
    out: dict[str, Any] = {} if name is None else {"name": name}
    for key, value in table.items():
        if key not in settings:
            if section in CHOICES and name is None:
                raise InputError(f"{section}.{key} needs --{section} NAME; known: {', '.join(CHOICES[section])}")
            where = section if source is None else f"{section}.{source}"
            raise unknown(f"[{where}] key", key, ["name", *settings] if section in CHOICES else settings)
        out[key] = settings[key].read(value)
    return out


def _chosen(section: str, name: Any, values: dict[str, Any]) -> Any:
    """What a section's name picks; of several retrievers a tuple."""
    if isinstance(name, str):
        return _made(section, name, values)
    return tuple(_made(section, each, values[source]) for source, each in zip(numbered(name), name, strict=True))


def _values(section: str, name: Any, made: Any) -> dict[str, Any]:
    """The settings of what a section picked, for a file; of several retrievers a table of each."""
    if isinstance(name, str):
        return values_of(made, settings_in(section, name))
    parts = zip(numbered(name), name, made, strict=True)
    return {source: values_of(model, settings_in(section, each)) for source, each, model in parts}


def _made(section: str, name: str, values: dict[str, Any]) -> Any:
    try:
        return CHOICES[section][name](**values)
    except TypeError as error:  # a plain dataclass was given a type that it cannot compare
        raise InputError(f"{section} {name}: {error}") from None


def _usual_split(raw: Raw) -> str:
    """Of files that are parts of a split, that split."""
    return "given" if "test_events" in raw.get("data", {}) else DEFAULTS["split"]


def _check_parts(place: Place, split: str) -> None:
    """Raises InputError where files of test and valid do not go with the rest."""
    if place.test_events is None and place.valid_events is not None:
        raise InputError("--valid-events needs --test-events, the file of test's events")
    if place.test_events is not None and place.events is None:
        raise InputError("--test-events needs --events, the file of train's events")
    if place.test_events is not None and split != "given":
        raise InputError(f"--test-events makes the split; it does not go with --split {split}: leave one out")


def _data(place: Place, reading: dict[str, Any], split: str) -> tuple[Place, dict[str, Any]]:
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
    _check_parts(place, split)
    if place.k_core < 0:
        raise InputError(f"data.k_core = {place.k_core} must be 0 or more")
    reading = {key: absolute(v) if key in ("user_features", "item_features") else v for key, v in reading.items()}
    if "delimiter" in reading and reading["delimiter"] is not None:
        reading["delimiter"] = reading["delimiter"].replace("\\t", "\t")
    test, valid = absolute(place.test_events), absolute(place.valid_events)
    moved = replace(place, data_dir=absolute(place.data_dir), events=absolute(place.events))
    moved = replace(moved, test_events=test, valid_events=valid)
    return moved, reading


def absolute(path: str | None) -> str | None:
    """A path that means the same from any folder."""
    return None if path is None else str(Path(path).expanduser().absolute())


def keys_of(section: str, table: Mapping[str, Any]) -> list[str]:
    """Names, like ``retriever.dim`` or ``retriever.ease.l2``, of the parameters that a section sets."""
    own = [f"{section}.{key}" for key, value in table.items() if key != "name" and not isinstance(value, dict)]
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    return [*own, *(f"{section}.{source}.{key}" for source, values in inner.items() for key in values)]


def flags_of(given: Mapping[str, Any]) -> Raw:
    """The flags that were given, by section; those of one of several retrievers in a table of its own."""
    out: Raw = {}
    for parameter, value in given.items():
        section, sign, key = parameter.partition("__")
        if not sign or value is None or value == ():
            continue
        source, sign, own = key.partition("__")
        table = out.setdefault(section, {})
        if sign:
            table, key = table.setdefault(source.replace("_", "-"), {}), own
        alone = key == "name" and isinstance(value, tuple) and len(value) == 1
        table[key] = value[0] if alone else list(value) if isinstance(value, tuple) else value
    return out
