import numpy as np

from suisen.retrieval import Exact, Flat, create_index, measured_recall


class Half:
    """Finds the best half of what is asked for, and the worst positions beside it."""

    def __init__(self, inner, n):
        self.inner, self.n = inner, n

    def search(self, queries, k):
        ids, scores = self.inner.search(queries, self.n)
        return np.concatenate([ids[:, : k // 2], ids[:, self.n - k // 2 :]], 1), scores[:, :k]


def test_recall_is_the_share_of_the_exact_answer():
    draw = np.random.default_rng(0)
    vectors, queries = (draw.normal(size=(n, 8)).astype(np.float32) for n in (100, 9))
    index = create_index(Flat())
    index.build(vectors)
    assert measured_recall(index, vectors, queries, 10) == 1.0
    assert measured_recall(Half(index, 100), vectors, queries, 10) == 0.5
    assert measured_recall(index, vectors, queries[:0], 10) == 1.0
    assert measured_recall(index, vectors, queries, 1_000) == 1.0


def test_ties_cost_no_recall():
    vectors, queries = np.ones((50, 2), dtype=np.float32), np.ones((1, 2), dtype=np.float32)
    index = create_index(Exact())
    index.build(vectors)

    class Last:
        def search(self, queries, k):
            return 49 - index.search(queries, k)[0], None

    assert measured_recall(Last(), vectors, queries, 5) == 1.0


def test_what_is_not_found_is_not_recalled():
    class Nothing:
        def search(self, queries, k):
            return np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, dtype=np.float32)

    assert measured_recall(Nothing(), np.ones((50, 2), dtype=np.float32), np.ones((3, 2), dtype=np.float32), 5) == 0.0


def test_an_answer_a_little_below_the_last_true_one_is_a_miss():
    vectors = np.array([[1.0], [0.999], [0.5]], dtype=np.float32)

    class Second:
        def search(self, queries, k):
            return np.array([[1]]), np.array([[0.999]], dtype=np.float32)

    assert measured_recall(Second(), vectors, np.ones((1, 1), dtype=np.float32), 1) == 0.0
