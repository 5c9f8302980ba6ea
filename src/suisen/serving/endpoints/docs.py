"""``GET /docs``: the description as a page, with its style and its script."""

from suisen.serving.contract import AnyParams, Endpoint, Handler
from suisen.serving.exchange import Exchange, Reply
from suisen.serving.service import Service
from suisen.serving.static import sent, sent_files

HTML, STYLE, SCRIPT = "text/html", "text/css", "text/javascript"


async def docs(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """The description of all paths as a page, from which examples of their requests can be sent."""
    return sent(HTML, service.description.page)


async def admin_docs(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """The description of the paths of this listener as a page, from which their requests can be sent."""
    return sent(HTML, service.admin_description.page)


async def docs_style(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """The style of the page."""
    return sent_files(STYLE, "pages/colours.css", "serving/api_page.css")


async def docs_script(service: Service, exchange: Exchange, message: AnyParams) -> Reply:
    """The script of the page: its search, and what sends its examples."""
    return sent_files(SCRIPT, "serving/api_page.js")


def _endpoint(path: str, handler: Handler[AnyParams], answers: str) -> Endpoint[AnyParams]:
    return Endpoint("GET", path, handler, takes=AnyParams, answers=answers, scope="open", needs_bundle=False)


ENDPOINT = _endpoint("/docs", docs, HTML)
ADMIN = _endpoint("/docs", admin_docs, HTML)
PARTS = (_endpoint("/docs/page.css", docs_style, STYLE), _endpoint("/docs/page.js", docs_script, SCRIPT))
"""What both pages are made with."""
