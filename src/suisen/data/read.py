"""Reading an event log: a frame or a file, with the caller's own column names → a clean ``Log``.

Rules (each is counted in ``Log.notes`` where it changes anything):

* **Columns.** A name that is given must exist.  User, item and time are otherwise found under their usual names
  (``USUAL``; case, ``_``, ``-`` and spaces do not count); two that fit are refused.  Everything else is used only when
  it is named; columns that are not used are noted.
* **Bad rows** refuse the file or are dropped: ``suisen.data.clean`` says which rows are bad.
* **Guests.** An event without a user belongs to the guest that its session names; without a session it is bad.
  ``user=None`` with ``session=`` makes every event a guest's.
* **Returns.** A negative weight (or event weight) takes a purchase back.  It is never a positive and is not used; the
  purchase stays: when a model is asked about the days between the two, the return has not happened yet, and a log
  without the purchase would give it away.
* **Orders.** Rows of one order (or session) often share their time; ties keep the order of the source.
* **Duplicates**, rows of the same (user or guest, item) whatever their labels, are all kept, or the first or the last
  of them by time, ties by the place in the source.
* **Catalogue.** Rows of the user and item tables without events are kept; a second row of the same id is a bad row.
* **Ids** stay the user's own: text or integers.  In text files ids are integers where every one of them is written as
  one ("7", not "007").
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, Final, get_args

import polars as pl

from suisen.data import clean
from suisen.data.clean import BadRows, Keep, Sieve, as_ids, same_ids, typed
from suisen.data.encodings import Encoding
from suisen.data.formats import beside, raw_of_path
from suisen.data.log import Col, Kind, Log
from suisen.data.raw import FileOptions, Format, Raw, raw_of_frame
from suisen.data.times import TimeUnit, parse_times
from suisen.errors import InputError, unknown

FIND: Final = ""
"""In place of a column's name: find it under its usual names."""
USUAL: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("user", "userid", "uid", "customer", "customerid", "visitorid", "memberid"),
    "item": ("item", "itemid", "iid", "sku", "product", "productid", "movieid", "articleid", "trackid", "asin"),
    "time": ("time", "timestamp", "ts", "datetime", "date", "eventtime", "createdat"),
}
RESERVED: Final = frozenset({*(str(name) for name in Col), "visitor", "dense_item"})
"""Names that the log and the dataset keep for themselves among the events."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Every option of ``Dataset.from_frame`` and ``Dataset.from_path``, and of the section [data] of a run.

    Raises InputError for options that contradict each other and for values outside a closed list.
    """

    user: str | None = FIND
    """Column of the user; None (with ``session``): every event is a guest's."""
    item: str = FIND
    """Column of the item."""
    time: str | None = FIND
    """Column of the time; None: the log has no order."""
    label: str | None = None
    """Column of 0 and 1, or of the number that ``positive_from`` judges."""
    weight: str | None = None
    """Column of the event's weight: > 0, or < 0 for a return."""
    event: str | None = None
    """Column of the event's type; needs ``event_weights``."""
    session: str | None = None
    """Column of the session or order."""
    context: Sequence[str] = ()
    """Columns that describe the moment of the event (device, shelf, …)."""
    positive_from: float | None = None
    """Label 1 where the label column is at least this."""
    event_weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of each type: > 0 a positive, 0 shown and not taken (label 0), < 0 a return."""
    user_features: Any = None
    """Table of users: frame or path; its key is the column named like the events' user, or the first."""
    item_features: Any = None
    """Table of items, likewise."""
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Declared kinds of feature and context columns: categorical, numeric, multi, text."""
    titles: str | None = None
    """Column of the item table that people are shown."""
    bad_rows: BadRows = "refuse"
    """"refuse" or "drop"."""
    duplicates: Keep = "all"
    """"all", "first" or "last" of each (user, item)."""
    delimiter: str | None = None
    """Between the fields of a text file; default: a comma (.csv), a tab (.tsv)."""
    encoding: Encoding = "utf-8"
    """"utf-8", "shift-jis" or "latin-1"."""
    time_unit: TimeUnit = "auto"
    """"auto", "s", "ms", "us", "ns" or "iso"."""
    time_zone: str = "UTC"
    """Zone of times that name none."""
    format: Format | None = None
    """In place of the file's suffix."""

    def __post_init__(self) -> None:
        for name, values in (("bad_rows", get_args(BadRows)), ("duplicates", get_args(Keep))):
            if getattr(self, name) not in values:
                raise unknown(name, getattr(self, name), values)
        if self.user is None and self.session is None:
            raise InputError("user = None needs session=: without a user its session names the guest")
        if self.event_weights and self.event is None:
            raise InputError("event_weights needs event=, the column of the event's type")
        for event, weight in self.event_weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not isfinite(weight):
                raise InputError(f"event_weights: {event} = {weight!r} is no finite number; give a weight, 0 or below")
        if self.positive_from is not None and self.label is None:
            raise InputError("positive_from needs label=, the column that it judges")

    @property
    def file(self) -> FileOptions:
        """How the events' file is read."""
        return FileOptions(self.delimiter, self.encoding, self.format)


def read_frame(events: Any, options: ReadOptions | None = None) -> Log:
    """A clean log from a Polars (also lazy), pandas or Arrow table, or from a path.

    Raises InputError for bad rows, missing columns and tables without rows.
    """
    if isinstance(events, str | Path):
        return read_path(events, options)
    return _log(raw_of_frame("events", events), options or ReadOptions())


def read_path(path: str | Path, options: ReadOptions | None = None) -> Log:
    """A clean log from a Parquet, Arrow, CSV, TSV, JSON-lines or RecBole atomic file; ``.gz`` allowed.

    The ``.user`` and ``.item`` files beside an ``.inter`` file are read with it.

    Raises InputError like ``read_frame``, and for files that are missing, damaged or of an unknown format.
    """
    options = options or ReadOptions()
    raw = raw_of_path(path, options.file)
    users = beside(path, ".user") if options.user_features is None else options.user_features
    items = beside(path, ".item") if options.item_features is None else options.item_features
    return _log(raw, replace(options, user_features=users, item_features=items))


# -- columns ----------------------------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign not in "_- ")


def _existing(raw: Raw, role: str, name: str) -> str:
    columns = raw.frame.columns
    if name in columns:
        return name
    near = get_close_matches(name, columns, n=1)
    mend = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"{role} = {name!r} is no column of {raw.name}; {mend}columns: {', '.join(columns)}")


def _column(raw: Raw, role: str, given: str | None) -> str | None:
    """The name given, or the one usual name that the table holds; None where there is none."""
    if given is None:
        return None
    if given != FIND:
        return _existing(raw, role, given)
    fits = [name for name in raw.frame.columns if _plain(name) in USUAL[role]]
    if len(fits) > 1:
        raise InputError(f"{raw.name}: {' and '.join(map(repr, fits))} may each be the {role}; pass {role}=")
    return fits[0] if fits else None


def _columns(raw: Raw, options: ReadOptions) -> dict[str, str]:
    """Role → column of every role that is filled."""
    given = {role: getattr(options, role) for role in ("label", "weight", "event", "session")}
    found = {role: _column(raw, role, getattr(options, role)) for role in USUAL}
    found |= {role: None if name is None else _existing(raw, role, name) for role, name in given.items()}
    for role in ("user", "item"):
        if found[role] is None and (role == "item" or options.user is not None):
            usual, columns = ", ".join(USUAL[role]), ", ".join(raw.frame.columns)
            raise InputError(
                f"{raw.name} has no {role} column of a usual name ({usual}); columns: {columns}; pass {role}="
            )
    if found["event"] and not options.event_weights:
        types = raw.frame[found["event"]].drop_nulls().unique(maintain_order=True).head(5).cast(pl.String).to_list()
        raise InputError(f"event = {found['event']!r} needs event_weights=; types: {', '.join(types)}")
    for name in options.context:
        _unreserved(raw, _existing(raw, "context", name), RESERVED)
    return {role: name for role, name in found.items() if name is not None}


def _unreserved(raw: Raw, name: str, taken: Collection[str]) -> None:
    if name in taken:
        raise InputError(f"{raw.name}: feature column {name!r} bears a name that the log keeps for itself; rename it")


# -- events -----------------------------------------------------------------------------------------------------------


@dataclass
class _Reading:
    """What reading knows so far: columns under the log's names, not yet filtered."""

    raw: Raw
    options: ReadOptions
    roles: Mapping[str, str]
    sieve: Sieve
    notes: list[str]
    columns: dict[str, pl.Series] = field(default_factory=dict)
    taken_back: pl.Series | None = None

    def values(self, role: str) -> pl.Series:
        return self.raw.frame[self.roles[role]]


def _log(raw: Raw, options: ReadOptions) -> Log:
    sieve = Sieve(raw.name, raw.places, raw.unit, raw.malformed)
    if raw.frame.height == 0:
        dropped = sieve.settle(options.bad_rows)
        what = f": no event is left ({'; '.join(dropped)})" if dropped else " has a header and no rows"
        raise InputError(f"{raw.name}{what}; give at least one event")
    roles = _columns(raw, options)
    reading = _Reading(raw, options, roles, sieve, list(raw.notes))
    _say_columns(reading)
    _read_ids(reading)
    _read_time(reading)
    _read_feedback(reading)
    events = _kept(reading)
    users = _table(reading, "user", options.user_features)
    items = _table(reading, "item", options.item_features)
    return _joined(reading, events, users, items)


def _say_columns(reading: _Reading) -> None:
    used = {*reading.roles.values(), *reading.options.context}
    said = ", ".join(f"{role} = {name}" for role, name in reading.roles.items())
    unused = [name for name in reading.raw.frame.columns if name not in used]
    rest = f"; not used: {', '.join(unused)}" if unused else ""
    reading.notes.append(f"{reading.raw.name}: {said}{rest}")


def _read_ids(reading: _Reading) -> None:
    raw, sieve, out = reading.raw, reading.sieve, reading.columns
    for role in ("user", "item", "session"):
        if role in reading.roles:
            out[role] = as_ids(reading.roles[role], reading.values(role), raw.text)
    if "user" not in out:
        out[Col.USER] = pl.repeat(None, raw.frame.height, dtype=pl.String, eager=True)
    nobody, name = out[Col.USER].is_null(), reading.roles.get("user", "user")
    if "session" in out:
        sieve.refuse(reading.roles["session"], "is missing, and so is the user", nobody & out[Col.SESSION].is_null())
    else:
        sieve.refuse(name, "is missing", nobody)
    sieve.refuse(reading.roles["item"], "is missing", out[Col.ITEM].is_null())


def _read_time(reading: _Reading) -> None:
    if "time" not in reading.roles:
        reading.notes.append(f"{reading.raw.name}: no time column: the log has no order")
        return
    name, values = reading.roles["time"], reading.values("time")
    times = parse_times(name, values, reading.options.time_unit, reading.options.time_zone)
    for why, bad in times.faults:
        reading.sieve.refuse(name, why, bad, values)
    reading.columns[Col.TIME] = times.values
    reading.notes.append(f"{reading.raw.name}: {name} read as {times.said}")


def _read_feedback(reading: _Reading) -> None:
    """Label and weight, from their columns and from the event's type."""
    options, sieve, out, roles = reading.options, reading.sieve, reading.columns, reading.roles
    if "label" in roles:
        out[Col.LABEL] = clean.judge_labels(sieve, roles["label"], reading.values("label"), options.positive_from)
    weight = None
    if "weight" in roles:
        weight = clean.judge_numbers(sieve, roles["weight"], reading.values("weight"))
        sieve.refuse(roles["weight"], "says that nothing happened", weight == 0, reading.values("weight"))
    if "event" in roles:
        of_type = clean.judge_types(sieve, roles["event"], reading.values("event"), options.event_weights)
        shown = of_type == 0
        if 0 in options.event_weights.values():
            out[Col.LABEL] = out.get(Col.LABEL, pl.repeat(1, of_type.len(), dtype=pl.Int8, eager=True)) * ~shown
        of_type = of_type.set(shown.fill_null(False), 1.0)
        # a return is a return whichever of the two says so; the product of two minus signs would make it a purchase
        weight = of_type if weight is None else _signed(weight, of_type)
    if weight is not None:
        reading.taken_back = (weight < 0).fill_null(False)
        out[Col.WEIGHT] = weight


def _signed(weight: pl.Series, of_type: pl.Series) -> pl.Series:
    size = weight.abs() * of_type.abs()
    return pl.select(pl.when((weight < 0) | (of_type < 0)).then(-size).otherwise(size)).to_series()


def _kept(reading: _Reading) -> pl.DataFrame:
    """The canonical events: bad rows, returns and duplicates gone, each with its note."""
    raw, options, notes = reading.raw, reading.options, reading.notes
    notes.extend(reading.sieve.settle(options.bad_rows))
    row = pl.int_range(raw.frame.height, dtype=pl.Int64, eager=True)
    context = [_feature(raw, name) for name in options.context]
    canonical = [series.alias(str(name)) for name, series in {**reading.columns, Col.ROW: row}.items()]
    frame = pl.DataFrame([*canonical, *context])
    good = ~reading.sieve.bad
    if reading.taken_back is not None:
        count = int((good & reading.taken_back).sum())
        if count:
            notes.append(f"{raw.name}: {count:,} returns (weight below 0) are not used; what they take back stays")
        good = good & ~reading.taken_back
    frame = frame.filter(good)
    if frame.height == 0:
        raise InputError(f"{raw.name}: no event is left of {raw.frame.height:,} rows ({'; '.join(notes[1:])})")
    frame = _without_duplicates(frame, raw.name, options.duplicates, notes)
    guests = frame[Col.USER].null_count()
    if guests:
        notes.append(f"{raw.name}: {guests:,} events of guests, each known by its session")
    order = [name for name in map(str, Col) if name in frame.columns]
    return frame.select(*order, *options.context)


def _without_duplicates(frame: pl.DataFrame, name: str, keep: Keep, notes: list[str]) -> pl.DataFrame:
    visitor = [frame[Col.USER]]
    if Col.SESSION in frame.columns:  # it tells guests apart; a user is the same in every session
        visitor.append(frame[Col.SESSION].set(frame[Col.USER].is_not_null(), None))
    time = frame[Col.TIME] if Col.TIME in frame.columns else None
    kept = frame.filter(clean.keep_duplicates(visitor, frame[Col.ITEM], time, keep))
    if kept.height < frame.height:
        notes.append(f"{name}: {frame.height - kept.height:,} repeated (user, item) rows dropped, the {keep} kept")
    return kept


def _feature(raw: Raw, name: str, title: str | None = None) -> pl.Series:
    values = raw.frame[name]
    if name == title:
        return values.list.join(" ") if values.dtype == pl.List(pl.String) else values.cast(pl.String)
    return typed(values) if raw.text else values


# -- tables of users and items -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    frame: pl.DataFrame
    kinds: Mapping[str, Kind]


def _table(reading: _Reading, owner: str, given: Any) -> _Table | None:
    """The table with its key first, under the canonical name; None where none is given."""
    if given is None:
        return None
    raw = _raw_table(f"{owner}_features", given, reading.options)
    if raw.frame.width == 0:
        raise InputError(f"{raw.name} has no columns; give the {owner}'s id and its features")
    key = reading.roles.get(owner, "")
    key = key if key in raw.frame.columns else raw.frame.columns[0]
    ids = as_ids(key, raw.frame[key], raw.text)
    sieve = Sieve(raw.name, raw.places, raw.unit, raw.malformed)
    sieve.refuse(key, "is missing", ids.is_null())
    sieve.refuse(key, "is there twice", ids.is_not_null() & ~ids.is_first_distinct(), ids)
    reading.notes.extend([*raw.notes, *sieve.settle(reading.options.bad_rows)])
    names = [name for name in raw.frame.columns if name != key]
    for name in names:
        _unreserved(raw, name, (owner,))
    titles = reading.options.titles if owner == "item" else None
    if titles is not None:
        names.sort(key=lambda name: name != _existing(raw, "titles", titles))
    frame = pl.DataFrame([ids.alias(owner), *(_feature(raw, name, titles) for name in names)])
    kinds = {name: kind for name, kind in raw.kinds.items() if name in names}
    return _Table(frame.filter(~sieve.bad), kinds if titles is None else {**kinds, titles: "text"})


def _raw_table(name: str, given: Any, options: ReadOptions) -> Raw:
    if not isinstance(given, str | Path):
        return raw_of_frame(name, given)
    return raw_of_path(given, replace(options.file, format=None))


def _joined(reading: _Reading, events: pl.DataFrame, users: _Table | None, items: _Table | None) -> Log:
    """The log, with ids of one type in events and tables."""
    tables: dict[str, pl.DataFrame | None] = {}
    kinds: dict[str, Kind] = {name: kind for name, kind in reading.raw.kinds.items() if name in reading.options.context}
    for owner, table in ((Col.USER, users), (Col.ITEM, items)):
        ids, keys = same_ids(events[owner], None if table is None else table.frame[owner])
        events = events.with_columns(ids)
        tables[owner] = None if table is None or keys is None else table.frame.with_columns(keys)
        if table is not None and keys is not None:
            kinds |= table.kinds
            idle = int((~keys.is_in(events[owner].drop_nulls().unique().implode())).sum())
            if idle:
                reading.notes.append(f"{owner} table: {idle:,} of {keys.len():,} rows have no events and are kept")
    declared = reading.options.kinds
    known = [name for table in tables.values() if table is not None for name in table.columns[1:]]
    for name in declared:
        if name not in [*known, *reading.options.context]:
            raise unknown("kinds: column", name, [*known, *reading.options.context])
    return Log(events, tables[Col.USER], tables[Col.ITEM], {**kinds, **declared}, tuple(reading.notes))
