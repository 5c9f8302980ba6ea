"""The table of docs/benchmarks.md about the speed of an experiment's analysis, from results/experiments_speed.jsonl."""

from __future__ import annotations

from typing import Any, NamedTuple

from common import median

Record = dict[str, Any]
OURS = "suisen"
NAMES = {
    "suisen": "Suisen, as the peers", "suisen, by day": "Suisen, and the effect by day (the default)",
    "suisen, all": "Suisen, by day and without repeated events",
    "ibis": "tea-tasting, Ibis + DuckDB", "polars-frame": "tea-tasting, Polars frame",
    "pandas-frame": "tea-tasting, pandas frame", "pandas": "pandas + SciPy",
}  # fmt: skip
GOALS = {"ibis": 1.0, "polars-frame": 5.0, "pandas-frame": 5.0, "pandas": 20.0}
"""How many times our time a peer should take, at the largest size that it survives."""
MEMORY = 8.0
"""GiB that the largest size may take."""
HEAD = (
    "events × users", "", "seconds", "seconds of processor", "most resident", "times Suisen's", "of processor", "goal",
)  # fmt: skip


class Side(NamedTuple):
    """One side at one size."""

    seconds: float | None
    """None: it did not survive."""
    processor: float
    peak: float
    """GiB."""
    why: str


def newest_runs(lines: list[Record]) -> list[Record]:
    """Of each size the lines of its newest run."""
    latest: dict[int, str] = {}
    for line in lines:
        latest[line["events"]] = max(latest.get(line["events"], ""), line["run"])
    return [line for line in lines if line["run"] == latest[line["events"]]]


def sides(lines: list[Record]) -> dict[tuple[int, str], Side]:
    """(events, side) → medians."""
    out = {}
    for key in dict.fromkeys((line["events"], line["side"]) for line in lines):
        mine = [line for line in lines if (line["events"], line["side"]) == key]
        good = [line for line in mine if "failed" not in line]
        why = next((line["failed"] for line in mine if "failed" in line), "")
        peak = max(line["peak_bytes"] for line in mine) / 2**30
        if why:
            out[key] = Side(None, 0.0, peak, why)
        else:
            out[key] = Side(median(x["seconds"] for x in good), median(x["cpu_seconds"] for x in good), peak, "")
    return out


def rows(lines: list[Record], verdict: Any) -> list[list[str]]:
    """The table's rows, by size; ``verdict`` puts "reached" or "missed" into words."""
    found = sides(lines)
    sizes = sorted({events for events, _ in found})
    out = []
    for events in sizes:
        own = found.get((events, OURS))
        for name in NAMES:
            if (side := found.get((events, name))) is None:
                continue
            survived = [size for size in sizes if (size, name) in found and found[size, name].seconds is not None]
            last = bool(survived) and events == survived[-1]
            goal = ""
            if name == OURS and events == sizes[-1]:
                goal = f"≤ {MEMORY:g} GiB: {verdict(side.peak <= MEMORY, 'million')}"
            elif last and name in GOALS and own is not None and own.seconds and side.seconds:
                goal = f"≥ {GOALS[name]:g}x: {verdict(side.seconds / own.seconds >= GOALS[name], 'experiments')}"
            out.append(cells(events, name, side, own, goal))
    return out


def cells(events: int, name: str, side: Side, own: Side | None, goal: str) -> list[str]:
    """One row."""
    size = f"{events / 1e6:g} million × {events / 1e7:g} million"
    if side.seconds is None:
        return [size, NAMES[name], f"ended: {side.why}", "", f"{side.peak:.2f} GiB", "", "", ""]
    ratios = ["", ""]
    if own is not None and own.seconds and name != OURS:
        ratios = [f"{side.seconds / own.seconds:.2f}x", f"{side.processor / own.processor:.2f}x"]
    return [size, NAMES[name], f"{side.seconds:.2f}", f"{side.processor:.2f}", f"{side.peak:.2f} GiB", *ratios, goal]
