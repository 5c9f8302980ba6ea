"""``python -m tests.services.chaos.soak``: a million requests, and hostile clients beside patient ones.

First one million requests, in four parts, after each of which the memory of every process is read.  Then, one after the
other, a thousand slow clients, pipelining ones that read nothing, headers without end: beside 300 requests a second of
others, whose latency counts from when a request was due.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.services.chaos import world
from tests.services.chaos.__main__ import RECORDS, ROOT, Log, _ready
from tests.services.chaos.judge import GROWTH, GROWTH_BYTES
from tests.services.programs import Program, free_port, started
from tests.serving.attacks import GET, POST, connect, crowd

GENERATOR = ROOT / "benchmarks" / "serving" / "generate.py"
BESIDE = 300.0
"""Requests a second of patient clients."""
SECONDS = 12.0
"""Of each attack."""
P99_MS = 100.0


class Generator:
    """The load generator of the benchmarks, in a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(GENERATOR)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def load(self, **load: Any) -> dict[str, Any]:
        """What came of a run."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(load), file=self.process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found


def memory(server: Program) -> dict[str, int]:
    """Resident bytes of the supervisor and of the workers, by process id."""
    assert server.process is not None
    pid = server.process.pid
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    return {str(one): 4096 * int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in pids}


def million(
    server: Program, generator: Generator, quiet: list[str], requests: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Requests in four parts, and the memory after each."""
    sizes, answered, wrong = [], 0, 0
    for part in range(4):
        found = generator.load(
            port=server.port, users=quiet, seconds=600.0, connections=64, most=requests // 4, seed=part
        )
        answered, wrong = answered + found["answered"], wrong + found["wrong"]
        sizes.append(memory(server))
        say(
            f"{answered:,} answered, {found['answered_per_s']:.0f}/s; MiB {[size >> 20 for size in sizes[-1].values()]}"
        )
    grown = [
        pid for pid, size in sizes[-1].items()
        if size > GROWTH * sizes[0].get(pid, size) and size - sizes[0][pid] > GROWTH_BYTES
    ]  # fmt: skip
    return {"requests": requests, "answered": answered, "wrong": wrong, "mib": [
        [size >> 20 for size in each.values()] for each in sizes
    ], "grown": grown}  # fmt: skip


# -- hostile clients ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def slow(port: int, stop: threading.Event) -> Iterator[None]:
    """A thousand connections that send a byte of a header now and then, made anew when they are ended."""

    def send() -> None:
        held = crowd(("127.0.0.1", port), 1_000, b"POST /v1/recommend HTTP/1.1\r\nhost: a\r\nx-pad: ", "127.0.0.2")
        while not stop.wait(0.5):
            for place, plain in enumerate(held):
                try:
                    plain.sendall(b"a")
                except OSError:
                    plain.close()
                    with contextlib.suppress(OSError):
                        held[place] = connect(("127.0.0.1", port), "127.0.0.2", 1.0)
        for plain in held:
            plain.close()

    with running([send]):
        yield


@contextlib.contextmanager
def pipelining(port: int, stop: threading.Event) -> Iterator[None]:
    """Four connections that send requests as fast as they may and read nothing."""

    def send() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), connect(("127.0.0.1", port), "127.0.0.2", 1.0) as plain:
                while not stop.is_set():
                    plain.sendall(GET * 200)

    with running([send] * 4):
        yield


@contextlib.contextmanager
def endless(port: int, stop: threading.Event) -> Iterator[None]:
    """Four connections that send a header which does not end, again and again."""

    def send() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), connect(("127.0.0.1", port), "127.0.0.2", 1.0) as plain:
                plain.sendall(POST + b"x-pad: ")
                while not stop.is_set():
                    plain.sendall(b"a" * (1 << 16))

    with running([send] * 4):
        yield


@contextlib.contextmanager
def running(work: list[Callable[[], None]]) -> Iterator[None]:
    """Threads for the length of a block; the block's owner tells them to stop."""
    threads = [threading.Thread(target=one, daemon=True) for one in work]
    for one in threads:
        one.start()
    time.sleep(1.0)
    yield


ATTACKS = {
    "1,000 slow clients": slow,
    "4 clients that pipeline and read nothing": pipelining,
    "4 clients with headers without end": endless,
}


def attacked(server: Program, generator: Generator, quiet: list[str], name: str) -> dict[str, Any]:
    """What others saw during an attack, and what it did to the server's memory."""
    stop, before = threading.Event(), memory(server)
    with ATTACKS[name](server.port, stop):
        found = generator.load(
            port=server.port, users=quiet, seconds=SECONDS, rate=BESIDE, connections=32, host="127.0.0.1"
        )
        during = memory(server)
        stop.set()
    time.sleep(2.0)
    kept = {key: found[key] for key in ("sent", "answered", "refused", "lost", "broken", "wrong", "ms")}
    return {"attack": name, **kept, "grew_mib": (sum(during.values()) - sum(before.values())) >> 20}


def main() -> int:
    """Runs, records, says what is bad; 1 where anything is."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--requests", type=int, default=1_000_000)
    made.add_argument("--folder", type=Path, default=ROOT / "runs" / "chaos")
    made.add_argument("--record", action="store_true")
    options = made.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    say = Log(options.folder / "soak.log")
    (place, _), _ = world.make(options.folder / "bundles", 0)
    quiet, _, _ = world.people(place)
    port = free_port()
    words = [
        sys.executable, "-m", "suisen.cli.main", "serve", str(place), "--port", str(port), "--workers", "2",
        "--log-dir", str(options.folder / "soak-events"), "--header-s", "5",
    ]  # fmt: skip
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    with started(words, port, options.folder / "soak-server.log", env) as server:
        while not _ready(port):
            time.sleep(0.1)
        generator = Generator()
        alone = generator.load(port=port, users=quiet, seconds=SECONDS, rate=BESIDE, connections=32)
        attacks = [{"attack": "none", **{key: alone[key] for key in ("sent", "answered", "refused", "lost", "ms")}}]
        for name in ATTACKS:
            attacks.append(attacked(server, generator, quiet, name))
            say(str(attacks[-1]))
        soak = million(server, generator, quiet, options.requests, say)
    record = {"what": "soak", **soak, "attacks": attacks, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    print(json.dumps(record, indent=1))
    if options.record:
        with RECORDS.open("a") as out:
            out.write(json.dumps(record) + "\n")
    late = [one["attack"] for one in attacks if one["ms"]["p99"] >= P99_MS or one["lost"] or one["refused"]]
    print(f"grown: {soak['grown']}; wrong: {soak['wrong']}; others waited or were lost: {late}")
    return int(bool(soak["grown"] or soak["wrong"] or late))


if __name__ == "__main__":
    sys.exit(main())
