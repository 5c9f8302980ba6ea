"""What the admin listener answers: which versions are loaded, what may not be shown, why an answer is what it is."""

from typing import Any

from suisen.serving.contract import Endpoint
from suisen.serving.endpoints import docs, health, metrics, openapi
from suisen.serving.endpoints.admin import blocklist, console, inspect, items, slots

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
    blocklist.PUT,
    inspect.ENDPOINT,
    items.ENDPOINT,
    console.PAGE,
    console.STYLE,
    console.SCRIPT,
    health.LIVE,
    health.READY,
    metrics.ENDPOINT,
    openapi.ADMIN,
    docs.ADMIN,
    *docs.PARTS,
)
