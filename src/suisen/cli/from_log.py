"""``suisen data from-log``."""

import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from suisen.data.durations import duration

if TYPE_CHECKING:  # the command line starts without Polars
    from suisen.data.training_log import Rows


@click.command(short_help="Make a log to learn from out of what servers logged.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE…")
@click.option(
    "-o", "--out", required=True, metavar="PATH", help="A .parquet file, or a folder that gets one more part."
)
@click.option(
    "--rows",
    type=click.Choice(["events", "impressions"]),
    default="events",
    help="One row per event, or per item that was shown.  [default: events]",
)
@click.option("--label", "labels", multiple=True, metavar="EVENT", help="Type that makes label 1; default: every one.")
@click.option(
    "--wait", default="1h", metavar="DURATION", help="How long a list may be answered (folders).  [default: 1h]"
)
@click.option("--group", metavar="NAME", help="Kafka: go on where this group stands, and tell the broker afterwards.")
@click.option("--follow", is_flag=True, help="Add a part again and again (folders), until it is ended.")
@click.option("--every", default="60s", metavar="DURATION", help="Between two parts of --follow.  [default: 60s]")
def from_log(
    sources: tuple[str, ...], out: str, rows: str, labels: tuple[str, ...], wait: str, group: str | None, **more: str
) -> None:
    """Join events to the lists that they answer: position, score, arm and propensity of what was shown.

    \b
    suisen data from-log runs/demo/events -o training.parquet
    suisen data from-log runs/demo/events -o log/ --rows impressions --label purchase
    suisen data from-log kafka://localhost:9092/events -o log/ --group training --follow
    suisen train --events training.parquet --session session_id

    SOURCE: files and folders that a server logged to, or kafka://host:9092/topic.  The same event counts once.  What
    was left out, and which events answer no list, is told; what is written is whole or not at all.
    """  # noqa: D301 - \b keeps the lines for click
    from suisen.data.from_log import Options, from_log
    from suisen.errors import InputError

    follow, every = bool(more["follow"]), duration("every", more["every"]) / 1e6
    if follow and Path(out).suffix in (".parquet", ".pq"):
        raise InputError(f"--follow adds parts, and -o {out} is a file; give a folder")
    waits = timedelta(microseconds=duration("wait", wait))
    options = Options(cast("Rows", rows), labels, waits, group)
    again = True
    while again:
        written, notes = from_log(sources, Path(out), options)
        for note in notes:
            click.echo(f"note: {note}", err=True)
        click.echo(str(written) if written else "nothing new is decided")
        again = follow
        time.sleep(every if again else 0)
