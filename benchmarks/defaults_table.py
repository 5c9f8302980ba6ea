"""The verdicts of benchmarks/defaults.py, from its records and those of benchmarks/accuracy.py; nothing runs here."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import Any

from accuracy_table import Record, runs_of
from common import newest

SHARE = 0.8
"""Least share of a tuned figure that a default must reach."""
HEAD = ("model", "data", "metric", "ours", "popularity", "tuned", "", "minutes")


def tuned(lines: list[Record], model: str, data: str, metric: str) -> float | None:
    """The mean of the tuned records of the same data; None without one."""
    found = [run["metrics"].get(metric) for run in runs_of(lines, model, data)]
    return fmean(found) if found and None not in found else None


def judged(lines: list[Record], of_table: list[Record]) -> list[dict[str, Any]]:
    """For each model and data set the figures and the verdict: what the page shows."""
    kept = newest(lines, lambda line: (line["model"], line["data"], line["seed"]))
    floor = {(line["data"], line["seed"]): line for line in kept if line["model"] == "popularity"}
    out = []
    for line in kept:
        metric, popular = line["metric"], floor.get((line["data"], line["seed"]))
        ours = line["metrics"].get(metric)
        below = popular["metrics"][metric] if popular else None
        best = tuned(of_table, line["model"], line["data"], metric)
        out.append({**line, "ours": ours, "popular": below, "tuned": best, "verdict": verdict(line, ours, below, best)})
    return out


def verdict(line: Record, ours: float | None, popular: float | None, best: float | None) -> str:
    """reached, or what it stays below."""
    if ours is None:
        return f"refused: {line['refused']}"
    wrong = [] if popular is None or ours >= popular else ["**below popularity**"]
    wrong += [] if best is None or ours >= SHARE * best else [f"**below {SHARE:.0%} of the tuned figure**"]
    return "; ".join([*(wrong or ["reached"]), *line["notes"]])


def rows(kept: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Of the page's table."""

    def cell(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    return [
        [line["model"], line["data"], line["metric"], *(cell(line[name]) for name in ("ours", "popular", "tuned")),
         line["verdict"].replace("|", "\\|"), f"{line.get('seconds', 0) / 60:.1f}"]
        for line in kept
    ]  # fmt: skip
