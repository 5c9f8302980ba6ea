"""A client of the server, ``suisen.serving``: typed answers, retries within a deadline, events that count once.

    from suisen.client import Client

    with Client("http://localhost:8000", api_key="…") as shop:
        for item in shop.recommend_user("u1", k=5).items:
            print(item.title, item.score)
        shop.events([{"user_id": "u1", "item_id": "sku9", "event": "purchase"}])

``AsyncClient`` has the same verbs, awaited; ``AdminClient`` changes what a running server serves.  Needs the extra
``client`` (httpx); nothing of the server is imported.
"""

from suisen.errors import need_extra

need_extra("client", "httpx", "msgspec")

from suisen.client.admin import AdminClient  # noqa: E402
from suisen.client.calls import Refused, Unreachable  # noqa: E402
from suisen.client.clients import AsyncClient, Client  # noqa: E402

__all__ = ["AdminClient", "AsyncClient", "Client", "Refused", "Unreachable"]
