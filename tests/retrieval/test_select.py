import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from suisen.retrieval.select import NONE, largest, pack, unpack


def slow_largest(scores, k):
    out = []
    for row in scores:
        finite = [j for j in range(len(row)) if row[j] > -np.inf]
        out.append(sorted(finite, key=lambda j: (-row[j], j))[:k])
    return out


few_values = st.sampled_from([-np.inf, -2.5, -0.0, 0.0, 2.0**-100, 1.0, 1.0, 2.0**127])
any_score = st.one_of(few_values, st.floats(-(2.0**100), 2.0**100, width=32))


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 200)), elements=any_score), st.integers(1, 30))
def test_largest_is_its_definition_with_ties_to_the_lower_position(scores, k):
    ids, values = unpack(largest(scores, k), k)
    for row, want in enumerate(slow_largest(scores, k)):
        assert ids[row].tolist() == want + [-1] * (k - len(want))
        np.testing.assert_array_equal(values[row, : len(want)], scores[row, want])


@given(
    arrays(np.float32, st.tuples(st.just(3), st.integers(1, 120)), elements=any_score),
    st.integers(1, 20),
    st.integers(1, 120),
)
def test_tiles_merge_to_the_whole(scores, k, tile):
    best = None
    for start in range(0, scores.shape[1], tile):
        best = largest(np.ascontiguousarray(scores[:, start : start + tile]), k, start, best)
    np.testing.assert_array_equal(unpack(best, k)[0], unpack(largest(scores, k), k)[0])


@pytest.mark.parametrize("tile", [1, 2, 3, 5])
def test_what_is_not_full_yet_takes_lower_scores_of_later_tiles(tile):
    scores = -np.arange(12, dtype=np.float32)[None].repeat(2, axis=0)  # falling: each tile is below all before it
    best = None
    for start in range(0, 12, tile):
        best = largest(np.ascontiguousarray(scores[:, start : start + tile]), 7, start, best)
    assert unpack(best, 7)[0].tolist() == [list(range(7))] * 2


@pytest.mark.parametrize("columns", [33, 1_000, 4_096])
def test_groups_of_every_size(columns):
    scores = np.random.default_rng(columns).normal(size=(5, columns)).astype(np.float32).round(1)
    for k in (1, 3, columns // 40 + 1, columns // 5, columns):
        ids, _ = unpack(largest(scores, k), k)
        assert ids.tolist() == slow_largest(scores, k)


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**126), 2.0**126, width=32)))
def test_keys_keep_scores_and_positions(scores):
    positions = np.arange(len(scores)) + 2**32 - 51
    keys = pack(scores, positions)[None]
    assert (keys != NONE).all()
    ids, values = unpack(keys, len(scores))
    np.testing.assert_array_equal(ids[0], positions)
    np.testing.assert_array_equal(values[0], scores)
