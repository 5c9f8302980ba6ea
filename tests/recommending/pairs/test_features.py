"""Every feature of the pair is its definition, whatever the log: ties in time, repeats, empty histories, strangers."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.batch import Contexts
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.recommending.pairs import covisits, tables
from suisen.recommending.pairs.covisits import NEIGHBOURS, SHRINKAGE, WINDOW, CoVisits
from suisen.recommending.pairs.moments import Moments
from suisen.recommending.pairs.tables import PairTables, in_session
from tests.helpers import make_data, make_log
from tests.recommending.pairs.slow import DAY, ITEMS, KINDS, QUARTER, Shop, covisit, shops, weights

MINUTE = 60 * 1_000_000


def contexts_of(data: Dataset, later: int = 0) -> Contexts:
    """Those of every event, its time moved; and behind them somebody of whom nothing is known."""
    contexts = data.contexts(torch.arange(len(data.events)), history=10**6)
    rows = len(contexts)
    history = Ragged(contexts.history.values, torch.cat([contexts.history.offsets, contexts.history.offsets[-1:]]))
    time = torch.cat([contexts.time + later * data.has_time, contexts.time[-1:]])
    stranger = Contexts.of_users(torch.zeros(rows + 1, dtype=torch.int64), data.schema)
    return Contexts(
        stranger.user, stranger.user_features, stranger.context_features, time, history, contexts.history_time
    )


def compared(data: Dataset, contexts: Contexts, ids: list[list[int]], past: Dataset | None = None) -> None:
    made = PairTables.made(("all",), data, past)
    found = made.of(contexts, torch.tensor(ids))
    assert found.shape == (len(contexts), len(ids[0]), len(made.names))
    assert found.dtype == torch.float32
    assert len(set(made.names)) == len(made.names)
    shop, table = Shop(data, past), weights(data, WINDOW, SHRINKAGE)
    history = [[int(i) for i in row] for row in contexts.history.tolist()]
    times = contexts.history.with_values(contexts.history_time).tolist()
    for row, time in enumerate(contexts.time.tolist()):
        wanted = shop.features(table, history[row], times[row], time, ids[row])
        assert set(wanted) == set(made.names)
        for place, name in enumerate(made.names):
            mine = found[row, :, place].tolist()
            slack = 1e-2 if name.startswith("covisit") else 1e-5  # nearly equal sums are spread by 10⁶
            assert mine == pytest.approx(wanted[name], rel=1e-4, abs=slack), (name, row, ids[row], history[row])


@given(shops(), st.data())
def test_all_features_are_their_definitions(log, draw):
    data = Dataset.of(log)
    width = draw.draw(st.integers(1, 9))
    contexts = contexts_of(data, draw.draw(st.sampled_from([0, 1, QUARTER, 40 * DAY])))
    row = st.lists(st.integers(0, ITEMS), min_size=width, max_size=width)
    compared(data, contexts, [draw.draw(row) for _ in range(len(contexts))])


@given(shops(times=True), st.data())
def test_counts_are_of_all_of_the_past_and_co_visits_of_what_is_not_held_out(log, draw):
    data = Dataset.of(log)
    kept = torch.tensor(draw.draw(st.lists(st.booleans(), min_size=len(data.events), max_size=len(data.events))))
    contexts = contexts_of(data)
    compared(data.keep(kept), contexts, [list(range(ITEMS + 1))] * len(contexts), past=data)


def test_one_event_and_one_item():
    data = Dataset.of(make_log_of_one())
    compared(data, contexts_of(data), [[1], [1]])


def make_log_of_one():

    table = {"item": [1], "colour": ["red"], "tags": ["x|y"], "price": [3.0]}
    return make_log(user=["a"], item=[1], time=[DAY], items=table, kinds=KINDS)


def test_lists_without_a_row_or_a_candidate():
    data = make_data(user=["a", "a"], item=[1, 2], time=[1, 2])
    made = PairTables.made(("all",), data)
    nobody = contexts_of(data).take(torch.zeros(0, dtype=torch.int64))
    assert made.of(nobody, torch.zeros((0, 5), dtype=torch.int64)).shape == (0, 5, len(made.names))
    assert made.of(contexts_of(data), torch.zeros((3, 0), dtype=torch.int64)).shape == (3, 0, len(made.names))


def test_rows_are_the_same_alone_and_together():
    data = Dataset.of(shop_log())
    made, contexts = PairTables.made(("all",), data), contexts_of(data)
    ids = torch.randint(0, ITEMS + 1, (len(contexts), 7), generator=torch.Generator().manual_seed(0))
    together = made.of(contexts, ids)
    for row in range(len(contexts)):
        alone = torch.tensor([row])
        assert torch.equal(made.of(contexts.take(alone), ids[alone]), together[alone])


def shop_log(n=200, seed=0):
    """Many events of a few users."""

    rng = random.Random(seed)
    table = {
        "item": list(range(1, ITEMS + 1)),
        "colour": ["red", "blue", None, "red", "blue", "blue", "red", None],
        "tags": ["x|y", "y", "", "z", "x|z", "y|z", "x", None],
        "price": [1.0, 2.0, None, 4.0, 8.0, 16.0, 2.0, 1.0],
    }
    columns = {"user": [rng.choice("abcdef") for _ in range(n)], "item": [rng.randint(1, 6) for _ in range(n)]}
    return make_log(time=sorted(rng.randint(1, 400) * QUARTER for _ in range(n)), items=table, kinds=KINDS, **columns)


# -- parts -------------------------------------------------------------------------------------------------------------


def test_a_row_keeps_its_largest_weights(monkeypatch):
    monkeypatch.setattr(covisits, "NEIGHBOURS", 2)
    data = Dataset.of(shop_log())
    made, whole = CoVisits.of(data), weights(data, WINDOW, SHRINKAGE)
    ends = made.offsets.tolist()
    for a in range(data.schema.n_items):
        row = sorted((w for (first, _), w in whole.items() if first == a), reverse=True)[:2]
        kept = slice(ends[a], ends[a + 1])
        assert made.weights[kept].tolist() == pytest.approx(row)
        assert made.weights[kept].tolist() == pytest.approx([whole[a, b] for b in made.items[kept].tolist()])
    assert len(made.items) == 2 * 6
    assert NEIGHBOURS == 100


def test_a_session_ends_where_half_an_hour_passed():
    history = Ragged.of([[1, 2, 3], [], [4], [5, 6]])
    times = torch.tensor([0, 40, 70, 10, 0, 31]) * MINUTE
    nobody = Contexts.of_users(torch.zeros(4, dtype=torch.int64))
    now = torch.tensor([100, 5, 41, 31]) * MINUTE
    contexts = Contexts(nobody.user, nobody.user_features, nobody.context_features, now, history, times)
    assert in_session(contexts).tolist() == [2, 0, 0, 1]


def test_long_histories_are_read_from_their_end(monkeypatch):
    monkeypatch.setattr(tables, "PAST", 3)
    data = Dataset.of(shop_log())
    made, contexts = PairTables.made(("all",), data), contexts_of(data)
    ids = torch.arange(1, ITEMS + 1).expand(len(contexts), -1)
    short = made.of(contexts.recent(3), ids)
    whole = made.of(contexts, ids)
    length = made.names.index("history_length")
    others = [place for place in range(len(made.names)) if place != length]
    assert torch.equal(short[..., others], whole[..., others])
    assert float(whole[..., length].max()) == pytest.approx(math.log2(1 + int(contexts.history.lengths.max())) / 8)


def test_a_stale_table_counts_from_its_end_and_not_from_a_silent_week():
    data = make_data(user=list("aabb"), item=[1, 2, 1, 1], time=[DAY, 2 * DAY, 9 * DAY, 10 * DAY])
    moments = Moments.of(data)
    ids = torch.tensor([[1, 2], [1, 2]])
    found = moments.features(torch.tensor([10 * DAY + 1, 500 * DAY]), ids, ("age", "trend_week"))
    for values in found.values():
        assert torch.equal(values[0], values[1])
    assert float(found["trend_week"][0, 0]) == pytest.approx(math.log2(3 / 2) / 4)


def test_a_longer_catalogue_knows_nothing_of_its_new_items():
    data = Dataset.of(shop_log())
    visits, moments = CoVisits.of(data), Moments.of(data)
    table = weights(data, WINDOW, SHRINKAGE)
    n = data.schema.n_items
    ids, history = torch.tensor([[1, n, n + 4]]), Ragged.of([[2, 3, n + 2]])
    grown, later = visits.grown(n + 5), moments.grown(n + 5)
    wanted = covisit(table, [2, 3, n + 2], 1, 5)
    assert wanted > 0
    assert float(grown.sums(history, ids, (5,))[0, 0, 0]) == pytest.approx(wanted)
    assert grown.sums(history, ids, (1,)).abs().sum() == 0
    assert grown.sums(history, ids, (5,))[0, 1:].abs().sum() == 0
    now = torch.tensor([10**18])
    assert later.before(ids, now).tolist() == [[int(data.item_counts[1]), 0, 0]]
    assert (grown.flaw(n + 5), later.flaw()) == ("", "")


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": torch.tensor([0, 1, 0, 2])},
        {"offsets": torch.tensor([0, 0, 1])},
        {"items": torch.tensor([1, 3], dtype=torch.int32)},
        {"items": torch.tensor([0, 1], dtype=torch.int32)},
        {"items": torch.tensor([1], dtype=torch.int32)},
        {"weights": torch.tensor([1.0, math.nan])},
        {"weights": torch.tensor([1.0, 0.0])},
    ],
)
def test_damaged_co_visits_are_noticed(change):
    whole = {"offsets": torch.tensor([0, 0, 1, 2]), "items": torch.tensor([1, 2], dtype=torch.int32)}
    whole["weights"] = torch.tensor([0.5, 0.25])
    assert CoVisits(**whole).flaw(3) == ""
    assert CoVisits(**{**whole, **change}).flaw(3)


@pytest.mark.parametrize(
    ("times", "keys"), [([5, 5], [4, 5]), ([5, 9], [7, 4]), ([5, 9], [0, 4]), ([5, 9], [4, 9]), ([5, 9], [5, 8])]
)
def test_damaged_times_are_noticed(times, keys):
    assert Moments(3, torch.tensor([5, 9]), torch.tensor([3, 4, 7])).flaw() == ""
    assert Moments(3, torch.tensor(times), torch.tensor(keys)).flaw()
