"""``python -m tests.services.chaos --seconds 600 --seed 0``: the whole attack, its log, its record.

A server of two workers with users in Redis, events to a broker, an admin listener and a Prometheus that scrapes it, at
half of the load that it bears on this machine beside all of them.  Meanwhile neighbours and workers die, hang and come
back, the disk fills, versions change, a corrupt bundle is offered, slow clients hold connections and a burst of ten
times the rate comes; at the end SIGTERM under load.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.services.brokers import held, lasting_broker
from tests.services.chaos import faults, judge, world
from tests.services.chaos.traffic import Clients, Connection, Outcome, Told
from tests.services.programs import Program, free_port, program, redis, started

ROOT = Path(__file__).parents[3]
RECORDS = ROOT / "benchmarks" / "results" / "chaos.jsonl"
DISK = 48 << 20
"""Bytes of the disk that fills."""
SHARE = 0.5
"""Of the load that is borne."""
EXPECTED = ("SuisenBreakerOpen", "SuisenWorkerRestarts", "SuisenEventLogFailing")
"""Alerts that ten minutes of this must fire."""


class Log:
    """What happened, with the seconds since the start."""

    def __init__(self, path: Path) -> None:
        self.file, self.began = path.open("w"), time.monotonic()

    def __call__(self, line: str) -> None:
        text = f"{time.monotonic() - self.began:7.1f} {line}"
        print(text, file=self.file, flush=True)
        print(text, flush=True)


@contextlib.contextmanager
def small_disk(place: Path, say: Log) -> Iterator[Path]:
    """A folder on a disk of its own where we may mount one; else a plain folder, and nothing is filled."""
    place.mkdir(parents=True, exist_ok=True)
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)], check=False).returncode == 0
    )
    if not mounted:
        raise SystemExit("THE DISK CANNOT BE FILLED: mounting a small one needs root; nothing is shown")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


@contextlib.contextmanager
def prometheus(folder: Path, target: int) -> Iterator[int]:
    """The port of a Prometheus with our rules that scrapes the server every second."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    for name in ("bounds.yml", "recording.yml", "alerts.yml"):
        shutil.copy(ROOT / "deploy" / "prometheus" / name, folder / name)
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 2s, evaluation_interval: 2s}\n"
        "rule_files: [bounds.yml, recording.yml, alerts.yml]\n"
        f"scrape_configs: [{{job_name: suisen, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n"
    )
    words = [
        program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    with started(words, port, folder / "prometheus.log"):
        yield port


async def alerts(port: int, fired: dict[str, float], began: float) -> None:
    """Keeps when each alert fired first."""
    while True:
        with contextlib.suppress(OSError, ValueError):
            read = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/api/v1/alerts")
            for one in json.loads(read)["data"]["alerts"]:
                if one["state"] == "firing":
                    fired.setdefault(one["labels"]["alertname"], round(time.monotonic() - began, 1))
        await asyncio.sleep(2)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=3) as answer:
        read: bytes = answer.read()
    return read


async def memory(scene: faults.Scene, samples: dict[int, list[tuple[float, int]]]) -> None:
    """Resident bytes of the server's processes, every two seconds."""
    while True:
        for pid in [scene.server, *scene.workers]:
            with contextlib.suppress(OSError):
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                samples[pid].append((time.monotonic(), pages * 4096))
        await asyncio.sleep(2)


async def knee(port: int, quiet: list[str]) -> float:
    """Requests a second that are answered to 48 clients who wait for nothing, beside all the neighbours."""
    told = Told()
    clients = Clients(port, told, 7)
    await clients.steadily(100.0, 3.0, quiet, "warm")
    await clients.settled()
    told.outcomes.clear()
    end = time.monotonic() + 6.0

    async def one() -> None:
        while time.monotonic() < end:
            await clients.one(Outcome("knee", time.monotonic(), world.Asked(clients.rng.choice(quiet))))

    await asyncio.gather(*[one() for _ in range(48)])
    return len([one for one in told.outcomes if one.status == 200]) / 6.0


async def attack(
    scene: faults.Scene, server: Program, watcher: int, options: argparse.Namespace, items: list[str], acting: list[str]
) -> dict[str, Any]:
    """The minutes of the attack; what was seen."""
    loop_began = time.monotonic()
    fired: dict[str, float] = {}
    samples: dict[int, list[tuple[float, int]]] = defaultdict(list)
    watching = [
        asyncio.create_task(alerts(watcher, fired, loop_began)),
        asyncio.create_task(memory(scene, samples)),
    ]
    clients, seconds = scene.clients, options.seconds
    tasks = [asyncio.create_task(clients.steadily(scene.rate, seconds + 60, scene.quiet))]
    tasks += [asyncio.create_task(clients.acting(user, items, seconds + 60, 8.0)) for user in acting]
    await faults.run(scene, options.seed, seconds)
    await asyncio.sleep(max(0.0, loop_began + seconds - time.monotonic()))
    scene.say("SIGTERM under load")
    clients.ending.set()
    if server.process is not None:
        server.process.terminate()
    ended = await asyncio.to_thread(server.process.wait, 60) if server.process is not None else None
    scene.say(f"the server ended with {ended}")
    await asyncio.gather(*tasks)
    await clients.settled()
    for task in watching:
        task.cancel()
    return {"alerts": fired, "exit": ended, "memory": judge.memory(samples)}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The whole: neighbours, server, attack, verdict."""
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    say = Log(folder / "chaos.log")
    places, corrupt = world.make(folder / "bundles", options.seed)
    quiet, acting, items = world.people(places[0])
    log_dir = folder / "log"
    with contextlib.ExitStack() as stack:
        stack.enter_context(small_disk(log_dir, say))
        users = stack.enter_context(redis(folder / "redis"))
        broker = stack.enter_context(lasting_broker(folder / "broker"))
        port, admin_port = free_port(), free_port()
        words = [
            sys.executable, "-m", "suisen.cli.main", "serve", str(places[0]), "--port", str(port), "--workers", "2",
            "--log-dir", str(log_dir / "events"), "--users", f"redis://127.0.0.1:{users.port}/0",
            "--log", f"kafka://127.0.0.1:{broker.port}/events", "--admin-port", str(admin_port),
            "--impressions", "true", "--log-max-bytes", str(4 << 20), "--log-keep", "2", "--former-s", "20",
            "--drain-s", "1", "--grace-s", "10", "--insecure", "true", "--header-s", "5",
        ]  # fmt: skip
        env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        server = stack.enter_context(started(words, port, folder / "server.log", env))
        watcher = stack.enter_context(prometheus(folder / "prometheus", port))
        while not _ready(port):
            time.sleep(0.1)
        assert server.process is not None
        borne = asyncio.run(knee(port, quiet))
        rate = options.rate or round(SHARE * borne)
        say(f"borne beside all neighbours: {borne:.0f}/s; the attack runs at {rate}/s for {options.seconds} s")

        async def all_of_it() -> tuple[Told, dict[str, Any], Counter[str]]:
            told, done = Told(), Counter()
            clients = Clients(port, told, options.seed)

            async def admin(verb: str, body: dict[str, object]) -> int:
                connection = Connection(admin_port, {})
                connection.patience_s = 60.0
                for _ in range(3):
                    try:
                        status, _, read = await connection.ask("POST", f"/admin/{verb}", body)
                    except (OSError, TimeoutError):
                        await asyncio.sleep(0.5)
                        continue
                    finally:
                        connection.close()
                    if status >= 400:
                        say(f"admin {verb}: {read[:200]!r}")
                    return status
                return 0

            scene = faults.Scene(
                server.process.pid,
                users,
                broker,
                clients,
                told,
                log_dir,
                admin,
                places,
                corrupt,
                quiet,
                rate,
                say,
                done,
            )
            seen = await attack(scene, server, watcher, options, items, acting)
            return told, seen, done

        told, seen, done = asyncio.run(all_of_it())
        (folder / "told.json").write_text(json.dumps(asdict(told)))
        say("judging")
        return verdict(options, told, seen, done, places, log_dir, broker, rate, borne)


def _ready(port: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(_get(f"http://127.0.0.1:{port}/health/ready"))
    return False


def verdict(options: argparse.Namespace, told: Told, seen: dict[str, Any], done: Counter[str], places: list[Path],
            log_dir: Path, broker: Program, rate: float, borne: float) -> dict[str, Any]:  # fmt: skip
    """The record."""
    versions = {one.name: one for one in map(world.Version, places)}
    file = judge.logged(sorted((log_dir / "events").glob("events*.jsonl")))
    topic = Counter(str(line["event_id"]) for line in held(broker.port, "events"))
    return {
        "what": "chaos", "seconds": options.seconds, "seed": options.seed, "rate": rate, "borne": round(borne),
        "faults": dict(done), "requests": judge.requests(told), "unfinished": judge.unfinished(told),
        "lists": judge.lists(told, versions), "bursts": told.bursts, "notes": told.notes,
        "events in the log": judge.events(told.acts, file), "events in the topic": judge.events(told.acts, topic),
        **seen, "alerts missing": [name for name in EXPECTED if options.seconds >= 600 and name not in seen["alerts"]],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def bad(record: dict[str, Any]) -> list[str]:
    """What a record must not show."""
    topic, log, done = record["events in the topic"], record["events in the log"], record["faults"]
    found = {
        "requests without an end": record["unfinished"],
        "wrong lists": record["lists"]["wrong"],
        "wrong lists of bursts": sum(one["wrong"] for one in record["bursts"]),
        "acknowledged events missing in the topic": topic["missing"],
        "refused events in the topic": topic["refused and written"],
        "acknowledged events twice in the log": log["written more than once"],
        "processes that grew": len(record["memory"]["grown"]),
        "alerts that did not fire": len(record["alerts missing"]),
        "exit code": record["exit"],
        "corrupt bundles taken": done.get("corrupt bundle offered", 0) - done.get("corrupt bundle refused", 0),
    }  # fmt: skip
    return [f"{name}: {value}" for name, value in found.items() if value]


def main() -> int:
    """Runs, records, says what is bad; 1 where anything is."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--seconds", type=float, default=600.0)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--rate", type=float, default=0.0, help="requests a second; half of what is borne where absent")
    made.add_argument("--folder", type=Path, default=ROOT / "runs" / "chaos")
    made.add_argument("--record", action="store_true", help=f"append the record to {RECORDS.relative_to(ROOT)}")
    options = made.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # programs are ended, the disk unmounted
    record = run(options)
    (options.folder / "record.json").write_text(json.dumps(record, indent=1))
    print(json.dumps(record, indent=1))
    if options.record:
        with RECORDS.open("a") as out:
            out.write(json.dumps(record) + "\n")
    found = bad(record)
    print("\n".join(found) or "nothing bad")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
