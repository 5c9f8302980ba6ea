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
  of them by time, ties by the place in the source.  Rows that repeat another in every column are counted.
* **Catalogue.** Rows of the user and item tables without events are kept; a second row of the same id is a bad row
  (``suisen.data.tables``).
* **Ids** stay the user's own, by one rule for files, frames and queries: text, or whole numbers in Int64.  A column of
  a text file is whole numbers where every value is written as one ("7" or "7.0", not "007"); a frame's column is what
  its type says, and floats are whole numbers.  Where one number does not fit into Int64 the column is text.  Fractions,
  and floats so large that several ids share one, are refused.  5, 5.0, "5" and Decimal("5") ask for the same id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Final, Literal, get_args

import polars as pl

from suisen.arguments import is_table, listed, shown
from suisen.data import clean
from suisen.data.clean import BadRows, Keep, Sieve
from suisen.data.encode import SEPARATOR
from suisen.data.formats import beside, raw_of_path
from suisen.data.layouts.matrices import is_matrix, raw_of_matrix
from suisen.data.layouts.told import told
from suisen.data.log import Col, Kind, Log
from suisen.data.raw import NULLS, NUMBERED, FileOptions, Format, Quote, Raw, raw_of_frame
from suisen.data.tables import (
    Columns,
    Table,
    existing,
    file_options,
    headless,
    ids_of,
    met,
    read_table,
    refuse_nulls,
    several_types,
    unreserved,
)
from suisen.data.times import TimeUnit, parse_times
from suisen.errors import InputError, unknown

FIND: Final = ""
"""In place of a column's name: find it under its usual names."""
USUAL: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("user", "userid", "uid", "customer", "customerid", "visitorid", "memberid", "reviewerid"),
    "item": ("item", "itemid", "iid", "sku", "product", "productid", "movieid", "articleid", "trackid", "asin"),
    "time": ("time", "timestamp", "ts", "datetime", "date", "eventtime", "createdat", "unixreviewtime"),
}
RESERVED: Final = frozenset({*(str(name) for name in Col), "visitor", "dense_item"})
"""Names that the log and the dataset keep for themselves among the events."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Every option of ``Dataset.from_frame`` and ``Dataset.from_path``, and of the section [data] of a run.

    Raises InputError for options that contradict each other and for values outside a closed list.
    """

    user: str | None = FIND
    """Column of the user, else found by a usual name (user, customer_id, …); None: guests alone."""
    item: str = FIND
    """Column of the item, else found by a usual name (item, sku, product_id, …)."""
    time: str | None = FIND
    """Column of the time, else found by a usual name (time, timestamp, date, …); None: the log has no order."""
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
    targets: Sequence[str] = ()
    """Types of events that valid and test ask for, like purchase, while all are learnt from; default: all positives."""
    user_features: Any = None
    """Table of users: frame or path; its key is the column named like the events' user, or the first."""
    item_features: Any = None
    """Table of items frame or path; its key is the column named like the events' item, or the first."""
    user_table: Mapping[str, Any] = field(default_factory=dict)
    """How the users' own file is read: format, delimiter, encoding, …; default: by its suffix and header."""
    item_table: Mapping[str, Any] = field(default_factory=dict)
    """How the items' own file is read, likewise."""
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Declared kinds of feature and context columns: categorical, numeric, multi, text."""
    separator: str = SEPARATOR
    """Between the categories of a multi-valued text column."""
    titles: str | None = None
    """Column of the item table that people are shown."""
    bad_rows: BadRows = "refuse"
    """"refuse" or "drop"."""
    duplicates: Keep = "all"
    """"all"; "first" or "last" of each (user, item); "exact": one of the rows that are equal in every column."""
    delimiter: str | None = None
    """Between the fields of a text file; default: a comma (.csv), a tab (.tsv), what the lines show (.txt, .dat)."""
    quote: Quote = "auto"
    """What a quote means in a text file: "auto" (as the file shows), "none" (it is text), '"' or "'" (they enclose
    fields, as in RFC 4180), "backslash" (double quotes with backslash escapes)."""
    columns: Sequence[str] = ()
    """Names of the columns of a text file without a header, in order; or call user and item by their positions, from
    1."""
    null_values: Sequence[str] = NULLS
    """Texts that stand for a missing value in a text file, beside the empty one."""
    encoding: str = "utf-8"
    """Of a text file: utf-8, utf-16, shift-jis, euc-jp, gb18030, big5, euc-kr, cp1251, cp1252, latin-1, …"""
    time_unit: TimeUnit = "auto"
    """"auto", "s", "ms", "us", "ns" or "iso"."""
    time_format: str | None = None
    """How text spells times where it is not read by itself: strptime codes, like "%d/%m/%Y %I:%M %p"."""
    time_zone: str = "UTC"
    """Zone of times that name none."""
    format: Format | None = None
    """In place of the file's suffix: csv, tsv, jsonl, json, parquet, arrow, recbole; lines of items in order: sequences
    (``user item item …``), sessions, pairs; rows that are lists: otto, mind; clicks: libfm, libffm, criteo."""

    def __post_init__(self) -> None:
        self._settle()
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
        self._check_targets()
        if not self.separator:
            raise InputError("separator = '' separates nothing; give a sign such as '|' or ','")
        for name in ("user", "item"):
            file_options(f"{name}_table", getattr(self, f"{name}_table"), self.file)
        if self.positive_from is not None and self.label is None:
            raise InputError("positive_from needs label=, the column that it judges")

    def _check_targets(self) -> None:
        if self.targets and self.event is None:
            raise InputError("targets needs event=, the column of the event's type")
        for name in self.targets:
            if name not in self.event_weights:
                raise unknown("targets", name, list(self.event_weights))
            if self.event_weights[name] <= 0:
                raise InputError(
                    f"targets: {name} weighs {self.event_weights[name]:g}, which is no positive; weigh it > 0"
                )
        if self.targets and self.duplicates in ("first", "last"):
            said = "keeps one event of each (user, item), whatever its type, and targets would be lost"
            raise InputError(f"duplicates = {self.duplicates!r} {said}; use 'all' or 'exact'")

    def _settle(self) -> None:
        """Columns as they were meant: a frame without a header has numbers as names."""
        roles = ("user", "item", "time", "label", "weight", "event", "session", "titles")
        settled: dict[str, Any] = {name: _name(name, getattr(self, name)) for name in roles}
        settled["context"] = tuple(str(_name("context", name)) for name in listed("context", self.context) or ())
        settled["targets"] = tuple(str(name) for name in listed("targets", self.targets) or ())
        for name in ("kinds", "event_weights"):
            given = getattr(self, name)
            if not isinstance(given, Mapping):
                raise InputError(f"{name} = {shown(given)} must be a mapping, like {name}={{'a': …}}")
            settled[name] = {str(key): value for key, value in given.items()}
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @property
    def file(self) -> FileOptions:
        """How the events' file is read."""
        numbered = all(str(role).isdigit() for role in (self.user, self.item) if role is not None)
        columns = self.columns or (NUMBERED if numbered else ())
        return FileOptions(self.delimiter, self.encoding, self.format, self.quote, columns, self.null_values)


def _name(role: str, value: Any) -> str | None:
    """A column's name as text; None stays None."""
    if isinstance(value, str | None):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"{role} = {shown(value)} must be the name of a column, like {role}='{role}_id'")


def _check_path(path: object) -> None:
    if not isinstance(path, str | Path):
        mend = "a table is read by Dataset.from_frame(table)" if is_table(path) else "give the path of a file"
        raise InputError(f"path = {shown(path)} is no path; {mend}")


def read_frame(events: Any, options: ReadOptions | None = None) -> Log:
    """A clean log from a Polars (also lazy), pandas or Arrow table, a SciPy sparse matrix, or from a path.

    Raises InputError for bad rows, missing columns and tables without rows.
    """
    if isinstance(events, str | Path):
        return read_path(events, options)
    raw = raw_of_matrix("events", events) if is_matrix(events) else raw_of_frame("events", events)
    return _log(raw, options or ReadOptions())


def read_path(path: str | Path, options: ReadOptions | None = None) -> Log:
    """A clean log from a file of any ``Format`` (``.gz`` allowed), or from a folder of Parquet files.

    The ``.user`` and ``.item`` files beside an ``.inter`` file are read with it.

    Raises InputError like ``read_frame``, and for files that are missing, damaged or of an unknown format.
    """
    options = options or ReadOptions()
    _check_path(path)
    raw = raw_of_path(path, options.file)
    users = beside(path, ".user") if options.user_features is None else options.user_features
    items = beside(path, ".item") if options.item_features is None else options.item_features
    return _log(raw, replace(options, user_features=users, item_features=items))


# -- columns ----------------------------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign not in "_- ")


def _column(raw: Raw, role: str, given: str | None) -> str | None:
    """The name given, or the one usual name that the table holds; None where there is none."""
    if given is None:
        return None
    if given != FIND:
        return existing(raw, role, given)
    fits = [name for name in raw.frame.columns if _plain(name) in USUAL[role]]
    if len(fits) > 1:
        raise InputError(f"{raw.name}: {' and '.join(map(repr, fits))} may each be the {role}; pass {role}=")
    return fits[0] if fits else None


def _columns(raw: Raw, options: ReadOptions) -> dict[str, str]:
    """Role → column of every role that is filled."""
    given = {role: getattr(options, role) for role in ("label", "weight", "event", "session")}
    found = {role: _column(raw, role, getattr(options, role)) for role in USUAL}
    found |= {role: None if name is None else existing(raw, role, name) for role, name in given.items()}
    for role in ("user", "item"):
        if found[role] is None and (role == "item" or options.user is not None):
            usual, columns = ", ".join(USUAL[role]), ", ".join(raw.frame.columns)
            raise InputError(
                f"{raw.name} has no {role} column of a usual name ({usual}); columns: {columns}; pass {role}="
                + headless(raw)
            )
    if found["event"] and not options.event_weights:
        types = raw.frame[found["event"]].drop_nulls().unique(maintain_order=True).head(5).cast(pl.String).to_list()
        raise InputError(f"event = {found['event']!r} needs event_weights=; types: {', '.join(types)}")
    for name in options.context:
        unreserved(raw, existing(raw, "context", name), RESERVED)
    return {role: name for role, name in found.items() if name is not None}


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
    kinds: dict[str, Kind] = field(default_factory=dict)

    def values(self, role: str) -> pl.Series:
        values = self.raw.frame[self.roles[role]]
        if values.dtype == pl.Object:
            raise several_types(self.raw, self.roles[role])
        return values


def _log(raw: Raw, options: ReadOptions) -> Log:
    raw, more = told(raw, vars(options), FIND)
    options = replace(options, **more)
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
    users, items = _table(reading, "user"), _table(reading, "item")
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
            out[role] = ids_of(raw, reading.roles[role], reading.notes)
    if "user" not in out:
        out[Col.USER] = pl.repeat(None, raw.frame.height, dtype=pl.String, eager=True)
    for role, name in reading.roles.items():
        if role not in (("user", "session") if "session" in out else ()):
            refuse_nulls(raw, name, sieve)
    nobody, name = out[Col.USER].is_null(), reading.roles.get("user", "user")
    if "session" in out:
        sieve.refuse(reading.roles["session"], "is missing, and so is the user", nobody & out[Col.SESSION].is_null())
    else:
        sieve.refuse(name, "is missing", nobody)
    sieve.refuse(reading.roles["item"], "is missing", out[Col.ITEM].is_null())


def _read_time(reading: _Reading) -> None:
    if "time" not in reading.roles:
        if not reading.raw.ordered:
            reading.notes.append(f"{reading.raw.name}: no time column: the log has no order")
        return
    name, values = reading.roles["time"], reading.values("time")
    options = reading.options
    times = parse_times(name, values, options.time_unit, options.time_zone, options.time_format)
    for why, bad in times.faults:
        reading.sieve.refuse(name, why, bad, values)
    reading.columns[Col.TIME] = times.values
    reading.notes.append(f"{reading.raw.name}: {name} read as {times.said}; {times.span}".removesuffix("; "))


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
        if options.targets:
            out[Col.TARGET] = clean.types_as_text(reading.values("event")).is_in(options.targets).fill_null(False)
        of_type = clean.judge_types(sieve, roles["event"], reading.values("event"), options.event_weights)
        shown = of_type == 0
        if 0 in options.event_weights.values():
            out[Col.LABEL] = out.get(Col.LABEL, pl.repeat(1, of_type.len(), dtype=pl.Int8, eager=True)) * ~shown
        of_type = of_type.set(shown.fill_null(False), 1.0)
        # a return is a return whichever of the two says so; the product of two minus signs would make it a purchase
        weight = of_type if weight is None else _signed(weight, of_type)
    if weight is not None:
        clean.judge_size(sieve, roles.get("weight", "event weight"), weight)
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
    columns = Columns(raw, options.kinds, options.separator)
    context = [columns.read(name) for name in options.context]
    notes.extend(columns.notes)
    reading.kinds.update(columns.kinds)
    canonical = [series.alias(str(name)) for name, series in {**reading.columns, Col.ROW: row}.items()]
    frame = pl.DataFrame([*canonical, *context])
    good = ~reading.sieve.bad & ~_repeated(reading)
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
    if options.targets:
        notes.append(_target_note(frame, raw.name, options.targets))
    order = [name for name in map(str, Col) if name in frame.columns]
    return frame.select(*order, *options.context)


def _target_note(frame: pl.DataFrame, name: str, targets: Sequence[str]) -> str:
    count, said = int(frame[Col.TARGET].sum()), ", ".join(targets)
    if not count:
        raise InputError(f"targets: no event of {name} is of type {said}; valid and test would ask for nothing")
    return f"{name}: {count:,} of {frame.height:,} events are of type {said}: valid and test ask for these alone"


def _without_duplicates(frame: pl.DataFrame, name: str, keep: Keep, notes: list[str]) -> pl.DataFrame:
    visitor = [frame[Col.USER]]
    if Col.SESSION in frame.columns:  # it tells guests apart; a user is the same in every session
        visitor.append(frame[Col.SESSION].set(frame[Col.USER].is_not_null(), None))
    time = frame[Col.TIME] if Col.TIME in frame.columns else None
    kept = frame.filter(clean.keep_duplicates(visitor, frame[Col.ITEM], time, keep))
    if kept.height < frame.height:
        notes.append(f"{name}: {frame.height - kept.height:,} repeated (user, item) rows dropped, the {keep} kept")
    return kept


def _repeated(reading: _Reading) -> pl.Series:
    """(n,) bool: rows that go because they repeat another in every column; the note counts them where they stay."""
    raw, options = reading.raw, reading.options
    repeats = clean.repeats(raw.frame) & ~reading.sieve.bad
    count = int(repeats.sum())
    gone = options.duplicates == "exact"
    if count:
        said = "are dropped" if gone else 'are events of their own (duplicates="exact" drops them)'
        reading.notes.append(f"{raw.name}: {count:,} rows repeat another in every column and {said}")
    return repeats if gone else repeats & False


# -- tables of users and items -----------------------------------------------------------------------------------------


def _table(reading: _Reading, owner: Literal["user", "item"]) -> Table | None:
    """The table with its key first, under the canonical name; None where none is given."""
    options = reading.options
    given, how = getattr(options, f"{owner}_features"), getattr(options, f"{owner}_table")
    if how and not isinstance(given, str | Path):
        raise InputError(f"{owner}_table says how a file is read; {owner}_features is none, give its path")
    if given is None:
        return None
    file = file_options(f"{owner}_table", how, options.file, given)
    titles = options.titles if owner == "item" else None
    columns = options.kinds, options.separator
    table = read_table(owner, given, reading.roles.get(owner, ""), file, columns, options.bad_rows, titles)
    reading.notes.extend(table.notes)
    return table


def _joined(reading: _Reading, events: pl.DataFrame, users: Table | None, items: Table | None) -> Log:
    """The log, with ids of one type in events and tables."""
    tables: dict[str, pl.DataFrame | None] = {Col.USER: None, Col.ITEM: None}
    kinds = dict(reading.kinds)
    for owner, table in ((Col.USER, users), (Col.ITEM, items)):
        if table is not None:
            ids, tables[owner] = met(owner, events[owner], table, reading.notes)
            events = events.with_columns(ids)
            kinds |= table.kinds
    declared = reading.options.kinds
    known = [name for table in tables.values() if table is not None for name in table.columns[1:]]
    for name in declared:
        if name not in [*known, *reading.options.context]:
            raise unknown("kinds: column", name, [*known, *reading.options.context])
    ordered, separator = reading.raw.ordered and "time" not in reading.roles, reading.options.separator
    notes, kinds = tuple(reading.notes), {**kinds, **declared}
    return Log(
        events,
        tables[Col.USER],
        tables[Col.ITEM],
        kinds,
        notes,
        ordered,
        separator=separator,
        targets=tuple(reading.options.targets),
    )
