"""ItemKNN against its definition in loops, whatever the tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import suisen.models.item_knn as module
from suisen.data.batch import Contexts
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.models import SECOND_STAGES, ItemKNN
from suisen.models.closed_form import binary_matrix
from suisen.models.item_knn import tiles
from suisen.training.trainer import fit
from tests.helpers import logs, make_data
from tests.models.toys import asked, checkerboard


def slow_weights(data: Dataset, k: int, shrinkage: float) -> np.ndarray:
    """[i, j]: the similarity of history item i to the scored item j, of j's k nearest alone."""
    x = binary_matrix(data).toarray()
    n = x.shape[1]
    out = np.zeros((n, n), dtype=np.float32)
    for j in range(n):
        found = []
        for i in range(n):
            both = sum(x[v, i] * x[v, j] for v in range(len(x)))
            if i != j and both:
                root = np.float32(np.sqrt(x[:, i].sum() * x[:, j].sum()))
                found.append((-np.float32(both / (root + np.float32(shrinkage))), i))
        for similar, i in sorted(found)[:k]:
            out[i, j] = -similar
    return out


def weights(net) -> np.ndarray:
    """The sparse matrix that the network keeps, made dense."""
    n = len(net.offsets) - 1
    out = np.zeros((n, n), dtype=np.float32)
    for i in range(n):
        for at in range(net.offsets[i], net.offsets[i + 1]):
            out[i, net.targets[at]] = net.similarity[at]
    return out


@settings(max_examples=50, deadline=None)
@given(log=logs(), k=st.integers(1, 5), shrinkage=st.sampled_from([0.0, 3.0]), tile=st.sampled_from([1, 6, 2**22]))
def test_neighbours_are_their_definition(log, k, shrinkage, tile):
    data = Dataset.of(log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS_PER_TILE", tile)
        net, curves = fit(ItemKNN(neighbours=k, shrinkage=shrinkage), data)
    assert curves == []
    np.testing.assert_allclose(weights(net), slow_weights(data, k, shrinkage), rtol=1e-6)


@given(log=logs(), tile=st.integers(1, 40))
def test_tiles_cover_each_item_once_and_stay_small(log, tile):
    x = binary_matrix(Dataset.of(log))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS_PER_TILE", tile)
        ranges = list(tiles(x, x.T.tocsr()))
    assert [item for lo, hi in ranges for item in range(lo, hi)] == list(range(x.shape[1]))
    pairs = np.minimum(x.T.tocsr() @ np.diff(x.indptr), x.shape[1])
    for lo, hi in ranges[:-1]:
        assert pairs[lo : hi + 1].sum() > tile  # the next item would not have fitted
    for lo, hi in ranges:
        assert lo < hi  # no tile is empty
        assert (x.T.tocsr()[lo:hi] @ x).nnz <= tile or hi - lo == 1


def test_equal_similarities_keep_the_lower_items():
    data = make_data(user=["a"] * 5 + ["b"] * 5, item=[5, 4, 3, 2, 1] * 2)
    net, _ = fit(ItemKNN(neighbours=2, shrinkage=1.0), data)
    kept = [np.flatnonzero(column).tolist() for column in weights(net).T[1:]]
    assert kept == [[2, 3], [1, 3], [1, 2], [1, 2], [1, 2]]


def test_scores_are_sums_over_different_items():
    data = checkerboard()
    net, _ = fit(ItemKNN(neighbours=5, shrinkage=2.0), data)
    past = Ragged.of([[3, 5, 3, 3], [], [7], [0]])
    contexts = replace(asked(data).take(torch.arange(4)), history=past, history_time=past.values)
    dense = torch.from_numpy(weights(net))
    wanted = torch.stack([dense[3] + dense[5], torch.zeros(len(dense)), dense[7], torch.zeros(len(dense))])
    torch.testing.assert_close(net.score_all(contexts), wanted)
    assert net.score_all(Contexts.of_users(torch.zeros(0, dtype=torch.int64))).shape == (0, len(dense))


def test_the_state_is_as_large_as_stated():
    net, _ = fit(ItemKNN(neighbours=7), checkerboard())
    n = checkerboard().schema.n_items
    assert net.targets.nbytes + net.similarity.nbytes == 8 * 7 * n
    assert net.offsets.nbytes == 8 * (n + 1)


def test_fitting_again_forgets():
    data = checkerboard()
    net, _ = fit(ItemKNN(neighbours=20), data)
    part = data.keep(data.user == 1)
    net.prepare(part)
    fresh, _ = fit(ItemKNN(neighbours=20), part)
    for name, buffer in fresh.named_buffers():
        if not name.startswith("items"):
            assert torch.equal(buffer, net.get_buffer(name))


def test_guests_teach_like_users_and_refusals_nothing():
    columns = {"item": [1, 2, 1, 3], "time": [1, 2, 3, 4]}
    guests = make_data(user=[None, None, "a", "a"], session=["s", "s", "r", "r"], **columns)
    users = make_data(user=["b", "b", "a", "a"], **columns)
    assert np.array_equal(*(weights(fit(ItemKNN(), data)[0]) for data in (guests, users)))
    refused = make_data(user=["a", "a", "b"], item=[1, 2, 1], label=[1, 0, 1])
    assert not weights(fit(ItemKNN(), refused)[0]).any()


def test_it_cannot_be_a_second_stage():
    assert "item-knn" not in SECOND_STAGES
