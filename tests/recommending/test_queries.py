"""From raw questions to dense ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.batch import Contexts
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.recommending import queries as room
from suisen.recommending.engine import Filters
from suisen.recommending.queries import (
    DenseQueries,
    RawQueries,
    RecommendOptions,
    answerable,
    dense_queries,
    filters_of,
    popular_lists,
)
from tests.fitted import LONELY, NEW_USER, fitted

STORE = lambda: fitted("ease").store  # noqa: E731


def test_what_is_given_takes_the_place_of_what_is_stored():
    store = STORE()
    users = ["u0001", None, NEW_USER, LONELY]
    who = RawQueries(
        users,
        history=[None, ["i004", "no such item", "i005"], [], None],
        user_features=[None, {"segment": "segment-1"}, {"age": 33, "segment": "no such segment"}, {}],
        context=[{"device": "phone"}, None, {}, {"device": "desk"}],
    )
    questions = dense_queries(store, who, None)
    contexts, dense = questions.contexts, torch.from_numpy(store.users.dense(users))
    assert contexts.user.tolist() == [int(dense[0]), 0, 0, 0]  # whom train has no event of is nobody's row
    assert questions.known.tolist() == [True, False, False, False]
    stored = store.histories.take(dense[:1]).values.tolist()
    given_items = store.items.dense(["i004", "i005"]).tolist()
    assert contexts.history.tolist() == [stored, given_items, [], []]
    assert contexts.history_time.numel() == contexts.history.values.numel()
    assert torch.equal(contexts.history_time[len(stored) :], contexts.time[1].expand(2))
    features = contexts.user_features
    assert torch.equal(features.categorical[0], store.user_features.categorical[dense[0]])
    assert features.categorical[1].tolist() != [0]
    assert features.categorical[2].tolist() == [0]
    assert features.numeric[2].tolist() != [0.0]
    assert questions.featured.tolist() == [True, True, True, False]
    codes = contexts.context_features.categorical[:, 0].tolist()
    assert codes[0] > 0 == codes[1] == codes[2] < codes[3] != codes[0]


def test_a_number_at_the_mean_says_something():
    store = STORE()
    mean = next(column.mean for column in store.encoders["user"].columns if column.name == "age")
    questions = dense_queries(store, RawQueries(user_features=[{"age": mean}, {"age": None}, {}]), None)
    assert questions.featured.tolist() == [True, False, False]


def test_each_row_is_encoded_as_it_is_alone():
    store = STORE()
    rows = [{"age": 24}, {"age": "24"}, {"segment": "segment-1", "age": 30.5}, None, {"segment": "segment-1"}]
    together = dense_queries(store, RawQueries(user_features=rows), None).contexts.user_features
    for at, row in enumerate(rows):
        alone = dense_queries(store, RawQueries(user_features=[row]), None).contexts.user_features
        assert torch.equal(together.categorical[at], alone.categorical[0])
        assert torch.equal(together.numeric[at], alone.numeric[0])


def test_lists_of_codes_are_encoded_by_row():
    from suisen.data.dataset import Dataset
    from suisen.models import EASE
    from suisen.pipeline.recommender import Recommender
    from tests.helpers import make_log

    users = {"user": ["a", "b"], "likes": [["x", "y"], ["z"]]}
    data = Dataset.of(make_log(users=users, user=list("aabb"), item=[1, 2, 2, 3], time=[1, 2, 3, 4]))
    store = Recommender(EASE()).fit(data).store
    asked = RawQueries(
        ["a", None, None, None],
        user_features=[None, {"likes": ["z", "no such"]}, {"likes": ["no such"]}, {"likes": []}],
    )
    questions = dense_queries(store, asked, None)
    (bag,) = questions.contexts.user_features.multi
    (own,) = store.user_features.multi
    assert bag.tolist()[0] == own.tolist()[1]
    assert [len(row) for row in bag.tolist()] == [2, 2, 1, 0]
    assert bag.tolist()[1][0] == own.tolist()[2][0]
    assert questions.featured.tolist() == [True, True, False, False]  # a code of train's, or nothing


@pytest.mark.parametrize(
    ("abilities", "expected"),
    [
        # known+history, known without history, history alone, features alone, nothing
        (set(), [True, True, False, False, False]),
        ({"history"}, [True, False, True, False, False]),
        ({"new users"}, [True, True, True, True, True]),
        ({"new users", "features"}, [True, True, False, True, False]),
        ({"new users", "features", "history"}, [True, True, True, True, False]),
    ],
)
def test_who_can_be_answered(abilities, expected):
    history = Ragged.of([[1], [], [1], [], []])
    contexts = Contexts.of_users(torch.zeros(5, dtype=torch.int64))
    contexts = Contexts(
        contexts.user, contexts.user_features, contexts.context_features, contexts.time, history, torch.zeros(2).long()
    )
    known, featured = torch.tensor([1, 1, 0, 0, 0]) > 0, torch.tensor([0, 0, 0, 1, 0]) > 0
    questions = DenseQueries(contexts, history, known, featured)
    assert answerable(questions, frozenset(abilities)).tolist() == expected


# -- filters -----------------------------------------------------------------------------------------------------------


def test_filters_hold_the_seen_and_the_excluded():
    store = STORE()
    questions = dense_queries(store, RawQueries(["u0001", "stranger", "u0002"]), None)
    barred = store.items.dense(["i010", "i011"]).tolist()
    filters = filters_of(store, RecommendOptions(exclude=["i011", "i010", "i010", "no such item"]), questions)
    for mine, seen in zip(filters.exclude.tolist(), questions.seen.tolist(), strict=True):
        assert sorted(mine) == sorted([*seen, *barred])
    assert filters.among is None
    filters = filters_of(store, RecommendOptions(exclude_seen=False, among=["i010", "no such item"]), questions)
    assert filters.exclude.tolist() == [[], [], []]
    assert filters.among.tolist() == barred[:1]


def test_much_that_all_exclude_is_taken_out_of_the_catalogue():
    store = STORE()
    questions = dense_queries(store, RawQueries(["u0001", "u0002", "u0003"]), None)
    names = store.items.raw_ids.to_list()
    barred, some = names[10:60], names[:40]
    filters = filters_of(store, RecommendOptions(exclude=barred), questions)
    assert filters.exclude.tolist() == questions.seen.tolist()
    out = set(store.items.dense(barred).tolist())
    assert set(range(1, store.schema.n_items)) - set(filters.among.tolist()) == out
    filters = filters_of(store, RecommendOptions(exclude=barred, among=some), questions)
    assert filters.among.tolist() == sorted(set(store.items.dense(some).tolist()) - out)


@given(st.lists(st.sets(st.integers(1, 70)), max_size=5), st.integers(1, 90), st.none() | st.sets(st.integers(1, 70)))
@settings(max_examples=60)
def test_popular_lists_are_their_definition(rows, k, among):
    store = STORE()
    only = None if among is None else torch.tensor(sorted(among), dtype=torch.int64)
    ids, scores = popular_lists(store, Filters(Ragged.of([sorted(row) for row in rows]), only), k)
    assert ids.shape == scores.shape == (len(rows), k)
    for row, found, counts in zip(rows, ids.tolist(), scores.tolist(), strict=True):
        pool = [i for i in range(store.schema.n_items) if store.trained_items[i] and i not in row]
        pool = sorted((i for i in pool if among is None or i in among), key=lambda i: (-int(store.item_counts[i]), i))
        assert found == (pool[:k] + [0] * k)[:k]
        assert counts == ([float(store.item_counts[i]) for i in pool[:k]] + [-torch.inf] * k)[:k]


def test_popular_lists_in_parts(monkeypatch):
    store, filters = STORE(), Filters(Ragged.of([[1, 2], [], [3]] * 5))
    whole = popular_lists(store, filters, 4)
    monkeypatch.setattr(room, "CELLS_PER_CHUNK", 10)
    parts = popular_lists(store, filters, 4)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_an_ask_is_checked_at_its_door():
    assert RecommendOptions().at is None
    for wrong, message in (
        ({"k": True}, "k = True must be a whole number"),
        ({"k": 10_001}, "k = 10001 must be a whole number from 1 to 10,000"),
        ({"diversity": -0.1}, "diversity = -0.1 must be from 0 to 1"),
        ({"exclude": 3}, r"exclude = 3 is not a list; give a list, like exclude=\[3\]"),
    ):
        with pytest.raises(InputError, match=message):
            RecommendOptions(**wrong)
