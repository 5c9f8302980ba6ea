"""Benchmarks: the pure functions that make figures of records."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import accuracy_table  # noqa: E402
import check_docs  # noqa: E402
import common  # noqa: E402
import dashboard  # noqa: E402
import experiment_events  # noqa: E402
import experiments_speed  # noqa: E402
import experiments_table  # noqa: E402
import report  # noqa: E402
import textbook  # noqa: E402

from suisen.data.dataset import Dataset  # noqa: E402
from suisen.models import MF, DeepFM, TwoTower  # noqa: E402
from suisen.models.contract import ItemTable  # noqa: E402
from suisen.pages.draw import Line, Panel  # noqa: E402

PLACE = {"machine": "a machine", "commit": "abc", "threads": 2, "run": "1"}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_median_is_numpys(values):
    assert common.median(values) == pytest.approx(float(np.median(values)))


def test_sides_alternate_and_turn_around():
    order = [name for _, name, _, _ in common.interleaved({"a": lambda: 1, "b": lambda: 2}, 3)]
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_absent_data_say_where_they_come_from(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        common.place(tmp_path, "ncf-ml-1m")
    assert stop.value.code == 2
    assert "neural_collaborative_filtering" in capsys.readouterr().err


def test_a_picture_is_a_file_of_its_own_in_light_and_dark(tmp_path):
    path = tmp_path / "images" / "a.svg"
    common.draw_picture(path, "a & b", [Panel(marks=[Line([0, 1], [1, 2])])])
    text = path.read_text()
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    (style,) = (each.text for each in root if each.tag.endswith("style"))
    used = set(re.findall(r"var\(--(\w+)\)", text))
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(blocks) == 2
    assert all(used <= set(re.findall(r"--(\w+):", block)) for block in blocks)
    assert "prefers-color-scheme: dark" in style


def test_records_are_only_ever_appended(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    common.append("x.jsonl", {"a": 1})
    common.append("x.jsonl", {"a": 2})
    assert common.records(tmp_path / "results" / "x.jsonl") == [{"a": 1}, {"a": 2}]
    assert common.records(tmp_path / "none.jsonl") == []


def line(side, batch, workers, rate, run="1"):
    return {
        "what": "throughput", "case": "MF", "side": side, "batch_size": batch, "workers": workers,
        "samples_per_second": rate, **PLACE, "run": run,
    }  # fmt: skip


def test_training_row_compares_each_sides_best():
    lines = [
        line("ours", 256, 0, 100.0), line("ours", 8192, 0, 4000.0), line("ours", 8192, 0, 2000.0),
        line("textbook", 256, 0, 50.0), line("textbook", 256, 2, 40.0), line("textbook", 1024, 2, 100.0),
    ]  # fmt: skip
    row = report.training_row("MF", lines, [])
    assert row[1:4] == ["3,000 (8,192)", "100 (1,024, 2)", "30.0x"]
    assert row[4] == "reached"
    assert row[5] == "2.0x"


def test_only_the_newest_run_counts(tmp_path):
    lines = [line(side, 256, 0, rate, run) for run, factor in (("1", 1), ("2", 3)) for side, rate in
             (("ours", 100.0 * factor), ("textbook", 10.0))]  # fmt: skip
    (tmp_path / "train_speed.jsonl").write_text("\n".join(json.dumps(one) for one in lines))
    assert "30.0x" in report.page(tmp_path)
    assert "10.0x" not in report.page(tmp_path)


def test_race_is_seconds_to_the_score_that_both_reach():
    curve = {"ours": [[1.0, 0.1], [2.0, 0.5], [3.0, 0.6]], "textbook": [[10.0, 0.2], [20.0, 0.5], [30.0, 0.4]]}
    assert report.race_ratio([{"side": side, "curve": points} for side, points in curve.items()]) == 10.0


def test_missed_targets_say_so_and_what_was_tried():
    assert report.verdict(True, "ials") == "reached"
    assert report.verdict(False, "ials").startswith("**missed**; tried")


RUN = {
    "model": "ease", "data": "d", "metrics": {"hr@10": 0.5}, "floors": {"hr@10": 0.6}, "epochs": None, "seed": 0,
    "picked_on": "validation", "seconds": 60.0, "protocol": "p", "machine": "m", "commit": "c", "purpose": "table",
}  # fmt: skip


def test_smoke_leaves_trials_out():
    text = report.smoke([{**RUN, "purpose": "smoke"}, {**RUN, "metrics": {"hr@10": 0.9}, "purpose": "trial"}])
    assert "0.5000" in text
    assert "**missed**" in text
    assert "0.9000" not in text


def test_two_towers_rows_take_their_floors_from_their_records():
    mine = {**RUN, "model": "two-tower", "data": "ml-1m.zip", "what": "warm"}
    lines = [
        mine, {**mine, "seed": 1, "metrics": {"hr@10": 0.9}, "floors": {"hr@10": 0.65}},
        {**mine, "what": "losses", "metrics": {"hr@10": 0.1}}, {**mine, "purpose": "trial", "metrics": {"hr@10": 0.2}},
    ]  # fmt: skip
    warm, cold = accuracy_table.tower_lines(lines)
    assert (warm.metrics, warm.floor, warm.seeds) == ({"hr@10": pytest.approx(0.7)}, {"hr@10": 0.65}, "2")
    assert warm.command == "make bench-accuracy MODEL=two-tower DATA=ml-1m.zip"
    assert (cold.name, cold.runs, accuracy_table.cells(cold)[-3]) == ("two-tower, cold items", (), "not run yet")
    assert "two-tower, warm" in {line.name for line in accuracy_table.table_lines(lines)}
    assert "two-tower, warm" not in {line.name for line in accuracy_table.table_lines(lines, accuracy_table.TEXTBOOK)}


@pytest.mark.parametrize(("threads", "said"), [([1], "1 thread"), ([2], "2 threads"), ([2, 1, 2], "1 or 2 threads")])
def test_threads_of_all_runs_are_said(threads, said):
    assert f"Machine: m; {said}; commit `c`." == report.where([{**RUN, "threads": n} for n in threads])


def test_protocols_that_differ_in_their_seed_alone_are_one():
    texts = [f"tenths, seed {seed}; full ranking" for seed in (1, 0, 11)] + ["given negatives", "tenths, seed 2"]
    runs = tuple({**RUN, "protocol": text} for text in texts)
    line = accuracy_table.Line("ease", "ease", "d", {}, "", "", runs)
    assert accuracy_table.protocols([line]) == [
        "* d: tenths, seed 0, 1, 11; full ranking / given negatives / tenths, seed 2"
    ]


def rows_of(folder, lines, **row):
    """The table's cells for one row file."""
    text = {"model": '"ease"', "data": '"d"', "floor": '{ "hr@10" = 0.6 }', "best": '"0.7"', **row}
    (folder / "a.toml").write_text("[row]\n" + "\n".join(f"{key} = {value}" for key, value in text.items()))
    return [accuracy_table.cells(line) for line in accuracy_table.table_lines(lines, folder)]


def test_the_table_is_the_mean_of_each_seeds_newest_table_run(tmp_path):
    lines = [
        {**RUN, "metrics": {"hr@10": 0.1}},
        {**RUN, "metrics": {"hr@10": 0.9}, "purpose": "trial"},
        {**RUN, "metrics": {"hr@10": 0.9}, "data": "other"},
        {**RUN, "metrics": {"hr@10": 0.6, "auc": 0.5}, "seconds": 30.0, "epochs": 7},
        {**RUN, "metrics": {"hr@10": 0.7}, "seed": 1, "seconds": 90.0, "epochs": [7, 9]},
    ]
    (found,) = rows_of(tmp_path, lines)
    assert found == ["ease", "d", "0.7", "hr@10 0.6", "hr@10 0.6500", "2", "reached", "1.0",
                     "epochs 7, [7, 9]; validation"]  # fmt: skip


def test_the_verdict_says_what_was_tried(tmp_path):
    (found,) = rows_of(tmp_path, [{**RUN, "seed": 2}], tried='"more | epochs"')
    assert found[4:7] == ["hr@10 0.5000", "1 (2)", "**missed**; tried: more \\| epochs"]
    (reached,) = rows_of(tmp_path, [{**RUN, "metrics": {"hr@10": 0.6}}], tried='"more"')
    assert reached[6] == "reached; tried: more"
    (absent,) = rows_of(tmp_path, [{**RUN, "metrics": {"ndcg@10": 0.9}}])
    assert absent[6] == "**missed**"


def test_a_row_without_runs_says_so(tmp_path):
    (found,) = rows_of(tmp_path, [])
    assert found == ["ease", "d", "0.7", "hr@10 0.6", "–", "–", "not run yet", "–", "–"]
    assert "not run yet" in report.accuracy([], tmp_path)
    assert "Protocols" not in report.accuracy([], tmp_path)
    assert report.accuracy([], tmp_path / "none") == ""


def test_rows_of_one_model_and_data_are_told_apart_by_name(tmp_path):
    lines = [RUN, {**RUN, "row": "ease, wide", "metrics": {"hr@10": 0.8}}]
    (plain,) = rows_of(tmp_path, lines)
    assert plain[4] == "hr@10 0.5000"
    (named,) = rows_of(tmp_path, lines, name='"ease, wide"')
    assert named[0] == "ease, wide"
    assert named[4] == "hr@10 0.8000"
    assert "* d: p" in report.accuracy(lines, tmp_path)


def test_a_row_without_a_floor_has_no_verdict_and_says_what_runs_it(tmp_path):
    folder = tmp_path / "textbook"
    folder.mkdir()
    (folder / "a.toml").write_text('[row]\nname = "ease, textbook"\nmodel = "ease"\ndata = "d"\n')
    lines = [RUN, {**RUN, "row": "ease, textbook", "metrics": {"hr@10": 0.4}}]
    (found,) = accuracy_table.table_lines(lines, folder)
    assert accuracy_table.cells(found)[:7] == ["ease, textbook", "d", "–", "–", "hr@10 0.4000", "1", "–"]
    assert found.command == "make bench-accuracy MODEL=ease DATA=d ROWS=textbook"
    text = report.accuracy(lines, folder, "Accuracy with the textbook's settings")
    assert "## Accuracy with the textbook's settings" in text
    assert "`benchmarks/configs/textbook`" in text


def test_tables_are_rectangular():
    assert report.table(("a", "b"), [("1", "2")]).splitlines() == ["| a | b |", "|---|---|", "| 1 | 2 |"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# Changelog\n\n## 0.2.0 (soon)\n", None),
        ("## [0.1.0]\n", "starts with 0.1.0"),
        ("# Changelog\n", "no version"),
    ],
)
def test_changelogs_head_is_the_version(text, said):
    found = check_docs.changelog(text, "0.2.0")
    assert found is None if said is None else said in found


def test_a_page_that_differs_is_named_with_its_first_difference():
    assert check_docs.page("a\n", "a\n") is None
    assert "'-a'" in check_docs.page("a\nb\n", "c\nb\n")


@pytest.mark.parametrize(
    "model",
    [
        MF(dim=4, negatives=2),
        TwoTower(dim=4, hidden=(3,), history=2, dropout=0, hide_ids=0),
        DeepFM(dim=4, hidden=(5,), history=2, recent=0, dropout=0, hide_ids=0),
    ],
)
def test_the_textbooks_network_is_the_same_network(model):
    clicks = isinstance(model, DeepFM)
    events = {"u": [f"u{i % 5}" for i in range(40)], "i": [f"i{(i * i) % 7}" for i in range(40)], "t": list(range(40))}
    more = {"y": [i % 2 for i in range(40)]} if clicks else {}
    options = {"user": "u", "item": "i", "time": "t", "duplicates": "all", **({"label": "y"} if clicks else {})}
    train = Dataset.from_frame(pl.DataFrame(events | more), **options)
    torch.manual_seed(0)
    net = model.build(train.schema)
    net.bind(ItemTable(train.item_features, train.trained_items))
    net.prepare(train)
    batch = next(model.view.open(train).batches(torch.Generator().manual_seed(0)))
    ours = net(batch)
    theirs = textbook.plain_loss(net, batch)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    with textbook.torch_lookups():
        wanted = torch.autograd.grad(textbook.plain_loss(net, batch), list(net.parameters()), allow_unused=True)
    found = torch.autograd.grad(ours, list(net.parameters()), allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def speed(events, side, seconds, run="1", peak=2**30, **more):
    facts = {"events": events, "side": side, "seconds": seconds, "cpu_seconds": seconds, "peak_bytes": peak}
    return PLACE | facts | {"run": run} | more


def test_goals_are_judged_at_the_largest_size_that_a_side_survives():
    lines = [
        speed(10**6, "suisen", 9.0, run="0"), speed(10**6, "suisen", 1.0), speed(10**6, "suisen", 3.0),
        speed(10**6, "ibis", 4.0), speed(10**6, "pandas", 4.0), speed(10**7, "suisen", 10.0, run="2"),
        speed(10**7, "ibis", 30.0, run="2"), speed(10**7, "pandas", None, run="2", failed="more than 16 GiB resident"),
    ]  # fmt: skip
    rows = {(row[0], row[1].split()[0]): row for row in experiments_table.rows(
        experiments_table.newest_runs(lines), lambda good, _: "yes" if good else "no")}  # fmt: skip
    small, large = "1 million × 0.1 million", "10 million × 1 million"
    assert rows[small, "Suisen,"][2] == "2.00"
    assert rows[small, "tea-tasting,"][5:] == ["2.00x", "2.00x", ""]
    assert rows[small, "pandas"][5:] == ["2.00x", "2.00x", "≥ 20x: no"]
    assert rows[large, "tea-tasting,"][5:] == ["3.00x", "3.00x", "≥ 1x: yes"]
    assert rows[large, "pandas"][2] == "ended: more than 16 GiB resident"
    assert rows[large, "Suisen,"][7] == "≤ 8 GiB: yes"


def test_numbers_that_differ_are_named():
    one = {"ctr": {"effect": 1.0, "p": 0.5}}
    assert experiments_speed.disagreement(one, {"ctr": {"effect": 1.0 + 1e-8, "p": 0.5}}) == ""
    assert experiments_speed.disagreement(one, {"ctr": {"effect": 1.0, "p": 0.50001}}).startswith("ctr p: 0.5 and")


def test_events_are_the_same_ones_and_every_click_has_its_impression(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment_events, "GROUP", 500)
    for name in "ab":
        experiment_events.make(tmp_path / name, 2000, 200)
    shown, events = (pl.read_parquet(tmp_path / "a" / name) for name in experiment_events.FILES)
    assert events.equals(pl.read_parquet(tmp_path / "b" / experiment_events.FILES[1]))
    assert shown["user"].n_unique() == 200
    assert events["user"].is_in(shown["user"].implode()).all()
    assert events["time"].is_sorted()
    found = experiments_speed.ours("suisen", tmp_path / "a")["found"]
    assert found == experiments_speed.ours("suisen, all", tmp_path / "a")["found"]
    assert set(found) == set(experiments_speed.PLAN["metrics"])


def test_the_picture_of_the_dashboard_is_that_of_its_newest_record(tmp_path):
    record = common.records(dashboard.RESULTS / dashboard.RECORDS)[-1]
    dashboard.drawn(record, tmp_path / "now.svg")
    assert (tmp_path / "now.svg").read_text() == dashboard.PICTURE.read_text()
    queries = {panel.title: len(panel.queries) for row in dashboard.grafana.ROWS.values() for panel in row}
    for title in dashboard.SHOWN:
        courses = record["panels"][title]
        assert len(courses) >= queries[title]
        assert sum(len(course["points"]) for course in courses) > 50, f"{title} shows nothing"
    record["panels"][dashboard.SHOWN[0]][0]["points"][5][1] += 50.0
    dashboard.drawn(record, tmp_path / "other.svg")
    assert (tmp_path / "other.svg").read_text() != dashboard.PICTURE.read_text()
