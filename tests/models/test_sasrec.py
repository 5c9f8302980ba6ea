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

ITEMS = 11
ROWS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 1], [2, 2, 2]]


def net_of(**hyper):
    torch.manual_seed(0)
    net = SASRec(**{"dim": 8, "heads": 2, "length": 6, "dropout": 0.0, **hyper}).build(Schema(3, ITEMS))
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
        net.item.weight[item] * math.sqrt(model.dim) + net.position.weight[model.length - n + t]
        for t, item in enumerate(past)
    ])  # fmt: skip
    wide = model.dim // model.heads
    for block in net.blocks:
        normed = F.layer_norm(x, (model.dim,), block.norm_attention.weight, block.norm_attention.bias, 1e-8)
        q, k, v = (normed @ block.qkv.weight.T + block.qkv.bias).split(model.dim, 1)
        out = torch.zeros_like(x)
        for head in range(model.heads):
            part = slice(head * wide, (head + 1) * wide)
            for t in range(n):
                products = torch.stack([q[t, part] @ k[s, part] / math.sqrt(wide) for s in range(t + 1)])
                out[t, part] = (products.softmax(0)[:, None] * v[: t + 1, part]).sum(0)
        x = x + out @ block.out.weight.T + block.out.bias
        normed = F.layer_norm(x, (model.dim,), block.norm_forward.weight, block.norm_forward.bias, 1e-8)
        inner = (normed @ block.first.weight.T + block.first.bias).relu()
        x = x + inner @ block.second.weight.T + block.second.bias
    return F.layer_norm(x, (model.dim,), net.norm.weight, net.norm.bias, 1e-8)


@torch.no_grad()
def test_states_are_those_of_the_slow_network():
    net = net_of()
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
def test_the_past_does_not_see_the_future():
    net = net_of()
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
    net.position.weight[: net.model.length - 2] += 5  # positions that a history of two does not reach
    assert torch.equal(net.query_vectors(contexts_of([[3, 4]])), before)
    net.position.weight[-1] += torch.randn(8)
    assert not torch.allclose(net.query_vectors(contexts_of([[3, 4]])), before)


@torch.no_grad()
def test_long_histories_are_cut_and_empty_ones_are_zero():
    net = net_of()
    long = [1, 2, 3, 4, 5, 6, 7, 8]
    queries = net.query_vectors(contexts_of([long, [], long[-6:]]))
    assert torch.equal(queries[0], queries[2])
    assert not queries[1].any()
    assert not net.query_vectors(contexts_of([[], []])).any()


def test_gradients_reach_every_weight_but_row_zero():
    net = net_of(dropout=0.2).train()
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
