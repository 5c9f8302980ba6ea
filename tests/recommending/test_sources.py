"""Several sources: the union against a slow loop, who is asked, and what is left where a source has nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.batch import Candidates, Contexts, Features
from suisen.data.ragged import Ragged
from suisen.errors import InputError, UnknownName
from suisen.models import EASE, MF, ItemKNN
from suisen.models.contract import CatalogueScorer, ItemTable
from suisen.recommending.engine import Engine, Filters
from suisen.recommending.sources import (
    OF_EACH,
    PAIR,
    Source,
    Union,
    by_turns,
    check_quotas,
    chosen,
    merged,
    names_of,
    pair_features,
    pair_names,
    stages_of,
)

ITEMS = 9
EVERYBODY, USERS, READERS = frozenset({"new users"}), frozenset[str](), frozenset({"history"})


# -- slow definitions --------------------------------------------------------------------------------------------------


def slow_choice(lists, n, quotas):
    """One row: by turns within the quotas, then by turns; repeats are dropped."""
    taken = []
    for within in (True, False):
        for place in range(max(map(len, lists), default=0)):
            for ids, quota in zip(lists, quotas):
                if place < len(ids) and (place < quota) == within and ids[place] and ids[place] not in taken:
                    taken.append(ids[place])
    return taken[:n]


def slow_fusion(taken, lists):
    """(item, sum) best first: 61 / S · Σ 1 / (60 + rank); equal sums stand as they were taken."""
    sums = [(item, sum(61 / len(lists) / (61 + ids.index(item)) for ids in lists if item in ids)) for item in taken]
    return sorted(sums, key=lambda pair: -round(pair[1], 12))


@st.composite
def list_rows(draw):
    """Lists of S sources for B contexts, as ids and falling scores, padded; n; quotas."""
    sources, rows = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    one = st.lists(st.integers(1, ITEMS), unique=True, max_size=ITEMS)
    lists = [[draw(one) for _ in range(rows)] for _ in range(sources)]
    n = draw(st.integers(0, 12))
    quotas = [draw(st.integers(0, 4)) for _ in range(sources)]
    return lists, n, quotas


def padded(rows):
    width = max(map(len, rows), default=0)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64).reshape(len(rows), width)
    scores = -torch.arange(width).float().expand(len(rows), -1) * 1.5 + 2
    return ids, torch.where(ids > 0, scores, -torch.inf)


@given(list_rows())
def test_the_union_is_that_of_a_loop(case):
    lists, n, quotas = case
    made = [padded(rows) for rows in lists]
    found = merged(made, n, quotas)
    rows = len(lists[0])
    assert found.ids.shape == found.scores.shape == (rows, n)
    assert found.pair.shape == (rows, n, len(PAIR) + 3 * len(lists))
    own = [pair_features(scores, ids > 0) for ids, scores in made]
    for row in range(rows):
        here = [each[row] for each in lists]
        wanted = slow_fusion(slow_choice(here, n, quotas), here)
        assert found.ids[row].tolist() == [item for item, _ in wanted] + [0] * (n - len(wanted))
        scores = found.scores[row].tolist()
        assert scores[: len(wanted)] == pytest.approx([value for _, value in wanted], abs=1e-5)
        assert all(a > b for a, b in pairwise(scores[: len(wanted)]))  # no ties are left
        assert all(value == -math.inf for value in scores[len(wanted) :])
        for at, (item, _) in enumerate(wanted):
            for source, ids in enumerate(here):
                score, rank, missing = found.pair[row, at, len(PAIR) + 3 * source :][:3].tolist()
                if item not in ids:
                    lowest = float(own[source][row, : len(ids), 0].min()) if ids else 0.0
                    assert found.ranks[row, at, source] == 0
                    assert (score, rank, missing) == pytest.approx((lowest, -math.log2(n + 1) / 8, 1.0))
                else:
                    place = ids.index(item)
                    assert found.ranks[row, at, source] == place + 1
                    assert (score, rank, missing) == pytest.approx((*own[source][row, place].tolist(), 0.0))


@given(list_rows(), st.lists(st.integers(1, ITEMS), unique=True, max_size=ITEMS))
def test_the_reserve_only_fills_up(case, spare):
    lists, n, quotas = case
    made, reserve = [padded(rows) for rows in lists], torch.tensor([spare] * len(lists[0]), dtype=torch.int64)
    reserve = reserve.reshape(len(lists[0]), len(spare))
    ids = chosen([each for each, _ in made], n, quotas, [reserve])
    found = merged(made, n, quotas, [reserve])
    for row in range(len(lists[0])):
        taken = slow_choice([each[row] for each in lists], n, quotas)
        wanted = [*taken, *(item for item in spare if item not in taken)][:n]
        assert ids[row].tolist() == wanted + [0] * (n - len(wanted))
        fused = [item for item, _ in slow_fusion(taken, [each[row] for each in lists])]
        assert found.ids[row, : len(wanted)].tolist() == [*fused, *wanted[len(taken) :]]


def test_an_item_that_every_source_puts_first_scores_one():
    ids, scores = torch.tensor([[3, 1]]), torch.tensor([[2.0, 1.0]])
    found = merged([(ids, scores)] * 3, 2, [0] * 3)
    assert found.scores[0].tolist() == pytest.approx([1.0, 61 / 62])


def test_columns_are_taken_by_turns():
    assert by_turns([3, 1, 2], [0, 0, 0]).tolist() == [0, 3, 4, 1, 5, 2]
    assert by_turns([3, 1, 2], [2, 0, 0]).tolist() == [0, 1, 3, 4, 5, 2]
    assert by_turns([0, 2], [0, 0]).tolist() == [0, 1]


# -- names and quotas --------------------------------------------------------------------------------------------------


def test_names():
    models = (EASE(), MF(), EASE(l2=3.0))
    assert names_of(models) == ["ease", "mf", "ease-2"]
    assert list(stages_of(models)) == ["retriever-ease", "retriever-mf", "retriever-ease-2"]
    assert stages_of(MF()) == {"retriever": MF()}
    assert stages_of(None) == {}
    assert pair_names([""]) == PAIR
    assert pair_names(["a", "b"]) == (*PAIR, *(f"{name}_{what}" for name in "ab" for what in OF_EACH))


def test_quotas_that_cannot_be_kept():
    sources = names_of([EASE(), ItemKNN()])
    check_quotas({"ease": 3, "item-knn": 4}, sources, 7, 4)
    check_quotas({}, ["ease"], 7)
    with pytest.raises(UnknownName, match="quotas: source = 'eas' is unknown; did you mean 'ease'"):
        check_quotas({"eas": 3}, sources, 7)
    with pytest.raises(InputError, match=r"quotas: 8 in all are above candidates = 7; raise that, or lower one"):
        check_quotas({"ease": 4, "item-knn": 4}, sources, 7)
    with pytest.raises(InputError, match=r"quotas: ease = 5 is above the catalogue's 4 items; lower it"):
        check_quotas({"ease": 5}, sources, 7, 4)
    with pytest.raises(InputError, match="share out the candidates of several sources; give two or more"):
        check_quotas({"ease": 5}, ["ease"], 7)


# -- engines -----------------------------------------------------------------------------------------------------------


class Order(CatalogueScorer):
    """Everybody gets the same order of the items."""

    def __init__(self, *order: int, size: int = ITEMS + 1) -> None:
        super().__init__()
        self.scores = torch.zeros(size)
        for place, item in enumerate(order):
            self.scores[item] = len(order) - place
        trained = torch.ones(size, dtype=torch.bool)
        trained[0] = False
        self.bind(ItemTable(Features.none(size), trained))

    def score_all(self, contexts):
        return self.scores.expand(len(contexts), -1)


def source(name, *order, of=None, abilities=EVERYBODY):
    net, allowed = Order(*order), torch.zeros(ITEMS + 1, dtype=torch.bool)
    allowed[list(of or order)] = True
    return Source(name, net, allowed, None, abilities)


def engine_of(*sources, quotas=None, candidates=6, ranker=None):
    union = Union(sources, quotas)
    return Engine(union, ranker, union.allowed, candidates)


def asking(*users, histories=None):
    contexts = Contexts.of_users(torch.tensor(users))
    past = Ragged.of(histories or [[]] * len(users))
    return replace(contexts, history=past, history_time=torch.zeros_like(past.values))


def items(engine, k=6, contexts=None, exclude=None, among=None):
    contexts = asking(1) if contexts is None else contexts
    barred = Ragged.empty(len(contexts)) if exclude is None else Ragged.of(exclude)
    return engine.lists(contexts, k, Filters(barred, among))[0].tolist()


A, B = (1, 2, 3, 4, 5), (5, 6, 7, 1)


def test_turns_quotas_and_fusion_by_hand():
    engine = engine_of(source("a", *A), source("b", *B), candidates=4)
    assert items(engine, 4) == [[1, 5, 2, 6]]  # 1 stands at 1 and 4, 5 at 4 and 1 of four candidates each
    engine = engine_of(source("a", *A), source("b", *B), candidates=4, quotas={"b": 3})
    assert set(items(engine, 4)[0]) == {5, 6, 7, 1}
    engine = engine_of(source("a", *A), source("b", *B))
    assert items(engine, 3)[0] == items(engine)[0][:3]


def test_every_list_is_as_long_as_can_be_whatever_the_sources_may_recommend():
    engine = engine_of(source("a", *A), source("b", *B), source("c", 9))
    assert engine.n_allowed == 8
    for k in (1, 3, 8, 20):
        for barred in ([], [1], [1, 2, 3, 4, 5], [9, 6, 7]):
            row = [item for item in items(engine, k, exclude=[barred])[0] if item]
            assert len(row) == len(set(row)) == min(k, 8 - len(barred))
            assert not {0, *barred} & set(row)
    assert items(engine, 4, among=torch.tensor([2, 6, 8])) == [[2, 6, 0, 0]]


def test_what_is_blocked_is_in_no_source():
    engine = engine_of(source("a", *A), source("b", *B))
    mask = engine.allowed.clone()
    mask[[1, 5]] = False
    engine.open = replace(engine.open, mask=mask, size=int(mask.sum()))
    assert set(items(engine)[0]) == {2, 3, 4, 6, 7, 0}


def test_only_sources_that_have_something_to_go_by_are_asked():
    engine = engine_of(
        source("a", *A, abilities=USERS), source("b", *B, abilities=READERS), source("c", 8, 9), candidates=3
    )
    who = asking(1, 1, 0, 0, histories=[[4], [], [4], []])
    rows = engine.find(who, 3, Filters(Ragged.empty(4))).ranks.gt(0).any(1).tolist()
    assert rows == [[True, True, True], [True, False, True], [False, True, True], [False, False, True]]
    stranger = items(engine, 8, contexts=asking(0))[0]
    assert stranger[:2] == [8, 9]  # the others only fill up
    assert set(stranger) == {8, 9, 1, 2, 3, 4, 5, 6}


def test_where_no_source_has_anything_to_go_by_all_are_asked():
    engine = engine_of(source("a", *A, abilities=USERS), source("b", *B, abilities=READERS))
    assert items(engine, contexts=asking(0)) == items(engine, contexts=asking(1, histories=[[9]]))


def test_given_candidates_are_ranked_among_themselves():
    engine = engine_of(source("a", *A), source("b", *B), candidates=9)
    given = torch.tensor([[9, 5, 2, 0, 1, 7]])
    scores = engine.score(asking(1), Candidates(given))[0]
    assert (scores > -torch.inf).tolist() == [False, True, True, False, True, True]
    order = [5, 1, 2, 7]  # 5: ranks 3 and 1; 1: 1 and 3; 2: 2 in one; 7: 2 in the other; equal sums as given
    assert [given[0, at].item() for at in scores.argsort(descending=True)[:4]] == order
    everything = torch.arange(1, 10)[None]
    again = engine.score(asking(1), Candidates(everything))
    assert {int(i) + 1 for i in again[0].topk(7).indices} == set(items(engine, 7)[0])


def test_one_engine_of_several_has_no_network_of_its_own():
    engine = engine_of(source("a", *A), source("b", *B))
    assert (engine.retriever, engine.index, engine.states) == (None, None, None)
    assert engine.listed
    assert engine.pair_names == pair_names(["a", "b"])
    assert [part.name for part in engine.alone.sources] == ["a", "b"]
    assert items(engine.apart()) == items(engine)
