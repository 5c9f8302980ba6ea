"""LightGCN: propagation and gradient against dense matrices, both losses against loops, histories against the graph."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from suisen.data.batch import Batch, Candidates, Contexts
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.models import LightGCN
from suisen.models.lightgcn import graph_of, hop, propagated
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.helpers import make_data
from tests.models.toys import asked, checkerboard, shelves, without_history

USERS, ITEMS = 5, 6
"""Rows of each, row 0 included."""
PAIRS = [(1, 1), (1, 2), (1, 4), (2, 2), (3, 4), (3, 2), (3, 2), (4, 1)]
"""User 3 took item 2 twice; items 3 and 5 nobody took."""


def dense(pairs) -> torch.Tensor:
    """D^-1/2 A D^-1/2 as the paper writes it (eq. 7 and 8), nodes without an edge left at zero."""
    a = torch.zeros(USERS + ITEMS, USERS + ITEMS, dtype=torch.float64)
    for u, i in pairs:
        a[u, USERS + i] = a[USERS + i, u] = 1
    root = torch.diag(torch.where(a.sum(1) > 0, a.sum(1).clamp(min=1) ** -0.5, 0.0))
    return root @ a @ root


def layers_of(pairs, x: torch.Tensor, layers: int) -> torch.Tensor:
    """The mean of E_0 … E_K."""
    a, terms = dense(pairs), [x]
    for _ in range(layers):
        terms.append(a @ terms[-1])
    return torch.stack(terms).mean(0)


def sparse(pairs) -> Ragged:
    graph = graph_of(torch.tensor([u for u, _ in pairs]), torch.tensor([i for _, i in pairs]), USERS, ITEMS)
    return replace(graph, weights=graph.weights.double())


def vectors(seed: int = 0, dim: int = 3) -> torch.Tensor:
    return torch.randn(USERS + ITEMS, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -- the graph -------------------------------------------------------------------------------------------------------

pairs_drawn = st.lists(st.tuples(st.integers(1, USERS - 1), st.integers(1, ITEMS - 1)), min_size=1, max_size=15)


@given(pairs_drawn)
@settings(max_examples=50)
def test_a_hop_is_the_dense_product(pairs):
    x = vectors()
    torch.testing.assert_close(hop(sparse(pairs), x), dense(pairs) @ x, rtol=1e-6, atol=1e-7)


def test_neighbours_of_a_node_are_listed_once_and_rising():
    graph = sparse(PAIRS)
    assert graph.tolist()[:USERS] == [[], [6, 7, 9], [7], [7, 9], [6]]
    assert graph.tolist()[USERS:] == [[], [1, 4], [1, 2, 3], [], [1, 3], []]


@given(pairs_drawn, st.integers(0, 3), st.sets(st.integers(0, USERS + ITEMS - 1)), st.integers(0, 9))
@settings(max_examples=100)
def test_propagation_and_gradient_are_the_dense_ones(pairs, layers, some, seed):
    rows = torch.tensor(sorted(some), dtype=torch.int64)
    ours, theirs = vectors(seed).requires_grad_(), vectors(seed).requires_grad_()
    own, out = propagated(ours, sparse(pairs), layers, rows)
    wanted = layers_of(pairs, theirs, layers)[rows]
    torch.testing.assert_close(own, theirs[rows])
    torch.testing.assert_close(out, wanted, rtol=1e-6, atol=1e-7)
    pull = torch.randn(2, len(rows), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    (pull[0] * own + pull[1] * out.square()).sum().backward()
    (pull[0] * theirs[rows] + pull[1] * wanted.square()).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-7)


# -- the losses ------------------------------------------------------------------------------------------------------


def prepared(dim: int = 3, **hyper):
    """A network in float64 on the small graph; dense items 1 to 3 are linked, 4 and 5 are not."""
    data = make_data(user=[u for u, _ in PAIRS], item=[i for _, i in PAIRS], items={"item": [1, 2, 3, 4, 5]})
    torch.manual_seed(0)
    net = LightGCN(dim=dim, **hyper).build(data.schema)
    net.prepare(data)
    return net.double().train(), data


def batch_of(negatives=None, weights=None) -> Batch:
    users, taken = torch.tensor([1, 2, 1, 3]), torch.tensor([2, 2, 1, 3])
    batch = Batch(Contexts.of_users(users), Candidates(taken[:, None]))
    if negatives is not None:
        batch = replace(batch, negatives=torch.tensor(negatives))
    return batch if weights is None else replace(batch, weights=torch.tensor(weights)[:, None])


def final(net) -> tuple[torch.Tensor, torch.Tensor]:
    """Users and items by the dense product over the network's own graph."""
    graph, n = net.graph, len(net.nodes)
    a = torch.zeros(n, n, dtype=torch.float64)
    a[graph.rows(), graph.values] = graph.weights
    out = terms = net.nodes
    for _ in range(net.model.layers):
        terms = a @ terms
        out = out + terms
    out = out / (net.model.layers + 1)
    return out[: net.n_users], out[net.n_users :]


def penalty(net, batch: Batch) -> torch.Tensor:
    """λ/2 · the squares of every vector an example names, a mean over the examples."""
    total = net.nodes.new_zeros(())
    items = batch.taken.tolist() + ([] if batch.negatives is None else batch.negatives.flatten().tolist())
    for node in batch.contexts.user.tolist() + [net.n_users + i for i in items]:
        total = total + net.nodes[node].square().sum()
    return net.model.l2 / 2 * total / len(batch)


def same_gradient(net, value: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-8, check_dtype=False)
    ours, theirs = (torch.autograd.grad(loss, net.nodes)[0] for loss in (value, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


WEIGHTS = [1.0, 0.5, 2.0, 1.0]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_bpr_is_its_definition(layers, weights):
    net, _ = prepared(loss="bpr", layers=layers, l2=0.3, init=1.0)
    batch = batch_of([[3, 4], [1, 3], [3, 3], [1, 4]], weights)
    users, items = final(net)
    total, mass = net.nodes.new_zeros(()), weights or [1.0] * 4
    for row, weight in enumerate(mass):
        u, i = users[batch.contexts.user[row]], items[batch.taken[row]]
        for j in batch.negatives[row]:
            total = total - weight * torch.log(torch.sigmoid(u @ i - u @ items[j])) / 2
    same_gradient(net, net(batch), total / sum(mass) + penalty(net, batch))


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a @ b) / (a.norm() * b.norm())


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_softmax_over_the_batch_is_its_definition(layers, weights):
    net, _ = prepared(temperature=0.4, layers=layers, l2=0.3, init=1.0)
    batch = batch_of(weights=weights)
    users, items = final(net)
    taken, mass = batch.taken.tolist(), weights or [1.0] * 4
    total = net.nodes.new_zeros(())
    for row, weight in enumerate(mass):
        user = users[batch.contexts.user[row]]
        logits = torch.stack([cosine(user, items[i]) / 0.4 for i in taken])
        rivals = [other for other, i in enumerate(taken) if other == row or i != taken[row]]  # no accidental hits
        total = total - weight * (logits[row] - logits[rivals].logsumexp(0))
    same_gradient(net, net(batch), total / sum(mass) + penalty(net, batch))


@pytest.mark.parametrize("negatives", [[3, 1, 4, 4], [[3, 1], [2, 4], [1, 3], [4, 4]]], ids=["shared", "of each row"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_softmax_over_draws_is_its_definition(negatives, weights):
    net, _ = prepared(temperature=0.4, negatives=4, l2=0.3, init=1.0)
    batch = batch_of(negatives, weights)
    users, items = final(net)
    total, mass = net.nodes.new_zeros(()), weights or [1.0] * 4
    for row, weight in enumerate(mass):
        user, own = users[batch.contexts.user[row]], int(batch.taken[row])
        drawn = negatives if batch.negatives.dim() == 1 else negatives[row]
        logits = torch.stack([cosine(user, items[i]) / 0.4 for i in [own, *(i for i in drawn if i != own)]])
        total = total - weight * (logits[0] - logits.logsumexp(0))
    same_gradient(net, net(batch), total / sum(mass) + penalty(net, batch))


def test_draws_of_each_loss():
    data = checkerboard()
    shapes = {
        (): (1024,),
        ("own",): None,
        ("negatives",): (7,),
        ("loss",): (64, 1),
        ("loss", "negatives"): (64, 7),
    }
    for names, shape in shapes.items():
        hyper = {"loss": "bpr", "negatives": 7}
        view = LightGCN(
            batch_size=64, **({"negatives": 0} if names == ("own",) else {name: hyper[name] for name in names})
        ).view
        batch = next(iter(view.open(data).batches(torch.Generator().manual_seed(0))))
        found = None if batch.negatives is None else tuple(batch.negatives.shape)
        assert found == (shape if shape is None or len(shape) == 1 else (len(batch), shape[1])), names


# -- what serves -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_what_serves_is_the_whole_propagation(layers, loss):
    net, data = prepared(layers=layers, loss=loss)
    users, items = final(net)
    net.eval()
    everyone = torch.arange(1, data.schema.n_users)
    torch.testing.assert_close(net.query_vectors(Contexts.of_users(everyone)), users[1:])
    torch.testing.assert_close(net.item_vectors()[1:4], items[1:4])
    assert not net.item_vectors()[4:].any()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_history_of_train_gives_the_trained_vector(layers):
    net, data = prepared(layers=layers)
    contexts = asked(data)
    net.eval()
    assert not torch.equal(contexts.history.lengths, torch.zeros(len(contexts), dtype=torch.int64))
    torch.testing.assert_close(net.query_vectors(contexts), net.query_vectors(without_history(contexts)))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_new_user_is_a_node_without_a_vector_of_its_own(layers):
    """The dense product over train's items and one user more, whose E is zero; the items' vectors stay the trained."""
    net, data = prepared(layers=layers)
    net.eval()
    history = [2, 3, 2]
    stranger = replace(
        asked(data, torch.tensor([0])),
        history=Ragged.of([history]),
        history_time=torch.zeros(len(history), dtype=torch.int64),
    )
    graph, sums, term = net.graph, net.nodes.detach().clone(), net.nodes.detach()
    for _ in range(layers - 1):
        term = hop(graph, term)
        sums = sums + term
    wanted = torch.zeros(3, dtype=torch.float64)
    for item in (2, 3):
        node = net.n_users + item
        wanted += sums[node] / math.sqrt(2 * int(graph.lengths[node])) / (layers + 1)
    torch.testing.assert_close(net.query_vectors(stranger)[0], wanted, rtol=1e-6, atol=1e-8)


def test_items_and_users_that_train_does_not_know_count_for_nothing():
    table = {"item": [1, 2, 3, 9]}
    data = make_data(user=["a", "a", "b", "c"], item=[1, 2, 3, 3], label=[1, 1, 1, 0], items=table)
    net, _ = fit(LightGCN(dim=4, epochs=1), data)
    unknown = int(data.items.dense([9])[0])
    assert not net.item_vectors()[unknown].any()
    refused = int(data.users.dense(["c"])[0])  # no edge: a refusal is none
    a = int(data.users.dense(["a"])[0])
    contexts = Contexts.of_users(torch.tensor([refused, a, a, 0]))
    known = data.histories.take(torch.tensor([a])).values
    rows = [[], known.tolist(), [*known.tolist(), unknown], [unknown]]
    contexts = replace(contexts, history=Ragged.of(rows), history_time=torch.zeros(sum(map(len, rows))))
    found = net.query_vectors(contexts)
    assert not found[0].any()
    torch.testing.assert_close(found[1], found[2])
    assert not found[3].any()


# -- the trainer -----------------------------------------------------------------------------------------------------

SMALL = {"dim": 8, "batch_size": 6, "learning_rate": 0.05, "epochs": 40}


@pytest.mark.parametrize("hyper", [{}, {"negatives": 8}, {"loss": "bpr", "layers": 3}, {"layers": 2}], ids=str)
def test_a_small_set_is_learnt_by_heart(hyper):
    data = shelves()
    net, _ = fit(LightGCN(**{**SMALL, **hyper}), data)
    users = torch.arange(1, data.schema.n_users)
    scores = net.score_all(Contexts.of_users(users))
    scores[:, 0] = -torch.inf
    own = data.histories.take(users).padded()
    assert torch.equal(scores.topk(3).indices.sort(1).values, own.sort(1).values)


@pytest.mark.parametrize("hyper", [{}, {"negatives": 8}, {"loss": "bpr", "layers": 3}], ids=str)
def test_the_same_seed_gives_the_same_weights_and_a_bundle_serves_without_the_graph(hyper, tmp_path):
    data, model = checkerboard(), LightGCN(**{**SMALL, **hyper, "epochs": 3})
    first, _ = fit(model, data, options=RunOptions(seed=3))
    second, _ = fit(model, data, options=RunOptions(seed=3))
    other, _ = fit(model, data, options=RunOptions(seed=4))
    assert torch.equal(first.nodes, second.nodes)
    assert not torch.equal(first.nodes, other.nodes)
    save_file(first.state_dict(), tmp_path / "weights.safetensors")
    assert set(load_file(tmp_path / "weights.safetensors")) == {"nodes", "frozen", "sent", "linked"}
    loaded = model.build(data.schema)
    loaded.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    contexts = asked(data)
    assert torch.equal(loaded.eval().query_vectors(contexts), first.query_vectors(contexts))
    assert torch.equal(loaded.item_vectors(), first.item_vectors())


def test_resumed_in_the_middle_it_ends_where_it_would_have(tmp_path):
    data, model = checkerboard(), LightGCN(**{**SMALL, "epochs": 4})
    whole, _ = fit(model, data)
    fit(model, data, options=RunOptions(checkpoint=tmp_path), epochs_per_phase=[2])

    class Unfinished(Exception):
        pass

    class Stops:
        def __init__(self):
            self.batches = 0

        def on_start(self, *facts):
            pass

        def on_batch(self, *facts):
            self.batches += 1
            if self.batches == 50:
                raise Unfinished

        on_epoch = on_end = on_start

    for path in tmp_path.glob("*"):
        path.unlink()
    with pytest.raises(Unfinished):
        fit(model, data, options=RunOptions(checkpoint=tmp_path, checkpoint_seconds=0, callbacks=(Stops(),)))
    again, _ = fit(model, data, options=RunOptions(checkpoint=tmp_path, resume=True))
    assert torch.equal(again.nodes, whole.nodes)
    assert torch.equal(again.frozen, whole.frozen)


def test_guests_alone_are_refused():
    data = make_data(user=[None, None], item=[1, 2], session=[1, 1])
    with pytest.raises(InputError, match="train has no event of a known user"):
        fit(LightGCN(), data)
