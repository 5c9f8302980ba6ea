"""``GET /openapi.json``."""

from suisen.serving.contract import AnyParams, Endpoint
from suisen.serving.exchange import JSON, Exchange, Reply
from suisen.serving.service import Service


async def openapi(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """The description of all paths."""
    return Reply(200, JSON, service.description)


ENDPOINT = Endpoint(
    "GET", "/openapi.json", openapi, takes=AnyParams, answers="application/json", scope="open", needs_bundle=False
)
