"""MF: loss and gradient against a double loop written by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from suisen.data.batch import Batch, Candidates, Contexts, Schema
from suisen.models import MF, TwoTower
from suisen.training.trainer import fit
from tests.helpers import make_data

USERS, TAKEN = [1, 2, 1], [3, 1, 2]
NEGATIVES = [[1, 4], [2, 2], [4, 3]]
WEIGHTS = [1.0, 0.5, 2.0]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def net_of(loss: str, l2: float):
    torch.manual_seed(0)
    net = MF(dim=3, loss=loss, l2=l2, init=1.0).build(Schema(3, 5)).double()
    torch.nn.init.normal_(net.bias)
    return net


def batch_of(weights=None, labels=None) -> Batch:
    items = torch.tensor(TAKEN)[:, None]
    batch = Batch(Contexts.of_users(torch.tensor(USERS)), Candidates(items), negatives=torch.tensor(NEGATIVES))
    if labels is not None:
        batch = replace(batch, negatives=None, labels=torch.tensor(labels).double()[:, None])
    return batch if weights is None else replace(batch, weights=torch.tensor(weights).double()[:, None])


def by_hand(net, loss: str, l2: float, weights):
    """Loss, and gradients of the user table, the item table and the biases, one pair after the other."""
    p, q, b = net.user.weight.detach(), net.item.weight.detach(), net.bias.detach()
    grads = {name: torch.zeros_like(value) for name, value in (("p", p), ("q", q), ("b", b))}
    total, rows, mass = 0.0, len(USERS), sum(weights)
    for user, taken, negatives, weight in zip(USERS, TAKEN, NEGATIVES, weights, strict=True):
        share = weight / mass
        scores = {k: float(p[user] @ q[i] + b[i]) for k, i in enumerate([taken, *negatives])}
        if loss == "logistic":
            slopes = {0: (sigmoid(scores[0]) - 1) / 3, **{k: sigmoid(scores[k]) / 3 for k in (1, 2)}}
            total -= share * (math.log(sigmoid(scores[0])) + sum(math.log(1 - sigmoid(scores[k])) for k in (1, 2))) / 3
        else:
            falls = {k: sigmoid(scores[k] - scores[0]) / 2 for k in (1, 2)}
            slopes = {0: -sum(falls.values()), **falls}
            total -= share * sum(math.log(sigmoid(scores[0] - scores[k])) for k in (1, 2)) / 2
        for k, item in enumerate([taken, *negatives]):
            grads["p"][user] += share * slopes[k] * q[item]
            grads["q"][item] += share * slopes[k] * p[user]
            grads["b"][item] += share * slopes[k]
            total += l2 * float(q[item] @ q[item]) / (3 * rows)
            grads["q"][item] += 2 * l2 * q[item] / (3 * rows)
        total += l2 * float(p[user] @ p[user]) / rows
        grads["p"][user] += 2 * l2 * p[user] / rows
    return total, grads


@pytest.mark.parametrize("loss", ["logistic", "bpr"])
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_loss_and_gradient_are_the_double_loop(loss, l2, weights):
    net = net_of(loss, l2)
    value = net(batch_of(weights))
    value.backward()
    total, grads = by_hand(net, loss, l2, weights or [1.0] * 3)
    assert float(value.detach()) == pytest.approx(total, rel=1e-6)
    torch.testing.assert_close(net.user.weight.grad, grads["p"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(net.item.weight.grad, grads["q"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(net.bias.grad, grads["b"], rtol=1e-5, atol=1e-7)


def test_labelled_pairs_are_read_as_they_are():
    net = net_of("logistic", 0.0)
    p, q, b = net.user.weight.detach(), net.item.weight.detach(), net.bias.detach()
    scores = [float(p[u] @ q[i] + b[i]) for u, i in zip(USERS, TAKEN, strict=True)]
    wanted = -sum(math.log(sigmoid(s) if y else 1 - sigmoid(s)) for s, y in zip(scores, (1, 0, 1), strict=True)) / 3
    assert float(net(batch_of(labels=[1, 0, 1])).detach()) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("loss", ["logistic", "bpr"])
def test_a_click_log_is_learnt(loss):
    """Users of each side take their own items and refuse the others': what was refused ends below what was taken."""
    user = [u for u in range(8) for _ in range(4)]
    item = [i for _ in range(8) for i in range(4)]
    label = [int(u % 2 == i % 2) for u, i in zip(user, item, strict=True)]
    data = make_data(user=user, item=item, label=label)
    net, _ = fit(MF(dim=4, loss=loss, batch_size=8, learning_rate=0.05, epochs=40, negatives=2), data)
    scores = net.score_all(Contexts.of_users(data.user))
    own = scores.gather(1, data.events.item[:, None])[:, 0]
    positive = data.positive
    for u in range(1, 9):
        mine = data.user == u
        assert own[mine & positive].min() > own[mine & ~positive].max()


def test_losses_of_pairs_leave_refusals_aside():
    """A loss that cannot read a refusal must not take it for something taken."""
    data = make_data(user=["a", "a", "b"], item=[1, 2, 3], label=[1, 0, 1])
    for model, labelled in ((MF(), True), (MF(loss="bpr"), False), (TwoTower(), False)):
        (batch,) = model.view.open(data).batches(torch.Generator())
        assert (batch.labels is not None) == labelled
        assert len(batch) == (3 if labelled else 2)


def test_the_bias_is_a_dimension_of_the_item():
    net = net_of("logistic", 0.0)
    contexts = Contexts.of_users(torch.tensor([1, 2]))
    wanted = net.user(contexts.user) @ net.item.weight.T + net.bias
    torch.testing.assert_close(net.score_all(contexts), wanted)
