"""Tables: values and gradients equal those of torch's own look-ups."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from suisen.data.ragged import Ragged
from suisen.models.tables import bag_sums, distinct, lookup, mean_square, products

ROWS = 7
matrices = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, ROWS - 1), min_size=width, max_size=width), min_size=1, max_size=9)
)


def leaf(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def gradients(value, leaves):
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(9), dtype=value.dtype)
    return torch.autograd.grad((value * weights).sum(), leaves)


@given(matrices, st.booleans())
def test_lookup_is_embedding(ids, padding):
    table, ids = leaf(ROWS, 3), torch.tensor(ids)
    ours, wanted = lookup(table, ids, padding), F.embedding(ids, table, padding_idx=0 if padding else None)
    assert_close(ours, wanted)
    assert_close(gradients(ours, table), gradients(wanted, table))


@given(matrices)
def test_products_are_their_definition(ids):
    ids = torch.tensor(ids)
    vectors, table, bias = leaf(len(ids), 3, seed=1), leaf(ROWS, 3, seed=2), leaf(ROWS, seed=3)
    ours = products(vectors, table, bias, ids)
    rows = F.embedding(ids, table, padding_idx=0)
    wanted = (rows * vectors.unsqueeze(1)).sum(2) + F.embedding(ids, bias.unsqueeze(1), padding_idx=0).squeeze(2)
    assert_close(ours, wanted)
    assert_close(gradients(ours, (vectors, table, bias)), gradients(wanted, (vectors, table, bias)))


def test_products_do_not_depend_on_where_they_are_cut(monkeypatch):
    ids = torch.arange(1, 22).remainder(ROWS).reshape(7, 3)
    vectors, table, bias = leaf(7, 3, seed=1), leaf(ROWS, 3, seed=2), leaf(ROWS, seed=3)
    whole = products(vectors, table, bias, ids)
    monkeypatch.setattr("suisen.models.tables.ROWS_PER_CHUNK", 2)
    assert_close(products(vectors, table, bias, ids), whole)


def test_without_gradient_products_are_the_same():
    ids = torch.tensor([[1, 2], [0, 3]])
    vectors, table, bias = leaf(2, 3, seed=1), leaf(ROWS, 3, seed=2), leaf(ROWS, seed=3)
    with torch.no_grad():
        assert_close(products(vectors, table, bias, ids), products(vectors.clone(), table, bias, ids).detach())
        frozen = products(vectors, table, bias, ids)
    assert_close(frozen, products(vectors, table, bias, ids).detach())


@given(st.lists(st.lists(st.integers(0, ROWS - 1), max_size=4), min_size=1, max_size=8))
def test_bag_sums_are_weighted_sums(rows):
    bags, table = Ragged.of(rows), leaf(ROWS, 3)
    weights = torch.arange(1, bags.values.numel() + 1).double() * (bags.values > 0)
    ours = bag_sums(table, bags.values, bags.offsets, weights)
    looked = F.embedding(bags.values, table, padding_idx=0) * weights.unsqueeze(1)
    wanted = torch.zeros((len(rows), 3), dtype=torch.float64).index_add(0, bags.rows(), looked)
    assert_close(ours, wanted)
    if bags.values.numel():
        assert_close(gradients(ours, table), gradients(wanted, table))


@given(matrices, st.sampled_from([ROWS, 1000]))
def test_distinct_is_unique(ids, size):
    ids = torch.tensor(ids)
    for ours, wanted in zip(
        distinct(ids, size), torch.unique(ids, return_inverse=True, return_counts=True), strict=True
    ):
        assert torch.equal(ours, wanted)


@given(matrices)
def test_mean_square_is_its_definition(ids):
    table, ids = leaf(ROWS, 3), torch.tensor(ids)
    ours, wanted = mean_square(table, ids), F.embedding(ids, table).square().sum(-1).mean()
    assert_close(ours, wanted)
    assert_close(gradients(ours, table), gradients(wanted, table))
