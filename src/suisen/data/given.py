"""Splits that somebody else made, as published ones are: train, valid and test as files, tables or logs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import polars as pl
import torch
from torch import Tensor

from suisen.arguments import choice, listed, shown
from suisen.data.clean import same_ids
from suisen.data.clicks import row_split
from suisen.data.dataset import Order, Split
from suisen.data.log import Col, Log
from suisen.data.ordered import OrderedLog, tensor_of
from suisen.data.read import ReadOptions, read_frame
from suisen.data.split_checks import settle
from suisen.data.split_parts import TEST, TRAIN, VALID, Parts, visitor_split
from suisen.errors import InputError, unknown

Promise = Literal["auto", "user", "place", "random"]
Ask = Literal["auto", "users", "rows"]


@dataclass(frozen=True, eq=False)
class ByRows:
    """Parts named by the rows' places in the source (the log's column ``row``); all other rows are train's."""

    test: Sequence[int] | Tensor
    """Places in the source of the rows of test."""
    valid: Sequence[int] | Tensor = ()
    """Places of the rows of valid."""
    order: Order = "random"
    """What the maker of the rows promises of train; see ``suisen.data.dataset.Order``."""
    rule: str = "rows given"
    """The rule in words, for the protocol."""

    def __post_init__(self) -> None:
        if not isinstance(self.order, str) or self.order not in ("user", "place", "random"):
            raise InputError(f"ByRows: order = {shown(self.order)} cannot be given; say 'user', 'place' or 'random'")
        settle(self, test=_places("test", self.test), valid=_places("valid", self.valid))

    def split(self, log: OrderedLog) -> Split:
        """Train, valid and test.  Raises InputError for a row that the log does not hold or that both parts name."""
        place = tensor_of(log.log.events[Col.ROW].cast(pl.Int64))
        part = torch.full_like(place, TRAIN)
        for name, rows, number in (("valid", self.valid, VALID), ("test", self.test, TEST)):
            wanted = torch.as_tensor(rows)
            lost = wanted[~torch.isin(wanted, place)]
            if lost.numel():
                raise InputError(f"ByRows: {name} names row {int(lost[0])}, which the log does not hold")
            mine = torch.isin(place, wanted)
            if bool((part[mine] != TRAIN).any()):
                raise InputError(f"ByRows: row {int(place[mine & (part != TRAIN)][0])} is named in valid and in test")
            part[mine] = number
        return visitor_split(log, Parts(part, self.order, self.rule))


def _places(name: str, given: Any) -> Tensor:
    """(m,) places of rows, whatever held them."""
    if isinstance(given, Tensor):
        return given.long()
    try:
        return torch.as_tensor(listed(f"ByRows: {name}", given), dtype=torch.int64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"ByRows: {name} = {shown(given)} must be places of rows, whole numbers from 0") from None


@dataclass(frozen=True)
class Given:
    """The split that the files make: for logs of ``joined``, and for data sets that are published as train and test."""

    order: Promise = "auto"
    """What its maker promises of train: ``user``: nothing later than the same user's test; ``place``: the same by the
    order of the rows; ``random``: nothing.  ``auto``: what the times (or ordered rows) show to be true."""
    ask: Ask = "auto"
    """``users``: one query per user of test, for all its positives; ``rows``: each labelled row by itself (AUC,
    logloss).  ``auto``: rows where test holds label 0, else users."""

    def __post_init__(self) -> None:
        for name, known in (("order", Promise), ("ask", Ask)):
            choice(f"Given: {name}", getattr(self, name), get_args(known))

    def split(self, log: OrderedLog) -> Split:
        """Train, valid and test.  Raises InputError where the log does not know its parts."""
        if log.log.parts is None:
            raise InputError("Given: the log is one part; give test= (--test-events), or use another rule")
        row = tensor_of(log.log.events[Col.ROW].cast(pl.Int64))
        valid, test = log.log.parts
        part = (row >= valid).long() + (row >= test).long()
        order, notes = self._order(log, part)
        parts = Parts(part, order, "split given", notes=notes)
        labels = log.events.label
        zeros = labels is not None and bool((labels[part == TEST] == 0).any())
        if self.ask == "rows" or (self.ask == "auto" and zeros):
            if labels is None:
                raise InputError("Given: ask = 'rows' needs labels and the log has none; name the label column")
            return row_split(log, parts)
        return visitor_split(log, parts)

    def _order(self, log: OrderedLog, part: Tensor) -> tuple[Order, tuple[str, ...]]:
        if self.order != "auto":
            return self.order, ()
        if not log.has_order:
            return "random", ()
        visitor = log.events.visitor
        back = (part.diff() < 0) & (visitor.diff() == 0)  # an event of an earlier part follows one of a later part
        if bool(back.any()):
            count = torch.unique(visitor[1:][back]).numel()
            note = f"train holds events from after the test of {count:,} users: histories are all that train holds"
            return "random", (note,)
        return ("user" if log.has_time else "place"), ()


def joined(train: Log, test: Log, valid: Log | None = None) -> Log:
    """One log that knows its parts (``Log.parts``), for ``Given``.  Tables, kinds and order are those of train's log.

    Raises InputError where the parts have other columns than train.
    """
    logs = [train, *([] if valid is None else [valid]), test]
    starts, frames = [0], []
    for name, log in zip(("train", *(["valid"] if valid is not None else []), "test"), logs, strict=True):
        if log.events.columns != train.events.columns:
            ours, theirs = ", ".join(train.events.columns), ", ".join(log.events.columns)
            raise InputError(f"the parts have other columns: {theirs} in {name}, {ours} in train; give both the same")
        places = pl.int_range(starts[-1], starts[-1] + log.events.height, dtype=pl.Int64, eager=True)
        frames.append(log.events.sort(Col.ROW).with_columns(places.alias(Col.ROW)))
        starts.append(starts[-1] + log.events.height)
    notes = tuple(dict.fromkeys(note for log in logs for note in log.notes))
    events, users, items = _one_type(frames, train)
    return replace(train, events=events, users=users, items=items, notes=notes, parts=(starts[1], starts[-2]))


def _one_type(frames: list[pl.DataFrame], train: Log) -> tuple[pl.DataFrame, pl.DataFrame | None, pl.DataFrame | None]:
    """The frames as one, and train's tables; ids and features are text in all of them where they are text in one."""
    tables: dict[str, pl.DataFrame | None] = {Col.USER: train.users, Col.ITEM: train.items}
    columns = []
    for name in frames[0].columns:
        table = tables.get(name)
        parts = [*(frame[name] for frame in frames), *([] if table is None else [table[name]])]
        if any(part.dtype == pl.String for part in parts):
            parts = [part for part in same_ids(*parts) if part is not None]
        if table is not None:
            tables[name] = table.with_columns(parts.pop())
        columns.append(pl.concat([part.to_frame() for part in parts], how="vertical_relaxed"))
    return pl.concat(columns, how="horizontal"), tables[Col.USER], tables[Col.ITEM]


def read_parts(train: Any, test: Any, valid: Any = None, options: ReadOptions | None = None) -> Log:
    """The log of tables or files that are the parts of a split, all read with the same options.

    Ids are compared after reading: text in one part makes them text in all.  Raises InputError like ``read_frame``.
    """
    options = options or ReadOptions()
    tables: dict[str, Any] = {"user_features": None, "item_features": None, "user_table": {}, "item_table": {}}
    rest = replace(options, **tables, kinds=_of_context(options), titles=None)
    return joined(_log(train, options), _log(test, rest), None if valid is None else _log(valid, rest))


def _of_context(options: ReadOptions) -> dict[str, Any]:
    return {name: kind for name, kind in options.kinds.items() if name in options.context}


def _log(part: Any, options: ReadOptions) -> Log:
    if isinstance(part, OrderedLog):
        return part.log
    return part if isinstance(part, Log) else read_frame(part, options)


def given_split(
    train: Any, test: Any, valid: Any = None, order: Promise = "auto", ask: Ask = "auto", **options: Any
) -> Split:
    """A split that somebody else made, as published ones are.

    ``train``, ``test`` and ``valid`` are paths, tables (Polars, pandas, Arrow), Datasets or logs; paths and tables are
    read with ``ReadOptions`` as keywords (``user="uid", item="sku", item_features="items.csv"``), the tables of users
    and items with train.  ``order`` and ``ask``: see ``Given``.  On the command line: ``--events train.csv
    --test-events test.csv``.

    Raises InputError like ``Dataset.from_frame``, and where the parts have other columns than train.

    >>> import polars as pl
    >>> train = pl.DataFrame({"user": ["ann", "ann", "bob"], "item": [7, 9, 7]})
    >>> given_split(train, pl.DataFrame({"user": ["bob"], "item": [9]})).test.protocol
    'split given'
    """
    for name in options:
        if name not in ReadOptions.__dataclass_fields__:
            raise unknown("option", name, ReadOptions.__dataclass_fields__)
    return Given(order, ask).split(OrderedLog.of(read_parts(train, test, valid, ReadOptions(**options))))
