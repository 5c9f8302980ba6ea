"""What every part of ``make bench-serving`` works with: options, records, a generator, the systems."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, Peer, stamp

from serving import host, worlds
from suisen.recommending.kernels import path_of

FILE, QUICK_FILE = "serving.jsonl", "quick.jsonl"
GENERATOR = ROOT / "benchmarks" / "serving" / "generate.py"


class Bench:
    """One part's run."""

    def __init__(self, part: str, options: argparse.Namespace) -> None:
        self.part, self.options = part, options
        self.quick: bool = options.quick
        self.rounds: int = min(2, options.rounds) if options.quick else options.rounds
        self.folder: Path = options.folder
        self.data_dir: Path = options.data_dir
        self.results: Path = options.results or RESULTS / FILE
        self.run = time.strftime("%Y%m%dT%H%M%S", time.gmtime())

    def seconds(self, usual: float) -> float:
        """The length of a measurement."""
        return 0.5 if self.quick else usual

    def record(self, what: str, **figures: Any) -> dict[str, Any]:
        """Appends a line to the results and says it."""
        line = {
            "part": self.part, "what": what, **figures, "path": path_of(), "load": round(os.getloadavg()[0], 2),
            "quick": self.quick, "run": self.run, **self._stamp,
        }  # fmt: skip
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open("a") as out:
            out.write(json.dumps(line) + "\n")
        told = ", ".join(f"{name} {value}" for name, value in figures.items() if not isinstance(value, (dict, list)))
        nested = " ".join(f"{name} {value}" for name, value in figures.items() if name == "ms")
        print(f"  {what}: {told} {nested}", flush=True)
        return line

    @cached_property
    def _stamp(self) -> dict[str, Any]:
        return stamp()

    # -- systems ------------------------------------------------------------------------------------------------------

    @cached_property
    def world(self) -> worlds.Plan:
        """The workload of the goals."""
        return worlds.world_plan(self.quick)

    @cached_property
    def films(self) -> worlds.Plan:
        """MovieLens-1M."""
        return worlds.films_plan(self.quick, self.data_dir)

    def bundle(self, plan: worlds.Plan) -> Path:
        """A system's bundle as this commit lays it out, trained where it is missing: in a process that then ends."""
        words = [plan.name, str(self.data_dir), str(self.folder), *(["quick"] if self.quick else [])]
        command = [sys.executable, "-m", "serving.worlds", *words]
        done = subprocess.run(command, env=host.environment(), stdout=subprocess.PIPE, text=True, check=True)
        print(done.stdout, end="", flush=True)
        return Path(done.stdout.splitlines()[-1])

    def users(self, plan: worlds.Plan) -> list[str]:
        """The raw ids of its users."""
        return [str(one) for one in range(1, plan.users + 1)]

    # -- load ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def generator(self, users: list[str]) -> Iterator[Generator]:
        """A process that makes requests for these users."""
        peer = Peer(Path(sys.executable), GENERATOR, env=host.environment())
        try:
            yield Generator(peer, users)
        finally:
            peer.close()

    def server(self, bundle: Path, **options: Any) -> host.Host:
        """Our server with its logs in an empty folder; not started yet."""
        place = self.folder / "logs" / f"{self.part}-{self.run}-{time.monotonic_ns() // 1_000_000 % 10**6}"
        return host.suisen(bundle, place, **options)


class Generator:
    """The load generator, and what servers used meanwhile."""

    def __init__(self, peer: Peer, users: list[str]) -> None:
        self.peer, self.users = peer, users
        self.seed = 0
        self._told = False

    def load(self, server: host.Host, **load: Any) -> dict[str, Any]:
        """The figures of one run: those of the generator, and processor seconds of the server."""
        self.seed += 1
        users = {} if self._told else {"users": self.users}
        self._told = True
        before = server.cpu
        found = self.peer.ask(port=server.port, seed=self.seed, **users, **load)
        used = server.cpu - before
        per_cpu = round(found["answered"] / used, 1) if used else 0.0
        return {**found, "server_cpu_s": round(used, 2), "per_cpu_s": per_cpu, "cores": _ratio(used, found["seconds"])}

    def warm(self, server: host.Host, requests: int) -> None:
        """Makes requests that nobody counts."""
        self.load(server, seconds=60.0, connections=32, most=requests)


def _ratio(a: float, b: float) -> float:
    return round(a / b, 3) if b else 0.0
