"""MMR and DPP against their definitions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from suisen.recommending import diversity as module
from suisen.recommending.diversity import dpp, mmr
from tests.fitted import fitted


def slow(ids, scores, vectors, k, diversity):
    """One list, one item at a time."""
    pool = [(i, s) for i, s in zip(ids, scores) if i]
    low, high = min((s for _, s in pool), default=0), max((s for _, s in pool), default=0)
    picked = []
    while pool and len(picked) < k:

        def gain(entry):
            relevance = (entry[1] - low) / max(high - low, 1e-9)
            nearest = max((float(vectors[entry[0]] @ vectors[i]) for i, _ in picked), default=-1.0)
            return (1 - diversity) * relevance - diversity * nearest

        best = max(pool, key=gain)
        pool.remove(best)
        picked.append(best)
    return picked


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 9), st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
def test_mmr_is_its_definition(seed, width, k, diversity):
    rng = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(20, 5, generator=rng, dtype=torch.float64), dim=1)
    ids = torch.stack([torch.randperm(19, generator=rng)[:width] + 1 for _ in range(3)])
    scores = torch.randn(3, width, generator=rng, dtype=torch.float64).sort(1, descending=True).values
    for row, real in enumerate((width, width // 2, 0)):
        ids[row, real:], scores[row, real:] = 0, -torch.inf
    found, values = mmr(ids, scores, vectors, k, diversity)
    assert found.shape == values.shape == (3, min(k, width))
    for row in range(3):
        expected = slow(ids[row].tolist(), scores[row].tolist(), vectors, k, diversity)
        n = len(expected)
        assert found[row, :n].tolist() == [i for i, _ in expected]
        assert values[row, :n].tolist() == [s for _, s in expected]
        assert not found[row, n:].any()
        assert (values[row, n:] == -torch.inf).all()


def test_lists_of_wide_vectors_are_done_a_few_at_a_time(monkeypatch):
    rng = torch.Generator().manual_seed(5)
    vectors = F.normalize(torch.randn(30, 4, generator=rng), dim=1)
    ids = torch.stack([torch.randperm(29, generator=rng)[:12] + 1 for _ in range(7)])
    scores = torch.randn(7, 12, generator=rng)
    together = mmr(ids, scores, vectors, 5, 0.5)
    monkeypatch.setattr(module, "GATHERED", 100)
    apart = mmr(ids, scores, vectors, 5, 0.5)
    assert torch.equal(together[0], apart[0])
    assert torch.equal(together[1], apart[1])
    assert mmr(ids[:0], scores[:0], vectors, 5, 0.5)[0].shape == (0, 5)


def test_no_diversity_is_the_order_of_the_scores():
    vectors = F.normalize(torch.randn(9, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    ids, scores = torch.tensor([[4, 2, 7, 8]]), torch.tensor([[3.0, 2.0, 2.0, 1.0]])
    assert mmr(ids, scores, vectors, 3, 0.0)[0].tolist() == [[4, 2, 7]]


def slow_dpp(ids, scores, vectors, k, diversity):
    """One list: each time the item with which relevance and log det of the similarities are largest."""
    pool = [(i, s) for i, s in zip(ids, scores) if i]
    low, high = min((s for _, s in pool), default=0), max((s for _, s in pool), default=0)
    picked = []
    while pool and len(picked) < k:

        def gain(entry):
            chosen = [*picked, entry]
            kernel = torch.tensor([[1.0 if a == b else (1 + float(vectors[a] @ vectors[b])) / 2
                                    for b, _ in chosen] for a, _ in chosen], dtype=torch.float64)  # fmt: skip
            relevance = sum((s - low) / max(high - low, 1e-9) for _, s in chosen)
            return (1 - diversity) * relevance + diversity * float(torch.linalg.slogdet(kernel).logabsdet)

        best = max(pool, key=gain)
        pool.remove(best)
        picked.append(best)
    return picked


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 9), st.sampled_from([0.05, 0.2, 0.5, 0.9, 1.0]))
def test_dpp_is_its_definition_by_determinants(seed, width, k, diversity):
    rng = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(20, 12, generator=rng, dtype=torch.float64), dim=1)
    ids = torch.stack([torch.randperm(19, generator=rng)[:width] + 1 for _ in range(3)])
    scores = torch.randn(3, width, generator=rng, dtype=torch.float64).sort(1, descending=True).values
    for row, real in enumerate((width, width // 2, 0)):
        ids[row, real:], scores[row, real:] = 0, -torch.inf
    found, values = dpp(ids, scores, vectors, k, diversity)
    assert found.shape == values.shape == (3, min(k, width))
    for row in range(3):
        expected = slow_dpp(ids[row].tolist(), scores[row].tolist(), vectors, k, diversity)
        n = len(expected)
        assert found[row, :n].tolist() == [i for i, _ in expected]
        assert values[row, :n].tolist() == [s for _, s in expected]
        assert not found[row, n:].any()
        assert (values[row, n:] == -torch.inf).all()


def test_items_that_the_chosen_ones_say_all_of_come_last_and_in_their_order():
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ids, scores = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    assert dpp(ids, scores, vectors, 4, 0.01)[0].tolist() == [[1, 4, 2, 3]]
    assert dpp(ids, scores, vectors, 4, 1.0)[0].tolist() == [[1, 4, 2, 3]]


def test_dpp_stays_exact_where_an_exponential_of_relevance_would_overflow():
    rng = torch.Generator().manual_seed(2)
    vectors = F.normalize(torch.randn(60, 40, generator=rng), dim=1)
    ids, scores = torch.arange(1, 60)[None], torch.randn(1, 59, generator=rng).sort(1, descending=True).values
    assert dpp(ids, scores, vectors, 5, 1e-6)[0].tolist() == ids[:, :5].tolist()


def test_similarities_of_a_models_own_diversify_too():
    """EASE compares items by its weights, which are no inner products of unit vectors: nothing breaks."""
    rec = fitted("ease")
    some = rec.recommend(users=["u0001", "u0002"], k=9, diversity=0.8, diversity_by="dpp")
    other = rec.recommend(users=["u0001", "u0002"], k=9, diversity=0.8)
    assert some.height == 18
    assert some["item_id"].to_list() != other["item_id"].to_list()
