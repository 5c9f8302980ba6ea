"""``GET /metrics``."""

from suisen.serving.contract import AnyParams, Endpoint
from suisen.serving.exchange import Exchange, Reply
from suisen.serving.metrics import CONTENT_TYPE
from suisen.serving.service import Service


async def metrics(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """Metrics for Prometheus."""
    return Reply(200, CONTENT_TYPE.encode(), service.telemetry.render())


ENDPOINT = Endpoint(
    "GET", "/metrics", metrics, takes=AnyParams, answers="text/plain", scope="metrics", needs_bundle=False
)
