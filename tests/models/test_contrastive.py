"""Losses of two towers against slow loops, and the logQ correction against the softmax over the whole catalogue."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suisen.models import contrastive
from suisen.models.contrastive import Frequency, info_nce, pool_softmax, triplet


def draws(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def weighted(losses: list[float], weights: torch.Tensor | None) -> float:
    w = [1.0] * len(losses) if weights is None else weights[:, 0].tolist()
    return sum(a * b for a, b in zip(losses, w, strict=True)) / sum(w)


# -- in-batch softmax ------------------------------------------------------------------------------------------------

W = torch.tensor([[1.0], [2.0], [0.5], [1.0]])


@pytest.mark.parametrize("log_q", [None, torch.tensor([-1.0, -2.0, -0.5, -1.0])])
@pytest.mark.parametrize("weights", [None, W])
def test_info_nce_is_its_loop(log_q, weights):
    logits, ids = draws(4, 4), torch.tensor([3, 7, 1, 3])  # rows 0 and 3 took the same item
    losses = []
    for row in range(4):
        mass = math.exp(logits[row, row])
        for column in range(4):
            if ids[column] != ids[row]:
                mass += math.exp(logits[row, column]) / (1 if log_q is None else 3 * math.exp(log_q[column]))
        losses.append(-math.log(math.exp(logits[row, row]) / mass))
    assert float(info_nce(logits, log_q, ids, weights)) == pytest.approx(weighted(losses, weights), rel=1e-5)


def test_accidental_hits_get_no_gradient():
    logits = draws(4, 4, dtype=torch.float32).requires_grad_()
    info_nce(logits, None, torch.tensor([3, 7, 1, 3])).backward()
    assert logits.grad[0, 3] == logits.grad[3, 0] == 0
    assert (logits.grad[[0, 0, 1, 1], [1, 2, 0, 3]] != 0).all()


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("weights", [None, W])
def test_pool_softmax_of_a_batch_is_info_nce(corrected, weights):
    query, table, ids = draws(4, 3).float(), draws(9, 3, seed=1).float(), torch.tensor([3, 7, 1, 3])
    log_q = draws(9, seed=2).float() - 2
    wanted = info_nce(query @ table[ids].T, log_q[ids] if corrected else None, ids, weights)
    pool, where, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    bias = counts.log() - (log_q[pool] + math.log(3) if corrected else 0)
    torch.testing.assert_close(pool_softmax(query, table[pool], bias, where, None, weights), wanted)


# -- softmax over a pool ---------------------------------------------------------------------------------------------


def slow_pool(query, items, bias, where, row, weights, hard=None):
    losses = []
    for b, p in enumerate(where.tolist()):
        scores = items @ query[row[b]]
        own = [] if hard is None else hard[b]
        terms = [scores[p], *(scores[j] + bias[j] for j in range(len(items)) if j != p), *own]
        losses.append(torch.stack(terms).logsumexp(0) - scores[p])
    w = torch.ones(len(losses), dtype=query.dtype) if weights is None else weights[:, 0]
    return (torch.stack(losses) * w).sum() / w.sum()


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 12)),
    seed=st.integers(0, 1000),
    absent=st.booleans(),
    hards=st.sampled_from([None, 0, 1, 3]),
    cells=st.sampled_from([1, 7, 2**19]),
)
def test_pool_softmax_and_its_gradients_are_those_of_the_loop(shape, seed, absent, hards, cells):
    queries, columns, examples = shape
    rng = torch.Generator().manual_seed(seed)
    query, items = draws(queries, 3, seed=seed).requires_grad_(), draws(columns, 3, seed=seed + 1).requires_grad_()
    bias = draws(columns, seed=seed + 2)
    if absent:
        bias[0] = -torch.inf  # in the pool as a positive alone
    where = torch.randint(columns, (examples,), generator=rng)
    row = torch.randint(queries, (examples,), generator=rng)
    weights = torch.rand((examples, 1), generator=rng, dtype=torch.float64) + 0.1
    hard = None if hards is None else draws(examples, hards, seed=seed + 3).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive, "LOGITS_PER_CHUNK", cells)
        ours = pool_softmax(query, items, bias, where, row, weights, hard)
    wanted = slow_pool(query, items, bias, where, row, weights, hard)
    torch.testing.assert_close(ours, wanted)
    learnt = (query, items, hard) if hards else (query, items)
    found = torch.autograd.grad(3 * ours, learnt)
    for a, b in zip(found, torch.autograd.grad(3 * wanted, learnt), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-7)


def test_pool_softmax_passes_gradcheck():
    query, items = draws(3, 4).requires_grad_(), draws(5, 4, seed=1).requires_grad_()
    bias, where, row = draws(5, seed=2), torch.tensor([0, 4, 2, 2, 1]), torch.tensor([2, 0, 0, 1, 2])
    hard = draws(5, 2, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda q, v: pool_softmax(q, v, bias, where, row), (query, items))
    given = (query, items, hard)
    assert torch.autograd.gradcheck(lambda q, v, h: pool_softmax(q, v, bias, where, row, hard=h), given)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("heavy", [0.0, 6.0])
@pytest.mark.parametrize("peak", [None, -300.0, 0.0, 300.0])
def test_float32_is_close_to_float64_whatever_dominates(scale, heavy, peak):
    """The own item's draws are subtracted from the sum: where they are nearly all of it, little may be lost."""
    query, items = draws(6, 3) * scale, draws(4, 3, seed=1)
    where, bias = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([heavy, 0.0, 0.0, -3.0], dtype=torch.float64)
    row = torch.tensor([0, 1, 2, 3, 4, 5])
    hard = None if peak is None else draws(6, 2, seed=2) + peak
    exact = slow_pool(query, items, bias, where, row, None, hard)
    single = query.float().requires_grad_()
    ours = pool_softmax(single, items.float(), bias.float(), where, row, hard=None if hard is None else hard.float())
    assert float(ours.detach()) == pytest.approx(float(exact), rel=1e-4, abs=1e-5)
    ours.backward()
    assert single.grad.isfinite().all()


def test_pool_of_one_item_teaches_nothing():
    query, items = draws(2, 3).requires_grad_(), draws(1, 3, seed=1).requires_grad_()
    loss = pool_softmax(query, items, torch.tensor([2.0], dtype=torch.float64), torch.tensor([0, 0]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert not query.grad.abs().max() > 1e-12


def test_half_precision_is_near():
    query, items = draws(50, 16).float(), draws(30, 16, seed=1).float()
    bias, where = draws(30, seed=2).float(), torch.arange(50) % 30
    with torch.autocast("cpu", torch.bfloat16):
        half = pool_softmax(query, items, bias, where)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, pool_softmax(query, items, bias, where), rtol=0.02, atol=0.02)


# -- triplets --------------------------------------------------------------------------------------------------------


def slow_triplet(query, items, where, margin, row, weights, hard=None) -> float:
    losses = []
    for b, p in enumerate(where.tolist()):
        scores = (items @ query[row[b]]).tolist()
        others = [s for j, s in enumerate(scores) if j != p]
        below = [s for s in others if s < scores[p]]
        wrong = [max(below) if below else min(others), *([] if hard is None else hard[b].tolist())]
        losses.append(sum(max(0.0, margin - scores[p] + score) for score in wrong) / len(wrong))
    return weighted(losses, weights)


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(2, 6), st.integers(1, 10)),
    seed=st.integers(0, 1000),
    hards=st.sampled_from([None, 0, 2]),
    cells=st.sampled_from([1, 2**19]),
)
def test_triplet_is_its_loop(shape, seed, hards, cells):
    queries, columns, examples = shape
    rng = torch.Generator().manual_seed(seed)
    query, items = draws(queries, 3, seed=seed), draws(columns, 3, seed=seed + 1)
    where = torch.randint(columns, (examples,), generator=rng)
    row = torch.randint(queries, (examples,), generator=rng)
    weights = torch.rand((examples, 1), generator=rng) + 0.1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive, "LOGITS_PER_CHUNK", cells)
        hard = None if hards is None else draws(examples, hards, seed=seed + 3)
        ours = float(triplet(query, items, where, 0.5, row, weights, hard))
    assert ours == pytest.approx(slow_triplet(query, items, where, 0.5, row, weights, hard), rel=1e-5, abs=1e-7)


def test_triplet_pulls_the_positive_up_and_its_negative_down():
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    items = torch.tensor([[0.5, 0.0], [0.45, 0.0], [0.9, 0.0], [0.1, 0.0]], requires_grad=True)
    loss = triplet(query, items, torch.tensor([0]), 0.2)  # 0.9 is harder than semi-hard
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.15)
    assert items.grad[:, 0].tolist() == [-1, 1, 0, 0]


def test_triplet_without_another_item_teaches_nothing():
    query = draws(3, 2).requires_grad_()
    loss = triplet(query, draws(1, 2), torch.tensor([0, 0, 0]), 0.2)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not query.grad.any()


# -- frequencies from the stream -------------------------------------------------------------------------------------


class SlowFrequency:
    """Algorithm 2 of Yi et al. 2019 with dicts in place of hashes, its rate 1/n for the first comings."""

    def __init__(self, rate: float) -> None:
        self.rate, self.step, self.last, self.gap, self.times = rate, 0, {}, {}, {}

    def __call__(self, ids: list[int]) -> list[float]:
        self.step += 1
        for i in ids:
            self.times[i] = self.times.get(i, 0) + 1
            rate = max(self.rate, 1 / self.times[i])
            self.gap[i] = (1 - rate) * self.gap.get(i, 0.0) + rate * (self.step - self.last.get(i, 0))
            self.last[i] = self.step
        return [-math.log(self.gap[i]) for i in ids]


def test_frequency_is_the_papers_algorithm():
    rng, fast, slow = torch.Generator().manual_seed(0), Frequency(2**14, rate=0.1), SlowFrequency(0.1)
    share = torch.linspace(0.02, 0.9, 40)
    for _ in range(100):
        ids = (torch.rand(40, generator=rng) < share).nonzero().squeeze(1) * 1000 + 7
        torch.testing.assert_close(fast(ids), torch.tensor(slow(ids.tolist())), rtol=1e-4, atol=1e-5)


def test_frequency_finds_the_shares_and_follows_them():
    rng, frequency = torch.Generator().manual_seed(0), Frequency(256, rate=0.05)
    share = torch.tensor([1.0, 0.5, 0.1, 0.02])
    found = torch.zeros(4)
    for step in range(6000):
        if step == 3000:
            share = share.flip(0)
        ids = (torch.rand(4, generator=rng) < share).nonzero().squeeze(1)
        found[ids] = frequency(ids).exp()
        if step in (2999, 5999):
            torch.testing.assert_close(found, share, rtol=0.5, atol=0.002)


def test_of_several_hashes_the_least_crowded_counts():
    crowded, roomy = Frequency(4, hashes=1), Frequency(4, hashes=3)
    for step in range(200):
        rare = torch.tensor([5]) if step % 50 == 49 else torch.tensor([], dtype=torch.int64)
        ids = torch.cat([torch.arange(20, 22), rare])
        one, three = crowded(ids), roomy(ids)
    assert (three <= one + 1e-6).all()


def test_frequency_is_no_part_of_the_weights():
    assert not Frequency(8).state_dict()
    with pytest.raises(ValueError, match="buckets = 6 must be a power of 2"):
        Frequency(6)
