"""SASRec: causal, indifferent to padding, and its loss against a network written position by position."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.models import SASRec
from tests.helpers import make_data

ITEMS = 11
ROWS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 1], [2, 2, 2]]


def net_of(**hyper):
    torch.manual_seed(0)
    net = SASRec(**{"dim": 8, "heads": 2, "length": 6, "dropout": 0.0, "groups": 1, **hyper}).build(Schema(3, ITEMS))
    for weight in net.parameters():  # first weights are small: make every part count
        torch.nn.init.normal_(weight, std=0.3)
    with torch.no_grad():
        net.item.weight[0] = 0
    return net.eval()


def contexts_of(rows) -> Contexts:
    history = Ragged.of(rows)
    contexts = Contexts.of_users(torch.zeros(len(rows), dtype=torch.int64))
    return replace(contexts, history=history, history_time=torch.zeros_like(history.values))


def slow_states(net, past: list[int]) -> torch.Tensor:
    """(n, d) states of one history, written from the paper: one position, one head at a time."""
    model, n = net.model, len(past)
    x = torch.stack([
        net.item.weight[item] * math.sqrt(model.dim) + net.body.position.weight[model.length - n + t]
        for t, item in enumerate(past)
    ])  # fmt: skip
    wide = model.dim // model.heads
    for block in net.body.blocks:
        normed = F.layer_norm(x, (model.dim,), block.norm_attention.weight, block.norm_attention.bias, 1e-8)
        q, _, _ = (normed @ block.qkv.weight.T + block.qkv.bias).split(model.dim, 1)
        _, k, v = ((x if model.published else normed) @ block.qkv.weight.T + block.qkv.bias).split(model.dim, 1)
        out = torch.zeros_like(x)
        for head in range(model.heads):
            part = slice(head * wide, (head + 1) * wide)
            for t in range(n):
                products = torch.stack([q[t, part] @ k[s, part] / math.sqrt(wide) for s in range(t + 1)])
                out[t, part] = (products.softmax(0)[:, None] * v[: t + 1, part]).sum(0)
        x = (normed if model.published else x) + out @ block.out.weight.T + block.out.bias
        normed = F.layer_norm(x, (model.dim,), block.norm_forward.weight, block.norm_forward.bias, 1e-8)
        inner = (normed @ block.first.weight.T + block.first.bias).relu()
        x = (normed if model.published else x) + inner @ block.second.weight.T + block.second.bias
    return F.layer_norm(x, (model.dim,), net.body.norm.weight, net.body.norm.bias, 1e-8)


@torch.no_grad()
@pytest.mark.parametrize("published", [False, True])
def test_states_are_those_of_the_slow_network(published):
    net = net_of(published=published)
    states = net.states(Ragged.of(ROWS))
    for row, past in enumerate(ROWS):
        torch.testing.assert_close(states[row, : len(past)], slow_states(net, past), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_loss_is_the_slow_cross_entropy():
    net = net_of()
    losses = []
    for past in ROWS:
        for state, item in zip(slow_states(net, past[:-1]), past[1:], strict=True):
            losses.append(-(net.item.weight[1:] @ state).log_softmax(0)[item - 1])
    assert float(net(Batch(contexts_of(ROWS)))) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("published", [False, True])
def test_the_past_does_not_see_the_future(published):
    net = net_of(published=published)
    one, other = (net.states(Ragged.of([[1, 2, 3, *end]])) for end in ([4, 5], [9, 7]))
    assert torch.equal(one[:, :3], other[:, :3])
    assert not torch.equal(one[:, 3:], other[:, 3:])


@torch.no_grad()
def test_neighbours_and_padding_change_no_score():
    net = net_of()
    together = net.query_vectors(contexts_of(ROWS))
    for row, past in enumerate(ROWS):
        torch.testing.assert_close(net.query_vectors(contexts_of([past]))[0], together[row], rtol=1e-5, atol=1e-6)
    longer = net.query_vectors(contexts_of([*ROWS, [1, 2, 3, 4, 5, 6]]))
    torch.testing.assert_close(longer[: len(ROWS)], together, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_positions_count_from_the_end():
    net = net_of()
    before = net.query_vectors(contexts_of([[3, 4]]))
    net.body.position.weight[: net.model.length - 2] += 5  # positions that a history of two does not reach
    assert torch.equal(net.query_vectors(contexts_of([[3, 4]])), before)
    net.body.position.weight[-1] += torch.randn(8)
    assert not torch.allclose(net.query_vectors(contexts_of([[3, 4]])), before)


@torch.no_grad()
def test_long_histories_are_cut_and_empty_ones_are_zero():
    net = net_of()
    long = [1, 2, 3, 4, 5, 6, 7, 8]
    queries = net.query_vectors(contexts_of([long, [], long[-6:]]))
    assert torch.equal(queries[0], queries[2])
    assert not queries[1].any()
    assert not net.query_vectors(contexts_of([[], []])).any()


@pytest.mark.parametrize("groups", [2, 3, 9])
def test_groups_of_like_length_change_neither_loss_nor_gradients(groups):
    found = []
    for number in (1, groups):
        net = net_of(groups=number)
        loss = net(Batch(contexts_of(ROWS)))
        loss.backward()
        found.append((loss.detach(), *(weight.grad for weight in net.parameters())))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


SAMPLED = ["sampled", "bce", "gbce"]


def trained_net(**hyper):
    """A network that knows the counts of ROWS, so that it can draw."""
    net = net_of(**hyper)
    data = make_data(user=[u for u, row in enumerate(ROWS) for _ in row], item=[i for row in ROWS for i in row])
    assert data.schema.n_items == ITEMS
    net.prepare(data)
    return net


@torch.no_grad()
@pytest.mark.parametrize("loss", SAMPLED)
@pytest.mark.parametrize("per", ["auto", "position", "sequence", "batch"])
def test_sampled_losses_are_their_slow_definitions(loss, per):
    """The draws are the network's own, seen by a spy; all else is written position by position from the papers."""
    net = trained_net(loss=loss, negatives=3, negatives_per=per, calibration=0.6)
    seen = []
    scores = net.negatives.scores
    net.negatives.scores = lambda at, hidden, table, ids: (seen.append(ids), scores(at, hidden, table, ids))[1]
    torch.manual_seed(4)
    value = float(net(Batch(contexts_of(ROWS))))
    per = {"sampled": "batch", "bce": "position", "gbce": "sequence"}[loss] if per == "auto" else per
    ids, table, losses, place = seen[0].tolist(), net.item.weight, [], 0
    for row, past in enumerate(ROWS):
        for state, item in zip(slow_states(net, past[:-1]), past[1:], strict=True):
            mine = ids if per == "batch" else ids[place if per == "position" else row]
            losses.append(
                slow_loss(loss, float(state @ table[item]), [(n, float(state @ table[n])) for n in mine], item, past)
            )
            place += 1
    assert value == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def slow_loss(loss: str, positive: float, negatives: list[tuple[int, float]], item: int, past: list[int]) -> float:
    """One position; three negatives drawn uniformly from the ten items of train."""
    if loss == "sampled":
        others = sum(math.exp(s) * 10 / 3 for n, s in negatives if n != item)
        return -math.log(math.exp(positive) / (math.exp(positive) + others))
    share = 3 / 9
    beta = 1.0 if loss == "bce" else share * (0.6 * (1 - 1 / share) + 1 / share)
    refused = sum(math.log(1 - 1 / (1 + math.exp(-s))) for n, s in negatives if n not in past)
    return -(beta * math.log(1 / (1 + math.exp(-positive))) + refused) / 4


def test_usual_numbers_of_negatives():
    assert trained_net(loss="bce").negatives.count == 1
    assert trained_net(loss="gbce").negatives.count == 256
    assert trained_net().negatives is None


@torch.no_grad()
def test_all_items_as_negatives_are_nearly_the_full_softmax():
    batch = Batch(contexts_of(ROWS))
    full, many = net_of(), trained_net(loss="sampled", negatives=200_000)
    assert float(many(batch)) == pytest.approx(float(full(batch)), rel=5e-3)


@pytest.mark.parametrize("loss", ["softmax", *SAMPLED])
def test_half_precision_is_near(loss):
    batch = Batch(contexts_of(ROWS))
    values = []
    for half in (False, True):
        net = trained_net(loss=loss)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = net(batch)
        value.backward()
        assert all(weight.grad.dtype == torch.float32 for weight in net.parameters())
        values.append((float(value.detach()), torch.cat([w.grad.flatten() for w in net.parameters()])))
    assert values[1][0] == pytest.approx(values[0][0], rel=0.03)
    assert F.cosine_similarity(values[0][1], values[1][1], 0) > 0.99


@pytest.mark.parametrize("loss", ["softmax", *SAMPLED])
def test_sequences_of_one_are_nothing_to_learn_from(loss):
    """The view leaves visitors of one item out; should one come, it adds nothing."""
    net = trained_net(loss=loss, negatives_per="batch")
    with torch.no_grad():
        torch.manual_seed(0)
        alone = net(Batch(contexts_of([[1, 2, 3]])))
        torch.manual_seed(0)
        together = net(Batch(contexts_of([[1, 2, 3], [4]])))
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_rows_of_padding_alone_are_finite():
    net = net_of()
    assert net.states(Ragged.of([[], [1, 2]])).isfinite().all()
    assert net.query_vectors(contexts_of([[0, 0]])).isfinite().all()


@pytest.mark.parametrize("loss", ["softmax", *SAMPLED])
def test_gradients_reach_every_weight_but_row_zero(loss):
    net = trained_net(dropout=0.2, loss=loss).train()
    net(Batch(contexts_of(ROWS))).backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), name
    assert not net.item.weight.grad[0].any()


def test_dropout_works_in_training_alone():
    net = net_of(dropout=0.5)
    batch = Batch(contexts_of(ROWS))
    assert net(batch) == net(batch)
    net.train()
    assert net(batch) != net(batch)


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match=r"^SASRec: heads = 3 must divide dim = 8$"):
        SASRec(dim=8, heads=3)
