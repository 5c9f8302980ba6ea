"""Assignment: nanoseconds a unit on one core, both hashes, text and integer units, from a column to a column of arms.

    python benchmarks/assignment_speed.py

Processor time of this process, as other processes share the cores; wall-clock beside it.  Every measurement is a line
of results/assignment_speed.jsonl.  The goal is 200 ns a unit.
"""

from __future__ import annotations

import os
import sys

for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ[name] = "1"  # before Polars is loaded, which reads it once

import time  # noqa: E402
import uuid  # noqa: E402

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
from common import append, median, parser, stamp  # noqa: E402

from suisen.experiments.assignment import Assigner  # noqa: E402
from suisen.experiments.hashing import HASHES  # noqa: E402
from suisen.experiments.plan import Plan  # noqa: E402

FILE = "assignment_speed.jsonl"
GOAL = 200.0


def units(n: int) -> dict[str, pl.Series]:
    """Columns of n units: UUIDs (36 bytes), short names of several lengths, integers."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 2**63, size=(n, 2))
    return {
        "uuid": pl.Series("user", [str(uuid.UUID(int=int(a) << 64 | int(b))) for a, b in draws]),
        "name": pl.Series("user", [f"user-{number}" for number in rng.integers(0, 10**9, n)]),
        "int": pl.Series("user", rng.integers(0, 10**9, n)),
    }


def planned(how: str, *, everything: bool) -> Plan:
    """Two arms, and with ``everything`` also a layer, a holdout and a ramp: three draws per unit instead of one."""
    more = {"layer": "home", "slots": (0.0, 0.5), "holdout": 0.05, "ramp": {"2024-05-01": 0.5}} if everything else {}
    return Plan(
        name="speed",
        arms={"control": 0.5, "treatment": 0.5},
        metrics={"ctr": {"kind": "ctr"}},
        primary="ctr",
        assignment={"hash": how, **more},
    )


def main() -> int:
    """Rounds of every case; prints the medians."""
    made = parser(__doc__ or "")
    made.add_argument("--units", type=int, default=2_000_000)
    options = made.parse_args()
    columns, facts = units(options.units), stamp()
    for everything in (False, True):
        for how in HASHES:
            assigner = Assigner.of(planned(how, everything=everything))
            for kind, column in columns.items():
                taken = []
                for number in range(options.rounds):
                    wall, cpu = time.perf_counter(), time.process_time()
                    assigner.arms(column)
                    spent = time.process_time() - cpu, time.perf_counter() - wall
                    taken.append(spent[0] / options.units * 1e9)
                    record = {"hash": how, "units": kind, "n": options.units, "everything": everything, "round": number}
                    record |= {"cpu_ns": round(spent[0] / options.units * 1e9, 1)}
                    record |= {"wall_ns": round(spent[1] / options.units * 1e9, 1)}
                    append(FILE, {**record, **facts})
                goal = "" if everything else f" (goal {GOAL:.0f})"
                draws = "with layer and holdout" if everything else "one draw"
                print(f"{how}, {kind}, {draws}: {median(taken):.0f} ns a unit{goal}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
