"""``suisen similar``."""

from pathlib import Path

import click
import polars as pl
import torch

from suisen.cli.options import echo_json
from suisen.cli.recommend import print_list
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
    frame = recommender.similar_items(list(items), k).with_columns(
        pl.col(name).map_batches(lambda ids: _titles(recommender, ids), pl.String).alias(title)
        for name, title in (("item_id", "of"), ("similar_id", "title"))
    )
    entries = []
    for (item, title), part in frame.group_by(["item_id", "of"], maintain_order=True):
        rows = part.select("rank", pl.col("similar_id").alias("item_id"), "title", "score").to_dicts()
        entries.append({"item_id": item, "title": title, "items": rows})
    if as_json:
        echo_json({"version": recommender.system.version, "similar": entries})
        return
    for entry in entries:
        item, title = str(entry["item_id"]), entry["title"]
        print_list(f"like {item}" if item == title else f"like {item} ({title})", entry["items"])


def _titles(recommender: Recommender, ids: pl.Series) -> pl.Series:
    return pl.Series(recommender.store.titles(torch.from_numpy(recommender.store.items.dense(ids))), dtype=pl.String)
