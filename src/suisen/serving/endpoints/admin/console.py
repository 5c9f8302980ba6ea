"""``GET /console``: the operator's page.

The page holds no data, so that it needs no key: it asks for the key, and with it for what it shows.  What it is made of
lies in ``serving/console``; its colours are those of all pages.
"""

from functools import cache
from importlib.resources import files

from suisen.serving.contract import AnyParams, Endpoint
from suisen.serving.exchange import Exchange, Reply
from suisen.serving.service import Service

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
"""Nothing but this server's own files runs, styles or is asked; no other page may frame it."""


@cache
def _page(media_type: bytes, *names: str) -> Reply:
    """Files of the package, one behind the other; read once."""
    body = b"\n".join(files("suisen").joinpath(name).read_bytes() for name in names)
    return Reply(200, media_type, body, HEADERS)


async def console(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """The operator's page."""
    return _page(b"text/html; charset=utf-8", "serving/console/console.html")


async def console_style(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """Its style."""
    return _page(b"text/css; charset=utf-8", "pages/colours.css", "serving/console/console.css")


async def console_script(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """Its script."""
    return _page(b"text/javascript; charset=utf-8", "serving/console/console.js")


PAGE, STYLE, SCRIPT = (
    Endpoint("GET", path, handler, takes=AnyParams, answers=media_type, scope="open", needs_bundle=False)
    for path, handler, media_type in (
        ("/console", console, "text/html"),
        ("/console/console.css", console_style, "text/css"),
        ("/console/console.js", console_script, "text/javascript"),
    )
)
