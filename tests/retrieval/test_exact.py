import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from suisen.retrieval import Exact, create_index, exact
from suisen.retrieval.exact import inner_products
from tests.retrieval.conftest import excluded, slow_search

whole_numbers = st.integers(-2, 2).map(np.float32)  # exact in float32 whatever the order: ties are real ties


@st.composite
def searches(draw):
    n, d, b = draw(st.integers(1, 30)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    vectors = draw(arrays(np.float32, (n, d), elements=whole_numbers))
    queries = draw(arrays(np.float32, (b, d), elements=whole_numbers))
    gone = draw(st.lists(st.lists(st.integers(0, n - 1), max_size=2 * n), min_size=b, max_size=b))
    allowed = draw(st.one_of(st.none(), arrays(np.bool_, n)))
    return vectors, queries, draw(st.integers(1, n + 2)), gone, allowed


@pytest.mark.parametrize(("items", "scores"), [(65_536, 4_194_304), (7, 14)])
@given(search=searches())
def test_exact_search_is_its_definition(items, scores, search):
    vectors, queries, k, gone, allowed = search
    index = create_index(Exact())
    index.build(vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "ITEMS_PER_TILE", items)
        patch.setattr(exact, "SCORES_PER_TILE", scores)
        ids, values = index.search(queries, k, excluded(gone), allowed)
    slow_ids, slow_values = slow_search(vectors, queries, k, gone, allowed)
    np.testing.assert_array_equal(ids, slow_ids)
    np.testing.assert_array_equal(values, slow_values)


def test_a_constant_scorer_gives_the_first_positions():
    index = create_index(Exact())
    index.build(np.ones((200_000, 1), dtype=np.float32))
    ids, scores = index.search(np.ones((3, 1), dtype=np.float32), 500)
    assert (ids == np.arange(500)).all()
    assert (scores == 1).all()


def test_tensors_share_their_memory_at_the_door():
    vectors, queries = torch.randn(50, 4), torch.randn(3, 4)
    index = create_index(Exact())
    index.build(vectors.numpy())
    ids, scores = index.search(queries.numpy(), 5)
    truth = torch.topk(queries @ vectors.T, 5)
    assert ids.tolist() == truth.indices.tolist()
    torch.testing.assert_close(torch.from_numpy(scores), truth.values)


def test_inner_products_in_tiles(monkeypatch):
    draw = np.random.default_rng(0)
    vectors, queries = (draw.normal(size=(n, 4)).astype(np.float32) for n in (20, 7))
    ids = draw.integers(0, 20, size=(7, 3))
    want = np.einsum("bd,bcd->bc", queries, vectors[ids])
    np.testing.assert_allclose(inner_products(vectors, queries, ids), want, rtol=1e-5)
    monkeypatch.setattr(exact, "FLOATS_PER_CHUNK", 30)
    np.testing.assert_allclose(inner_products(vectors, queries, ids), want, rtol=1e-5)
    assert inner_products(vectors, queries[:0], ids[:0]).shape == (0, 3)
    assert inner_products(vectors, queries, ids[:, :0]).shape == (len(queries), 0)
