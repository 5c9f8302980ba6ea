"""docs/textbook.md: its figures come from records, and where there is none it says so."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import ncf_dims  # noqa: E402
import request_parts  # noqa: E402
import sequence_shapes  # noqa: E402
import textbook_page  # noqa: E402
from figures import filled  # noqa: E402

PLACE = {"machine": "a machine", "commit": "abc", "threads": 1, "run": "1"}
RUN = {
    "data": "ncf-ml-1m", "seed": 0, "epochs": 3, "picked_on": "validation", "seconds": 60.0, "protocol": "p",
    "purpose": "table", **PLACE,
}  # fmt: skip


def write(folder, name, *lines):
    (folder / name).write_text("\n".join(json.dumps({**PLACE, **line}) for line in lines) + "\n")


def test_without_records_nothing_is_a_number(tmp_path):
    for name, figure in textbook_page.FIGURES.items():
        text = figure(tmp_path)
        assert "ot measured yet" in text, name
        assert "Machine" not in text, name
    assert "mf and neumf have no record" in textbook_page.ncf(tmp_path)


@pytest.mark.parametrize(("ours", "said"), [(0.43, "0.0200 of NDCG@10 behind"), (0.47, "0.0200 of NDCG@10 ahead of")])
def test_who_is_ahead_is_read_from_the_records(tmp_path, ours, said):
    lines = [
        {**RUN, "model": name, "metrics": {"hr@10": 0.7, "ndcg@10": v}} for name, v in (("mf", 0.45), ("neumf", ours))
    ]
    write(tmp_path, "accuracy.jsonl", lines[0], {**lines[1], "purpose": "trial", "metrics": {"ndcg@10": 0.9}}, lines[1])
    text = textbook_page.ncf(tmp_path)
    assert said in text
    assert f"| neumf | 0.7000 | {ours:.4f} | 1 | 1.0 |" in text
    assert "| gmf | – |" in text
    assert "* ncf-ml-1m: p" in text


def test_dims_say_where_each_is_ahead(tmp_path):
    scores = {("mf", 0): (0.1, 0.2, 0.3), ("neumf", 0): (0.15, 0.25, 0.2),
              ("mf", 1): (0.1, 0.3, 0.3), ("neumf", 1): (0.17, 0.25, 0.1)}  # fmt: skip
    write(tmp_path, ncf_dims.FILE, *(
        {"model": name, "dim": dim, "seed": seed, "metrics": {"ndcg@10": value}, "protocol": "five last"}
        for (name, seed), values in scores.items() for dim, value in zip((4, 8, 16), values)
    ))  # fmt: skip
    text = textbook_page.dims(tmp_path)
    said = "Of 2 draws of the world: NeuMF is ahead with 4 numbers; MF is ahead with 16 numbers"
    assert f"{said}; the draws disagree with 8; NeuMF's gain is largest with 4 numbers. five last." in text
    assert "| 4 | 0.1000 (0.1000 to 0.1000) | 0.1600 (0.1500 to 0.1700) | +60 % |" in text


def test_fm_names_the_growth_of_both_ways(tmp_path):
    times = {"FM": [1.0, 2.0, 4.0], "pair by pair": [1.0, 4.0, 16.0]}
    line = {"fields": [10, 20, 40], "dims": [8, 16, 32], "us_a_row": {"n": times, "k": times}}
    write(tmp_path, "fm_cost.jsonl", line)
    text = textbook_page.fm(tmp_path)
    assert "4 times as many fields take FM 4.0 times and pair by pair 16.0 times as long." in text
    assert "4 times as many numbers a field take" in text


def test_steps_are_the_newest_runs_best_rounds(tmp_path):
    write(tmp_path, sequence_shapes.FILE, *(
        {"what": "step", "model": name, "length": length, "sequences": sequences, "run": run,
         "seconds": [0.5, length * pace / 1000]}
        for run, pace in (("1", 9), ("2", 1)) for name in ("gru4rec", "sasrec") for length in (25, 400)
        for sequences in (1, 6400 // length)
    ))  # fmt: skip
    text = textbook_page.parallel(tmp_path)
    assert "| 25 | 25.0 | 25.0 | 25.0 | 25.0 |" in text
    assert "gru4rec 16.0 times and sasrec 16.0 times as long" in text


def test_reach_is_the_farthest_gap_of_nine_in_ten(tmp_path):
    rates = {"gru4rec": (0.95, 0.2), "sasrec": (1.0, 0.99)}
    write(tmp_path, sequence_shapes.FILE, *(
        {"what": "copy", "model": name, "gap": gap, "hit": hit, "symbols": 20, "steps": 8, "batch": 32}
        for name, hits in rates.items() for gap, hit in zip((5, 10), hits)
    ))  # fmt: skip
    text = textbook_page.reach(tmp_path)
    assert "gru4rec: nine of ten up to a gap of 5; sasrec: nine of ten up to a gap of 10" in text
    assert "chance is 0.05" in text


def test_requests_scale_bytes_to_ten_million(tmp_path):
    search = {"what": "search", "index": "exact", "recall": 1.0, "ms_alone": 2.0, "ms_together": 1.0,
              "bytes_a_vector": 256, "together": 64}  # fmt: skip
    ranks = [
        {"what": "rank", "states": way, "ms": ms, "candidates": 500} for way, ms in (("table", 0.5), ("anew", 1.5))
    ]
    write(tmp_path, "request_parts.jsonl", search, *ranks)
    text = textbook_page.requests(tmp_path)
    assert "| exact | 1.000 | 2.00 | 1.00 | 256 | 2.56 GB |" in text
    assert "takes 0.50 ms with item states from a table and 1.50 ms without" in text


def test_marks_that_nobody_fills_and_figures_without_a_mark(tmp_path):
    page = "".join(f"a\n<!-- figures: {name} -->\nold\n<!-- end: {name} -->\n" for name in textbook_page.FIGURES)
    new = filled(page, textbook_page.FIGURES, tmp_path)
    assert "old" not in new
    assert filled(new, textbook_page.FIGURES, tmp_path) == new
    with pytest.raises(KeyError, match="unheard"):
        filled(page + "<!-- figures: unheard -->\n<!-- end: unheard -->\n", textbook_page.FIGURES, tmp_path)
    with pytest.raises(ValueError, match="no place for dims"):
        filled(page.replace("dims", "films"), textbook_page.FIGURES, tmp_path)


def test_check_says_what_to_run(tmp_path, monkeypatch, capsys):
    copy = tmp_path / "textbook.md"
    copy.write_text(textbook_page.PAGE.read_text(encoding="utf-8").replace("| gmf, textbook", "| another"))
    monkeypatch.setattr(textbook_page, "PAGE", copy)
    monkeypatch.setattr(sys, "argv", ["textbook_page.py", "--check"])
    assert textbook_page.main() == 1
    assert "run python tools/textbook_page.py" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["textbook_page.py"])
    assert textbook_page.main() == 0
    monkeypatch.setattr(sys, "argv", ["textbook_page.py", "--check"])
    assert textbook_page.main() == 0


# -- the programs behind the figures -----------------------------------------------------------------------------------


@given(st.integers(1, 120), st.integers(1, 5))
def test_copies_repeat_the_item_gap_places_before(gap, rows):
    items = sequence_shapes.copies_of(rows, gap, torch.Generator().manual_seed(gap))
    assert items.shape == (rows, gap + sequence_shapes.REPEATS)
    assert torch.equal(items[:, gap:], items[:, :-gap])
    assert int(items.min()) >= 1
    assert int(items.max()) <= sequence_shapes.SYMBOLS


@pytest.mark.parametrize("name", list(sequence_shapes.MODELS))
def test_a_step_learns_and_the_hit_rate_is_of_the_last_item(name):
    model = sequence_shapes.MODELS[name](7, dropout=0.0, learning_rate=0.02)
    net, step = sequence_shapes.stepper(model, 4, 0)
    items = torch.tensor([[1, 2, 1, 2], [3, 4, 3, 4]])
    losses = [step(items) for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    assert sequence_shapes.hit_rate(net, items) == 1.0
    assert sequence_shapes.hit_rate(net, torch.tensor([[1, 2, 1, 2], [3, 4, 3, 1]])) == 0.5


def test_tastes_on_a_circle_are_different_items_near_three_places():
    frame = ncf_dims.events(0)
    assert frame.equals(ncf_dims.events(0))
    items = frame["item"].to_numpy().reshape(ncf_dims.USERS, ncf_dims.EVENTS)
    assert all(len(set(row)) == ncf_dims.EVENTS for row in items.tolist())
    gaps = np.diff(np.sort(items, axis=1), axis=1)
    wide = (gaps > 0.03 * ncf_dims.ITEMS).sum(1)  # the stretches between the places, but for the one around zero
    assert np.median(wide) == 2


def test_vectors_have_length_one():
    rng = np.random.default_rng(0)
    made = request_parts.vectors(10, rng, rng.normal(size=(3, request_parts.DIM)))
    assert made.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-5)
