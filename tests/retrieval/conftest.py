import numpy as np
import pytest

from suisen.retrieval import INDEXES, Excluded, create_index

SETTINGS = [settings() for settings in INDEXES.values()]
"""Of every index in the registry, with its defaults."""
IDS = list(INDEXES)
N, D = 3_000, 15  # odd, so that product quantisation has to pad


def clustered(n=N, d=D, n_queries=20, seed=0):
    """Vectors around 50 centres with norms that differ, and queries near the centres."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(50, d))
    vectors = centres[draw.integers(0, 50, n)] + 0.4 * draw.normal(size=(n, d))
    vectors *= draw.lognormal(0, 0.2, size=(n, 1))
    queries = centres[draw.integers(0, 50, n_queries)] + 0.4 * draw.normal(size=(n_queries, d))
    return vectors.astype(np.float32), queries.astype(np.float32)


def slow_search(vectors, queries, k, banned=None, allowed=None):
    """The definition: one query at a time, a plain Python sort by (score falling, position rising)."""
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for row, query in enumerate(queries):
        products = [float(np.dot(vector, query)) for vector in vectors]
        usable = [
            i
            for i in range(len(vectors))
            if (banned is None or i not in set(banned[row])) and (allowed is None or allowed[i])
        ]
        best = sorted(usable, key=lambda i: (-products[i], i))[:k]
        ids[row, : len(best)] = best
        scores[row, : len(best)] = [products[i] for i in best]
    return ids, scores


def excluded(rows):
    values = np.array([value for row in rows for value in row], dtype=np.int64)
    return Excluded(values, np.cumsum([0, *map(len, rows)]).astype(np.int64))


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.fixture(scope="session")
def data():
    vectors, queries = clustered()
    return read_only(vectors), read_only(queries)


@pytest.fixture(scope="session", params=SETTINGS, ids=IDS)
def index(request, data):
    """A built index of every registered name."""
    made = create_index(request.param)
    made.build(data[0])
    return made
