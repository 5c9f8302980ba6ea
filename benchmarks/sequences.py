"""Published splits of sequences in their official layouts: Amazon Beauty (5-core), Yoochoose clicks (latest 1/64)."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch
from common import place
from torch import Tensor

from suisen.data.batch import Contexts, Queries
from suisen.data.dataset import Dataset, Split
from suisen.data.log import Col, Log
from suisen.data.ragged import Ragged, offsets_of, spans
from suisen.data.splits import LeaveLast

SESSIONS = "every prefix of each session is asked for the next click"


def beauty(folder: Path) -> Split:
    """Lines ``user item item …`` in time order: a user's last item is test, the one before validation."""
    numbers = _lines(place(folder, "s3rec-beauty") / "Beauty.txt.gz")
    frame = pl.DataFrame({Col.USER: numbers.list.first(), Col.ITEM: numbers.list.slice(1)}).explode(Col.ITEM)
    return LeaveLast(test=1, valid=1).split(Dataset.of(Log(_placed(frame), ordered=True)))


def yoochoose(folder: Path) -> Split:
    """A session a line in train, in the order in which they took place; ``prefix TAB target`` in test.

    Visitors are anonymous and nothing is taken out of the ranking.  Clicks of a prefix on items that train does not
    know are left out of the history; a target that train does not know is a miss for every model, as published.
    """
    home = place(folder, "yoochoose1_64")
    train = _guests(_lines(home / "train_sessions.txt.gz"))
    parts = pl.Series("line", _text(home / "test_prefix_target.txt.gz")).str.split("\t")
    prefixes, targets = _numbers(parts.list.first()), parts.list.last().cast(pl.Int64)
    test = _queries(train, _dense(train, prefixes), torch.from_numpy(train.items.dense(targets)))
    facts = {"train_events": len(train.events), "test_queries": len(test), "test_unknown": _unknown(test)}
    notes = (f"{facts['test_unknown']:,} targets of test are unknown to train",)
    return Split(
        train, None, replace(test, protocol=f"split of Wu et al. 2019; {SESSIONS}"), "session", None, facts, notes
    )


def yoochoose_validation(train: Dataset, seed: int = 0) -> Split:
    """The last tenth of train's sessions as the test of a smaller train: for picking, never from test.

    No draw is made: ``seed`` is there because other splits have one.
    """
    visitors = torch.unique_consecutive(train.events.visitor)
    kept = train.events.visitor < visitors[len(visitors) * 9 // 10]
    inner = Dataset.of(replace(train.log, events=train.log.events.filter(pl.Series(kept.numpy()))))
    held = train.histories.take(visitors[len(visitors) * 9 // 10 :])
    known = torch.zeros(train.schema.n_items, dtype=torch.int64)
    known[1:] = torch.from_numpy(inner.items.dense(train.items.raw_ids))
    prefixes, targets = prefixes_of(held.with_values(known[held.values]))
    test = _queries(inner, prefixes, targets)
    facts = {"train_events": len(inner.events), "test_queries": len(test), "test_unknown": _unknown(test)}
    return Split(inner, None, replace(test, protocol=f"last tenth of sessions; {SESSIONS}"), "session", None, facts, ())


def prefixes_of(sessions: Ragged) -> tuple[Ragged, Tensor]:
    """All prefixes of at least one value that something follows, and what follows each."""
    ends = (torch.arange(sessions.values.numel()) != sessions.offsets[sessions.rows()]).nonzero().squeeze(1)
    starts = sessions.offsets[sessions.rows()[ends]]
    return Ragged(sessions.values[spans(starts, ends - starts)], offsets_of(ends - starts)), sessions.values[ends]


def _queries(train: Dataset, prefixes: Ragged, targets: Tensor) -> Queries:
    """Of guests, in train's ids; 0 stands for what train does not know."""
    history, rows = prefixes.keep(prefixes.values > 0), len(prefixes)
    contexts = Contexts.of_users(torch.zeros(rows, dtype=torch.int64), train.schema)
    contexts = replace(contexts, history=history, history_time=torch.zeros_like(history.values))
    return Queries(contexts, Ragged(targets, torch.arange(rows + 1)), Ragged.empty(rows))


def _unknown(queries: Queries) -> int:
    return int((queries.truth.values == 0).sum())


def _guests(sessions: pl.Series) -> Dataset:
    """Each line the clicks of somebody unknown."""
    number = pl.int_range(sessions.len(), dtype=pl.Int64, eager=True)
    frame = pl.DataFrame({Col.SESSION: number, Col.ITEM: sessions}).explode(Col.ITEM)
    return Dataset.of(Log(_placed(frame.with_columns(pl.lit(None, dtype=pl.Int64).alias(Col.USER)))))


def _dense(train: Dataset, rows: pl.Series) -> Ragged:
    """Lists of raw items in train's ids."""
    lengths = torch.from_numpy(rows.list.len().to_numpy().astype("int64"))
    return Ragged(torch.from_numpy(train.items.dense(rows.explode())), offsets_of(lengths))


def _lines(path: Path) -> pl.Series:
    return _numbers(pl.Series("line", _text(path)))


def _numbers(lines: pl.Series) -> pl.Series:
    return lines.str.strip_chars().str.split(" ").cast(pl.List(pl.Int64))


def _text(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        return file.read().splitlines()


def _placed(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(Col.ROW))
