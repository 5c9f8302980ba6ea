"""``suisen serve``."""

from pathlib import Path
from typing import Any

import click

from suisen.cli.options import SettingsCommand, option_of
from suisen.runs.settings import settings_of
from suisen.serving.settings import Settings

OPTIONS = settings_of(Settings, "serving", "--")


@click.command(cls=SettingsCommand, params=[option_of(setting, "Server") for setting in OPTIONS])
@click.argument("target", metavar="RUN_OR_BUNDLE")
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0: every one.")
@click.option("--port", type=int, default=8000, help="0: a free one.")
def serve(target: str, host: str, port: int, **given: Any) -> None:
    """Answer recommendations over HTTP until SIGTERM or Ctrl-C.

    \b
    suisen serve runs/demo --port 8000
    curl localhost:8000/v1/recommend/196?k=5
    curl localhost:8000/v1/recommend --json '{"queries": [{"history": [50, 181]}], "k": 5}'

    The server is ready once it has given the answers that the bundle was saved with.  GET /openapi.json describes
    all paths; an id that nobody knows gets the popular list and is told so.
    """  # noqa: D301 - \b keeps the lines for click
    from suisen.recommending.bundle import find, read_manifest
    from suisen.serving.server import serve as run

    by_name = {setting.parameter: setting for setting in OPTIONS}
    values = {by_name[name].key: by_name[name].read(value) for name, value in given.items() if value is not None}
    read_manifest(find(Path(target)))  # what is damaged is said here, in one line, and not in the server's log
    run(Path(target), host=host, port=port, settings=Settings(**values), on_ready=_say)


def _say(url: str) -> None:
    click.echo(f"ready on {url} (try {url}/openapi.json); Ctrl-C stops", err=True)
