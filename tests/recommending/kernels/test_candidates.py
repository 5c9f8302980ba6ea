from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from suisen.errors import InputError
from suisen.recommending.kernels import Quantised, agreement, candidates
from suisen.recommending.kernels.search import margin_of
from suisen.retrieval import Exact, create_index
from tests.recommending.kernels.conftest import clustered, excluded, product_by_definition


def by_definition(vectors, queries, k, gone, allowed):
    """The largest float32 products, one query at a time, by a plain Python sort."""
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for row, query in enumerate(queries):
        products = [product_by_definition(vector, query) for vector in vectors]
        left = [i for i in range(len(vectors)) if i not in gone[row] and (allowed is None or allowed[i])]
        best = sorted(left, key=lambda i: (-products[i], i))[:k]
        ids[row, : len(best)] = best
        scores[row, : len(best)] = [products[i] for i in best]
    return ids, scores


def same(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


@st.composite
def searches(draw, whole):
    n, d, b = draw(st.integers(1, 70)), draw(st.integers(1, 19)), draw(st.integers(1, 4))
    numbers = st.integers(-2, 2).map(np.float32) if whole else st.floats(-100, 100, width=32)
    vectors, queries = (draw(arrays(np.float32, (rows, d), elements=numbers)) for rows in (n, b))
    gone = draw(st.lists(st.lists(st.integers(0, n - 1), max_size=2 * n), min_size=b, max_size=b))
    return vectors, queries, draw(st.integers(0, n + 2)), gone, draw(st.one_of(st.none(), arrays(np.bool_, n)))


@settings(max_examples=40)
@given(search=searches(whole=False))
def test_candidates_are_their_definition_where_everything_survives(path, search):
    vectors, queries, k, gone, allowed = search
    found = candidates(Quantised.of(vectors), queries, k, excluded(gone), allowed, path=path, margin=len(vectors))
    same(found, by_definition(vectors, queries, k, gone, allowed))


@settings(max_examples=60)
@given(search=searches(whole=True))
def test_candidates_are_those_of_the_exact_index(path, search):
    """Whole numbers: ties are real ties, and float32 is exact whatever the order of additions."""
    vectors, queries, k, gone, allowed = search
    index = create_index(Exact())
    index.build(vectors)
    found = candidates(Quantised.of(vectors), queries, k, excluded(gone), allowed, path=path, margin=len(vectors))
    same(found, index.search(queries, k, excluded(gone), allowed))


@pytest.mark.parametrize("b", [1, 5, 13])
def test_every_path_and_every_batch_gives_the_same_bits(path, b, monkeypatch):
    vectors, queries = clustered(3_000, 37, b, 0.4)
    draw = np.random.default_rng(b)
    gone = [draw.integers(0, 3_000, 40 * (row % 3)).tolist() for row in range(b)]
    allowed = draw.random(3_000) < 0.7
    table = Quantised.of(vectors)
    whole = candidates(table, queries, 50, excluded(gone), allowed, path="plain")
    same(candidates(table, queries, 50, excluded(gone), allowed, path=path), whole)
    monkeypatch.setattr("suisen.recommending.kernels.search.QUERIES", 4)
    same(candidates(table, queries, 50, excluded(gone), allowed, path=path), whole)
    for row in range(b):
        alone = candidates(table, queries[[row]], 50, excluded(gone[row : row + 1]), allowed, path=path)
        same(alone, (whole[0][[row]], whole[1][[row]]))


def test_threads_do_not_disturb_each_other(path):
    """The compiled paths run without Python's lock."""
    vectors, queries = clustered(3_000, 16, 24, 0.4)
    table = Quantised.of(vectors)
    want = candidates(table, queries, 20, path="plain")
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda row: candidates(table, queries[row : row + 3], 20, path=path), range(0, 22, 3)))
    same([np.concatenate(side) for side in zip(*parts)], want)


def test_the_seed_of_the_table_changes_nothing_but_its_order():
    vectors, queries = clustered(2_000, 16, 6, 1.0)
    tables = [Quantised.of(vectors, seed) for seed in (0, 1)]
    assert (tables[0].order != tables[1].order).any()
    same(*(candidates(table, queries, 30, path="plain") for table in tables))


def test_strided_queries_are_read_as_they_are_and_nothing_is_written_to(path):
    vectors, wide = clustered(300, 20, 8, 0.5)
    table = Quantised.of(vectors.copy())
    for queries in (wide[::2], wide[::-1], np.asfortranarray(wide), np.repeat(wide, 2, axis=1)[:, ::2]):
        before = queries.copy()
        same(
            candidates(table, queries, 10, path=path),
            candidates(table, np.ascontiguousarray(queries), 10, path=path),
        )
        np.testing.assert_array_equal(queries, before)
    np.testing.assert_array_equal(table.vectors, vectors)


LEAST = {"random": (0.99, 0.9999), "clustered": (0.95, 0.999), "one wide dimension": (0.95, 0.999)}
"""Least share of identical lists, and least share of the exact candidates, with the margin that is the default."""


@pytest.mark.parametrize("kind", LEAST)
@pytest.mark.parametrize("k", [10, 200])
def test_candidates_nearly_always_are_those_of_float32(kind, k):
    if kind == "random":
        draw = np.random.default_rng(0)
        vectors, queries = (draw.normal(size=(n, 64)).astype(np.float32) for n in (10_000, 150))
    else:
        vectors, queries = clustered(10_000, 64, 150, 0.4)
    if kind == "one wide dimension":  # popularity, say
        vectors[:, 0] *= 30
    measured = agreement(Quantised.of(vectors), queries, k)
    assert measured.queries == 150
    assert measured.identical >= LEAST[kind][0]
    assert measured.overlap >= LEAST[kind][1]


def test_agreement_tells_a_margin_that_is_too_narrow(path):
    """150 items on one of 256 levels: without a margin the integers take the first ten, with one all are rescored."""
    vectors = np.linspace(0, 1e-3, 150, dtype=np.float32)[:, None]
    vectors = np.concatenate([vectors, [[-1]]]).astype(np.float32)
    queries = np.array([[1], [2], [-1]], dtype=np.float32)
    narrow = agreement(Quantised.of(vectors), queries, 10, path=path, margin=0)
    assert narrow == pytest.approx((1 / 3, 1 / 3, 3))  # the last query wants what stands first
    assert agreement(Quantised.of(vectors), queries, 10, path=path, margin=140) == (1, 1, 3)


def test_agreement_where_fewer_vectors_are_than_candidates():
    vectors, queries = clustered(20, 4, 3, 0.4)
    assert agreement(Quantised.of(vectors), queries, 20) == (1, 1, 3)
    assert agreement(Quantised.of(vectors), queries, 50) == (1, 1, 3)
    with pytest.raises(InputError, match="queries has no row"):
        agreement(Quantised.of(vectors), queries[:0], 5)


def test_nothing_asked_for_nothing_left_and_nobody_asking(path):
    vectors, queries = clustered(100, 4, 3, 0.4)
    table = Quantised.of(vectors)
    assert [part.shape for part in candidates(table, queries, 0, path=path)] == [(3, 0), (3, 0)]
    assert [part.shape for part in candidates(table, queries[:0], 5, path=path)] == [(0, 5), (0, 5)]
    for limits in ({"allowed": np.zeros(100, dtype=bool)}, {"exclude": excluded([[*range(100)]] * 3)}):
        ids, scores = candidates(table, queries, 5, **limits, path=path)
        assert (ids == -1).all()
        assert (scores == -np.inf).all()


def test_the_margin_grows_with_k():
    assert [margin_of(k) for k in (0, 10, 256, 264, 500, 1_000)] == [32, 32, 32, 33, 62, 125]


@pytest.mark.parametrize(
    ("queries", "options", "said"),
    [
        (np.full((1, 4), np.nan, dtype=np.float32), {}, r"queries\[0\] holds NaN, infinity"),
        (np.full((1, 4), -np.inf, dtype=np.float32), {}, r"queries\[0\] holds NaN, infinity"),
        (np.zeros((1, 4)), {}, "queries is float64"),
        (np.zeros((1, 5), dtype=np.float32), {}, "queries has 5 dimensions, the index 4"),
        (np.zeros((1, 4), dtype=np.float32), {"k": -1}, "k = -1 is negative"),
        (np.zeros((1, 4), dtype=np.float32), {"margin": -2}, "margin = -2 is negative; give 0 or more"),
        (np.zeros((1, 4), dtype=np.float32), {"allowed": np.ones(9, dtype=bool)}, r"allowed is bool of shape \(9,\)"),
        (np.zeros((1, 4), dtype=np.float32), {"exclude": excluded([[10]])}, r"exclude.values\[0\] = 10 is not a pos"),
        (np.zeros((1, 4), dtype=np.float32), {"path": "avx"}, "path = 'avx' is unknown; did you mean 'avx2'"),
    ],
)
def test_bad_input_is_refused_by_name(queries, options, said):
    table = Quantised.of(np.eye(10, 4, dtype=np.float32))
    with pytest.raises(InputError, match=said):
        candidates(table, queries, **{"k": 3, **options})
