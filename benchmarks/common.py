"""What all benchmarks share: where data are, what the machine is, records that are only ever appended."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from suisen.pages.draw import GAP, Panel, Svg, picture
from suisen.pages.render import asset

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
THREADS = min(2, os.cpu_count() or 1)
"""Cores that both sides of a comparison may use."""

OFFICIAL = {
    "ml-1m.zip": "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    "ncf-ml-1m": "https://github.com/hexiangnan/neural_collaborative_filtering (folder Data, ml-1m.*; gzip them)",
    "sasrec": "https://github.com/kang205/SASRec (data/ml-1m.txt; gzip it)",
    "frappe": "https://github.com/hexiangnan/neural_factorization_machine (data/frappe; gzip: train as .redrawn)",
    "gowalla": "https://github.com/kuandeng/LightGCN (Data/gowalla, train.txt and test.txt; gzip them)",
    "s3rec-beauty": "https://github.com/RUCAIBox/CIKM2020-S3Rec (data/Beauty.txt; gzip it)",
    "cookie-cats": "https://www.kaggle.com/datasets/mursideyarkin/mobile-games-ab-testing-cookie-cats (gzip the CSV)",
    "yoochoose1_64": "https://github.com/CRIPAC-DIG/SR-GNN (its preprocessing; a session a line, prefix TAB target)",
}


class Missing(SystemExit):
    """Data that are not there: one line, exit code 2."""

    def __init__(self, what: str, folder: Path) -> None:
        print(f"{folder / what} is absent; get it from {OFFICIAL[what]} or set DATA_DIR", file=sys.stderr)
        super().__init__(2)


def place(folder: Path, what: str) -> Path:
    """The file or folder ``what`` of the data directory; ends the program with one line where it is absent."""
    path = folder / what
    if not path.exists():
        raise Missing(what, folder)
    return path


def parser(description: str) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    made.add_argument("--rounds", type=int, default=5, help="measurements of each side, interleaved")
    made.add_argument("--threads", type=int, default=THREADS, help="cores that either side may use")
    return made


def training_parser(description: str) -> argparse.ArgumentParser:
    """Options of what trains models: their seeds, and other settings than the row's."""
    made = parser(description)
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--purpose", choices=("trial", "table"), default="table")
    made.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings, as TOML values")
    return made


def options_of(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, ``set`` read; ends the program with one line where a line of the table would have settings."""
    options = made.parse_args()
    options.set = tomllib.loads("\n".join(options.set))
    if options.set and options.purpose == "table":
        print("--set is for trials (--purpose trial): what the table holds has its settings in a file", file=sys.stderr)
        raise SystemExit(2)
    return options


def commit() -> str:
    """The short commit of the checkout; ``+`` behind it where the package or the benchmarks differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src/suisen", "benchmarks/*.py")
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + ("+" if changed else "")


def machine() -> str:
    """The CPU's family and what it can do, in words: names of virtual CPUs say little."""
    facts = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    flags = set(facts.get("flags", "").split())
    has = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    model = facts.get("model name", platform.processor() or platform.machine())
    family = f" family {facts['cpu family']} model {facts['model']}" if "cpu family" in facts else ""
    return f"{model}{family}, {os.cpu_count()} cores, {' '.join(has)}"


def stamp() -> dict[str, Any]:
    """What every record says of where and when it came to be."""
    return {"machine": machine(), "commit": commit(), "at": datetime.now(UTC).isoformat(timespec="seconds")}


def append(file: str, record: dict[str, Any]) -> None:
    """Adds a line to a results file; lines are never removed."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / file).open("a") as out:
        out.write(json.dumps(record) + "\n")


def records(path: Path) -> list[dict[str, Any]]:
    """All lines of a results file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []


def draw_picture(path: Path, told: str, panels: list[Panel], columns: int | None = None) -> None:
    """Panels side by side, or in rows of so many, as an SVG file in light and dark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = picture(told, told, panels, columns=columns or len(panels))
    path.write_text(standalone(drawn, asset("colours.css")), encoding="utf-8")
    print(f"{path} written")


def standalone(drawn: Svg, colours: str) -> str:
    """A picture as a file of its own, on a card.  ``colours``: the text of ``colours.css``."""
    *_, width, height = re.search(r'viewBox="([^"]+)"', drawn)[1].split()
    wide, high = float(width) + 4 * GAP, float(height) + 4 * GAP
    box = f'viewBox="{-2 * GAP} {-2 * GAP} {wide:g} {high:g}" width="{1.2 * wide:g}" height="{1.2 * high:g}"'
    opened = re.sub(r'viewBox="[^"]+"', f'xmlns="http://www.w3.org/2000/svg" {box}', drawn, count=1)
    style = f"<style>{colours} text {{ font-family: system-ui, sans-serif; }}</style>"
    card = f'<rect x="{-2 * GAP}" y="{-2 * GAP}" width="{wide:g}" height="{high:g}" rx="8" style="fill: var(--card)"/>'
    return opened.replace("</desc>", f"</desc>{style}{card}", 1) + "\n"


def newest(lines: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    """The last line of each key, in the order of first appearance."""
    return list({key(line): line for line in lines}.values())


class Lines:
    """A callback of training: a line per epoch."""

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        pass

    def on_batch(self, examples: int, loss: float) -> None:
        pass

    def on_epoch(self, row: Any) -> None:
        metric = "" if row.metric is None else f", validation {row.metric:.4f}"
        print(f"  epoch {row.epoch}: loss {row.loss:.4f}{metric}, {row.seconds:.1f} s", flush=True)

    def on_end(self, curve: Any) -> None:
        pass


@dataclass(frozen=True)
class Outcome:
    """One fitted model, measured on test."""

    report: Any
    """A suisen.evaluation.Report."""
    model: Any
    """Its hyper-parameters, a dataclass."""
    epochs: int | list[int] | None
    picked_on: str
    started: float
    """When, as time.perf_counter() tells it."""

    def record(self, name: str, data: str, seed: int, floors: dict[str, float], purpose: str) -> dict[str, Any]:
        """The line of results/accuracy.jsonl."""
        return {
            "model": name,
            "data": data,
            "protocol": self.report.protocol,
            "seed": seed,
            "metrics": {score.metric: round(score.value, 5) for score in self.report.scores},
            "epochs": self.epochs,
            "picked_on": self.picked_on,
            "seconds": round(time.perf_counter() - self.started, 1),
            "config": {"model": type(self.model).__name__, **asdict(self.model)},
            "floors": floors,
            **stamp(),
            "purpose": purpose,
        }


def reached(record: dict[str, Any]) -> bool:
    """Whether every floor of a line of results/accuracy.jsonl is."""
    return all(record["metrics"][metric] >= floor for metric, floor in record["floors"].items())


def told(name: str, record: dict[str, Any]) -> str:
    """A line of results/accuracy.jsonl for the terminal."""
    floors = {metric: f" (floor {floor:g})" for metric, floor in record["floors"].items()}
    figures = ", ".join(f"{metric} {value:.4f}{floors.get(metric, '')}" for metric, value in record["metrics"].items())
    verdict = ("reached" if reached(record) else "MISSED") if floors else "(no floor)"
    return f"{name} on {record['data']}, seed {record['seed']}: {figures} {verdict}, {record['seconds']:.0f} s"


def interleaved(sides: dict[str, Callable[[], Any]], rounds: int) -> Iterator[tuple[int, str, float, Any]]:
    """(round, side, seconds, result), the sides alternating, the order turned around every other round: what slows
    the machine for a while slows both.
    """
    for number in range(rounds):
        names = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in names:
            started = time.perf_counter()
            result = sides[name]()
            yield number, name, time.perf_counter() - started, result


def median(values: Iterable[float]) -> float:
    """The middle value; the mean of the two middle ones."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("median of nothing")
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def peak_rss() -> int:
    """Most bytes that this process ever held resident (VmHWM, which a child does not inherit from its parent)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status holds no VmHWM")


def environment(name: str, *requirements: list[str]) -> Path:
    """The Python of a peer's own environment, made once under .venv/peers: one pip call a list of requirements."""
    folder = Path(os.environ.get("SUISEN_PEERS", ROOT / ".venv" / "peers")) / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making {folder} (once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        for words in requirements:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *words], check=True)
        (folder / "ready").touch()
    return python


class Peer:
    """A peer in a process of its own that answers one line of JSON a question, so that both sides can alternate."""

    def __init__(
        self, python: Path, script: Path, *arguments: str, env: dict[str, str] | None = None, cwd: str | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [python, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=cwd,  # some peers leave logs where they stand
        )
        self.facts = self._read()

    def ask(self, **question: Any) -> dict[str, Any]:
        """The answer to a question; the peer idles in between."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # peers print other things too
                return json.loads(line)
        raise RuntimeError(f"the peer ended with code {self.process.wait()}")

    def close(self) -> None:
        """Ends the peer's process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
