"""Networks over the whole catalogue: the same scores by tile, by candidate and by list."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.batch import Candidates
from suisen.data.ragged import Ragged
from suisen.evaluation.contract import Scorer, TileScorer
from suisen.models.contract import Net
from suisen.recommending.scorers import NetScorer
from suisen.retrieval.select import top_of
from tests.fitted import MODELS, RANKERS, fitted, small_split


@given(
    st.lists(st.lists(st.sampled_from([-2.0, -0.0, 0.0, 1.0, 1.5, -torch.inf]), min_size=9, max_size=9), max_size=4),
    st.integers(0, 12),
    st.booleans(),
)
def test_top_of_is_a_stable_sort(rows, k, wide):
    scores = torch.tensor(rows).reshape(len(rows), 9)
    if wide:  # short answers of long rows go another way
        scores = torch.cat([torch.full((len(rows), 100), -torch.inf), scores], 1)
    ids, top = top_of(scores, k)
    assert ids.shape == top.shape == (len(rows), min(k, scores.shape[1]))
    for row, found, values in zip(scores.tolist(), ids.tolist(), top.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
        assert values == [row[i] for i in order]
        assert found == [i if row[i] > -torch.inf else 0 for i in order]


@pytest.fixture(params=[*MODELS, *RANKERS])
def scorer(request) -> NetScorer:
    engine = fitted(request.param).engine
    return NetScorer(engine.first.net, engine.allowed)


def test_tiles_candidates_and_lists_agree(scorer):
    contexts, n = small_split().test.contexts, scorer.n_items
    assert isinstance(scorer, TileScorer)
    state = scorer.prepare(contexts)
    tiles = torch.cat([scorer.tile(state, lo, min(lo + 33, n)) for lo in range(0, n, 33)], 1)
    everything = torch.where(scorer.allowed, tiles, -torch.inf)
    items = torch.arange(n).expand(len(contexts), -1)
    given_scores = scorer.score(contexts, Candidates(items))
    torch.testing.assert_close(given_scores, everything, rtol=1e-4, atol=1e-5)
    of_net = scorer.net.score(contexts, Candidates(items)).detach()
    torch.testing.assert_close(given_scores, torch.where(scorer.allowed, of_net, -torch.inf), rtol=1e-4, atol=1e-5)
    ids, scores = scorer.rank(contexts, 7, Ragged.empty(len(contexts)))
    assert scorer.allowed[ids].all()
    torch.testing.assert_close(scores, everything.topk(7).values, rtol=1e-4, atol=1e-5)
    assert scorer.bytes_per_score >= 4


def test_tiles_may_be_written_into(scorer):
    contexts = small_split().test.contexts
    state = scorer.prepare(contexts)
    before = scorer.tile(state, 3, 9).clone()
    scorer.tile(state, 3, 9).fill_(7.0)
    assert torch.equal(scorer.tile(state, 3, 9), before)


def test_lists_leave_out_what_they_are_told(scorer):
    contexts = small_split().test.contexts
    exclude = Ragged(torch.arange(1, 81).repeat(len(contexts)), torch.arange(len(contexts) + 1) * 80).keep(
        torch.arange(80 * len(contexts)) % 3 > 0
    )
    ids, scores = scorer.rank(contexts, 200, exclude)
    assert ids.shape == (len(contexts), scorer.n_items)
    for row, out in zip(ids, exclude.tolist()):
        mine = set(row[row > 0].tolist())
        assert mine == {i for i in scorer.allowed.nonzero().squeeze(1).tolist() if i not in set(out)}
    assert torch.equal(ids > 0, scores > -torch.inf)


def test_what_is_neither_is_refused():
    net = Net()
    net.bind(small_split_items())
    scorer = NetScorer(net, torch.ones(5, dtype=torch.bool))
    with pytest.raises(TypeError, match="Net is neither a retriever nor a ranker"):
        scorer.prepare(small_split().test.contexts)
    with pytest.raises(TypeError, match="Net is neither a retriever nor a ranker"):
        scorer.tile(torch.zeros(1, 1), 0, 1)


def small_split_items():
    return fitted("ease").store.item_table


def test_an_engine_is_a_scorer_of_lists():
    engine = fitted("ease + fm").engine
    assert isinstance(engine, Scorer)
    assert not isinstance(engine, TileScorer)


def test_nothing_that_is_scored_can_be_learnt_from(scorer):
    contexts = small_split().train.contexts(torch.arange(3))
    state = scorer.prepare(contexts)
    assert not state.requires_grad
    assert not scorer.tile(state, 0, 5).requires_grad
    assert not scorer.given(state, torch.ones(3, 2, dtype=torch.int64)).requires_grad
