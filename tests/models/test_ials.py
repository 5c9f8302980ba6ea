"""iALS: each half sweep against the dense normal equations, the objective, the folding in of histories."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import suisen as su
import suisen.models.ials as module
from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.models import IALS
from suisen.models.contract import vanished_vectors
from suisen.models.ials import _groups
from suisen.training.trainer import fit
from tests.helpers import logs, make_data
from tests.models.test_ease import dense_matrix
from tests.models.toys import asked, bound, checkerboard


def prepared(data: Dataset, model: IALS, seed: int = 0):
    torch.manual_seed(seed)
    net = bound(model.build(data.schema), data)
    net.prepare(data)
    return net


def sweep(net) -> float:
    return float(net(Batch(Contexts.of_users(torch.zeros(0, dtype=torch.int64)))))


def slow_half(x: np.ndarray, fixed: np.ndarray, model: IALS, others: int) -> np.ndarray:
    """Row by row in float64: the minimiser of Σ_taken (1 − p·q)² + α₀ Σ_all (p·q)² + λ (n + α₀ · others)^ν |p|²."""
    out = np.zeros((len(x), fixed.shape[1]))
    for row, taken in enumerate(x):
        if taken.any():
            system = model.unobserved * fixed.T @ fixed
            for item in np.flatnonzero(taken):
                system += np.outer(fixed[item], fixed[item])
            scale = model.l2 * (taken.sum() + model.unobserved * others) ** model.frequency_power
            out[row] = np.linalg.solve(system + scale * np.eye(fixed.shape[1]), fixed.T @ taken)
    return out


def objective(x: np.ndarray, p: np.ndarray, q: np.ndarray, model: IALS) -> float:
    """The docstring's formula, term by term."""
    scores, users, items = p @ q.T, (x.sum(1) > 0).sum(), (x.sum(0) > 0).sum()
    lam_p = (x.sum(1) + model.unobserved * items) ** model.frequency_power
    lam_q = (x.sum(0) + model.unobserved * users) ** model.frequency_power
    fit_term = ((1 - scores[x > 0]) ** 2).sum() + model.unobserved * (scores**2).sum()
    penalty = (lam_p * (p**2).sum(1)).sum() + (lam_q * (q**2).sum(1)).sum()
    return float(fit_term + model.l2 * penalty)


@settings(max_examples=40)
@given(
    log=logs(),
    dim=st.sampled_from([1, 2, 8]),  # rows longer than dim are solved as they are, shorter ones in their dual
    power=st.sampled_from([0.0, 0.5, 1.0]),
    group=st.sampled_from([module.FLOATS_PER_GROUP, 1]),
)
def test_half_sweeps_solve_the_normal_equations(log, dim, power, group):
    data = Dataset.of(log)
    model = IALS(dim=dim, frequency_power=power, l2=0.1, unobserved=0.4, init=1.0)
    net, x = prepared(data, model), dense_matrix(data)
    users, items = int((x.sum(1) > 0).sum()), int((x.sum(0) > 0).sum())
    start = net.item.weight.double().numpy().copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FLOATS_PER_GROUP", group)
        change = sweep(net)
    p = slow_half(x, start, model, items)
    q = slow_half(x.T, p, model, users)
    np.testing.assert_allclose(net.user.weight.numpy(), p[: data.schema.n_users], atol=2e-4)
    np.testing.assert_allclose(net.item.weight.numpy(), q, atol=2e-4)
    assert change == pytest.approx(((q - start) ** 2).sum(1).mean(), rel=1e-3, abs=1e-5)


def test_half_sweeps_of_guests_too():
    data = make_data(
        user=["a", "a", None, None, None], item=[1, 2, 2, 3, 1], session=["r", "r", "s", "s", "t"], time=[1, 2, 3, 4, 5]
    )
    model = IALS(dim=3, l2=0.1, unobserved=0.3)
    net, x = prepared(data, model), dense_matrix(data)
    p = slow_half(x, net.item.weight.double().numpy(), model, 3)
    sweep(net)
    np.testing.assert_allclose(net.guests.numpy(), p[data.schema.n_users :], atol=1e-4)
    np.testing.assert_allclose(net.item.weight.numpy(), slow_half(x.T, p, model, 3), atol=1e-4)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_objective_never_rises(power):
    data, model = checkerboard(), IALS(dim=6, l2=0.05, unobserved=0.3, frequency_power=power, init=1.0)
    net, x = prepared(data, model), dense_matrix(data)
    values = []
    for _ in range(8):
        sweep(net)
        values.append(objective(x, net.user.weight.double().numpy(), net.item.weight.double().numpy(), model))
    assert all(later <= earlier + 1e-6 * earlier for earlier, later in pairwise(values))
    assert values[-1] < 0.97 * values[0]


def test_folding_a_training_history_in_gives_its_user_vector():
    data, model = checkerboard(), IALS(dim=6, l2=0.05)
    net = prepared(data, model)
    for _ in range(3):
        sweep(net)
    net.user.weight.copy_(net._half(net.by_user, net.item.weight, int(net.taking[1]))[: data.schema.n_users])
    contexts = asked(data)
    torch.testing.assert_close(net.query_vectors(contexts), net.user(contexts.user), rtol=1e-4, atol=1e-5)
    with_repeats = replace(contexts, history=Ragged.of([row * 2 for row in contexts.history.tolist()]))
    torch.testing.assert_close(net.query_vectors(with_repeats), net.user(contexts.user), rtol=1e-4, atol=1e-5)


def test_labelled_refusals_do_not_change_the_folding_in():
    """|I| is the number of items with positives, in training and when asked alike."""
    data = make_data(user=["a", "a", "b", "b"], item=[1, 2, 2, 3], label=[1, 1, 1, 0], time=[1, 2, 3, 4])
    net = prepared(data, IALS(dim=2, l2=0.3))
    sweep(net)
    assert net.taking.tolist() == [2, 2]
    folded = net._half(net.by_user, net.item.weight, 2)[:3]
    torch.testing.assert_close(net.query_vectors(asked(data)), folded[1:], rtol=1e-4, atol=1e-5)


def test_the_stored_vector_serves_where_there_is_no_history():
    data = checkerboard()
    net, _ = fit(IALS(dim=4, epochs=2), data)
    users = torch.tensor([3, 0, 5])
    assert torch.equal(net.query_vectors(Contexts.of_users(users, data.schema)), net.user.weight[users])
    assert not net.user.weight[0].any()


@given(lengths=st.lists(st.integers(0, 40), max_size=30), dim=st.sampled_from([1, 8]), size=st.sampled_from([1, 500]))
def test_groups_hold_every_row_with_events_once(lengths, dim, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FLOATS_PER_GROUP", size)
        groups = _groups(torch.tensor(lengths, dtype=torch.int64), dim)
    assert sorted(row for group in groups for row in group.tolist()) == [i for i, n in enumerate(lengths) if n]
    for group in groups:
        longest = max(lengths[row] for row in group.tolist())
        assert len(group) == 1 or len(group) * max(longest, dim) * dim <= size


@torch.no_grad()
def test_initial_vectors_are_about_as_long_as_named():
    net = IALS(dim=25, init=0.3).build(Schema(2000, 2000))
    for table in (net.user, net.item):
        assert float(table.weight[1:].square().sum(1).mean().sqrt()) == pytest.approx(0.3, rel=0.05)
        assert not table.weight.requires_grad


@torch.no_grad()
def test_a_history_is_folded_in_by_the_number_of_items():
    """The regularisation of a user counts the items of train, |I| = 6, and not its users, |U| = 2."""
    data = make_data(user=[*"aaabbb"], item=[1, 2, 3, 4, 5, 6])
    net, _ = fit(IALS(dim=3, epochs=2, unobserved=0.4, l2=0.3), data)
    context = replace(asked(data), history=Ragged.of([[1, 4, 6], [2]]))
    q = net.item.weight.double()
    for row, taken in enumerate(([1, 4, 6], [2])):
        system = 0.4 * q.T @ q + q[taken].T @ q[taken] + 0.3 * (len(taken) + 0.4 * 6) * torch.eye(3).double()
        wanted = torch.linalg.solve(system, q[taken].sum(0)).float()
        torch.testing.assert_close(net.query_vectors(context)[row], wanted, rtol=1e-3, atol=1e-5)


# -- settings that travel ----------------------------------------------------------------------------------------------


@given(log=logs(), ratio=st.sampled_from([0.5, 7.0, 30.0]))
def test_settings_follow_the_density(log, ratio):
    """All pairs together weigh ``ratio`` times what the taken ones weigh; a bundle keeps the number."""
    data = Dataset.of(log)
    x = dense_matrix(data)
    if not x.any():
        return
    net = prepared(data, IALS(dim=2, unobserved_ratio=ratio))
    unobserved, l2 = net.settled.tolist()
    users, items = int((x.sum(1) > 0).sum()), int((x.sum(0) > 0).sum())
    assert unobserved * users * items == pytest.approx(ratio * x.sum())
    per_user, per_item = x.sum() / users, x.sum() / items
    assert l2 * (1 + ratio) == pytest.approx(0.4 * (per_user**-0.5 + per_item**-0.5))
    start = net.item.weight.double().numpy().copy()
    sweep(net)
    same = slow_half(x, start, replace(net.model, unobserved=unobserved, l2=l2), items)
    np.testing.assert_allclose(net.user.weight.numpy(), same[: data.schema.n_users], atol=2e-4)
    assert "settled" in net.state_dict()
    for part in ({"unobserved": 0.3}, {"l2": 0.2}):
        given = prepared(data, IALS(dim=2, **part)).settled.tolist()
        assert next(iter(part.values())) in given
    assert "settled" not in prepared(data, IALS(dim=2, unobserved=0.3, l2=0.2)).state_dict()  # as bundles were before


@pytest.mark.parametrize("items", [30, 1500])
def test_the_defaults_hold_whatever_the_catalogue(items):
    """Groups of ten items each: a user's held-out item is found in a small catalogue and in a large one alike."""
    rng = np.random.default_rng(0)
    groups = items // 10
    user = np.repeat(np.arange(8 * groups), 4)
    item = np.concatenate([10 * (u % groups) + rng.permutation(10)[:4] for u in range(8 * groups)])
    rec = su.Recommender(IALS(dim=64)).fit(make_data(user=user.tolist(), item=item.tolist()))
    assert not rec.system.notes
    some = list(range(0, 8 * groups, max(1, groups // 10)))
    lists = rec.recommend(users=some, k=5)
    right = lists["item_id"].to_numpy() // 10 == lists["user_id"].to_numpy() % groups
    assert right.mean() > 0.85


def test_vectors_that_vanish_are_told_of():
    data = make_data(
        user=[u for u in range(300) for _ in range(3)], item=[3 * (u % 100) + i for u in range(300) for i in range(3)]
    )
    rec = su.Recommender(IALS(dim=8, unobserved=5.0, l2=1.0)).fit(data)
    [note] = rec.system.notes
    assert note.startswith("300 of 300 item vectors are next to nothing or not finite, and their items scored alike: ")
    assert "suisen tune" in note
    assert not su.Recommender(IALS(dim=8)).fit(data).system.notes


@pytest.mark.parametrize(("length", "lost"), [(5e-4, True), (2e-3, False), (float("nan"), True), (float("inf"), True)])
def test_what_counts_as_vanished(length, lost):
    data = checkerboard()
    net = prepared(data, IALS(dim=4))
    net.item.weight.fill_(1.0)
    assert not vanished_vectors(net, data)
    net.item.weight[1] = 0.0
    net.item.weight[1, 0] = length
    assert bool(vanished_vectors(net, data)) == lost
    assert vanished_vectors(None, data) == ()
