"""How much of the truth an index finds."""

import numpy as np

from suisen.retrieval.checks import checked_search, checked_vectors
from suisen.retrieval.contract import Floats, Index
from suisen.retrieval.exact import inner_products, scan
from suisen.retrieval.select import unpack

TOLERANCE = 1e-5


def measured_recall(index: Index, vectors: Floats, queries: Floats, k: int) -> float:
    """Share of the exact top k that ``index`` finds for (B, d) queries; 1 where there is nothing to find.

    An answer counts where its true score reaches the exact k-th (up to rounding), so that ties cost nothing.
    """
    own = checked_vectors(vectors)
    search = checked_search(own, queries, min(k, len(own)), None, None)
    if not search.wanted.sum():
        return 1.0
    _, exact = unpack(scan(own, search), search.k)
    ids, _ = index.search(queries, search.k)
    scores = inner_products(own, search.queries, np.maximum(ids, 0))
    slack = TOLERANCE * np.abs(exact).max(axis=1, keepdims=True)
    return float(((scores >= exact[:, -1:] - slack) & (ids >= 0)).mean())
