"""``suisen similar``."""

from pathlib import Path
from typing import Any

import click
import polars as pl
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from suisen.cli.options import echo_json
from suisen.errors import InputError
from suisen.pipeline import Recommender


@click.command(short_help="Items that are alike.")
@click.argument("target", metavar="RUN_OR_BUNDLE")
@click.option("--item", "items", multiple=True, metavar="ID", help="An item's id; may be repeated.")
@click.option("-k", type=int, default=10, help="Similar items per item.")
@click.option("--json", "as_json", is_flag=True, help="Plain data instead of a table.")
def similar(target: str, items: tuple[str, ...], k: int, *, as_json: bool) -> None:
    """The items most alike to one, with titles, by the model's own similarity.

    \b
    suisen similar runs/demo --item 50 -k 5
    """  # noqa: D301 - \b keeps the lines for click
    if not items:
        raise InputError("no item is named; give --item ID")
    recommender = Recommender.load(Path(target))
    frame = recommender.similar_items(list(items), k)
    titles = {name: _titles(recommender, frame[name]) for name in ("item_id", "similar_id")}
    frame = frame.with_columns(titles["item_id"].alias("of"), titles["similar_id"].alias("title"))
    if as_json:
        echo_json({"version": recommender.system.version, "similar": _entries(frame)})
        return
    for (item, title), part in frame.group_by(["item_id", "of"], maintain_order=True):
        _print(item, title, part)


def _titles(recommender: Recommender, ids: pl.Series) -> pl.Series:
    dense = torch.from_numpy(recommender.store.items.dense(ids))
    return pl.Series(recommender.store.titles(dense), dtype=pl.String)


def _entries(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """One per item, as JSON holds it."""
    out = []
    for (item, title), part in frame.group_by(["item_id", "of"], maintain_order=True):
        rows = part.select("rank", pl.col("similar_id").alias("item_id"), "title", "score").to_dicts()
        out.append({"item_id": item, "title": title, "items": rows})
    return out


def _print(item: object, title: object, part: pl.DataFrame) -> None:
    named = f"{item}" if str(item) == title else f"{item} ({title})"
    table = Table(title=f"like {named}", title_justify="left", box=None, pad_edge=False)
    for name, side in (("rank", "right"), ("item", "left"), ("title", "left"), ("score", "right")):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for row in part.iter_rows(named=True):
        cells = (Text(str(row["similar_id"])), Text(row["title"]), f"{row['score']:.4g}")
        table.add_row(str(row["rank"]), *cells)
    Console(highlight=False).print(table)
