"""The integers of every path are those of NumPy, whatever the shapes, ties, exclusions and bars."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from suisen.recommending.kernels import Quantised, Speed, candidates, search, two_stage
from tests.recommending.kernels.conftest import (
    excluded,
    levels_by_definition,
    product_by_definition,
    query_levels_by_definition,
)


def keys_by_definition(levels, asked, k, gone, allowed):
    """(B, k) sorted keys of (n, d) item levels and (B, d) query levels; the lowest number where there is none."""
    out = np.full((len(asked), k), -(2**63), dtype=np.int64)
    for row, scores in enumerate(asked @ levels.T):
        left = [i for i in range(len(levels)) if i not in gone[row] and (allowed is None or allowed[i])]
        keys = sorted((int(scores[i]) * 2**32 + 2**32 - 1 - i for i in left), reverse=True)[:k]
        out[row, : len(keys)] = keys
    return out


def survivors(vectors, queries, k, gone, allowed, path):
    """Positions and scores of the first stage in integers."""
    return two_stage(Quantised.of(vectors), None, queries, None, k, k, excluded(gone), allowed, Speed(False), path)


def worth(keys, vectors, queries):
    """Positions and scores of (B, k) keys: inner products with levels of 16 bits, equal ones by position."""
    low, (_, step) = vectors.min(axis=0).astype(np.float64), levels_by_definition(vectors)
    step = step / 257
    fine = np.rint((vectors - low) / np.where(step > 0, step, 1)) - 32_768
    ids, scores = np.full(keys.shape, -1), np.full(keys.shape, -np.inf, dtype=np.float32)
    for row, query in enumerate(queries):
        weights = (query * step).astype(np.float32)
        added = 0.0
        for number, middle in zip(query, low + step * 32_768):
            added += float(number) * middle
        positions = [2**32 - 1 - (key & (2**32 - 1)) for key in keys[row].tolist() if key != -(2**63)]
        found = [
            (np.float32(float(product_by_definition(fine[one].astype(np.float32), weights)) + added), one)
            for one in positions
        ]
        for place, (score, position) in enumerate(sorted(found, key=lambda one: (-one[0], one[1]))):
            ids[row, place], scores[row, place] = position, score
    return ids, scores


def compare(vectors, queries, k, gone, allowed, path):
    levels, step = levels_by_definition(vectors)
    asked = query_levels_by_definition(queries, step)
    keys = keys_by_definition(levels, asked, k, gone, allowed)
    same(survivors(vectors, queries, k, gone, allowed, path), worth(keys, vectors, queries))


def same(found, want):
    for one, other in zip(found, want, strict=True):
        np.testing.assert_array_equal(one, other)


@st.composite
def searches(draw):
    n = draw(st.one_of(st.integers(1, 12), st.sampled_from([63, 64, 65, 130])))
    d, b = draw(st.integers(1, 9)), draw(st.integers(1, 8))
    few = draw(st.sampled_from([st.integers(-1, 1), st.integers(-300, 300)])).map(np.float32)  # ties, or hardly any
    vectors, queries = (draw(arrays(np.float32, (rows, d), elements=few)) for rows in (n, b))
    some = st.lists(st.integers(0, n - 1), max_size=n + 3)
    gone = draw(st.lists(st.one_of(st.just([]), st.just([*range(n)]), some), min_size=b, max_size=b))
    allowed = draw(st.one_of(st.none(), arrays(np.bool_, n)))
    return vectors, queries, draw(st.integers(1, n)), gone, allowed


@given(search=searches())
def test_survivors_are_the_largest_integers(path, search):
    compare(*search, path)


@pytest.mark.parametrize("b", [1, 2, 7])
@pytest.mark.parametrize("d", [1, 3, 4, 61, 64, 130])
def test_dimensions_that_fill_no_word_and_no_register(path, d, b):
    draw = np.random.default_rng(d)
    vectors, queries = (draw.normal(size=(n, d)).astype(np.float32) for n in (150, b))
    compare(vectors, queries, 20, [[*range(i)] for i in range(b)], None, path)


def test_the_largest_levels_do_not_saturate(path):
    """255 · ±127 in every place, at the largest d: sums of 33 million that 16 bits, or 24, would not hold."""
    vectors = np.zeros((70, 1024), dtype=np.float32)
    vectors[::2] = 1
    vectors[3, :512] = 1
    queries = np.stack([np.ones(1024), -np.ones(1024), np.tile([1, -1], 512)]).astype(np.float32)
    compare(vectors, queries, 70, [[]] * 3, None, path)
    _, scores = survivors(vectors, queries, 1, [[]] * 3, None, path)
    assert scores[0, 0] == pytest.approx(1024)


def test_zero_vectors_and_zero_queries_come_in_the_order_of_their_positions(path):
    vectors, queries = np.zeros((2_000, 5), dtype=np.float32), np.ones((2, 5), dtype=np.float32)
    for one, other in ((vectors, queries), (vectors + 3, queries), (vectors, 0 * queries)):
        ids, scores = survivors(one, other, 300, [[0, 5], []], None, path)
        assert ids[0].tolist() == [i for i in range(302) if i not in (0, 5)]
        assert ids[1].tolist() == [*range(300)]
        np.testing.assert_allclose(scores[0], one[0] @ other[0], rtol=1e-6)


def by_sorting(vectors, queries, k, gone, allowed):
    """``keys_by_definition`` for large tables: by the library's own levels, sorted by NumPy."""
    table = Quantised.of(vectors)
    scores = (table.centred.astype(np.int64) + 128) @ table.levels_of(queries).astype(np.int64).T
    keys = (scores.T << 32) + 2**32 - 1 - np.arange(len(vectors))
    for row, positions in enumerate(gone):
        keys[row, positions] = -(2**63)
    if allowed is not None:
        keys[:, ~allowed] = -(2**63)
    keys = np.sort(keys, axis=1)[:, ::-1][:, :k]
    return worth(np.pad(keys, ((0, 0), (0, k - keys.shape[1])), constant_values=-(2**63)), vectors, queries)


ORDERS = ("random", "rising", "falling", "twice")


@settings(max_examples=20)
@given(data=st.data())
def test_bars_leave_nothing_out(path, data):
    """Tables of many strips, in whatever order the catalogue stands, with few and many distinct scores."""
    n, b = data.draw(st.sampled_from([1_024, 3_000, 8_001])), data.draw(st.integers(1, 7))
    draw = np.random.default_rng(data.draw(st.integers(0, 1_000)))
    scale = data.draw(st.sampled_from([0.6, 100]))
    vectors = np.rint(draw.normal(size=(n, 3)) * scale).astype(np.float32)
    order = data.draw(st.sampled_from(ORDERS))
    by_sum = np.argsort(vectors.sum(axis=1), kind="stable")
    vectors = {"rising": vectors[by_sum], "falling": vectors[by_sum[::-1]]}.get(order, vectors)
    if order == "twice":
        vectors = np.repeat(vectors[: n // 2], 2, axis=0)
    queries = draw.normal(size=(b, 3)).astype(np.float32)
    gone = [draw.integers(0, len(vectors), data.draw(st.sampled_from([0, 5, 900]))) for _ in range(b)]
    allowed = data.draw(st.sampled_from([None, 0.5, 0.02]))
    mask = None if allowed is None else draw.random(len(vectors)) < allowed
    k = data.draw(st.sampled_from([1, 40, 700]))
    want = by_sorting(vectors, queries, k, gone, mask)
    same(survivors(vectors, queries, k, gone, mask, path), want)


def test_a_guess_that_was_too_high_is_taken_back(path):
    """The best stand in the first strips of the table's own order, so that the sample promises more than there is."""
    n, k = 20_000, 200
    vectors = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    order = Quantised.of(vectors).order[:n]
    best_first = np.empty_like(vectors)
    best_first[order] = vectors[np.argsort(-vectors[:, 0])]
    queries = np.array([[1, 0], [-1, 0], [0, 1]], dtype=np.float32)
    want = by_sorting(best_first, queries, k, [[]] * 3, None)
    same(survivors(best_first, queries, k, [[]] * 3, None, path), want)


def test_a_bar_that_rises_onto_ties_keeps_them_all(path):
    """All of the sample ties with a few of the rest, more of it than was expected: the lowest positions win."""
    n, k = 20_000, 200
    vectors = np.zeros((n, 1), dtype=np.float32)
    order = Quantised.of(vectors).order
    vectors[order[:512]] = 1
    vectors[order[15_000:15_300]] = 1
    queries = np.ones((2, 1), dtype=np.float32)
    want = by_sorting(vectors, queries, k, [[]] * 2, None)
    same(survivors(vectors, queries, k, [[]] * 2, None, path), want)


def test_rows_overflow_and_are_cut_to_the_best(path, monkeypatch):
    """Items that get better all the way fill a query's keys again and again."""
    n, k = 6_000, 30
    vectors = np.random.default_rng(1).normal(size=(n, 2)).astype(np.float32)
    rising = np.empty_like(vectors)
    rising[Quantised.of(vectors).order[:n]] = vectors[np.argsort(vectors[:, 0])]
    monkeypatch.setattr(search, "SPARE", 1_100)
    queries = np.array([[1, 0], [0, 1]], dtype=np.float32)
    want = by_sorting(rising, queries, k, [[]] * 2, None)
    same(survivors(rising, queries, k, [[]] * 2, None, path), want)


@given(numbers=st.lists(st.integers(-(2**62), 2**62), unique=True, min_size=1, max_size=40), data=st.data())
def test_the_largest_come_to_the_front(path, numbers, data):
    if path == "plain":
        pytest.skip("plain sorts")
    from suisen.recommending.kernels.scan import partitioned

    count = data.draw(st.integers(1, len(numbers)))
    k = data.draw(st.integers(1, count))
    row = np.array(numbers)
    best = sorted(numbers[:count], reverse=True)
    assert partitioned(row, count, k) == best[k - 1]
    assert sorted(row[:k], reverse=True) == best[:k]
    assert sorted(row[k:count], reverse=True) == best[k:]
    assert row[count:].tolist() == numbers[count:]


@given(data=st.data())
def test_scores_are_products_by_definition(path, data):
    d, n, b = data.draw(st.integers(1, 40)), 9, 2
    numbers = st.floats(-(2.0**49), 2.0**49, width=32)
    vectors, queries = (data.draw(arrays(np.float32, (rows, d), elements=numbers)) for rows in (n, b))
    ids, scores = candidates(Quantised.of(vectors), queries, n, path=path, margin=n)
    for row, column in np.ndindex(b, n):
        assert scores[row, column] == product_by_definition(vectors[ids[row, column]], queries[row])


@given(
    scores=st.lists(st.floats(-(2.0**49), 2.0**49, width=32), min_size=1, max_size=90),
    crowd=st.sampled_from([1, 7, 1_000]),
)
def test_lists_are_sorted_whatever_crowds_in_a_bin(path, scores, crowd):
    vectors = np.repeat(np.array(scores, dtype=np.float32)[:, None], crowd % 99, axis=0)
    ids, found = candidates(Quantised.of(vectors), np.ones((1, 1), np.float32), len(vectors), path=path)
    order = np.lexsort((np.arange(len(vectors)), -vectors[:, 0]))
    np.testing.assert_array_equal(ids[0], order)
    np.testing.assert_array_equal(found[0], vectors[order, 0])
