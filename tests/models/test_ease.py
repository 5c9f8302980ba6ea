"""EASE against the closed form written as loops, and against what defines it: a constrained least squares problem."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import suisen.models.ease as module
from suisen.data.batch import Schema
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.models import EASE
from suisen.models.closed_form import binary_matrix
from suisen.training.trainer import fit
from tests.helpers import logs, make_data
from tests.models.toys import asked, checkerboard


def dense_matrix(data: Dataset) -> np.ndarray:
    """(visitors, items) of 0 and 1, by a double loop."""
    x = np.zeros((data.events.offsets.numel() - 1, data.schema.n_items))
    for visitor, item, taken in zip(data.events.visitor.tolist(), data.events.item.tolist(), data.positive.tolist()):
        if taken:
            x[visitor, item] = 1.0
    return x


def slow_weights(x: np.ndarray, l2: float) -> np.ndarray:
    """Column j: the ridge regression of item j on the other items, one at a time."""
    n = x.shape[1]
    b = np.zeros((n, n))
    for j in range(n):
        others = [i for i in range(n) if i != j]
        a = x[:, others]
        b[others, j] = np.linalg.solve(a.T @ a + l2 * np.eye(n - 1), a.T @ x[:, j])
    return b


@settings(max_examples=40)
@given(log=logs(), l2=st.sampled_from([0.5, 3.0, 100.0]))
def test_weights_are_the_ridge_regressions(log, l2):
    data = Dataset.of(log)
    if not data.positive.any():
        return
    net, _ = fit(EASE(l2=l2), data)
    np.testing.assert_allclose(net.weight.numpy(), slow_weights(dense_matrix(data), l2), atol=1e-5)
    assert not net.weight.diagonal().any()


@given(log=logs())
def test_binary_matrix_is_its_definition(log):
    data = Dataset.of(log)
    np.testing.assert_array_equal(binary_matrix(data).toarray(), dense_matrix(data))


def test_scores_are_sums_over_different_items():
    data = checkerboard()
    net, _ = fit(EASE(l2=2.0), data)
    contexts = asked(data).take(torch.arange(3))
    past = Ragged.of([[3, 5, 3, 3], [], [7]])
    scores = net.score_all(
        type(contexts)(
            contexts.user, contexts.user_features, contexts.context_features, contexts.time, past, past.values
        )
    )
    wanted = torch.stack([net.weight[3] + net.weight[5], torch.zeros(data.schema.n_items), net.weight[7]])
    torch.testing.assert_close(scores, wanted)


def test_guests_teach_like_users():
    columns = {"item": [1, 2, 1, 3], "time": [1, 2, 3, 4]}
    guests = make_data(user=[None, None, "a", "a"], session=["s", "s", "r", "r"], **columns)
    users = make_data(user=["b", "b", "a", "a"], **columns)
    assert torch.equal(fit(EASE(), guests)[0].weight, fit(EASE(), users)[0].weight)


def test_refused_events_teach_nothing():
    data = make_data(user=["a", "a", "b"], item=[1, 2, 1], label=[1, 0, 1])
    assert not fit(EASE(l2=1.0), data)[0].weight.any()


def test_a_catalogue_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_ITEMS", 10)
    with pytest.raises(InputError, match=r"the catalogue has 11 items \(at most 10\); use IALS"):
        EASE().build(Schema(3, 11))


def test_a_penalty_too_small_to_invert_is_said():
    data = make_data(user=[*"aabbccdd"], item=[1, 2] * 4)  # two items that nothing tells apart; 4 has an exact root
    with pytest.raises(InputError, match=r"EASE: XᵀX \+ 1e-300·I could not be inverted; raise l2"):
        fit(EASE(l2=1e-300), data)


def test_fitting_again_forgets():
    data = make_data(user=["a", "a", "a", "b", "b"], item=[1, 2, 3, 1, 2])
    net, _ = fit(EASE(l2=1.0), data)
    net.prepare(data.keep(data.events.item != 3))
    again, _ = fit(EASE(l2=1.0), data.keep(data.events.item != 3))
    assert torch.equal(net.weight, again.weight)
    assert not net.weight[3].any()


def test_a_catalogue_of_the_largest_size_is_learnt(monkeypatch):
    data = make_data(user=["a", "a"], item=[1, 2])
    monkeypatch.setattr(module, "MAX_ITEMS", data.schema.n_items)
    fit(EASE(l2=1.0), data)


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "said"), [(4 * 28**2 - 1, "0.0 GB for 28 items"), (8 * 24**2 - 1, "0.0 GB for 24 items")]
)
def test_what_the_machine_does_not_have_is_refused(monkeypatch, free, said):
    """The weights of all items, then the inverse over those with events."""
    data = checkerboard()
    assert data.schema.n_items == 28
    monkeypatch.setattr(module, "available_memory", lambda: float(free))
    with pytest.raises(InputError, match=rf"EASE needs {said} and the machine has .* GB left; use IALS or ItemKNN"):
        fit(EASE(), data)


PEAK = """
import numpy as np, scipy.sparse as sp
from suisen.models import EASE
from suisen.data.batch import Schema
import suisen.models.ease as module
x = sp.random(3000, {n}, density=0.01, format="csc", dtype=np.float32, rng=np.random.default_rng(0))
x.data[:] = 1
module._inverse(x[:, :50], 10.0)
before = int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) * 1024
net = EASE().build(Schema(2, {n}))
module.root_matrix = lambda train: x
net.prepare(None)
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
print((peak - before) / {n}**2)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_is_what_is_stated():
    """12 bytes per pair of items, and what is worked on at a time: some 40 MB, 1 byte per pair of so many items."""
    n = 6000
    done = subprocess.run([sys.executable, "-c", PEAK.format(n=n)], capture_output=True, text=True, check=True)
    assert 11 < float(done.stdout) < 14


@given(log=logs(labels=False), columns=st.integers(1, 4))
def test_whatever_is_worked_on_at_a_time(log, columns):
    data = Dataset.of(log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COLUMNS", columns)
        net, _ = fit(EASE(l2=2.0), data)
    np.testing.assert_allclose(net.weight.numpy(), slow_weights(dense_matrix(data), 2.0), atol=1e-5)
