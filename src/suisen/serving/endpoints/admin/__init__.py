"""What the admin listener answers: which versions are loaded, and what may not be shown."""

from typing import Any

from suisen.serving.contract import Endpoint
from suisen.serving.endpoints import health, metrics
from suisen.serving.endpoints.admin import blocklist, slots

ADMIN: tuple[Endpoint[Any], ...] = (
    slots.SLOTS,
    slots.STATUS,
    slots.LOAD,
    slots.SHADOW,
    slots.SWITCH,
    slots.ROLLBACK,
    slots.UNLOAD,
    blocklist.GET,
    blocklist.POST,
    health.LIVE,
    health.READY,
    metrics.ENDPOINT,
)
