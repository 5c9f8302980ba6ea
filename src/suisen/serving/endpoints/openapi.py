"""``GET /openapi.json``, and ``GET /admin/openapi.json`` on the admin listener."""

from suisen.serving.contract import AnyParams, Endpoint, Handler
from suisen.serving.exchange import JSON, Exchange, Reply
from suisen.serving.service import Service


async def openapi(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """The description of all paths."""
    return Reply(200, JSON, service.description.document)


async def admin_openapi(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """The description of the paths of this listener."""
    return Reply(200, JSON, service.admin_description.document)


def _endpoint(path: str, handler: Handler[AnyParams]) -> Endpoint[AnyParams]:
    return Endpoint("GET", path, handler, takes=AnyParams, answers="application/json", scope="open", needs_bundle=False)


ENDPOINT = _endpoint("/openapi.json", openapi)
ADMIN = _endpoint("/admin/openapi.json", admin_openapi)
