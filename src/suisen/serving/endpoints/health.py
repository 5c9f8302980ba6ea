"""``GET /health/live`` and ``GET /health/ready``: what balancers and orchestrators probe."""

from typing import Literal

from msgspec import Struct

from suisen.serving.contract import AnyParams, Endpoint
from suisen.serving.exchange import Exchange
from suisen.serving.service import Service


class Health(Struct, frozen=True):
    """State of the server."""

    status: Literal["alive", "ready"]
    version: str


async def live(service: Service, exchange: Exchange, message: AnyParams) -> Health:
    """Whether the process runs."""
    return Health("alive", service.version)


async def ready(service: Service, exchange: Exchange, message: AnyParams) -> Health:
    """Whether requests may be sent here."""
    if service.state != "ready":
        raise service.not_ready()
    return Health("ready", service.version)


LIVE = Endpoint("GET", "/health/live", live, takes=AnyParams, answers=Health, scope="open", needs_bundle=False)
READY = Endpoint(
    "GET",
    "/health/ready",
    ready,
    takes=AnyParams,
    answers=Health,
    scope="open",
    needs_bundle=False,
    codes=("not_ready",),
)
