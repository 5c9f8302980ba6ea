import numpy as np
import pytest

from suisen.recommending.kernels import PATHS, paths_here
from suisen.retrieval import Excluded


@pytest.fixture(scope="session", params=PATHS)
def path(request):
    """Every path; those that this machine cannot run are skipped by name."""
    if request.param not in paths_here():
        pytest.skip(f"this machine cannot run {request.param}")
    return request.param


def excluded(rows):
    values = np.array([value for row in rows for value in row], dtype=np.int64)
    return Excluded(values, np.cumsum([0, *map(len, rows)]).astype(np.int64))


def levels_by_definition(vectors):
    """(n, d) levels and (d,) steps of float32 vectors, a number at a time."""
    wide = vectors.astype(np.float64)
    low, high = wide.min(axis=0), wide.max(axis=0)
    step = (high - low) / 255
    levels = np.zeros(wide.shape, dtype=np.int64)
    for i, j in np.ndindex(*wide.shape):
        levels[i, j] = round((wide[i, j] - low[j]) / step[j]) if step[j] else 0
    return levels, step


def query_levels_by_definition(queries, step):
    """(B, d) levels of float32 queries."""
    out = np.zeros(queries.shape, dtype=np.int64)
    for row, query in enumerate(queries):
        stretched = [float(number) * float(one) for number, one in zip(query, step)]
        largest = max(map(abs, stretched))
        if largest:
            out[row] = [round(number * (127 / largest)) for number in stretched]
    return out


def product_by_definition(vector, query):
    """The float32 inner product: 16 sums, then in halves."""
    sums = [np.float32(0)] * 16
    for j, (one, other) in enumerate(zip(vector, query)):
        sums[j % 16] = np.float32(sums[j % 16] + np.float32(one * other))
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [np.float32(sums[lane] + sums[lane + half]) for lane in range(half)]
    return sums[0]


def clustered(n, d, b, spread, seed=0):
    """Vectors and queries around 50 centres with norms that differ."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(50, d))
    vectors = centres[draw.integers(0, 50, n)] + spread * draw.normal(size=(n, d))
    vectors *= draw.lognormal(0, 0.2, size=(n, 1))
    queries = centres[draw.integers(0, 50, b)] + spread * draw.normal(size=(b, d))
    return vectors.astype(np.float32), queries.astype(np.float32)
