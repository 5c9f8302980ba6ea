"""``suisen serve``."""

import os
from pathlib import Path
from typing import Any

import click

from suisen.cli.flags import GroupedCommand, option_of
from suisen.runs.settings import settings_of
from suisen.serving.settings import Settings

API_KEY, ADMIN_KEY = "SUISEN_API_KEY", "SUISEN_ADMIN_KEY"
OPTIONS = settings_of(Settings, "serving", "--")


@click.command(cls=GroupedCommand, params=[option_of(setting, "Server") for setting in OPTIONS])
@click.argument("target", metavar="RUN_OR_BUNDLE")
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0: every one, with keys.")
@click.option("--port", type=int, default=8000, help="0: a free one.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Processes that answer, on one port; Linux.")
def serve(target: str, host: str, port: int, workers: int, **given: Any) -> None:
    """Answer recommendations over HTTP until SIGTERM or Ctrl-C.

    \b
    suisen serve runs/demo --port 8000 --workers 2
    curl 'localhost:8000/v1/recommend/196?k=5'
    curl localhost:8000/v1/recommend -H 'content-type: application/json' -d '{"queries": [{"user_id": 196}], "k": 5}'
    curl localhost:8000/v1/recommend -H 'content-type: application/json' -d '{"queries": [{"history": [50, 181]}]}'

    The server is ready once it has given the answers that the bundle was saved with.  GET /docs describes
    all paths and sends examples, GET /openapi.json describes them for programs; a body that is not announced as
    application/json is refused (415).  An id that nobody knows gets the popular list and is told so.
    """  # noqa: D301 - \b keeps the lines for click
    by_name = {setting.parameter: setting for setting in OPTIONS}
    values = {by_name[name].key: by_name[name].read(value) for name, value in given.items() if value is not None}
    if "api_key" in values:
        click.echo(f"warning: every user of this machine can read --api-key; set {API_KEY} instead", err=True)
    elif API_KEY in os.environ:
        values["api_key"] = os.environ[API_KEY]
    if "admin_key" not in values and ADMIN_KEY in os.environ:
        values["admin_key"] = os.environ[ADMIN_KEY]
    settings = Settings(**values)
    if workers > 1:
        from suisen.serving.workers import serve_workers

        serve_workers(Path(target), workers, host=host, port=port, settings=settings, on_ready=_say)
        return
    from suisen.serving.server import serve as run

    run(Path(target), host=host, port=port, settings=settings, on_ready=_say)


def _say(url: str) -> None:
    click.echo(f"ready on {url} (try {url}/docs); Ctrl-C stops", err=True)
