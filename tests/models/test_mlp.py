"""MLP against the plain net over concatenated vectors; what its second stage starts from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from suisen.data.batch import Batch, Candidates, Contexts, Schema
from suisen.errors import InputError
from suisen.models import MLP
from suisen.training.trainer import fit
from tests.helpers import make_data
from tests.models.toys import bound, checkerboard

PAIR = ("retrieval_score", "retrieval_rank")


def net_of(l2: float = 0.0, pair=PAIR, dropout: float = 0.0):
    torch.manual_seed(0)
    data = checkerboard()
    schema = Schema(data.schema.n_users, data.schema.n_items, pair=pair)
    net = bound(MLP(dim=3, hidden=(6, 4), l2=l2, dropout=dropout).build(schema), data)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.5)
    with torch.no_grad():
        net.user.weight[0], net.item.weight[0] = 0, 0
    return net.double()


def question(pair=PAIR):
    rng = torch.Generator().manual_seed(1)
    items = torch.randint(1, 25, (5, 4), generator=rng)
    features = torch.randn((5, 4, len(pair)), generator=rng).double() if pair else None
    return Contexts.of_users(torch.tensor([1, 2, 1, 24, 0])), Candidates(items, features)


def slow_logits(net, contexts, candidates) -> torch.Tensor:
    """Equation 10 of the paper, one pair after the other, its first layer uncut."""
    deep = net.deep
    first = torch.cat([deep.from_context, deep.from_item, deep.from_pair], 1)
    out = []
    for user, row, extra in zip(contexts.user, candidates.items, candidates.pair):
        for item, features in zip(row, extra):
            z = torch.cat([net.user.weight[user], net.item.weight[item], features])
            z = torch.relu(first @ z + deep.bias)
            for layer in deep.upper:
                z = torch.relu(layer.weight @ z + layer.bias)
            out.append(net.out.weight[0] @ z + net.out.bias[0] + net.pair @ features)
    return torch.stack(out).view(candidates.items.shape)


def test_score_is_the_plain_net():
    net = net_of()
    contexts, candidates = question()
    torch.testing.assert_close(net.score(contexts, candidates), slow_logits(net, contexts, candidates))


@pytest.mark.parametrize("l2", [0.0, 0.2])
def test_gradients_are_those_of_the_plain_net(l2):
    net = net_of(l2)
    contexts, candidates = question()
    labels = torch.zeros(candidates.items.shape).double()
    labels[:, 0] = 1
    parts = dict(net.named_parameters())
    value = net(Batch(contexts, candidates, labels))
    squares = net.user.weight[contexts.user].square().sum(1).mean() + (
        net.item.weight[candidates.items].square().sum(2).mean()
    )
    logits = slow_logits(net, contexts, candidates)  # with pair features: the lists of a first stage
    wanted = -logits.log_softmax(1)[:, 0].mean() + l2 * squares
    torch.testing.assert_close(value, wanted)
    assert list(parts)[:3] == ["pair", "user.weight", "item.weight"]
    ours, theirs = (torch.autograd.grad(one, list(parts.values())) for one in (value, wanted))
    for name, a, b in zip(parts, ours, theirs, strict=True):
        trained = slice(int(name in ("user.weight", "item.weight")), None)  # row 0 pads
        torch.testing.assert_close(a[trained], b[trained], msg=name)
    for row in (ours[1][0], ours[2][0]):
        assert not row.any()


def test_without_pair_features_the_loss_is_the_papers():
    net = net_of(pair=())
    contexts, candidates = question(())
    labels = torch.zeros(candidates.items.shape).double()
    labels[:, 0] = 1
    yes = torch.sigmoid(net.score(contexts, candidates))
    wanted = -(labels * yes.log() + (1 - labels) * (1 - yes).log()).mean()
    torch.testing.assert_close(net(Batch(contexts, candidates, labels)), wanted)


def test_a_second_stage_starts_from_the_order_of_the_first():
    schema = Schema(3, 40, pair=("retrieval_rank", "retrieval_score"))
    net = bound(MLP(dim=4, hidden=(8,)).build(schema), checkerboard()).eval()
    pair = torch.zeros(1, 30, 2)
    pair[0, :, 1] = torch.linspace(2, -2, 30)
    with torch.no_grad():
        scores = net.score(Contexts.of_users(torch.tensor([1])), Candidates(torch.ones(1, 30, dtype=torch.int64), pair))
    assert torch.equal(scores[0].argsort(descending=True), torch.arange(30))


def test_dropout_in_training_alone():
    net = net_of(dropout=0.5)
    contexts, candidates = question()
    torch.testing.assert_close(net.eval().score(contexts, candidates), slow_logits(net, contexts, candidates))
    noisy = [net.train().score(contexts, candidates) for _ in range(2)]
    assert not torch.equal(*noisy)


def test_guests_alone_teach_nothing_and_that_is_said():
    data = make_data(user=[None, None], item=[1, 2], session=["s", "t"])
    with pytest.raises(InputError, match="no event of a known user to learn from"):
        fit(MLP(epochs=1), data)
