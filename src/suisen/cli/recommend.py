"""``suisen recommend``."""

import csv
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import click
import polars as pl
from polars.io.plugins import register_io_source
from rich.console import Console
from rich.table import Table
from rich.text import Text

from suisen.cli.options import echo_json, note
from suisen.cli.queries import answered_file, conditions
from suisen.errors import InputError
from suisen.files import replacing
from suisen.pipeline import Recommender
from suisen.recommending.answering import Answers
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.rules.ruling import tally, unmet_lines

HISTORY = 'Item ids, oldest first: "50,181"; an id with a comma in double quotes: \'"a,b",c\'; an empty text: none.'
WHERE = 'Only items with this attribute: "genre=Drama", "genre=Drama|Comedy", "year>=1990"; repeated: all of them.'
QUERIES = "A file with a column user_id, or history (lists, or items with | between), or both; into --out."
BY = "How unlike items are chosen: maximal marginal relevance, or a determinantal point process."
RULES = "Rules of the last stage, .toml or .json, in place of those of the bundle (docs/rules.md)."
UNKNOWN = "What a query gets that the model cannot answer: an error, the popular list (and it says so), nothing."


@click.command(short_help="Recommendations for users, histories or features.")
@click.argument("target", metavar="RUN_OR_BUNDLE")
@click.option("--user", "users", multiple=True, metavar="ID", help="A user's id; may be repeated.")
@click.option("--history", "histories", multiple=True, metavar="ITEMS", help=HISTORY)
@click.option("--user-features", "features", metavar="NAME=VALUE,…", help="What is known of the user: age=24,gender=F.")
@click.option("--context", metavar="NAME=VALUE,…", help="Context features: device=phone.")
@click.option("-k", type=int, default=10, help="Items per list; fewer where fewer are allowed.")
@click.option("--exclude", metavar="ITEMS", help='Items that no list may hold: "50,181".')
@click.option("--among", metavar="ITEMS", help="Only these items.")
@click.option("--where", multiple=True, metavar="CONDITION", help=WHERE)
@click.option("--with-seen/--without-seen", default=None, help="What the history holds; default: as it was trained.")
@click.option("--diversity", type=float, default=0.0, help="0: by score; towards 1: unlike items.")
@click.option("--diversity-by", default="mmr", metavar="mmr|dpp", help=BY)
@click.option("--rules", metavar="FILE", help=RULES)
@click.option("--unknown", default="popular", metavar="error|popular|skip", help=UNKNOWN)
@click.option("--json", "as_json", is_flag=True, help="Plain data instead of a table.")
@click.option("--all-users", is_flag=True, help="Lists for every user of train, into --out.")
@click.option("--queries", metavar="FILE", help=QUERIES)
@click.option("--out", metavar="FILE", help="A .parquet or .csv file of user_id, item_id, score, rank.")
def recommend(**given: Any) -> None:
    """Recommendations from a run or bundle, with titles, for users, anonymous histories or features alone.

    \b
    suisen recommend runs/demo --user 196 -k 10
    suisen recommend runs/demo --history "50,181"
    suisen recommend runs/demo --user-features age=24,gender=F
    suisen recommend runs/demo --user 196 --where "genres=Comedy|Drama"
    suisen recommend runs/demo --all-users -k 100 --out recs.parquet
    suisen recommend runs/demo --queries visitors.csv --out recs.parquet

    An id that train does not know gets the popular list and is told so, as from the server; --unknown changes that.
    """  # noqa: D301 - \b keeps the lines for click
    _check(given)
    recommender = Recommender.load(Path(given["target"]))
    options = {
        "exclude": ids(given["exclude"]),
        "among": None if given["among"] is None else ids(given["among"]),
        "where": conditions(given["where"]),
        "exclude_seen": None if given["with_seen"] is None else not given["with_seen"],
        "unknown": given["unknown"],
        "diversity": given["diversity"],
        "diversity_by": given["diversity_by"],
        "rules": given["rules"],
    }
    if given["all_users"]:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", message="rule ")
            warnings.showwarning = lambda message, *_, **__: note(str(message))
            _write(recommender.recommend_all(given["k"], **options), Path(given["out"]))
    elif given["queries"]:
        asked = RecommendOptions(k=given["k"], **options)
        _write(answered_file(recommender, Path(given["queries"]), asked), Path(given["out"]))
    else:
        _some(recommender, given, options)


def _check(given: dict[str, Any]) -> None:
    somebody = any(given[name] for name in ("users", "features", "context")) or given["histories"]
    many = [f"--{name.replace('_', '-')}" for name in ("all_users", "queries") if given[name]]
    if len(many) > 1:
        raise InputError("--all-users and --queries exclude each other; give one of them")
    if many:
        if somebody:
            raise InputError(f"{many[0]} goes without --user, --history, --user-features and --context")
        if not given["out"]:
            raise InputError(f"{many[0]} needs --out FILE, a .parquet or .csv file")
    elif given["out"]:
        raise InputError("--out goes with --all-users or --queries; for some users redirect --json")
    elif not somebody:
        ways = "--user ID, --history ITEMS, --user-features NAME=VALUE, --queries FILE or --all-users"
        raise InputError(f"nobody is asked for; give {ways}")


def ids(text: str | None) -> list[str]:
    """Ids with commas between; one that holds a comma stands in double quotes."""
    return [word.strip() for word in next(csv.reader([text or ""], skipinitialspace=True)) if word.strip()]


def pairs(flag: str, text: str | None) -> dict[str, Any] | None:
    """name=value pairs with commas between; ``a|b`` is a list of values."""
    if text is None:
        return None
    out: dict[str, Any] = {}
    for word in ids(text):
        name, sign, value = word.partition("=")
        if not sign:
            raise InputError(f"{flag} = {word!r} names no value; write name=value, several with commas between")
        out[name.strip()] = value.strip()
    return out


# -- some --------------------------------------------------------------------------------------------------------------


def _some(recommender: Recommender, given: dict[str, Any], options: dict[str, Any]) -> None:
    users, histories = list(given["users"]) or None, [ids(text) for text in given["histories"]] or None
    size = max(len(users or ()), len(histories or ()), 1)
    features, context = pairs("user-features", given["features"]), pairs("context", given["context"])
    queries = RawQueries(
        users,
        history=histories,
        user_features=None if features is None else [features] * size,
        context=None if context is None else [context] * size,
    )
    if histories is not None:
        _say_lost(recommender, histories)
    answers = recommender.answer(queries, RecommendOptions(k=given["k"], **options))
    for line in unmet_lines(tally(answers.unmet), len(answers.by)):
        note(line)
    entries = _entries(recommender, queries, answers)
    if given["as_json"]:
        echo_json({"version": recommender.system.version, "answers": entries})
        return
    for entry in entries:
        _print(entry)


def _say_lost(recommender: Recommender, histories: list[list[str]]) -> None:
    known = recommender.store.items
    for history in histories:
        lost = [item for item, dense in zip(history, known.dense(history).tolist(), strict=True) if dense == 0]
        if lost:
            whole = ",".join(history)
            mend = f"; the id with a comma is written '\"{whole}\"'" if known.dense([whole])[0] else ""
            note(f"items of the history that train does not know are passed over: {', '.join(lost)}{mend}")


def _entries(recommender: Recommender, queries: RawQueries, answers: Answers) -> list[dict[str, Any]]:
    """One per query, as JSON holds it."""
    out = []
    store = recommender.store
    for row, by in enumerate(answers.by):
        there = answers.items[row] > 0
        dense = answers.items[row][there]
        raw = store.items.raw(dense.numpy()).to_list()
        scores = answers.scores[row][there].tolist()
        listed = enumerate(zip(raw, store.titles(dense), scores, strict=True), start=1)
        out.append({
            "query": _query_name(queries, row),
            "answered_by": by,
            "items": [{"rank": n, "item_id": i, "title": t, "score": s} for n, (i, t, s) in listed],
            **({"unmet": dict(answers.unmet[row])} if row in answers.unmet else {}),
        })  # fmt: skip
    return out


def _query_name(queries: RawQueries, row: int) -> str:
    if queries.users is not None and queries.users[row] is not None:
        return f"user {queries.users[row]}"
    return "this history" if queries.history is not None else "these features"


def _print(entry: dict[str, Any]) -> None:
    if entry["answered_by"] == "popular":
        note(f"nothing is known of {entry['query']}: this is the popular list")
    if entry["answered_by"] == "nobody":
        note(f"nothing is known of {entry['query']}: skipped")
        return
    print_list(f"for {entry['query']}", entry["items"])


def print_list(title: str, items: Sequence[dict[str, Any]]) -> None:
    """A table of rank, item_id, title and score."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name, side in (("rank", "right"), ("item", "left"), ("title", "left"), ("score", "right")):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for item in items:
        table.add_row(str(item["rank"]), Text(str(item["item_id"])), Text(str(item["title"])), f"{item['score']:.4g}")
    Console(highlight=False).print(table)


# -- many -------------------------------------------------------------------------------------------------------------


def _write(frames: Iterator[pl.DataFrame], out: Path) -> None:
    """Streams frames of some thousands of queries into the file: memory does not grow with their number."""
    if out.suffix not in (".parquet", ".csv"):
        raise InputError(f"out = {out} must end in .parquet or .csv")
    first = next(frames, None)
    if first is None:
        raise InputError("there is nobody to recommend to: train knows no user, or the file has no row")
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = 0

    def source(columns: list[str] | None, *_: Any) -> Iterator[pl.DataFrame]:
        nonlocal rows
        for frame in chain([first], frames):
            rows += frame.height
            yield frame if columns is None else frame.select(columns)

    lazy = register_io_source(source, schema=first.schema)
    with replacing(out) as part:
        (lazy.sink_parquet if out.suffix == ".parquet" else lazy.sink_csv)(part)
    click.echo(f"{rows:,} rows in {out}")
