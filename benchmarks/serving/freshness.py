"""After an event: does the next list reflect it, on the same connection and on others, and how long does it take?

For a user a list is asked for, its first item is sent as an event, and the next lists must not hold it.  The same
connection is one worker's; eight others are spread over all workers.  Quietly, and while the generator asks for lists
at a steady rate.  An update's time runs from the sending of the event to the list that reflects it, both requests
included.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np

from serving import host
from serving.bench import Bench

OTHERS = 8
BACKGROUND = 2_000
"""Requests a second beside the events."""
PATIENCE_S = 2.0


class Client:
    """A connection that stays open."""

    def __init__(self, port: int) -> None:
        self.held = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and answer of a POST."""
        self.held.request("POST", path, json.dumps(body).encode(), {"content-type": "application/json"})
        answer = self.held.getresponse()
        return answer.status, json.loads(answer.read())

    def list_of(self, user: str) -> list[str]:
        """The items that a user is shown."""
        status, answer = self.ask("/v1/recommend", {"queries": [{"user_id": user}], "k": 10})
        if status != 200:
            raise RuntimeError(f"a list was refused with {status}: {answer}")
        return [str(item["item_id"]) for item in answer["answers"][0]["items"]]


def update(own: Client, others: list[Client], user: str) -> dict[str, Any]:
    """One event, and who knew of it when."""
    item = own.list_of(user)[0]
    started = time.perf_counter()
    status, answer = own.ask("/v1/events", {"events": [{"user_id": user, "item_id": item, "event": "click"}]})
    told = time.perf_counter()
    if status != 202:
        raise RuntimeError(f"an event was refused with {status}: {answer}")
    same = item not in own.list_of(user)
    done = time.perf_counter()
    at_once, delay = 0, 0.0
    for other in others:
        first = item not in other.list_of(user)
        at_once += first
        delay = max(delay, 0.0 if first else _until(lambda one=other: item not in one.list_of(user), told))
    return {
        "same": same, "any": at_once / max(1, len(others)), "event_ms": 1e3 * (told - started),
        "update_ms": 1e3 * (done - started), "delay_ms": 1e3 * delay,
    }  # fmt: skip


def _until(reflects: Callable[[], bool], since: float) -> float:
    """Seconds until it does; infinite where it does not within ``PATIENCE_S``."""
    while time.perf_counter() - since < PATIENCE_S:
        if reflects():
            return time.perf_counter() - since
    return float("inf")


def measured(bench: Bench, server: host.Host, users: list[str], what: str, number: int) -> None:
    """The events of some users, one after the other."""
    own, others = Client(server.port), [Client(server.port) for _ in range(OTHERS)]
    found = [update(own, others, user) for user in users]
    times = {
        name: {f"p{p:g}": round(float(np.percentile([one[f"{name}_ms"] for one in found], p)), 3) for p in (50, 90, 99)}
        for name in ("event", "update")
    }
    late = [one["delay_ms"] for one in found if one["delay_ms"]]
    bench.record(
        "event", beside=what,
        round=number,
        events=len(found),
        same_worker=float(np.mean([one["same"] for one in found])),
        any_worker=round(float(np.mean([one["any"] for one in found])), 4), event_ms=times["event"],
        ms=times["update"], late=len(late), latest_ms=round(max(late, default=0.0), 1), workers=len(server.workers),
    )  # fmt: skip


def events(bench: Bench) -> None:
    """Quiet, and beside a steady load, in turn."""
    users = bench.users(bench.world)
    drawn = random.Random(5).sample(users, len(users))
    number_of = 30 if bench.quick else 300
    with bench.server(bench.bundle(bench.world)) as server, bench.generator(users) as generator:
        generator.warm(server, 4 * len(users))
        for number in range(bench.rounds):
            for what in ("nothing", f"{BACKGROUND} requests a second"):
                some, drawn = drawn[:number_of], drawn[number_of:] + drawn[:number_of]
                with _beside(generator, server, what):
                    measured(bench, server, some, what, number)


@contextmanager
def _beside(generator: Any, server: host.Host, what: str) -> Any:
    """The load, in a thread that waits for the generator's process."""
    if what == "nothing":
        yield
        return
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            generator.load(server, rate=BACKGROUND, seconds=1.0, connections=64)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join()
