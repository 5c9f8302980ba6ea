"""``make bench-serving``: the goals of the fast answer, measured part by part, each part in a process of its own.

    python benchmarks/serving/run.py                          # all parts, about 20 minutes on 2 quiet cores
    python benchmarks/serving/run.py --part open knee         # some; records are appended, the page takes the newest
    python benchmarks/serving/run.py --quick                  # everything in small in 2 minutes, records kept apart

A part that fails is recorded as failed and the others go on; the exit status says so.  Training is done once and kept
(``--folder``, by default runs/bench-serving).  Lines go to results/serving.jsonl; tools/serving_page.py makes the page.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from common import ROOT, parser  # noqa: E402

from serving.bench import FILE, QUICK_FILE, Bench  # noqa: E402
from serving.host import environment  # noqa: E402
from serving.parts import PARTS  # noqa: E402


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """What the command line says."""
    made = parser(__doc__ or "")
    made.set_defaults(rounds=3)
    made.add_argument(
        "--part", nargs="*", choices=list(PARTS), default=[], help="which parts (default: all but overload and triton)"
    )
    made.add_argument("--quick", action="store_true", help="small worlds and short runs, to try the benchmark itself")
    made.add_argument("--folder", type=Path, default=ROOT / "runs" / "bench-serving", help="trained systems, logs")
    made.add_argument("--results", type=Path, help=f"file of the records (default: results/{FILE})")
    made.add_argument("--here", action="store_true", help="the one part in this process, errors and all")
    return made.parse_args(arguments)


def one(name: str, options: argparse.Namespace) -> int:
    """A part, in this process."""
    bench = Bench(name, options)
    started = time.perf_counter()
    try:
        PARTS[name].run(bench)
    except Exception as error:
        bench.record("failed", error=f"{type(error).__name__}: {error}"[:500])
        traceback.print_exc()
        return 1
    bench.record("done", seconds=round(time.perf_counter() - started, 1))
    return 0


def each(names: list[str], options: argparse.Namespace, words: list[str]) -> int:
    """Every part in a process of its own, whose time is bounded."""
    failed = []
    begun = time.perf_counter()
    for number, name in enumerate(names, start=1):
        part, started = PARTS[name], time.perf_counter()
        print(f"== {number}/{len(names)} {name}: {part.told} (about {part.minutes:g} min)", flush=True)
        command = [sys.executable, __file__, "--here", *words, "--part", name]
        with subprocess.Popen(command, env=environment(), start_new_session=True) as process:
            try:
                status = process.wait(timeout=60 * (5 * part.minutes + 5))
            except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
                os.killpg(process.pid, 9)
                if isinstance(error, KeyboardInterrupt):
                    raise
                Bench(name, options).record("failed", error="it did not end in time")
                status = 1
        if status:
            failed.append(name)
        print(f"== {name} {'FAILED' if status else 'done'} in {time.perf_counter() - started:.0f} s", flush=True)
    print(
        f"{len(names) - len(failed)} of {len(names)} parts in {(time.perf_counter() - begun) / 60:.1f} min", flush=True
    )
    if failed:
        print(f"FAILED: {', '.join(failed)}; again: --part {' '.join(failed)}", flush=True)
    return int(bool(failed))


def main(arguments: list[str] | None = None) -> int:
    """All parts that are asked for."""
    options = options_of(arguments)
    options.results = options.results or (options.folder / QUICK_FILE if options.quick else None)
    if options.here:
        return one(options.part[0], options)
    words = [
        "--folder", str(options.folder), "--data-dir", str(options.data_dir), "--rounds", str(options.rounds),
        *(["--quick"] if options.quick else []), *(["--results", str(options.results)] if options.results else []),
    ]  # fmt: skip
    return each(options.part or [name for name, part in PARTS.items() if part.usual], options, words)


if __name__ == "__main__":
    sys.exit(main())
