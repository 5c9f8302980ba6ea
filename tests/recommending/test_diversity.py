"""MMR against its definition."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from suisen.recommending import diversity as module
from suisen.recommending.diversity import mmr


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
