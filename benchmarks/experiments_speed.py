"""Speed of an experiment's analysis, from the event file to the result, beside tea-tasting, pandas and SciPy.

    python benchmarks/experiments_speed.py                       # 1, 10 and 100 million events, 10 a user
    python benchmarks/experiments_speed.py --events 1000000 --rounds 5

Four metrics with CUPED in two arms, events aggregated to the user (``experiment_events`` makes them).  Every side runs
in a process of its own, in turns, and its effects and p-values are compared before its times are kept; a side that
needs more than ``--memory`` is ended, which is its result, and is not asked for more events.  Lines go to
results/experiments_speed.jsonl.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import experiment_events
from common import RESULTS, append, environment, median, parser, peak_rss, records, stamp
from peer_experiments import processor

FILE = "experiments_speed.jsonl"
PEERS = (
    ["tea-tasting==1.14.0", "ibis-framework[duckdb]==12.0.0", "pandas==3.0.3", "pyarrow==26.0.0", "scipy==1.17.1"],
    ["polars==2.1.0"],
)
OURS: dict[str, dict[str, Any]] = {
    "suisen": {"daily": False},
    "suisen, by day": {},
    "suisen, all": {"duplicates": "drop"},
}
"""What the peers do; with the effect by day beside it, which is the default; and with repeated events taken out."""
THEIRS = ("ibis", "polars-frame", "pandas-frame", "pandas")
SIDES = (*OURS, *THEIRS)
TOLERANCE = 1e-6
"""Relative, of effects and p-values."""
SPARE = 1.5
"""GiB of the machine that no side may take."""
USERS = 10
"""Events per user."""
PLAN = {
    "name": "speed", "arms": {"control": 0.5, "treatment": 0.5}, "primary": "ctr",
    "start": experiment_events.START, "end": experiment_events.END,
    "metrics": {
        name: {"kind": kind, "covariate": True} for name, kind in
        (("ctr", "ctr"), ("conversion", "conversion"), ("revenue", "value"), ("events", "count"))
    },
}  # fmt: skip


def ours(side: str, folder: Path) -> dict[str, Any]:
    """One analysis in this process."""
    import polars as pl

    from suisen.experiments import AnalysisOptions, analyze
    from suisen.experiments.plan import Plan

    plan, options = Plan.of(PLAN), AnalysisOptions(**OURS[side])
    cpu, started = processor(), time.perf_counter()
    exposures, events = (pl.scan_parquet(folder / name) for name in experiment_events.FILES)
    result = analyze(exposures, events, plan, options=options)
    seconds, used = time.perf_counter() - started, processor() - cpu
    found = {each.metric: {"effect": each.absolute.value, "p": each.absolute.p} for each in result.estimates}
    return {"seconds": seconds, "cpu_seconds": used, "peak_bytes": peak_rss(), "found": found}


# -- one measurement --------------------------------------------------------------------------------------------------


def measured(side: str, folder: Path, options: Namespace) -> dict[str, Any]:
    """What a process of its own says; ``failed`` where it was ended or ended itself."""
    here = Path(__file__).parent
    if side in OURS:
        words = [sys.executable, here / "experiments_speed.py", "--side", side, "--folder", folder]
    else:
        words = [environment("tea-tasting", *PEERS), here / "peer_experiments.py", side, folder, str(options.threads)]
    threads = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(options.threads))
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **threads}
    )
    most, why = watched(process, options)
    out, err = process.communicate()
    for spilled in folder.glob("duckdb-*"):
        shutil.rmtree(spilled, ignore_errors=True)
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if why or process.returncode or not lines:
        return {"failed": why or last_line(err) or f"exit code {process.returncode}", "peak_bytes": most}
    return dict(json.loads(lines[-1]))


def watched(process: subprocess.Popen[str], options: Namespace) -> tuple[int, str]:
    """Most bytes resident that were seen, and why the process was ended; empty: it ended itself."""
    most, started = 0, time.monotonic()
    while process.poll() is None:
        most = max(most, resident(process.pid))
        if most > options.memory * 2**30:
            process.kill()
            return most, f"more than {options.memory:g} GiB resident"
        if available() < SPARE * 2**30:
            process.kill()
            return most, f"the machine had less than {SPARE:g} GiB left"
        if time.monotonic() - started > options.minutes * 60:
            process.kill()
            return most, f"more than {options.minutes:g} minutes"
        time.sleep(0.05)
    return most, ""


def resident(pid: int) -> int:
    """Bytes resident of a process; 0 where it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def available() -> int:
    """Bytes that the machine can still give."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo holds no MemAvailable")


def last_line(text: str) -> str:
    """What a traceback ends with."""
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else ""


def disagreement(mine: dict[str, Any], theirs: dict[str, Any]) -> str:
    """The first number in which two sides differ; empty: none."""
    for metric, values in mine.items():
        for name, value in values.items():
            other = theirs[metric][name]
            if abs(value - other) > TOLERANCE * max(abs(value), abs(other)):
                return f"{metric} {name}: {value!r} and {other!r}"
    return ""


# -- all of them ------------------------------------------------------------------------------------------------------


def compare(events: int, folder: Path, sides: list[str], options: Namespace) -> list[str]:
    """Rounds of all sides at one size; the sides that survived."""
    facts = {"events": events, "users": events // USERS, "threads": options.threads, "run": options.run, **stamp()}
    before = [line for line in records(RESULTS / FILE) if (line["run"], line["events"]) == (options.run, events)]
    good = [line for line in before if "failed" not in line]
    expected: dict[str, Any] | None = good[0]["found"] if good else None
    seconds = {side: [line["seconds"] for line in good if line["side"] == side] for side in {x["side"] for x in good}}
    lost: set[str] = set()
    for number in range(options.rounds):
        for side in sides if number % 2 == 0 or expected is None else sides[::-1]:
            if side in lost:
                continue
            found = measured(side, folder, options)
            if "failed" in found:
                lost.add(side)
            else:
                expected = expected or found["found"]
                if wrong := disagreement(expected, found["found"]):
                    raise SystemExit(f"{side} at {events:,} events, {wrong}: not the same task")
                seconds.setdefault(side, []).append(found["seconds"])
            append(FILE, {"side": side, "round": number, **found, **facts})
            print(f"{events:,} {side}: {told(found)}", flush=True)
    mine = seconds.get("suisen", [])
    for side in THEIRS:
        if mine and side in seconds:
            print(f"{events:,} events: {side} takes {median(seconds[side]) / median(mine):.2f}x of suisen's time")
    return [side for side in sides if side not in lost]


def told(found: dict[str, Any]) -> str:
    """A measurement in words."""
    peak = f"{found['peak_bytes'] / 2**30:.2f} GiB"
    if "failed" in found:
        return f"did not end ({found['failed']}), {peak}"
    return f"{found['seconds']:.2f} s, {found['cpu_seconds']:.2f} s of processor, {peak}"


def main() -> int:
    """``--side`` is one measurement of ours, in the process that the clock and the memory belong to."""
    made = parser(__doc__ or "")
    made.add_argument("--events", type=int, nargs="+", default=[10**6, 10**7, 10**8], help="sizes, ascending")
    made.add_argument("--folder", type=Path, help="where event files are made and kept [default: a temporary one]")
    made.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="who takes part")
    made.add_argument("--memory", type=float, default=16, help="GiB at which a side is ended")
    made.add_argument("--minutes", type=float, default=60, help="at which a side is ended")
    made.add_argument("--run", default="", help="go on with a run that was cut off, by the name in its lines")
    made.add_argument("--side", choices=list(OURS), help="measure one analysis of the events in --folder")
    made.set_defaults(rounds=3)
    options = made.parse_args()
    if options.side:
        print(json.dumps(ours(options.side, options.folder)), flush=True)
        return 0
    options.run = options.run or time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    environment("tea-tasting", *PEERS)
    sides = list(options.sides)
    with tempfile.TemporaryDirectory() as temporary:
        for events in sorted(options.events):
            folder = (options.folder or Path(temporary)) / str(events)
            experiment_events.make(folder, events, events // USERS)
            sides = compare(events, folder, sides, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
