"""One file per path: its messages, its handler, its endpoint.  ``ENDPOINTS`` is what the server answers."""

from typing import Any

from suisen.serving.contract import Endpoint
from suisen.serving.endpoints import (
    bundle,
    docs,
    events,
    health,
    metrics,
    openapi,
    rank,
    recommend,
    recommend_batch,
    recommend_user,
    similar,
)

ENDPOINTS: tuple[Endpoint[Any], ...] = (
    recommend.ENDPOINT,
    recommend_user.ENDPOINT,
    recommend_batch.ENDPOINT,
    rank.ENDPOINT,
    similar.ENDPOINT,
    events.ENDPOINT,
    bundle.ENDPOINT,
    health.LIVE,
    health.READY,
    metrics.ENDPOINT,
    openapi.ENDPOINT,
    docs.ENDPOINT,
    *docs.PARTS,
)
