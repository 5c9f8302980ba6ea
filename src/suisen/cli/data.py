"""``suisen data``: fetch a public data set, look into any event log."""

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from suisen.cli.from_log import from_log
from suisen.cli.options import echo_json, raw_of, with_settings
from suisen.data.dataset import Dataset
from suisen.data.formats import SUFFIXES
from suisen.data.sources import SOURCES, load
from suisen.errors import InputError
from suisen.pages.report import data_table, split_rows
from suisen.runs.config import Config, resolve
from suisen.runs.facts import data_facts, fact_lines, facts_of, schema_rows
from suisen.runs.folder import now

SCHEMA = ("of", "field", "kind", "values")
"""Head of the schema."""


DELIMITERS = {"csv": ",", "tsv": "\t", "text": ","}
"""Formats of delimited text, and what separates their fields where nobody says otherwise."""
MARKS = {b"\xef\xbb\xbf": "UTF-8 with a mark", b"\xff\xfe": "UTF-16 by its mark", b"\xfe\xff": "UTF-16 by its mark"}
"""First bytes that tell an encoding."""


@click.group(short_help="Fetch a public data set, look into any event log, make one from what was served.")
def data() -> None:
    """Fetch a public data set, look into any event log, make one from what was served.

    \b
    suisen data fetch ml-100k
    suisen data inspect my.csv --user uid --item sku --time ts
    suisen data inspect --data ml-100k
    suisen data from-log runs/demo/events -o training.parquet
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


@with_settings("data", "split", short_help="What is understood of an event log, before anything is trained.")
@click.argument("file", required=False, metavar="FILE")
@click.option("--config", "config_file", metavar="FILE", help="TOML file with the same settings; flags win over it.")
@click.option("--json", "as_json", is_flag=True, help="Plain data instead of tables.")
def inspect(**given: Any) -> None:
    """Show what is understood of an event log before anything is trained: columns, times, quoting, encoding, what
    reading dropped, merged or assumed; then its schema and counts, and what a split makes of it.

    \b
    suisen data inspect my.csv --user uid --item sku --time ts --item-features items.csv
    suisen data inspect clicks.csv --label clicked --split click-ratio
    suisen data inspect --data ml-100k

    FILE is the same as --events FILE.
    Kinds of features (categorical, numeric, multi, text) are inferred and shown; --kind age=numeric declares one.
    """  # noqa: D301 - \b keeps the lines for click
    config = resolve(raw_of(_named(given), given["config_file"]), models=False)
    log, fault = _read(config)
    notes = [*_file_line(config, log.log.notes), *log.log.notes]
    facts, schema = data_facts(log), schema_rows(log)
    try:
        split, refused = config.cut(log), ""
    except InputError as error:
        split, refused = None, str(error)
    parts = {} if split is None else split.facts
    shown = facts_of(config.place.name or Path(str(config.place.events)).name, log, parts)
    looks = [(row.name, row.look, row.level) for row in data_table(shown, now()) if row.look]
    if given["as_json"]:
        echo_json({
            "facts": facts,
            "look_at": [dict(zip(("of", "what", "level"), look, strict=True)) for look in looks],
            "schema": [dict(zip(SCHEMA, row, strict=True)) for row in schema],
            "notes": notes,
            "refused": fault,
            "split": None if split is None else {"facts": dict(split.facts), "notes": list(split.notes)},
            "split_refused": refused,
        })  # fmt: skip
        return
    click.echo(repr(log))
    if fault:
        _section("refused as it is, and read here without its bad rows", fault)
    _section("what was understood", "\n".join(notes) or "nothing was dropped, merged or assumed")
    _section("schema", _columns([SCHEMA, *schema]))
    _section("facts", _columns(fact_lines(facts)))
    _section("what to look at", "\n".join(f"{of}: {what}" for of, what, _ in looks) or "nothing stands out")
    name = config.names["split"]
    if split is None:
        _section(f"split {name}", f"refused: {refused}")
    else:
        made = [(row.name, row.value) for row in split_rows(shown.parts)]
        _section(f"split {name}: {config.split!r}", "\n".join([_columns(made), *split.notes]))


def _named(given: Mapping[str, Any]) -> dict[str, Any]:
    """The flags, with FILE in the place of --events."""
    if given["file"] is None:
        return dict(given)
    if given["data__events"] is not None or given["data__name"] is not None:
        raise InputError("FILE and --events or --data name the data twice; give one of them")
    known = given["file"] in SOURCES and not Path(given["file"]).exists()
    return {**given, "data__name" if known else "data__events": given["file"]}


def _read(config: Config) -> tuple[Dataset, str]:
    """The log; where its bad rows are why it is refused, what is left without them, and the reason."""
    try:
        return Dataset.of(config.read()), ""
    except InputError as error:
        if "bad_rows" not in str(error) or "bad_rows" in config.reading or config.place.events is None:
            raise
        dropping = replace(config, reading={**config.reading, "bad_rows": "drop"})
        return Dataset.of(dropping.read()), str(error)


def _file_line(config: Config, notes: Sequence[str]) -> list[str]:
    """How the events' file was read, as far as no note says it: format, encoding, delimiter, quotes."""
    path, given = Path(str(config.place.events)), config.reading
    if config.place.events is None or not path.is_file():
        return []
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    chosen = given.get("format") or SUFFIXES.get(plain.suffix.lower(), "")
    if chosen not in DELIMITERS:
        return [f"{path.name}: read as {chosen}"]
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        data = file.read()
    marked = next((name for mark, name in MARKS.items() if data.startswith(mark)), None)
    said = [f"{path.name}: read as {chosen}", marked or str(given.get("encoding") or "utf-8").upper()]
    if not any("separated by" in note for note in notes):
        said.append(f"fields separated by {given.get('delimiter') or DELIMITERS[chosen]!r}")
    if given.get("quote", "auto") != "auto":
        said.append(f"quote = {given['quote']}")
    elif not any("quote" in note for note in notes):
        said.append("quotes enclose fields" if b'"' in data else "no quotes")
    return ["; ".join(said)]


def _section(title: str, body: str) -> None:
    click.echo(f"\n{title}")
    for line in body.splitlines():
        click.echo(f"  {line}".rstrip())


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as lines, their columns aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


data.add_command(inspect, "inspect")
data.add_command(from_log, "from-log")
