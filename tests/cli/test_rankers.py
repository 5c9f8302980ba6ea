"""Any ranker by its name on any declared schema, without a line of Python; and what a click log can have wrong."""

from __future__ import annotations

import csv
import json
import math
import random

import pytest

from suisen.models import RANKERS
from tests.cli.conftest import call, refused

COLUMNS = ("user", "item", "time", "clicked", "device", "shelf", "place", "price", "age", "tags")
CONTEXT = ",".join(COLUMNS[4:])
ROWS = 320


def click_rows() -> list[list]:
    """Clicks of 16 users on 40 items; who is on a phone and sees a new thing clicks."""
    rng, rows = random.Random(5), []
    for number in range(ROWS):
        device, shelf, place = rng.choice(("phone", "desk", "tv")), rng.choice("abcd"), rng.choice("vwxyz")
        tags = "|".join(rng.sample(("new", "cheap", "red", "blue"), rng.randint(0, 3)))
        price, age = round(rng.uniform(1, 90), 2), rng.randint(18, 80)
        clicked = int((device == "phone") + ("new" in tags) + rng.random() > 1.3)
        rows.append(
            [
                rng.randrange(16),
                rng.randrange(40),
                1_700_000_000 + number,
                clicked,
                device,
                shelf,
                place,
                price,
                age,
                tags,
            ]
        )
    return rows


def written(folder, rows):
    """The flags of a log with these rows."""
    with (folder / "clicks.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return [
        "--events", folder / "clicks.csv", "--user", "user", "--item", "item", "--time", "time", "--label", "clicked",
        "--context", CONTEXT, "--kind", "age=numeric", "--split", "click-ratio", "--threads", "1", "--quiet",
    ]  # fmt: skip


@pytest.mark.parametrize("name", RANKERS)
def test_a_csv_of_all_kinds_trains_every_ranker(name, tmp_path):
    """3 categorical columns, 2 numeric ones, 1 multi-valued one."""
    flags = written(tmp_path, click_rows())
    run = tmp_path / "run"
    call("train", *flags, "--ranker", name, "--epochs", "3", "--out", run)
    metrics = json.loads((run / "metrics.json").read_text())
    found = {row["metric"]: row["value"] for row in metrics["reports"]["test"]["scores"]}
    assert 0 <= found["auc"] <= 1
    assert math.isfinite(found["logloss"])
    curves = json.loads((run / "curves.json").read_text())["ranker"]
    losses = [epoch["loss"] for epoch in curves[-1]["epochs"]]
    assert losses[-1] < losses[0]
    answer = json.loads(call("recommend", run, "--user", "3", "-k", "4", "--json").stdout)["answers"][0]
    assert answer["answered_by"] == "model"
    lists = answer["items"]
    assert len({row["item_id"] for row in lists}) == 4
    assert all(math.isfinite(row["score"]) for row in lists)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("clicked", 2, "1 bad row, at line 8: clicked = '2' is neither 0 nor 1 (pass positive_from=)"),
        ("clicked", "yes", "1 bad row, at line 8: clicked"),
        ("clicked", "", "1 bad row, at line 8: clicked"),
        ("clicked", "nan", "1 bad row, at line 8: clicked"),
        ("price", "inf", "feature 'price' holds an infinite number; replace it with a bound or leave it empty"),
        ("price", "-inf", "feature 'price' holds an infinite number"),
        ("age", "old", "feature 'age' is declared numeric and holds text"),
    ],
)
def test_a_bad_value_is_named(tmp_path, column, value, message):
    rows = click_rows()
    rows[6][COLUMNS.index(column)] = value
    line = refused("train", *written(tmp_path, rows), "--ranker", "fm", "--epochs", "1", "--out", tmp_path / "run")
    assert message in line
    assert not (tmp_path / "run").exists()
