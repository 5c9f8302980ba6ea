"""A real tritonserver beside ours: the same bundle, the same client, two processes each, in turn.

The client is threads that each hold a connection and wait for their answer, and makes a few thousand requests a second
at most: what tells the sides apart is the processor time of a request.  Ours keeps its logs and counts meanwhile.
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from common import ROOT

from serving import worlds
from serving.bench import Bench
from serving.host import WORKERS, cpu_seconds, family
from suisen.recommending import bundle
from suisen.recommending.exporting import export

sys.path.append(str(ROOT))
from tests.services.triton import Triton

CONNECTIONS = (1, 16, 64)
Ask = Callable[[str], tuple[str, bytes]]
"""User → path and body of a request."""


def ours(user: str) -> tuple[str, bytes]:
    """A request to our server."""
    return "/v1/recommend", json.dumps({"queries": [{"user_id": user}], "k": worlds.K}).encode()


def theirs(user: str) -> tuple[str, bytes]:
    """The same in the protocol of model servers."""
    who = {"name": "user_id", "datatype": "BYTES", "shape": [1, 1], "data": [user]}
    return "/v2/models/world/infer", json.dumps({"inputs": [who]}).encode()


def triton(bench: Bench) -> None:
    """Requests a second and per CPU-second of both."""
    place, users = bench.bundle(bench.world), bench.users(bench.world)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(bundle.load(place), folder / "models", "triton", name="world")
        config = folder / "models" / "world" / "config.pbtxt"
        config.write_text(config.read_text().replace("count: 1", f"count: {WORKERS}"))
        try:
            model_server = Triton(folder / "models", folder)
        except pytest.skip.Exception as missing:
            bench.record("model_server", skipped=str(missing))
            return
        with bench.server(place) as server:
            model_server.start(60)
            try:
                _wait(model_server)
                assert model_server.process is not None
                sides = {
                    "suisen": (server.port, ours, server.pids),
                    "tritonserver": (model_server.port, theirs, family(model_server.process.pid)),
                }
                for port, ask, _ in sides.values():
                    loaded(port, ask, users, 16, bench.seconds(3.0))
                for number in range(bench.rounds):
                    for connections in CONNECTIONS:
                        for side in list(sides) if number % 2 == 0 else list(sides)[::-1]:
                            port, ask, pids = sides[side]
                            before = cpu_seconds(pids)
                            found = loaded(port, ask, users, connections, bench.seconds(3.0))
                            used = cpu_seconds(pids) - before
                            bench.record(
                                "model_server", side=side, connections=connections, round=number, processes=WORKERS,
                                per_cpu_s=round(found["answered"] / used, 1) if used else 0.0, **found,
                            )  # fmt: skip
            finally:
                model_server.stop()


def _wait(server: Triton) -> None:
    until = time.monotonic() + 120
    while not server.ready("world"):
        if time.monotonic() > until:
            raise RuntimeError(f"tritonserver is not ready: {server.log.read_text(errors='replace')[-1500:]}")
        time.sleep(0.2)


def loaded(port: int, ask: Ask, users: list[str], connections: int, seconds: float) -> dict[str, Any]:
    """What came of a closed loop."""
    took: list[float] = []
    wrong = [0] * connections
    until = time.perf_counter() + seconds

    def run(number: int) -> None:
        held = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        at = number * len(users) // connections
        while time.perf_counter() < until:
            path, body = ask(users[at % len(users)])
            at += 1
            began = time.perf_counter()
            held.request("POST", path, body, {"content-type": "application/json"})
            answer = held.getresponse()
            answer.read()
            took.append(time.perf_counter() - began)
            wrong[number] += answer.status != 200
        held.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took.sort()
    places = {f"p{one}": round(1e3 * took[min(len(took) - 1, len(took) * one // 100)], 2) for one in (50, 99)}
    return {
        "answered": len(took) - sum(wrong), "wrong": sum(wrong), "ms": places,
        "answered_per_s": round((len(took) - sum(wrong)) / seconds, 1),
    }  # fmt: skip
