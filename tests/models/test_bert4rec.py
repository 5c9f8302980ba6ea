"""BERT4Rec: what is hidden is nowhere to be seen, both sides are, and its loss is that of a network in slow motion."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.models import BERT4Rec
from suisen.models.bert4rec import with_mask
from suisen.training.trainer import fit
from tests.helpers import make_data

ITEMS = 11
ROWS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 1], [2, 2, 2]]


def net_of(**hyper):
    torch.manual_seed(0)
    net = BERT4Rec(**{"dim": 8, "heads": 2, "length": 6, "dropout": 0.0, "groups": 1, **hyper}).build(Schema(3, ITEMS))
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    with torch.no_grad():
        net.item.weight[0] = 0
    return net.eval()


def contexts_of(rows) -> Contexts:
    history = Ragged.of(rows)
    contexts = Contexts.of_users(torch.zeros(len(rows), dtype=torch.int64))
    return replace(contexts, history=history, history_time=torch.zeros_like(history.values))


def slow_answers(net, row: list[int]) -> torch.Tensor:
    """(n, d) answers at each place of one sequence, from the paper's equations: one place, one head at a time."""
    model, n = net.model, len(row)
    x = torch.stack([net.item.weight[i] + net.body.position.weight[model.length - n + t] for t, i in enumerate(row)])
    wide = model.dim // model.heads

    def norm(x: torch.Tensor, layer) -> torch.Tensor:
        return F.layer_norm(x, (model.dim,), layer.weight, layer.bias, 1e-8)

    for block in net.body.blocks:
        q, k, v = (norm(x, block.norm_attention) @ block.qkv.weight.T + block.qkv.bias).split(model.dim, 1)
        out = torch.zeros_like(x)
        for head in range(model.heads):
            part = slice(head * wide, (head + 1) * wide)
            for t in range(n):  # looks at all places, those behind it too
                products = torch.stack([q[t, part] @ k[s, part] / math.sqrt(wide) for s in range(n)])
                out[t, part] = (products.softmax(0)[:, None] * v[:, part]).sum(0)
        x = x + out @ block.out.weight.T + block.out.bias
        inner = F.gelu(norm(x, block.norm_forward) @ block.first.weight.T + block.first.bias)
        assert inner.shape[1] == 4 * model.dim
        x = x + inner @ block.second.weight.T + block.second.bias
    linear, _, last = net.head
    return norm(F.gelu(norm(x, net.body.norm) @ linear.weight.T + linear.bias), last)


@torch.no_grad()
def test_loss_is_the_slow_cross_entropy_of_the_hidden_places():
    net = net_of(mask=0.4, last=0.3)
    torch.manual_seed(2)
    rows, hidden = net.examples(Ragged.of(ROWS))
    torch.manual_seed(2)
    value = float(net(Batch(contexts_of(ROWS))))
    losses = []
    for items, gaps in zip(rows.tolist(), rows.with_values(hidden).tolist(), strict=True):
        answers = slow_answers(net, [net.mask if gap else item for item, gap in zip(items, gaps, strict=True)])
        for answer, item, gap in zip(answers, items, gaps, strict=True):
            if gap:
                scores = net.item.weight[1:ITEMS] @ answer + net.bias[1:]
                losses.append(-scores.log_softmax(0)[item - 1])
    assert len(losses) > 3
    assert value == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


@torch.no_grad()
def test_the_target_is_never_visible():
    """Whatever the hidden items are, the states of all places are the same; a shown item changes them."""
    net, seen = net_of(mask=0.4, last=0.0), []
    net.body.norm.register_forward_hook(lambda module, inputs, out: seen.append(out.clone()))
    values = Ragged.of(ROWS).values
    torch.manual_seed(2)
    _, hidden = net.examples(Ragged.of(ROWS))
    assert hidden.any()
    assert not hidden.all()

    def trained_on(values: torch.Tensor) -> tuple[torch.Tensor, float]:
        torch.manual_seed(2)  # the same places are hidden
        loss = net(Batch(replace(contexts_of(ROWS), history=Ragged.of(ROWS).with_values(values))))
        return seen[-1], float(loss)

    states, loss = trained_on(values)
    others, other_loss = trained_on(torch.where(hidden, values % 10 + 1, values))
    assert torch.equal(others, states)
    assert other_loss != loss
    shown = (~hidden).nonzero()[0]
    assert not torch.equal(trained_on(values.index_put((shown,), values[shown] % 10 + 1))[0], states)


@torch.no_grad()
def test_asked_for_the_next_item_the_mask_stands_at_the_end():
    net = net_of()
    query = net.query_vectors(contexts_of([[3, 4]]))
    torch.testing.assert_close(query[0, :8], slow_answers(net, [3, 4, net.mask])[-1], rtol=1e-4, atol=1e-5)
    assert query[0, 8] == 1
    scores = net.score_all(contexts_of([[3, 4]]))[0]
    torch.testing.assert_close(scores, net.item.weight[:ITEMS] @ query[0, :8] + net.bias)
    assert net.item_vectors().shape == (ITEMS, 9)  # the mask is no item


@torch.no_grad()
def test_places_see_both_sides():
    net = net_of()
    one, other = (net.states(Ragged.of([[1, 2, net.mask, *end]])) for end in ([4, 5], [9, 7]))
    assert not torch.allclose(one[:, 2], other[:, 2])


@pytest.mark.parametrize("groups", [2, 3, 9])
def test_groups_of_like_length_change_neither_loss_nor_gradients(groups):
    found = []
    for number in (1, groups):
        net = net_of(groups=number, mask=1e-9, last=0.0)  # the last places, whatever the order
        loss = net(Batch(contexts_of(ROWS)))
        loss.backward()
        found.append((loss.detach(), *(weight.grad for weight in net.parameters())))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_neighbours_and_padding_change_no_score(training):
    """Also by the path that training takes on a CPU, whose dropout is made to drop nothing."""
    net = net_of(dropout=0.001).train(training)
    together = net.query_vectors(contexts_of(ROWS))
    for row, past in enumerate(ROWS):
        torch.testing.assert_close(net.query_vectors(contexts_of([past]))[0], together[row], rtol=1e-5, atol=1e-6)
    longer = net.query_vectors(contexts_of([*ROWS, [1, 2, 3, 4, 5, 6]]))
    torch.testing.assert_close(longer[: len(ROWS)], together, rtol=1e-5, atol=1e-6)


# -- what is hidden --------------------------------------------------------------------------------------------------


def test_shares_of_what_is_hidden():
    torch.manual_seed(0)
    net, wide = net_of(mask=0.3, last=0.25, length=40), Ragged.of([list(range(1, 11)) * 4] * 2000)
    rows, hidden = net.examples(wide)
    gaps = torch.zeros(2000).index_add_(0, rows.rows(), hidden.float())
    assert (gaps > 0).all()
    ends = hidden[rows.offsets[1:] - 1]
    alone = (gaps == 1) & ends  # a draw of one gap, at the end, is as good as impossible here
    assert float(alone.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert (rows.lengths[~alone] == 40).all()
    assert float(gaps[~alone].mean()) / 40 == pytest.approx(0.3, abs=0.01)
    cut = rows.lengths[alone]
    assert int(cut.min()) >= 2
    assert float(cut.float().mean()) == pytest.approx(21, abs=1.5)  # uniform over 2 … 40
    assert all(row == (list(range(1, 11)) * 4)[: len(row)] for row in rows.tolist()[:50])


def test_each_sequence_has_something_hidden():
    net = net_of(mask=1e-9, last=0.0)
    rows, hidden = net.examples(Ragged.of(ROWS))
    assert rows.tolist() == ROWS
    assert rows.with_values(hidden.long()).tolist() == [[0] * (len(row) - 1) + [1] for row in ROWS]


def test_gradients_reach_every_weight_but_row_zero():
    net = net_of(dropout=0.2).train()
    net(Batch(contexts_of(ROWS))).backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), name
    assert not net.item.weight.grad[0].any()
    assert net.item.weight.grad[net.mask].any()  # the mask is learnt
    assert not net.bias.grad[0]


def test_half_precision_is_near():
    values = []
    for half in (False, True):
        net = net_of()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = net(Batch(contexts_of(ROWS)))
        value.backward()
        values.append((float(value.detach()), torch.cat([w.grad.flatten() for w in net.parameters()])))
    assert values[1][0] == pytest.approx(values[0][0], rel=0.03)
    assert F.cosine_similarity(values[0][1], values[1][1], 0) > 0.99


# -- bad input -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_long_histories_are_cut_and_of_empty_ones_the_mask_is_left():
    net = net_of()
    long = [1, 2, 3, 4, 5, 6, 7, 8]
    queries = net.query_vectors(contexts_of([long, [], long[-5:]]))  # five items and the mask are six places
    assert torch.equal(queries[0], queries[2])
    torch.testing.assert_close(queries[1, :8], slow_answers(net, [net.mask])[0], rtol=1e-4, atol=1e-5)
    assert net.query_vectors(contexts_of([[], []])).shape == (2, 9)


@torch.no_grad()
def test_rows_of_padding_alone_are_finite():
    net = net_of()
    assert net.states(Ragged.of([[], [1, 2]])).isfinite().all()
    assert net.query_vectors(contexts_of([[0, 0], [1]])).isfinite().all()
    assert net.train()(Batch(contexts_of([[1, 2], []]))).isfinite()


def test_sequences_of_one_are_left_out():
    with pytest.raises(InputError, match=r"^no visitor has 2 events in train: there is no next item to learn from$"):
        fit(BERT4Rec(epochs=1), make_data(user=[1, 2, 3], item=[1, 2, 3]))


def test_items_never_seen_in_training_are_read_without_harm():
    data = make_data(user=[1, 1, 1, 2, 2], item=[1, 2, 3, 1, 2], items={"item": [1, 2, 3, 11]})
    net, _ = fit(BERT4Rec(dim=8, epochs=2), data)
    with torch.no_grad():
        assert net.score_all(contexts_of([[1, int(data.items.dense([11])[0])]])).isfinite().all()


def test_the_mask_stands_behind_each_row():
    assert with_mask(Ragged.of([[1, 2], [], [3]]), 9).tolist() == [[1, 2, 9], [9], [3, 9]]


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match=r"^BERT4Rec: heads = 3 must divide dim = 8$"):
        BERT4Rec(dim=8, heads=3)
