"""``GET /console``: the operator's page.

The page holds no data, so that it needs no key: it asks for the key, and with it for what it shows.  What it is made of
lies in ``serving/console``; its colours are those of all pages.
"""

from suisen.serving.contract import AnyParams, Endpoint
from suisen.serving.exchange import Exchange, Reply
from suisen.serving.service import Service
from suisen.serving.static import sent_files

HTML, CSS, JS = "text/html", "text/css", "text/javascript"


async def console(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """The operator's page."""
    return sent_files(HTML, "serving/console/console.html")


async def console_style(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """Its style."""
    return sent_files(CSS, "pages/colours.css", "serving/console/console.css")


async def console_script(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """Its script."""
    return sent_files(JS, "serving/console/console.js")


PAGE, STYLE, SCRIPT = (
    Endpoint("GET", path, handler, takes=AnyParams, answers=media_type, scope="open", needs_bundle=False)
    for path, handler, media_type in (
        ("/console", console, HTML),
        ("/console/console.css", console_style, CSS),
        ("/console/console.js", console_script, JS),
    )
)
