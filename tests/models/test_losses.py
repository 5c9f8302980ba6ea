"""Losses against slow loops, their gradients against autograd's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from suisen.models.losses import (
    bpr,
    full_softmax,
    lambda_lists,
    logistic,
    logistic_pairs,
    of_rows,
    softmax_lists,
)


def draws(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def weighted(losses: list[float], weights: list[float]) -> float:
    return sum(a * b for a, b in zip(losses, weights, strict=True)) / sum(weights)


W = torch.tensor([[1.0], [0.5], [2.0]])
"""Weights of three examples."""


@pytest.mark.parametrize("weights", [None, W])
def test_logistic_pairs_is_its_loop(weights):
    positive, negative = draws(3, 1), draws(3, 4, seed=1)
    losses = [
        -(math.log(sigmoid(float(p))) + sum(math.log(1 - sigmoid(float(n))) for n in row)) / 5
        for p, row in zip(positive[:, 0], negative)
    ]
    wanted = weighted(losses, [1.0] * 3 if weights is None else weights[:, 0].tolist())
    assert float(logistic_pairs(positive, negative, weights)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("weights", [None, W])
def test_bpr_is_its_loop(weights):
    positive, negative = draws(3, 1), draws(3, 4, seed=1)
    losses = [-sum(math.log(sigmoid(float(p - n))) for n in row) / 4 for p, row in zip(positive[:, 0], negative)]
    wanted = weighted(losses, [1.0] * 3 if weights is None else weights[:, 0].tolist())
    assert float(bpr(positive, negative, weights)) == pytest.approx(wanted, rel=1e-5)


def test_logistic_is_its_loop():
    scores, labels = draws(2, 3), torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    weights = torch.tensor([[1.0, 2, 0], [1, 0.5, 1]])
    pairs = list(zip(scores.flatten().tolist(), labels.flatten().tolist()))
    losses = [-math.log(sigmoid(s) if y else 1 - sigmoid(s)) for s, y in pairs]
    assert float(logistic(scores, labels)) == pytest.approx(sum(losses) / 6, rel=1e-5)
    assert float(logistic(scores, labels, weights)) == pytest.approx(weighted(losses, weights.flatten().tolist()), 1e-5)
    assert float(logistic(scores, labels, torch.zeros(2, 3))) == 0.0


def slow_lists(scores, labels, weights) -> float:
    losses, masses = [], []
    for s, y, w in zip(scores.tolist(), labels.tolist(), weights.tolist()):
        total = sum(math.exp(a) for a, b in zip(s, w) if b > 0)
        taken = [(a, b) for a, hit, b in zip(s, y, w) if hit and b > 0]
        if taken:
            mass = sum(b for _, b in taken)
            losses.append(-sum(b * math.log(math.exp(a) / total) for a, b in taken) / mass)
            masses.append(mass / len(taken))
    return weighted(losses, masses) if losses else 0.0


@given(
    labels=st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=3, max_size=3),
    weights=st.lists(st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=4, max_size=4), min_size=3, max_size=3),
)
def test_softmax_of_lists_is_its_loop(labels, weights):
    scores = draws(3, 4).float().requires_grad_()
    y, w = torch.tensor(labels).float(), torch.tensor(weights)
    loss = softmax_lists(scores, y, w)
    assert float(loss.detach()) == pytest.approx(slow_lists(scores.detach(), y, w), rel=1e-4, abs=1e-6)
    loss.backward()
    assert scores.grad.isfinite().all()  # also where a list holds nothing
    assert not scores.grad[w == 0].any()


def ndcg(order: list[int], gains: list[float]) -> float:
    """Of candidates in this order."""
    best = sum(gain / math.log2(2 + place) for place, gain in enumerate(sorted(gains, reverse=True)))
    return sum(gains[one] / math.log2(2 + place) for place, one in enumerate(order)) / best


def slow_lambdas(scores: list[float], labels: list[float]) -> tuple[float, list[float]]:
    """One list's loss and its gradient (Burges 2010, eq. 3 times |ΔNDCG|): each two candidates are really swapped."""
    gains = [2**label - 1 for label in labels]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    loss, slopes = 0.0, [0.0] * len(scores)
    for i in range(len(scores)):
        for j in range(len(scores)):
            if labels[i] > labels[j]:
                swapped = [{i: j, j: i}.get(one, one) for one in order]
                delta = abs(ndcg(order, gains) - ndcg(swapped, gains))
                loss += delta * math.log(1 + math.exp(scores[j] - scores[i]))
                slope = delta / (1 + math.exp(scores[i] - scores[j]))
                slopes[i] -= slope
                slopes[j] += slope
    return loss, slopes


def threes(numbers):
    """Three lists of five."""
    return st.lists(st.lists(numbers, min_size=5, max_size=5), min_size=3, max_size=3)


@given(
    labels=threes(st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0])),
    weights=threes(st.sampled_from([0.0, 1.0, 1.0, 3.0])),
    scale=st.sampled_from([0.1, 1.0, 20.0]),
)
def test_lambdas_are_those_of_swapped_lists(labels, weights, scale):
    scores = (scale * draws(3, 5)).float().requires_grad_()
    y, w = torch.tensor(labels), torch.tensor(weights)
    loss = lambda_lists(scores, y, w)
    loss.backward()
    total, slopes, mass = 0.0, torch.zeros(3, 5), 0.0
    for b in range(3):
        kept = [c for c in range(5) if weights[b][c] > 0]
        taken = [weights[b][c] for c in kept if labels[b][c] > 0]
        if taken:
            share = sum(taken) / len(taken)
            one, gradient = slow_lambdas([float(scores[b, c].detach()) for c in kept], [labels[b][c] for c in kept])
            total, mass = total + share * one, mass + share
            slopes[b, kept] = share * torch.tensor(gradient)
    mass = max(mass, 1e-12)
    assert float(loss.detach()) == pytest.approx(total / mass, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(scores.grad, slopes / mass, rtol=1e-4, atol=1e-6)


def test_lambdas_without_weights_and_lists_of_nothing():
    scores, labels = draws(4, 6).float(), (torch.arange(24).view(4, 6) % 4 == 0).float()
    torch.testing.assert_close(lambda_lists(scores, labels), lambda_lists(scores, labels, torch.ones(4, 6)))
    nothing = scores.clone().requires_grad_()
    for y, w in ((torch.zeros(4, 6), None), (labels, torch.zeros(4, 6)), (torch.ones(4, 6), None)):
        loss = lambda_lists(nothing, y, w)
        loss.backward()
        assert float(loss.detach()) == 0.0
        assert not nothing.grad.any()


def test_lambdas_pass_gradcheck_where_the_order_stands():
    """Finite differences: swapping is worth the same as long as no two scores change places."""
    scores = torch.tensor([[0.5, -1.0, 2.0, 0.1], [3.0, 1.0, -2.0, 0.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 1.0, 0.0]])
    moving = scores.clone().requires_grad_()
    lambda_lists(moving, labels).backward()
    step = 1e-2  # the loss is computed in float32
    for b in range(2):
        for c in range(4):
            ends = []
            for sign in (1, -1):
                moved = scores.clone()
                moved[b, c] += sign * step
                ends.append(float(lambda_lists(moved, labels)))
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(moving.grad[b, c]), abs=2e-4)


def test_rows_of_one_are_logistic_and_lists_are_what_is_asked_for():
    scores, labels = draws(4, 3), torch.eye(4)[:, :3]
    for lists in ("softmax", "logistic", "lambda"):
        assert torch.equal(of_rows(scores[:, :1], labels[:, :1], None, lists), logistic(scores[:, :1], labels[:, :1]))
    assert torch.equal(of_rows(scores, labels), softmax_lists(scores, labels))
    assert torch.equal(of_rows(scores, labels, None, "logistic"), logistic(scores, labels))
    assert torch.equal(of_rows(scores, labels, None, "lambda"), lambda_lists(scores, labels))


# -- full softmax ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_full_softmax_is_cross_entropy_over_the_items(chunk):
    hidden, table = draws(7, 5).requires_grad_(), draws(6, 5, seed=1).requires_grad_()
    targets = torch.tensor([1, 5, 3, 3, 2, 4, 1])
    ours = full_softmax(hidden, table, targets, chunk)
    plain = F.cross_entropy(hidden @ table[1:].T, targets - 1)
    torch.testing.assert_close(ours, plain)
    for a, b in zip(torch.autograd.grad(3 * ours, (hidden, table)), torch.autograd.grad(3 * plain, (hidden, table))):
        torch.testing.assert_close(a, b)
        assert a.shape == b.shape


def test_full_softmax_passes_gradcheck():
    hidden, table = draws(4, 3).requires_grad_(), draws(5, 3, seed=1).requires_grad_()
    targets = torch.tensor([1, 4, 2, 2])
    assert torch.autograd.gradcheck(lambda h, t: full_softmax(h, t, targets, 3), (hidden, table))


def test_full_softmax_survives_large_logits():
    hidden = torch.full((2, 1), 300.0, requires_grad=True)
    table = torch.tensor([[0.0], [1.0], [-1.0]])
    loss = full_softmax(hidden, table, torch.tensor([1, 1]))
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert hidden.grad.isfinite().all()


def test_row_zero_of_the_table_is_no_item():
    table = draws(5, 3, dtype=torch.float32).requires_grad_()
    full_softmax(draws(4, 3, seed=2, dtype=torch.float32), table, torch.tensor([1, 2, 3, 4])).backward()
    assert not table.grad[0].any()


def test_full_softmax_learns_the_bias():
    hidden, table, bias = draws(7, 5).requires_grad_(), draws(6, 5, seed=1).requires_grad_(), draws(6, seed=2)
    targets, bias = torch.tensor([1, 5, 3, 3, 2, 4, 1]), bias.requires_grad_()
    ours = full_softmax(hidden, table, targets, 3, bias)
    plain = F.cross_entropy(hidden @ table[1:].T + bias[1:], targets - 1)
    torch.testing.assert_close(ours, plain)
    parts = (hidden, table, bias)
    for a, b in zip(torch.autograd.grad(3 * ours, parts), torch.autograd.grad(3 * plain, parts)):
        torch.testing.assert_close(a, b)


def test_full_softmax_in_half_precision_is_near():
    """bfloat16 keeps 8 bits: a product is off by up to 2⁻⁸ of its size, the sums over rows by less."""
    hidden, table = draws(300, 16, dtype=torch.float32).requires_grad_(), draws(50, 16, seed=1, dtype=torch.float32)
    table = (table * 0.3).requires_grad_()
    targets = torch.randint(1, 50, (300,), generator=torch.Generator().manual_seed(3))
    exact = full_softmax(hidden, table, targets, 64)
    with torch.autocast("cpu", torch.bfloat16):
        half = full_softmax(hidden, table, targets, 64)
    assert half.dtype == torch.float32
    assert half != exact
    torch.testing.assert_close(half, exact, rtol=2e-3, atol=0)
    for a, b in zip(torch.autograd.grad(half, (hidden, table)), torch.autograd.grad(exact, (hidden, table))):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 2**-7
