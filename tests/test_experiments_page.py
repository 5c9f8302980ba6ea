"""docs/experiments.md: its figures come from records, and where there is none it says so."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import experiments_page  # noqa: E402
from common import RESULTS  # noqa: E402
from figures import filled  # noqa: E402

import experiments  # noqa: E402

PLACE = {"machine": "a machine", "commit": "abc"}
RUNS = 1000


def write(folder, name, *lines):
    (folder / name).write_text("\n".join(json.dumps({**PLACE, **line}) for line in lines) + "\n")


def cell(part, law, share, *rows, n=200, runs=RUNS):
    name = f"{law}, n = {n}, {1 - share:.0%}/{share:.0%}"
    tests = [{"test": test, "rejected": rejected, "warned": warned} for test, rejected, warned in rows]
    return {"part": part, "name": name, "runs": runs, "law": law, "n": n, "share": share, "rows": tests}


def test_without_records_nothing_is_a_number(tmp_path):
    for name, figure in experiments_page.FIGURES.items():
        assert figure(tmp_path).startswith("*Not measured yet: `"), name


def test_false_alarms_are_bold_above_the_band_and_answered(tmp_path):
    write(
        tmp_path, experiments.FILE,
        cell("errors", "buyers", 0.1, ("welch", 1, 0.0), runs=20),  # a short trial, which the long one replaces
        cell("errors", "buyers", 0.1, ("welch", 230, 1.0), ("welch, relative", 240, 1.0), ("log", 51, 0.0)),
        cell("resampling", "buyers", 0.1, ("permutation", 49, None), ("bootstrap-bca", 180, None)),
        cell("errors", "ctr", 0.5, ("delta", 50, 0.0), ("delta, relative", 52, 0.0), ("z of impressions", 150, None)),
    )  # fmt: skip
    text = experiments_page.alarms(tmp_path)
    assert text.startswith("8 rows (a test in a cell), held to one band for all of them, ")
    assert "at 1,000 experiments: 2 above, warned, 4 inside, 1 above, 1 above, the trap." in text
    assert "| 5 % buyers, lognormal, sigma 1: welch | – | **23.0** ⚠ |" in text
    assert "impressions: delta, relative | 5.2 | – |" in text
    assert "impressions: z of impressions | **15.0** | – |" in text
    assert "n = 200, 90%/10% | **24.0** ⚠ (welch, relative) | 100 | 4.9 | – | 5.1 | – | – | **18.0** |" in text
    assert "Above the band without a warning in most of the experiments: bootstrap-bca on buyers, n = 200" in text


def test_coverage_power_and_cuped_are_held_to_their_goals(tmp_path):
    write(
        tmp_path, experiments.FILE,
        {"part": "coverage", "name": "ctr", "law": "ctr", "runs": RUNS, "n": 9,
         "rows": [{"test": "delta", "covered": 950}, {"test": "other", "covered": 930},
                  {"test": "z of impressions", "covered": 800}]},
        {"part": "power", "name": "ctr", "law": "ctr", "runs": RUNS, "n": 9,
         "rows": [{"test": "delta", "rejected": 810, "lift": 0.1, "analytic": 0.8}]},
        {"part": "cuped", "name": "rho = 0.5", "rho": 0.5, "runs": RUNS, "rows": [{"ratio": 0.76, "theory": 0.75}]},
    )  # fmt: skip
    text = experiments_page.coverage(tmp_path)
    assert "Of 2 kinds of 95 % intervals about an effect of 10 %, 1 cover between 94.4 and 95.6 %" in text
    assert "| other | **93.00** |" in text
    assert "| z of impressions, the trap | **80.00** |" in text
    assert "within 1 points (goal: 1.5)" in text
    assert "| delta | 10.00% | 81.0 | 80.0 | +1.00 |" in text
    assert "| 0.5 | 0.7600 | 0.7500 | +1.33 % |" in experiments_page.cuped(tmp_path)


def test_looks_have_error_and_price(tmp_path):
    def line(effect, name, *rejected):
        rules = ("fixed, at every look", "always valid, N = 500")
        rows = [{"rule": rule, "rejected": r, "units": 5000.0} for rule, r in zip(rules, rejected)]
        return {"part": "looks", "name": f"{name}, {effect}", "law": name, "effect": effect, "runs": RUNS, "rows": rows}

    write(tmp_path, experiments.FILE, line(False, "ctr", 380, 20))
    assert experiments_page.looking(tmp_path).startswith("*Not measured yet")
    write(
        tmp_path,
        experiments.FILE,
        line(False, "ctr", 380, 20),
        line(False, "counts", 400, 25),
        line(True, "ctr", 950, 600),
    )
    text = experiments_page.looking(tmp_path)
    assert "in 38–40 % of the experiments (2 metrics); always-valid intervals in 2.5 % at the most" in text
    assert "| always valid, N = 500 | 2.0–2.5 | 60.0 | 5,000 |" in text


def test_the_rest_is_what_the_records_say(tmp_path):
    gain = {"effect": 0.1, "ab_units": 9000, "interleaved_units": 90, "times": 100.0, "ab_power": 0.81,
            "interleaved_power": 0.79}  # fmt: skip
    browsed = {"metric": "ctr", "scale": "relative", "coverage": 0.95, "found": 0.4}
    write(
        tmp_path, experiments.FILE,
        {"part": "interleaving", "name": "x", "runs": 40, "rows": [gain]},
        {"part": "srm", "name": "y", "runs": 40, "units": 1000, "share": 0.52, "rows": [
            {"detected": 0.1, "analytic": 0.12}]},
        {"part": "browsing", "name": "z", "runs": 40, "rows": [
            {**browsed, "adjusted": False}, {**browsed, "adjusted": True, "coverage": 0.94}]},
    )  # fmt: skip
    assert "| +10.0% | 9,000 | 90 | 100 | 81 / 79 |" in experiments_page.interleaved(tmp_path)
    assert "| 1,000 | 52.0% | 10.00 | 12.00 |" in experiments_page.ratios(tmp_path)
    assert "| z | CUPED | ctr | 94.0 | 40.0 |" in experiments_page.browsing(tmp_path)


def test_the_page_has_every_figure_and_no_other():
    page = experiments_page.PAGE.read_text(encoding="utf-8")
    once = filled(page, experiments_page.FIGURES, RESULTS)
    assert filled(once, experiments_page.FIGURES, RESULTS) == once
