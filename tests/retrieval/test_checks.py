import numpy as np
import pytest

from suisen.errors import InputError
from suisen.retrieval import Excluded
from suisen.retrieval.checks import checked_search
from tests.retrieval.conftest import excluded

VECTORS = np.ones((6, 2), dtype=np.float32)


def test_a_search_says_what_each_query_must_get():
    queries, allowed = VECTORS[:3], np.array([True, True, True, False, False, True])
    search = checked_search(VECTORS, queries, 4, excluded([[1, 1, 3], [], [0, 1, 2, 3, 4, 5]]), allowed)
    assert search.gone.tolist() == [1, 3, *range(12, 18)]  # row · 6 + position, repeats once
    assert search.n_gone.tolist() == [2, 0, 6]
    assert search.wanted.tolist() == [3, 4, 0]  # of four allowed ones; 3 was not allowed anyway
    assert checked_search(VECTORS, queries, 9, excluded([[1, 1], [], [2]]), None).wanted.tolist() == [5, 6, 5]
    assert checked_search(VECTORS, queries, 2, None, None).wanted.tolist() == [2, 2, 2]


def test_some_queries_of_a_search_are_a_search_of_their_own():
    search = checked_search(VECTORS, VECTORS[:3], 4, excluded([[1], [5], [0, 2]]), None)
    part = search.take(np.array([0, 2]), 6)
    assert part.gone.tolist() == [1, 6, 8]
    assert (part.n_gone.tolist(), part.wanted.tolist(), len(part.queries)) == ([1, 2], [4, 4], 2)


@pytest.mark.parametrize("offsets", [[0, 1, 1, 2], [1, 1, 2, 3], [0, 2, 1, 3], [0, 3]])
def test_offsets_rise_from_0_to_the_number_of_values(offsets):
    with pytest.raises(InputError, match=r"exclude.offsets must be 4 numbers \(queries \+ 1\) rising from 0 to 3"):
        checked_search(VECTORS, VECTORS[:3], 1, Excluded(np.array([0, 1, 2]), np.array(offsets)), None)
