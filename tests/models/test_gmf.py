"""GMF against the paper's double loop; the loss, its gradient and the penalty by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from suisen.data.batch import Batch, Candidates, Contexts, Schema
from suisen.errors import InputError
from suisen.models import GMF
from suisen.models.gmf import loss_of
from suisen.training.trainer import fit
from tests.helpers import make_data

USERS = [1, 2, 1]
ITEMS = [[3, 1, 4], [1, 2, 2], [2, 4, 3]]
LABELS = [[1.0, 0, 0], [1, 0, 0], [0, 1, 0]]
WEIGHTS = [[1.0, 1, 0], [0.5, 0.5, 0.5], [2, 0, 3]]


def net_of(l2: float = 0.0):
    torch.manual_seed(0)
    net = GMF(dim=3, l2=l2).build(Schema(3, 5)).double()
    for weight in (net.user.weight, net.item.weight, net.h, net.bias):
        torch.nn.init.normal_(weight)
    with torch.no_grad():
        net.user.weight[0], net.item.weight[0] = 0, 0
    return net


def batch_of(weights=None, pair=None) -> Batch:
    as_weights = None if weights is None else torch.tensor(weights).double()
    contexts = Contexts.of_users(torch.tensor(USERS))
    return Batch(contexts, Candidates(torch.tensor(ITEMS), pair), torch.tensor(LABELS).double(), as_weights)


def slow_score(net, user: int, item: int) -> float:
    """h · (p ∘ q), one dimension after the other."""
    total = 0.0
    for k in range(len(net.h)):
        total += float(net.h[k]) * float(net.user.weight[user, k]) * float(net.item.weight[item, k])
    return total


def by_hand(net, l2: float, weights) -> torch.Tensor:
    """Equation 7 of the paper, weighted, plus the penalty, pair after pair; differentiable."""
    losses, mass, squares, pairs = [], 0.0, [], 0
    for b, user in enumerate(USERS):
        for c, item in enumerate(ITEMS[b]):
            p, q = net.user.weight[user], net.item.weight[item]
            yes = torch.sigmoid((net.h * p * q).sum() + net.bias)
            losses.append(-weights[b][c] * torch.log(yes if LABELS[b][c] else 1 - yes))
            squares.append(p @ p + q @ q)
            mass, pairs = mass + weights[b][c], pairs + 1
    return sum(losses) / mass + l2 * sum(squares) / pairs


@torch.no_grad()
def test_score_is_the_double_loop_and_the_inner_product_of_its_vectors():
    net = net_of()
    contexts, items = Contexts.of_users(torch.tensor(USERS)), torch.tensor(ITEMS)
    wanted = torch.tensor([[slow_score(net, u, i) for i in row] for u, row in zip(USERS, ITEMS)], dtype=torch.float64)
    products = net.query_vectors(contexts) @ net.item_vectors().T
    torch.testing.assert_close(net.score(contexts, Candidates(items)), wanted)
    torch.testing.assert_close(products.gather(1, items), wanted)
    torch.testing.assert_close(net.logits(contexts.user, items), wanted + net.bias)


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_loss_and_gradient_are_the_papers(l2, weights):
    net = net_of(l2)
    parts = list(net.parameters())
    value, wanted = net(batch_of(weights)), by_hand(net, l2, weights or [[1.0] * 3] * 3)
    assert float(value.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)  # the loss is computed in float32
    for ours, theirs in zip(torch.autograd.grad(value, parts), torch.autograd.grad(wanted, parts), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_lists_of_a_first_stage_are_learnt_listwise():
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.0, 0.0], [1.0, 3.0, 2.0]])
    batch = batch_of(pair=torch.zeros(3, 3, 1))
    lists = [-math.log(math.exp(row[k]) / sum(map(math.exp, row))) for row, k in zip(logits.tolist(), (0, 0, 1))]
    assert float(loss_of(logits, batch)) == pytest.approx(sum(lists) / 3, rel=1e-6)
    plain = replace(batch, candidates=Candidates(batch.candidates.items))
    pairs = [
        -math.log(1 / (1 + math.exp(-x if yes else x)))
        for row, labels in zip(logits.tolist(), LABELS)
        for x, yes in zip(row, labels)
    ]
    assert float(loss_of(logits, plain)) == pytest.approx(sum(pairs) / 9, rel=1e-6)


def test_a_click_log_is_learnt():
    user = [u for u in range(8) for _ in range(4)]
    item = [i for _ in range(8) for i in range(4)]
    label = [int(u % 2 == i % 2) for u, i in zip(user, item)]
    data = make_data(user=user, item=item, label=label)
    net, _ = fit(GMF(dim=4, batch_size=8, learning_rate=0.05, epochs=40), data)
    with torch.no_grad():
        scores = net.score_all(Contexts.of_users(data.user)).gather(1, data.events.item[:, None])[:, 0]
    assert scores[data.positive].min() > scores[~data.positive].max()


def test_guests_alone_teach_nothing_and_that_is_said():
    data = make_data(user=[None, None], item=[1, 2], session=["s", "t"])
    with pytest.raises(InputError, match="no event of a known user to learn from"):
        fit(GMF(epochs=1), data)
