"""``suisen admin``: changes the versions of a running server, and what it may not show."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click

from suisen.cli.serve import ADMIN_KEY
from suisen.errors import InputError, SuisenError

URL = "SUISEN_ADMIN_URL"
SLACK_S = 30.0
"""Seconds beyond what the server was given to do it."""


@click.group()
def admin() -> None:
    """Swap models and block items while a server answers.

    \b
    suisen serve runs/first --admin-port 8001
    suisen admin load runs/second
    suisen admin status
    suisen admin switch
    suisen admin rollback
    suisen admin block 17 23

    The server's admin listener is --url, or SUISEN_ADMIN_URL; the key is taken from SUISEN_ADMIN_KEY.
    """  # noqa: D301 - \b keeps the lines for click


def _asking(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all have in common."""
    url = click.option(
        "--url", envvar=URL, default="http://127.0.0.1:8001", help="The admin listener of the server.", show_envvar=True
    )
    wait = click.option("--wait-s", type=float, default=120.0, help="Most seconds until all workers have done it.")
    return url(wait(function))


def _ask(
    url: str, path: str, message: dict[str, Any] | None = None, wait_s: float = SLACK_S, method: str | None = None
) -> None:
    """Prints the answer.  Raises SuisenError with what the server says against it."""
    if not url.startswith(("http://", "https://")):
        raise InputError(f"url = {url!r} must begin with http:// or https://")
    headers = {"content-type": "application/json"}
    if key := os.environ.get(ADMIN_KEY):
        headers["authorization"] = f"Bearer {key}"
    body = None if message is None else json.dumps(message).encode()
    request = Request(f"{url.rstrip('/')}/admin/{path}", body, headers, method=method)  # noqa: S310 - checked above
    try:
        with urlopen(request, timeout=wait_s + SLACK_S) as reply:  # noqa: S310
            answer = json.loads(reply.read())
    except HTTPError as error:
        with error:
            raise SuisenError(_said(error)) from None
    except (URLError, TimeoutError, ValueError) as error:
        raise SuisenError(
            f"url = {url!r} gives no answer ({error}); is the server started with --admin-port?"
        ) from None
    click.echo(json.dumps(answer, ensure_ascii=False, indent=1))


def _said(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read())["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the server answers {error.code}"


@admin.command()
@click.argument("bundle")
@click.option("--switch", is_flag=True, help="Also let it answer, once every worker has loaded it.")
@_asking
def load(bundle: str, switch: bool, url: str, wait_s: float) -> None:
    """Load a bundle or run beside what answers: a path on the server's machine.

    \b
    suisen admin load runs/second --switch
    """  # noqa: D301 - \b keeps the lines for click
    _ask(url, "load", {"bundle": os.path.abspath(bundle), "switch": switch, "wait_s": wait_s}, wait_s)


@admin.command()
@click.argument("share", type=float)
@_asking
def shadow(share: float, url: str, wait_s: float) -> None:
    """Let the candidate answer a share of the live requests too, to be compared; 0 ends it.

    \b
    suisen admin shadow 0.1
    """  # noqa: D301 - \b keeps the lines for click
    _ask(url, "shadow", {"share": share, "wait_s": wait_s}, wait_s)


@admin.command()
@_asking
def switch(url: str, wait_s: float) -> None:
    """Let the candidate answer.

    \b
    suisen admin switch
    """  # noqa: D301 - \b keeps the lines for click
    _ask(url, "switch", {"wait_s": wait_s}, wait_s)


@admin.command()
@_asking
def rollback(url: str, wait_s: float) -> None:
    """Let the former version answer again.

    \b
    suisen admin rollback
    """  # noqa: D301 - \b keeps the lines for click
    _ask(url, "rollback", {"wait_s": wait_s}, wait_s)


@admin.command()
@click.argument("role", type=click.Choice(["candidate", "former"]))
@_asking
def unload(role: str, url: str, wait_s: float) -> None:
    """Let go of the candidate or of the former version.

    \b
    suisen admin unload former
    """  # noqa: D301 - \b keeps the lines for click
    _ask(url, "unload", {"role": role, "wait_s": wait_s}, wait_s)


@admin.command()
@_asking
def status(url: str, wait_s: float) -> None:
    """What each worker serves.

    \b
    suisen admin status
    """  # noqa: D301 - \b keeps the lines for click
    _ask(url, "status", None, wait_s)


@admin.command()
@_asking
def slots(url: str, wait_s: float) -> None:
    """The versions that are loaded, and how the candidate compares.

    \b
    suisen admin slots
    """  # noqa: D301 - \b keeps the lines for click
    _ask(url, "slots", None, wait_s)


@admin.command()
@click.argument("items", nargs=-1, required=True)
@_asking
def block(items: tuple[str, ...], url: str, wait_s: float) -> None:
    """Keep items out of every list.

    \b
    suisen admin block 17 23
    """  # noqa: D301 - \b keeps the lines for click
    _ask(url, "blocklist", {"block": items, "wait_s": wait_s}, wait_s)


@admin.command()
@click.argument("items", nargs=-1, required=True)
@_asking
def unblock(items: tuple[str, ...], url: str, wait_s: float) -> None:
    """Let items be shown again, blocked or unavailable ones.

    \b
    suisen admin unblock 17
    """  # noqa: D301 - \b keeps the lines for click
    _ask(url, "blocklist", {"unblock": items, "available": items, "wait_s": wait_s}, wait_s)


@admin.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@_asking
def blocklist(file: Path | None, url: str, wait_s: float) -> None:
    """Show what no list may hold; or put a FILE in the place of all that was told before.

    \b
    suisen admin blocklist
    suisen admin blocklist sold-out.csv

    FILE: one id a line, JSON, or CSV with item_id and status, as suisen serve --blocklist reads it.
    """  # noqa: D301 - \b keeps the lines for click
    if file is None:
        _ask(url, "blocklist", None, wait_s)
        return
    from suisen.serving.blocking import read_lists  # loads the server's libraries

    lists = read_lists(file)
    message = {"blocked": lists.blocked, "unavailable": lists.unavailable, "wait_s": wait_s}
    _ask(url, "blocklist", message, wait_s, "PUT")
