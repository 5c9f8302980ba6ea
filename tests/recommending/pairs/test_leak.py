"""No feature sees the event that it is asked about, nor what comes after: altering that alters no number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from suisen.data.dataset import Dataset
from suisen.models import Popularity
from suisen.pipeline.two_stage import RankerLists, held_out, make_lists
from suisen.recommending.engine import Engine
from suisen.recommending.pairs.tables import PairTables
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.helpers import make_log
from tests.recommending.pairs.slow import KINDS, QUARTER

ITEMS = 30
TABLE = {
    "item": list(range(1, ITEMS + 1)),
    "colour": [["red", "blue", "green", None][i % 4] for i in range(ITEMS)],
    "tags": ["|".join("xyzw"[: i % 5]) for i in range(ITEMS)],
    "price": [float(i * i % 17) for i in range(ITEMS)],
}
USERS = 12


def log_of(seed: int):
    """400 events, many at equal times; every user and item begins in the first ones, so that ids keep their numbers and
    means are the same whatever comes later.
    """
    rng = torch.Generator().manual_seed(seed)
    users = [*[1 + at % USERS for at in range(ITEMS)], *(torch.randint(USERS, (370,), generator=rng) + 1).tolist()]
    items = [*range(1, ITEMS + 1), *(torch.randint(ITEMS, (370,), generator=rng) + 1).tolist()]
    times = [*[1] * ITEMS, *(torch.randint(2, 160, (370,), generator=rng)).sort().values.tolist()]
    return make_log(user=users, item=items, time=[QUARTER * at for at in times], items=TABLE, kinds=KINDS)


def altered(data: Dataset, rows: torch.Tensor, seed: int) -> Dataset:
    """The same events with other items in ``rows`` (n,) bool."""
    rng = torch.Generator().manual_seed(seed)
    other = torch.randint(ITEMS, (len(data.events),), generator=rng).numpy() + 1
    frame = data.log.events
    items = pl.Series("item", np.where(rows.numpy(), other, frame["item"].to_numpy()))
    again = Dataset.of(replace(data.log, events=frame.with_columns(items)))
    assert again.items.raw_ids.equals(data.items.raw_ids)
    assert again.events.visitor.equal(data.events.visitor)
    assert not again.events.item.equal(data.events.item)
    return again


def asked_of(data: Dataset, row: int, inner: torch.Tensor) -> tuple[tuple[str, ...], torch.Tensor]:
    """Names, and (items, p) features of the event in ``row`` with every item, the tables of what is not held out."""
    tables = PairTables.made(("all",), data.keep(inner), past=data)
    contexts = data.contexts(torch.tensor([row]), history=10**6)
    return tables.names, tables.of(contexts, torch.arange(1, ITEMS + 1)[None])[0]


def questions(data: Dataset, asked: torch.Tensor) -> list[int]:
    """The first held-out event of each visitor."""
    rows = asked.nonzero().squeeze(1)
    first = torch.cat([torch.tensor([True]), data.events.visitor[rows].diff() != 0])
    return rows[first].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_what_is_held_out_from_the_moment_of_the_question_on_changes_nothing(seed):
    data = Dataset.of(log_of(seed))
    (asked,) = held_out(data, RankerLists(share=0.3), seed=0)
    for row in questions(data, asked):
        from_then = data.events.time >= data.events.time[row]
        names, before = asked_of(data, row, ~asked)
        changed = altered(data, asked & from_then, seed)
        assert torch.equal(asked_of(changed, row, ~asked)[1], before), names


@pytest.mark.parametrize("seed", range(3))
def test_where_all_of_the_future_is_held_out_it_changes_nothing(seed):
    data = Dataset.of(log_of(seed))
    rows = (data.events.time > QUARTER).nonzero().squeeze(1)[40::40].tolist()
    for row in rows:
        from_then = data.events.time >= data.events.time[row]
        history = torch.arange(len(data.events)) < row
        future = from_then & ~(history & (data.events.visitor == data.events.visitor[row]))
        _, before = asked_of(data, row, ~from_then)
        assert torch.equal(asked_of(altered(data, future, seed), row, ~from_then)[1], before)


@pytest.mark.parametrize("seed", range(3))
def test_counts_histories_and_columns_see_no_later_event_of_anybody(seed):
    """Co-visits alone, like the retriever, know what others did later, as far as it was not held out."""
    data = Dataset.of(log_of(seed))
    (asked,) = held_out(data, RankerLists(share=0.3), seed=0)
    seen_later = 0
    for row in questions(data, asked):
        own = data.events.visitor == data.events.visitor[row]
        future = (data.events.time >= data.events.time[row]) & ~(own & (torch.arange(len(data.events)) < row))
        names, before = asked_of(data, row, ~asked)
        _, after = asked_of(altered(data, future, seed), row, ~asked)
        for place, name in enumerate(names):
            same = torch.equal(after[:, place], before[:, place])
            assert same or name.startswith("covisit"), name
            seen_later += not same
    assert seen_later > 0


def test_what_came_before_does_change_them():
    """The other tests can fail."""
    data = Dataset.of(log_of(0))
    row = int(data.events.offsets[9]) - 1  # a visitor's last event
    earlier = (data.events.time < data.events.time[row]) & (data.events.time > QUARTER)
    names, before = asked_of(data, row, torch.ones(len(data.events), dtype=torch.bool))
    _, after = asked_of(altered(data, earlier, 1), row, torch.ones(len(data.events), dtype=torch.bool))
    same = {name for place, name in enumerate(names) if torch.equal(before[:, place], after[:, place])}
    assert same == {"history_length", "session_position", "age"}  # every item was taken in the first six hours


def test_lists_that_a_ranker_learns_on_do_not_change_with_what_is_held_out():
    """The whole way: the pairs of the first list of each visitor are the same whatever the held-out events were."""
    data = Dataset.of(log_of(4))
    options = RankerLists(share=0.3, candidates=ITEMS, learnt=ITEMS, history=5, exclude_seen=False)
    (asked,) = held_out(data, options, seed=0)
    first = torch.zeros_like(asked)
    first[questions(data, asked)] = True
    earliest = int(data.events.time[asked].min())
    assert int((data.events.time[~asked] > earliest).sum()) > 50
    changed = altered(data, asked & (data.events.time >= earliest), 0)
    made = []
    for one in (data, changed):
        inner = one.keep(~asked)
        net, _ = fit(Popularity(), inner, None, RunOptions())
        words = ("all", "-popularity", "-age", "-trend_day", "-trend_week", "-trend_month")  # others' held-out past
        engine = Engine(net, None, one.trained_items, ITEMS, pairs=PairTables.made(words, inner, past=one))
        lists, _ = make_lists(engine, one, first, options, torch.Generator().manual_seed(0))
        assert len(lists) == int(first.sum())
        order = lists.candidates.items.argsort(1)
        made.append(lists.candidates.pair.gather(1, order[:, :, None].expand_as(lists.candidates.pair)))
    assert torch.equal(*made)
