"""Servers as operating systems see them: started, made ready, their processor time, memory and ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import ROOT
from common import environment as peer_environment

TICKS = os.sysconf("SC_CLK_TCK")
WORKERS = min(2, os.cpu_count() or 1)
READY_S = 400.0
"""Longest wait for a server."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """What our processes run with: the checkout's package, one thread of arithmetic each."""
    paths = [str(ROOT / "src"), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE", **more,
    }  # fmt: skip


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Processor seconds that processes have used, user and system."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(used[11]) + int(used[12])
    return total / TICKS


def memory_of(pid: int) -> dict[str, int]:
    """Bytes of a process: resident; its proportional share of what several map (PSS); its own alone (USS)."""
    facts = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        facts[name] = int(value.split()[0]) * 1024
    private = facts["Private_Clean"] + facts["Private_Dirty"]
    return {"rss": facts["Rss"], "pss": facts["Pss"], "uss": private}


@dataclass
class Host:
    """A running server, its supervisor and workers together."""

    name: str
    command: list[str]
    port: int
    ready_path: str
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    said: bytes = b""
    """What the log says once all workers are ready; b"": they are asked."""
    supervised: bool = False
    """Whether its first process only watches over the others."""
    wanted: int = 1
    """Workers that have to be ready."""
    seen: set[int] = field(default_factory=set)
    log_start: int = 0
    process: subprocess.Popen[bytes] | None = None
    start_s: float = 0.0
    """Seconds from start to the first ready answer."""

    def __enter__(self) -> Host:
        started = time.perf_counter()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out, env=environment(**self.env), cwd=ROOT)
        try:
            self._wait(started)
        except BaseException:
            self.__exit__()
            raise
        self.start_s = time.perf_counter() - started
        return self

    def _wait(self, started: float) -> None:
        assert self.process is not None
        while time.perf_counter() - started < READY_S:
            if self.process.poll() is not None:
                tail = self.log.read_text(errors="replace")[-1500:]
                raise RuntimeError(f"{self.name} ended with code {self.process.returncode}: {tail}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ready():
                    return
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} is not ready after {READY_S:g} s; see {self.log}")

    def ready(self) -> bool:
        """Whether all workers answer: one says so before the others have loaded."""
        if self.said:
            return self.said in self.log.read_bytes()[self.log_start :]
        status, body = self.get(self.ready_path)
        if status == 200:
            self.seen.add(json.loads(body)["pid"])
        return len(self.seen) >= self.wanted

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            for pid in family(self.process.pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(timeout=30)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        return self.ask("GET", path)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body of a request on a connection of its own."""
        held = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            sent = None if body is None else json.dumps(body).encode()
            held.request(method, path, sent, {"content-type": "application/json"} if sent else {})
            answer = held.getresponse()
            return answer.status, answer.read()
        finally:
            held.close()

    @property
    def pids(self) -> list[int]:
        """Of all its processes."""
        assert self.process is not None
        return family(self.process.pid)

    @property
    def workers(self) -> list[int]:
        """Those of its processes that answer."""
        return self.pids[1:] if self.supervised else self.pids

    @property
    def cpu(self) -> float:
        """Processor seconds of all its processes."""
        return cpu_seconds(self.pids)


def suisen(
    bundle: Path,
    folder: Path,
    *,
    workers: int = WORKERS,
    name: str = "suisen",
    env: dict[str, str] | None = None,
    **options: str,
) -> Host:
    """Our server with impression and event log; not started yet."""
    port = free_port()
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    command = [
        sys.executable, "-m", "suisen.cli.main", "serve", str(bundle), "--port", str(port), "--workers", str(workers),
        "--log-dir", str(folder / "events"), "--impressions", "true", *words,
    ]  # fmt: skip
    return Host(name, command, port, "/health/ready", folder / f"{name}.log", env or {}, b"ready on http", workers > 1)


def naive(bundle: Path, folder: Path, *, workers: int = WORKERS) -> Host:
    """The service that people write first, of the same bundle; FastAPI, where it lacks, from its own environment."""
    port = free_port()
    command = [sys.executable, "-m", "serving.naive", str(bundle), str(port), str(workers)]
    env = {}
    if find_spec("fastapi") is None:
        folders = (peer_environment("fastapi", ["fastapi"]).parent.parent / "lib").glob("python*/site-packages")
        env["PYTHONPATH"] = os.pathsep.join([environment()["PYTHONPATH"], *map(str, folders)])
    return Host("naive", command, port, "/ready", folder / "naive.log", env, wanted=workers)
