"""Which items are alike, by hand, for every model that says so; similar items and diversity read the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import suisen as su
from suisen.data.dataset import Dataset
from suisen.errors import UnsupportedQuery
from suisen.evaluation import Facts
from suisen.evaluation.metrics import diversity
from suisen.models import EASE, IALS, MODELS, RANKERS, ItemKNN, Popularity
from suisen.models.closed_form import binary_matrix
from suisen.models.contract import CatalogueScorer
from suisen.recommending.diversity import mmr
from suisen.recommending.likeness import Likeness
from suisen.training.trainer import fit
from tests.helpers import logs, make_data
from tests.models.test_contract import fitted
from tests.models.toys import bound, checkerboard

OWN = {"ease", "item-knn"}
"""Those that compare without vectors."""


def cosine(a: list[float], b: list[float]) -> float:
    size = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b)) / size if size else 0.0


def rows(likeness: Likeness, n: int) -> torch.Tensor:
    return likeness.rows(torch.arange(n))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in OWN | {"popularity"}])
def test_cosines_by_hand(name):
    net, n = fitted(name, epochs=2), checkerboard().schema.n_items
    with torch.no_grad():
        vectors = net.prepare_items() if name in RANKERS else net.item_vectors()
    found = rows(Likeness.of(net), n)
    for i in (1, 4, n - 1):
        for j in range(1, n):
            assert float(found[i, j]) == pytest.approx(cosine(vectors[i].tolist(), vectors[j].tolist()), abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(log=logs(), k=st.integers(1, 6), shrinkage=st.sampled_from([0.0, 2.0]))
def test_item_knn_by_hand(log, k, shrinkage):
    data = Dataset.of(log)
    net = bound(fit(ItemKNN(neighbours=k, shrinkage=shrinkage), data)[0], data)
    x, n = binary_matrix(data).toarray(), data.schema.n_items
    found = rows(Likeness.of(net), n)
    for i in range(1, n):
        wanted = {}
        for j in range(1, n):
            both = float((x[:, i] * x[:, j]).sum())
            if i != j and both:
                wanted[j] = both / (math.sqrt(x[:, i].sum() * x[:, j].sum()) + shrinkage)
        own = [float(found[i, j]) for j in range(1, n) if j != i]
        assert all(float(found[i, j]) in (0.0, pytest.approx(wanted.get(j, 0.0))) for j in range(1, n) if j != i)
        best = sorted(wanted.values(), reverse=True)[:k]
        assert sorted(own, reverse=True)[: len(best)] == pytest.approx(best)


@settings(max_examples=40, deadline=None)
@given(log=logs(labels=False), l2=st.sampled_from([0.5, 20.0]))
def test_ease_by_hand(log, l2):
    """Partial correlations: of the inverse itself, without a look at the weights."""
    data = Dataset.of(log)
    net, _ = fit(EASE(l2=l2), data)
    x = binary_matrix(data).toarray().astype(np.float64)[:, 1:]
    p = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))
    wanted = -p / np.sqrt(np.outer(p.diagonal(), p.diagonal()))
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(rows(Likeness.of(net), data.schema.n_items)[1:, 1:], wanted, atol=2e-3)


def test_popularity_refuses():
    rec = su.Recommender(Popularity()).fit(checkerboard())
    with pytest.raises(UnsupportedQuery, match="popularity cannot tell which items are alike; use ItemKNN"):
        rec.similar_items([3])
    plain = rec.recommend(users=[3], k=9)  # to diversity all items are equally alike, so that the order stands
    assert rec.recommend(users=[3], k=9, diversity=0.5).equals(plain)


@pytest.mark.parametrize("model", [EASE(l2=1.0), ItemKNN(shrinkage=1.0), IALS(dim=8)])
@pytest.mark.parametrize("pairs", [3, 7])
def test_what_is_always_taken_together_is_nearest(model, pairs):
    """Items 2i and 2i + 1 are twins; every user takes two pairs of twins."""
    user, item = [], []
    for u in range(8 * pairs):
        for pair in {u % pairs, (u // pairs + 1 + u) % pairs}:
            user += [u, u]
            item += [2 * pair, 2 * pair + 1]
    near = su.Recommender(model).fit(make_data(user=user, item=item)).similar_items(list(range(2 * pairs)), 1)
    assert near["similar_id"].to_list() == [i ^ 1 for i in range(2 * pairs)]
    assert (near["score"] > 0).all()


def test_a_scorer_of_the_catalogue_compares_by_what_one_item_recommends():
    class Plain(CatalogueScorer):
        def score_all(self, contexts):
            out = torch.zeros(len(contexts), 5)
            return out.index_put_((torch.arange(len(contexts)), contexts.history.values), torch.tensor(7.0))

    data = make_data(user=[*"aabb"], item=[1, 2, 3, 4])
    found = Likeness.of(bound(Plain(), data)).between(torch.tensor([1, 3]), torch.tensor([[1, 2], [2, 3]]))
    assert found.tolist() == [[7, 0], [0, 7]]


@pytest.mark.parametrize("name", ["ease", "item-knn", "ials"])
def test_diversity_reads_the_same(name):
    data = checkerboard()
    likeness = Likeness.of(fitted(name))
    lists = torch.tensor([[1, 2, 3, 4], [5, 7, 0, 0], [9, 0, 0, 0]])
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]] * 3).masked_fill(lists == 0, -torch.inf)
    matrix = rows(likeness, data.schema.n_items)
    found, _ = mmr(lists, scores, likeness, 3, 0.7)
    picked, left, relevance = [1], [2, 3, 4], {1: 1.0, 2: 2 / 3, 3: 1 / 3, 4: 0.0}
    for _ in range(2):
        gains = {i: 0.3 * relevance[i] - 0.7 * max(float(matrix[j, i]) for j in picked) for i in left}
        best = max(left, key=gains.__getitem__)
        picked.append(best)
        left.remove(best)
    assert found[0].tolist() == picked
    pairs = [float(matrix[a, b]) for a in range(1, 5) for b in range(1, 5) if a != b]
    values = diversity(lists, Facts(data.item_counts, likeness.facts)).tolist()
    assert values[0] == pytest.approx(1 - sum(pairs) / 12, abs=1e-5)
    assert values[1] == pytest.approx(1 - float(matrix[5, 7]), abs=1e-5)
    assert math.isnan(values[2])


def test_fitting_again_forgets_what_was_alike():
    data = checkerboard()
    net, _ = fit(ItemKNN(neighbours=5), data)
    ids = torch.arange(1, data.schema.n_items)
    every = ids.expand(len(ids), -1)
    net.similarities(ids, every)
    part = data.keep(data.user % 2 == 1)
    net.prepare(part)
    fresh, _ = fit(ItemKNN(neighbours=5), part)
    assert fresh.similarities(ids, every).any()
    assert torch.equal(net.similarities(ids, every), fresh.similarities(ids, every))
