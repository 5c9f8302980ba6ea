"""What is done to the server and to its neighbours, by a seeded plan."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.services.chaos.traffic import Clients, Told
from tests.services.programs import Program

SWAPS = 20


@dataclass
class Scene:
    """Everything that faults reach."""

    server: int
    """Process id of the supervisor."""
    redis: Program
    broker: Program
    clients: Clients
    told: Told
    log_dir: Path
    admin: Callable[[str, dict[str, object]], Awaitable[int]]
    """Asks the admin listener; the status."""
    places: list[Path]
    corrupt: Path
    quiet: list[str]
    rate: float
    say: Callable[[str], None]
    done: Counter[str]
    free: dict[int, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """Of each neighbour: one fault at a time, so that none ends another."""

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers that live."""
        with contextlib.suppress(OSError):
            return [int(one) for one in Path(f"/proc/{self.server}/task/{self.server}/children").read_text().split()]
        return []


def plan(seed: int, seconds: float) -> list[tuple[float, str]]:
    """(second, fault), the order drawn; the first and the last twentieth are calm."""
    few = seconds < 300
    kinds = ["worker killed", "worker paused", "disk full", "corrupt bundle", "broker paused", "slow clients", "burst"]
    if not few:
        kinds += ["worker killed", "worker killed", "worker paused", "broker killed", "redis paused", "redis emptied"]
        kinds += ["corrupt bundle", "disk full"]
    rng = random.Random(seed)
    rng.shuffle(kinds)
    start, step = 0.05 * seconds, 0.88 * seconds / len(kinds)
    return [(start + step * (number + rng.uniform(0, 0.3)), kind) for number, kind in enumerate(kinds)]


async def run(scene: Scene, seed: int, seconds: float) -> None:
    """All faults; the long outage of Redis and the swaps beside them."""
    began = asyncio.get_running_loop().time()

    async def at(second: float, fault: Awaitable[None]) -> None:
        await asyncio.sleep(max(0.0, began + second - asyncio.get_running_loop().time()))
        await fault

    rng = random.Random(seed + 1)
    faults = {
        "worker killed": lambda: worker(scene, rng, signal.SIGKILL),
        "worker paused": lambda: worker(scene, rng, signal.SIGSTOP),
        "disk full": lambda: disk_full(scene),
        "corrupt bundle": lambda: corrupt(scene),
        "broker paused": lambda: paused(scene, scene.broker, "broker paused", 8.0),
        "broker killed": lambda: killed(scene, scene.broker, "broker killed", 10.0),
        "redis paused": lambda: paused(scene, scene.redis, "redis paused", 6.0),
        "redis emptied": lambda: killed(scene, scene.redis, "redis killed and back empty", 1.0),
        "slow clients": lambda: slow(scene),
        "burst": lambda: burst(scene),
    }
    outage = min(160.0, 0.3 * seconds)
    jobs = [at(second, faults[kind]()) for second, kind in plan(seed, seconds)]
    jobs.append(at(0.1 * seconds, killed(scene, scene.redis, "redis killed for long", outage)))
    jobs.append(swaps(scene, SWAPS if seconds >= 300 else 5, 0.85 * seconds))
    await asyncio.gather(*jobs)


async def worker(scene: Scene, rng: random.Random, sig: signal.Signals) -> None:
    """Kills a worker, or stops it for two seconds."""
    found = scene.workers
    if not found:
        return
    pid = rng.choice(found)
    what = "worker killed" if sig == signal.SIGKILL else "worker paused"
    scene.say(f"{what}: {pid}")
    scene.done[what] += 1
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sig)
        if sig == signal.SIGSTOP:
            await asyncio.sleep(2.0)
            os.kill(pid, signal.SIGCONT)


async def paused(scene: Scene, program: Program, what: str, seconds: float) -> None:
    """A neighbour that holds its connections and answers nothing."""
    async with scene.free[id(program)]:
        scene.say(what)
        scene.done[what] += 1
        program.pause()
        await asyncio.sleep(seconds)
        program.resume()
        scene.say(f"{what}: over")


async def killed(scene: Scene, program: Program, what: str, seconds: float) -> None:
    """A neighbour that dies and comes back."""
    async with scene.free[id(program)]:
        scene.say(what)
        scene.done[what] += 1
        await asyncio.to_thread(program.kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(program.start)
        scene.say(f"{what}: it is back")


async def disk_full(scene: Scene) -> None:
    """The disk of the log has no byte left for some seconds."""
    scene.say("disk full")
    scene.done["disk full"] += 1
    ballast = scene.log_dir / "ballast"
    await asyncio.to_thread(_fill, ballast)
    await asyncio.sleep(6.0)
    ballast.unlink(missing_ok=True)
    scene.say("disk full: over")


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        block = b"\0" * (1 << 16)
        while True:
            file.write(block)
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"\0")


async def corrupt(scene: Scene) -> None:
    """A bundle is offered whose weights are not those that it was saved with."""
    status = await scene.admin("load", {"bundle": str(scene.corrupt)})
    scene.say(f"corrupt bundle offered: {status}")
    scene.done["corrupt bundle offered"] += 1
    scene.done["corrupt bundle refused"] += int(400 <= status < 500)


async def slow(scene: Scene) -> None:
    """Two hundred clients that send a byte now and then."""
    scene.say("slow clients")
    found = await scene.clients.slowly(200, 25.0)
    scene.done["slow clients"] += sum(found.values())
    scene.say(f"slow clients: {dict(found)}")


async def burst(scene: Scene) -> None:
    """Ten times the rate for five seconds, from a generator of its own."""
    import json
    import sys

    scene.say("burst")
    generator = Path(__file__).parents[3] / "benchmarks" / "serving" / "generate.py"
    question = {
        "port": scene.clients.port, "users": scene.quiet, "seconds": 5.0, "rate": 10 * scene.rate, "connections": 200,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(generator), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    said, _ = await process.communicate(json.dumps(question).encode() + b"\n")
    found = json.loads(said.splitlines()[-1])
    kept = {name: found[name] for name in ("sent", "answered", "refused", "lost", "broken", "wrong", "statuses", "ms")}
    scene.told.bursts.append(kept)
    scene.done["burst of ten times the rate"] += 1
    scene.say(f"burst: {kept}")


async def swaps(scene: Scene, number: int, seconds: float) -> None:
    """One version after the other answers."""
    for count in range(number):
        await asyncio.sleep(seconds / number)
        place = scene.places[(count + 1) % len(scene.places)]
        status = await scene.admin("load", {"bundle": str(place), "switch": True, "wait_s": 20.0})
        scene.done["swap" if status == 200 else f"swap not made ({status})"] += 1
        scene.say(f"swap to {place.name}: {status}")
