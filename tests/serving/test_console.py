"""The files of the console as the admin listener sends them; tests/services/test_console.py opens it in a browser."""

from __future__ import annotations

import re
import urllib.error
import urllib.request

import pytest

from suisen.serving.endpoints.admin import ADMIN
from tests.fitted import fitted
from tests.serving.test_admin import served

PATHS = {"/console": "text/html", "/console/console.css": "text/css", "/console/console.js": "text/javascript"}


@pytest.fixture(scope="module")
def urls():
    """Of the public and of the admin listener, which asks for a key."""
    with served(fitted("ease").system, insecure=False, admin_key="a" * 30) as (server, *_):
        yield server.url, server.admin_url


@pytest.mark.parametrize(("path", "media_type"), PATHS.items())
def test_files_need_no_key_and_run_nothing_from_elsewhere(urls, path, media_type):
    with urllib.request.urlopen(urls[1] + path) as reply:
        text, headers = reply.read().decode(), reply.headers
    assert headers["content-type"] == f"{media_type}; charset=utf-8"
    policy = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
        "img-src": "data:", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)
    if media_type == "text/html":
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
        parts = set(re.findall(r"(?:src|href)=\"([^\"#]+)\"", text))
        assert parts == {"console/console.css", "console/console.js", "data:,"}


def test_the_style_has_the_colours_of_all_pages(urls):
    with urllib.request.urlopen(f"{urls[1]}/console/console.css") as reply:
        text = reply.read().decode()
    assert "--accent: #0b6a6f" in text
    assert "prefers-color-scheme: dark" in text
    used = set(re.findall(r"var\((--\w+)\)", text))
    assert used <= set(re.findall(r"(--\w+):", text))


def test_the_public_listener_has_no_console(urls):
    for path in PATHS:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urls[0] + path)
        assert refused.value.code == 404
        refused.value.close()


def test_only_the_page_is_open():
    """What the page shows, it has to ask for with a key."""
    open_to_all = {one.path for one in ADMIN if one.scope == "open"}
    described = {"/docs", "/docs/page.css", "/docs/page.js", "/admin/openapi.json"}
    assert open_to_all == {*PATHS, *described, "/health/live", "/health/ready"}
