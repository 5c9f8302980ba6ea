"""GRU4Rec: whole ragged sessions batched are one by one, the cell is the paper's, and each loss its slow definition."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.models import GRU4Rec, gru4rec
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.helpers import make_data

ITEMS = 11
ROWS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 1], [2, 2, 2]]


def contexts_of(rows) -> Contexts:
    history = Ragged.of(rows)
    contexts = Contexts.of_users(torch.zeros(len(rows), dtype=torch.int64))
    return replace(contexts, history=history, history_time=torch.zeros_like(history.values))


def sessions(rows=ROWS):
    """Guests: every row a session of nobody."""
    number = [n for n, row in enumerate(rows) for _ in row]
    items = [i for row in rows for i in row]
    return make_data(user=[None] * len(items), item=items, session=number)


def net_of(**hyper):
    torch.manual_seed(0)
    net = GRU4Rec(**{"dim": 8, "length": 6, "dropout": 0.0, "groups": 1, **hyper}).build(Schema(1, ITEMS))
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    with torch.no_grad():
        net.item.weight[0] = 0
        if net.target is not None:
            net.target.weight[0] = 0
    data = sessions()
    assert data.schema.n_items == ITEMS
    net.prepare(data)
    return net.eval()


def slow_states(net, past: list[int]) -> torch.Tensor:
    """(n, d): one item, one layer at a time, from the equations."""
    inputs = net.item.weight[torch.tensor(past)]
    for layer in range(net.model.layers):
        gates = [getattr(net.gru, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        w, u, b, c = (gate.chunk(3) for gate in gates)  # r, z, n
        h, states = torch.zeros(net.model.dim), []
        for x in inputs:
            r, z = (torch.sigmoid(w[k] @ x + b[k] + u[k] @ h + c[k]) for k in (0, 1))
            n = torch.tanh(w[2] @ x + b[2] + r * (u[2] @ h + c[2]))
            h = (1 - z) * n + z * h
            states.append(h)
        inputs = torch.stack(states)
    return inputs


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2])
def test_states_are_those_of_the_equations(layers):
    net = net_of(layers=layers)
    states = net.states(Ragged.of(ROWS))
    for row, past in enumerate(ROWS):
        torch.testing.assert_close(states[row, : len(past)], slow_states(net, past), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("loss", ["softmax", "sampled", "bpr-max"])
def test_whole_sessions_batched_are_one_by_one(loss):
    """Scores, and the loss: that of the batch is the mean over the positions of its sessions, each by itself."""
    net = net_of(loss=loss, negatives=4)
    together = net.score_all(contexts_of(ROWS))
    for row, past in enumerate(ROWS):
        torch.testing.assert_close(net.score_all(contexts_of([past]))[0], together[row], rtol=1e-5, atol=1e-6)
    torch.manual_seed(3)
    whole = float(net(Batch(contexts_of(ROWS))))
    parts = 0.0
    for past in ROWS:
        torch.manual_seed(3)  # the same draws: they are shared by a batch
        parts += float(net(Batch(contexts_of([past])))) * (len(past) - 1)
    assert whole == pytest.approx(parts / sum(len(past) - 1 for past in ROWS), rel=1e-5)


@torch.no_grad()
def test_longer_neighbours_and_padding_change_no_score():
    net = net_of()
    alone = net.query_vectors(contexts_of([[6, 7]]))
    padded = net.query_vectors(contexts_of([[6, 7], [1, 2, 3, 4, 5, 6]]))
    torch.testing.assert_close(padded[:1], alone, rtol=1e-5, atol=1e-6)


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


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("loss", ["softmax", "sampled", "bpr-max"])
def test_losses_are_their_slow_definitions(loss, tied):
    net = net_of(loss=loss, tied=tied, negatives=4, power=0.5, penalty=0.3)
    table, drawn = net.item_vectors(), []
    assert (net.target is None) == tied
    if net.negatives is not None:
        of = net.negatives.of
        net.negatives.of = lambda at: (drawn.append(of(at)), drawn[-1])[1]
    torch.manual_seed(5)
    value = float(net(Batch(contexts_of(ROWS))))
    mass = sessions().item_counts.double().sqrt()
    q = (mass / mass.sum()).tolist()
    losses = []
    for past in ROWS:
        for state, item in zip(slow_states(net, past[:-1]), past[1:], strict=True):
            scores = (table @ state).tolist()
            others = [(n, scores[n]) for n in drawn[0].tolist() if n != item] if drawn else []
            losses.append({"softmax": softmax, "sampled": sampled, "bpr-max": bpr_max}[loss](scores, item, others, q))
    assert value == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def softmax(scores, item, others, q) -> float:
    return math.log(sum(math.exp(s) for s in scores[1:])) - scores[item]


def sampled(scores, item, others, q) -> float:
    expected = sum(math.exp(s) / (4 * q[n]) for n, s in others)
    return -math.log(math.exp(scores[item]) / (math.exp(scores[item]) + expected))


def bpr_max(scores, item, others, q) -> float:
    if not others:
        return 0.0
    total = sum(math.exp(s) for _, s in others)
    weights = [math.exp(s) / total for _, s in others]
    agreed = sum(w / (1 + math.exp(s - scores[item])) for w, (_, s) in zip(weights, others, strict=True))
    return -math.log(agreed) + 0.3 * sum(w * s * s for w, (_, s) in zip(weights, others, strict=True))


@pytest.mark.parametrize("loss", ["softmax", "sampled", "bpr-max"])
@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_reach_every_weight_but_row_zero(loss, layers):
    net = net_of(loss=loss, tied=False, layers=layers, dropout=0.2).train()
    net(Batch(contexts_of(ROWS))).backward()
    for name, weight in net.named_parameters():
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), name
    assert not net.item.weight.grad[0].any()
    assert not net.target.weight.grad[0].any()


@pytest.mark.parametrize("loss", ["softmax", "sampled", "bpr-max"])
def test_half_precision_is_near(loss):
    values = []
    for half in (False, True):
        net = net_of(loss=loss)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = net(Batch(contexts_of(ROWS)))
        value.backward()
        values.append((float(value.detach()), torch.cat([w.grad.flatten() for w in net.parameters()])))
    assert values[1][0] == pytest.approx(values[0][0], rel=0.03)
    assert F.cosine_similarity(values[0][1], values[1][1], 0) > 0.99


@pytest.mark.parametrize("loss", ["softmax", "sampled", "bpr-max"])
def test_guests_learn_what_follows_what(loss):
    rows = [[(start + step) % 10 + 1 for step in range(4)] for start in range(10)] * 6
    data = sessions(rows)
    hyper = {"dim": 16, "batch_size": 12, "learning_rate": 0.02, "epochs": 30, "negatives": 8, "penalty": 0.01}
    net, _ = fit(GRU4Rec(**hyper, loss=loss), data, options=RunOptions())
    asked = contexts_of([data.items.dense([i]).tolist() for i in range(1, 11)])
    best = net.score_all(asked)[:, 1:].argmax(1) + 1
    assert best.tolist() == data.items.dense([i % 10 + 1 for i in range(1, 11)]).tolist()


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_initial_vectors_have_length_one_on_average(tied):
    net = GRU4Rec(dim=25, tied=tied).build(Schema(1, 2000))
    for table in {net.item, net.target or net.item}:
        assert float(table.weight[1:].square().sum(1).mean()) == pytest.approx(1, rel=0.05)


# -- dropout ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("rate", [0.125, 0.5])
def test_dropout_drops_its_share_of_what_is_read_and_of_the_states_and_only_in_training(rate):
    net = net_of(dropout=rate, dim=64)
    rows, read = Ragged.of([[n % 10 + 1] * 5 for n in range(200)]), []
    net.gru.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    for training, share in ((True, rate), (False, 0.0)):
        states = net.train(training).states(rows)
        assert float((read[-1] == 0).float().mean()) == pytest.approx(share, abs=0.02)
        assert float((states == 0).float().mean()) == pytest.approx(share, abs=0.02)
        assert torch.equal(net.states(rows), states) != training


@torch.no_grad()
def test_layers_drop_between_them(monkeypatch):
    monkeypatch.setattr(gru4rec, "dropout", lambda x, p, training: x)  # nothing is dropped before and behind them
    one, two = (net_of(layers=layers, dropout=0.5).train() for layers in (1, 2))
    assert torch.equal(one.states(Ragged.of(ROWS)), one.states(Ragged.of(ROWS)))
    assert not torch.equal(two.states(Ragged.of(ROWS)), two.states(Ragged.of(ROWS)))
    assert two.gru.dropout == 0.5


# -- bad input -------------------------------------------------------------------------------------------------------


def test_sessions_of_one_are_left_out_and_nothing_else_is_refused():
    with pytest.raises(InputError, match=r"^no visitor has 2 events in train: there is no next item to learn from$"):
        fit(GRU4Rec(epochs=1), sessions([[1], [2], [3]]))
    epochs = GRU4Rec().view.open(sessions([[1], [2, 3], [3]]))
    assert epochs.examples == 1


@torch.no_grad()
def test_session_of_one_adds_nothing_to_the_loss():
    net = net_of()
    torch.testing.assert_close(net(Batch(contexts_of([[1, 2], [5]]))), net(Batch(contexts_of([[1, 2]]))))


@torch.no_grad()
def test_histories_longer_than_the_maximum_are_cut_and_empty_ones_are_zero():
    net = net_of()
    long = [1, 2, 3, 4, 5, 6, 7, 8]
    queries = net.query_vectors(contexts_of([long, [], long[-6:]]))
    assert torch.equal(queries[0], queries[2])
    assert not queries[1].any()
    assert net.query_vectors(contexts_of([[0, 0], [1]])).isfinite().all()  # padding alone


def test_items_never_seen_in_training_are_read_without_harm():
    """Item 11 stands in the catalogue but in no session: it is read, it is never drawn, its score is finite."""
    rows = make_data(user=[None] * 5, item=[1, 2, 3, 1, 2], session=[0, 0, 0, 1, 1], items={"item": [1, 2, 3, 11]})
    net, _ = fit(GRU4Rec(dim=8, epochs=2, loss="sampled", negatives=50), rows)
    unseen = int(rows.items.dense([11])[0])
    with torch.no_grad():
        assert net.score_all(contexts_of([[1, unseen]])).isfinite().all()
    assert not (net.negatives.draw((2000,)) == unseen).any()
