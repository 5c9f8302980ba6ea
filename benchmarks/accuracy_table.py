"""The accuracy tables: one row per file of configs/accuracy or configs/textbook, from records with purpose table.

``benchmarks/report.py`` and ``tools/models_page.py`` print it; nothing here runs a model.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from common import RESULTS, ROOT, newest, records

CONFIGS = ROOT / "benchmarks" / "configs" / "accuracy"
TEXTBOOK = ROOT / "benchmarks" / "configs" / "textbook"
"""The textbook's own settings: rows without a floor."""
ORDER = ("ncf-ml-1m", "gowalla", "ml-1m.zip", "sasrec", "s3rec-beauty", "yoochoose1_64", "frappe", "clicks-ml-1m")
"""Data in the order of the table; others behind them, by name."""
SEED = re.compile(r"(?<=\bseed )(\d+)")
TOWERS = {"two-tower, warm": "warm", "two-tower, cold items": "cold"}
"""Rows without a file, since their floors come from other models and from chance: ``what`` in their records."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One (model, data): what it must reach and what it reached."""

    name: str
    """The model's, where no other row has the same model and data."""
    model: str
    data: str
    floor: dict[str, float]
    best: str
    tried: str
    runs: tuple[Record, ...]
    """The newest record of each seed."""
    rows: str = CONFIGS.name
    """The folder of its file, as ``--rows`` names it."""

    @property
    def metrics(self) -> dict[str, float]:
        """Means over the seeds: the floor's metrics first, then what was recorded beside them."""
        if not self.runs:
            return {}
        shared = [name for name in self.runs[-1]["metrics"] if all(name in run["metrics"] for run in self.runs)]
        names = dict.fromkeys([*(name for name in self.floor if name in shared), *shared])
        return {name: fmean(run["metrics"][name] for run in self.runs) for name in names}

    @property
    def seconds(self) -> float:
        """Of one run, the mean over the seeds."""
        return fmean(run["seconds"] for run in self.runs)

    @property
    def reached(self) -> bool:
        """Whether every floor is."""
        return all(self.metrics.get(name, float("-inf")) >= floor for name, floor in self.floor.items())

    @property
    def seeds(self) -> str:
        """How many, and which where they are not 0, 1, …"""
        numbers = sorted(run["seed"] for run in self.runs)
        plain = numbers == list(range(len(numbers)))
        return str(len(numbers)) if plain else f"{len(numbers)} ({', '.join(map(str, numbers))})"

    @property
    def command(self) -> str:
        """What runs it again."""
        rows = "" if self.rows == CONFIGS.name else f" ROWS={self.rows}"
        return f"make bench-accuracy MODEL={self.model} DATA={self.data}{rows}"


def runs_of(lines: Iterable[Record], name: str, data: str, what: str | None = None) -> tuple[Record, ...]:
    """The newest record of purpose ``table`` of each seed, by seed."""
    key = (name, data, what, "table")
    found = {line["seed"]: line for line in lines if _key_of(line) == key}
    return tuple(found[seed] for seed in sorted(found))


def _key_of(line: Record) -> tuple[str, str, str | None, str]:
    return line.get("row") or line["model"], line["data"], line.get("what"), line["purpose"]


def tower_runs(lines: Iterable[Record]) -> list[Record]:
    """The newest record of purpose ``table`` of each seed of each variant of each part of benchmarks/two_tower.py."""
    kept = (line for line in lines if line.get("what") and line["purpose"] == "table")
    return newest(kept, lambda line: (line["what"], line["variant"], line["data"], line["seed"]))


def tower_lines(lines: Iterable[Record]) -> list[Line]:
    """The rows of benchmarks/two_tower.py that have a floor."""
    lines, model, data = list(lines), "two-tower", "ml-1m.zip"
    runs = {name: runs_of(lines, model, data, what) for name, what in TOWERS.items()}
    return [Line(name, model, data, of[-1]["floors"] if of else {}, "", "", of) for name, of in runs.items()]


def table_lines(lines: Iterable[Record], configs: Path = CONFIGS) -> list[Line]:
    """Every row that the configurations name, in the table's order."""
    lines, out = list(lines), []
    for path in sorted(configs.glob("*.toml")):
        row = tomllib.loads(path.read_text(encoding="utf-8"))["row"]
        name, data = row.get("name", row["model"]), row["data"]
        said = row.get("floor", {}), row.get("best", ""), row.get("tried", ""), runs_of(lines, name, data)
        out.append(Line(name, row["model"], data, *said, configs.name))
    out += tower_lines(lines) if configs == CONFIGS else []
    return sorted(out, key=lambda line: (ORDER.index(line.data) if line.data in ORDER else len(ORDER), line.data))


def all_lines() -> list[Line]:
    """Of this repository's records and configurations."""
    found = records(RESULTS / "accuracy.jsonl")
    return [*table_lines(found), *table_lines(found, TEXTBOOK)]


def cells(line: Line) -> list[str]:
    """A row of the page."""
    return [text.replace("|", "\\|") for text in _cells(line)]


def _cells(line: Line) -> list[str]:
    floor = ", ".join(f"{name} {value:g}" for name, value in line.floor.items())
    head = [line.name, line.data, line.best or "–", floor or "–"]
    if not line.runs:
        return [*head, "–", "–", "not run yet", "–", "–"]
    ours = ", ".join(f"{name} {value:.4f}" for name, value in line.metrics.items())
    verdict = ("reached" if line.reached else "**missed**") + (f"; tried: {line.tried}" if line.tried else "")
    verdict = verdict if line.floor else "–"
    return [*head, ours, line.seeds, verdict, f"{line.seconds / 60:.1f}", "; ".join(_picked(line))]


def _picked(line: Line) -> list[str]:
    """Epochs of the seeds, and on what they were picked."""
    epochs = [str(run["epochs"]) for run in line.runs if run["epochs"]]
    said = f"epochs {', '.join(dict.fromkeys(epochs))}" if epochs else "closed form"
    return [said, *dict.fromkeys(run["picked_on"] for run in line.runs)]


HEAD = ("model", "data", "best published", "floor", "ours", "seeds", "", "minutes per run", "epochs; picked on")


def protocols(lines: Iterable[Line]) -> list[str]:
    """One line of Markdown a data set: no number without its protocol."""
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(line.data, []).extend(run["protocol"] for run in line.runs)
    return [f"* {data}: {' / '.join(_seeds_together(said))}" for data, said in found.items() if said]


def _seeds_together(protocols: Iterable[str]) -> list[str]:
    """Those that differ in the seed of their split alone become one that names all seeds."""
    found: dict[tuple[str, ...], set[int]] = {}
    for text in protocols:
        before, *after = SEED.split(text, maxsplit=1)
        seeds = found.setdefault((before, *after[1:]), set())
        seeds.update(map(int, after[:1]))
    return [parts[0] + "".join([", ".join(map(str, sorted(seeds))), *parts[1:]]) for parts, seeds in found.items()]
