"""A load generator of our own: open and closed loop, another user in every request, about 15 µs of processor each.

A process that reads one question a line (JSON, the fields of ``Load``) and answers with one line: how many requests
were sent, answered, refused, lost or wrong, latencies, and what the generator itself used.

*Open loop*: requests are due at times drawn beforehand (Poisson, or evenly spaced), whatever the server does.  Latency
counts from the moment the request was *due*, not from when it was sent: a server that stalls is charged for all that
should have been sent meanwhile ("coordinated omission").  A request that finds no free connection waits for one.
*Closed loop*: each connection sends its next request when it has the answer to its last one.

One thread, one epoll, plain sockets, requests prepared as bytes, one request in flight per connection.  Bodies are kept
as they came and judged after the clock has stopped: a list of K different items with ranks in order and scores that
fall, for the user who was asked for.
"""

from __future__ import annotations

import gc
import itertools
import json
import random
import select
import socket
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HEAD = (
    "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    "content-length: {length}\r\n\r\n{body}"
)
KEPT_BODIES = 150_000
"""Answers that are kept for judging; of longer runs every nth."""
PATIENCE_S = 3.0
"""Seconds that open requests get after the last one was due; then they are lost."""
PERCENTILES = (50, 90, 95, 99, 99.9)
RECEIVED = 1 << 16
SELECTS = 1024
"""Files that ``select.select`` takes."""
HELD = 0.000_05
"""Seconds: what is due within them is sent at once, for a wait costs as much."""
FAST, TICK = 4_000, 0.000_4
"""From so many requests a second on, the generator looks at the clock and at its sockets once in TICK seconds: a
wake-up per request costs more than the request.  Latencies are then overstated by up to TICK."""


@dataclass(frozen=True)
class Load:
    """What is asked of a server."""

    port: int
    users: list[str]
    """Raw ids; requests go through them in a new random order, again and again."""
    seconds: float = 5.0
    rate: float = 0.0
    """Requests a second, open loop; 0: closed loop."""
    arrivals: str = "poisson"
    """poisson, or even."""
    connections: int = 64
    k: int = 10
    path: str = "/v1/recommend"
    extra: dict[str, Any] = field(default_factory=dict)
    """More fields of each request, like ``precise``."""
    most: int = 10_000_000
    """Closed loop: end after so many requests."""
    seed: int = 0
    host: str = "127.0.0.1"


def body_of(load: Load, user: str) -> str:
    """The JSON of a request for one user."""
    return json.dumps({"queries": [{"user_id": user}], "k": load.k, **load.extra}, separators=(",", ":"))


def request_of(load: Load, user: str) -> bytes:
    """A whole request, ready to send."""
    body = body_of(load, user)
    return HEAD.format(path=load.path, length=len(body.encode()), body=body).encode()


@dataclass
class Tally:
    """What came of a run."""

    latencies: array[float] = field(default_factory=lambda: array("d"))
    """Seconds, of answered requests."""
    refusals: array[float] = field(default_factory=lambda: array("d"))
    """Seconds from the sending of a request to its refusal."""
    lateness: array[float] = field(default_factory=lambda: array("d"))
    """Seconds between the moment a request was due and the moment it was sent."""
    statuses: Counter[int] = field(default_factory=Counter)
    bodies: list[tuple[int, bytes]] = field(default_factory=list)
    """(number of the user, answer)."""
    sent: int = 0
    broken: int = 0
    """Connections that the server closed under a request."""
    lost: int = 0


class Driver:
    """Sockets, an epoll, and what each connection is waiting for."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.requests = [request_of(load, user) for user in load.users]
        rng = random.Random(load.seed)
        self.order = rng.sample(range(len(self.requests)), len(self.requests))
        self.tally = Tally()
        self.poll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.send: dict[int, Any] = {}
        self.receive: dict[int, Any] = {}
        self.free = deque(self._connect() for _ in range(load.connections))
        """Longest free first: requests spread over connections, and so over workers, as those of many clients do."""
        self.due: dict[int, float] = {}
        """By connection: when its request was due."""
        self.went: dict[int, float] = {}
        """By connection: when it was sent."""
        self.asked: dict[int, int] = {}
        self.parts: dict[int, bytes] = {}
        """Answers that came in pieces."""
        self.every = 1

    def _connect(self) -> int:
        made = socket.create_connection((self.load.host, self.load.port), timeout=10)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        at = made.fileno()
        self.sockets[at], self.send[at], self.receive[at] = made, made.send, made.recv
        self.poll.register(at, select.EPOLLIN)
        return at

    def ask(self, at: int, due: float, now: float) -> None:
        """Sends the next request on a free connection."""
        tally = self.tally
        number = tally.sent
        user = self.order[number % len(self.order)]
        tally.sent = number + 1
        self.due[at], self.asked[at], self.went[at] = due, user, now
        try:
            self.send[at](self.requests[user])
        except OSError:
            self._broke(at)
            return
        tally.lateness.append(now - due)

    def _broke(self, at: int) -> None:
        """The server closed the connection under a request: the request is lost, the connection made anew."""
        if self.due.pop(at, None) is not None:
            self.tally.lost += 1
            self.tally.broken += 1
        if at in self.free:
            self.free.remove(at)
        self.parts.pop(at, None)
        self.poll.unregister(at)
        self.sockets.pop(at).close()
        try:
            self.free.append(self._connect())
        except OSError:
            return

    def take(self, at: int) -> bool:
        """Reads what came on a connection; whether an answer is complete."""
        try:
            data = self.receive[at](RECEIVED)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._broke(at)
            return False
        if at in self.parts:
            data = self.parts.pop(at) + data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or len(data) < end + _length(data, end):
            self.parts[at] = data
            return False
        tally = self.tally
        now, status = time.perf_counter(), int(data[9:12])
        tally.latencies.append(now - self.due.pop(at))
        tally.statuses[status] += 1
        if status >= 400:
            tally.refusals.append(now - self.went[at])
        if status == 200 and len(tally.latencies) % self.every == 0:
            tally.bodies.append((self.asked[at], data[end:]))
        return True

    def close(self) -> None:
        """Closes everything."""
        for one in self.sockets.values():
            one.close()
        self.poll.close()


def _length(data: bytes, end: int) -> int:
    """The content length that a head says; 0 where it says none."""
    at = data.find(b"ontent-", 0, end)
    while at >= 0:
        if data[at + 7 : at + 14].lower() == b"length:":
            return int(data[at + 14 : data.find(b"\r", at, end)])
        at = data.find(b"ontent-", at + 1, end)
    return 0


def due_times(load: Load) -> list[float]:
    """Seconds from the start at which requests are due."""
    count = round(load.rate * load.seconds)
    if load.arrivals == "even":
        return (np.arange(count) / load.rate).tolist()
    gaps = np.random.default_rng(load.seed).exponential(1 / load.rate, count)
    return np.cumsum(gaps).tolist()


def waiting(poll: select.epoll) -> Callable[[float], object]:
    """What waits so many seconds for a socket: epoll's own wait counts milliseconds, select knows 1,024 files."""
    at = poll.fileno()
    return poll.poll if at >= SELECTS else lambda seconds: select.select((at,), (), (), seconds)


def open_loop(driver: Driver) -> tuple[float, float]:
    """Sends at the times that are due and waits for the last answers; wall seconds, and processor seconds.

    What is due while no connection is free waits, and its latency grows meanwhile.
    """
    times = due_times(driver.load)
    driver.every = 1 + len(times) // KEPT_BODIES
    free, poll, wait = driver.free, driver.poll.poll, waiting(driver.poll)
    tick = TICK if driver.load.rate >= FAST else 0.0
    clock, used = time.perf_counter, time.process_time()
    start = clock() + 0.01
    due = deque(start + one for one in times)
    give_up = start + driver.load.seconds + PATIENCE_S
    now = clock()
    while due or driver.due:
        while due and free and due[0] <= now + HELD:
            driver.ask(free.popleft(), due.popleft(), now)
        if now > give_up:
            break
        until = due[0] - clock() if due and free else 0.1
        if tick:
            time.sleep(max(0.0, now + tick - clock()))
        elif until > 0:
            wait(until)
        for at, _ in poll(0):
            if driver.take(at):
                free.append(at)
        now = clock()
    driver.tally.lost += len(due) + len(driver.due)
    return clock() - start, time.process_time() - used


def closed_loop(driver: Driver) -> tuple[float, float]:
    """Every connection sends when it has its answer, for ``seconds``; wall seconds, and processor seconds."""
    load, poll, clock = driver.load, driver.poll.poll, time.perf_counter
    driver.every = 1 + round(load.seconds * 20_000) // KEPT_BODIES
    used, start = time.process_time(), clock()
    while driver.free:
        now = clock()
        driver.ask(driver.free.popleft(), now, now)
    end, idle_until = start + load.seconds, start + load.seconds + PATIENCE_S
    while driver.due:
        for at, _ in poll(0.1):
            if driver.take(at):
                now = clock()
                if now < end and driver.tally.sent < load.most:
                    driver.ask(at, now, now)
            elif at not in driver.sockets and driver.free and clock() < end:
                now = clock()
                driver.ask(driver.free.popleft(), now, now)
        if clock() > idle_until:
            break
    driver.tally.lost += len(driver.due)
    return clock() - start, time.process_time() - used


def wrong(user: str, k: int, body: bytes) -> str:
    """What is wrong with an answer; "" where nothing is."""
    try:
        (answer,) = json.loads(body)["answers"]
        items = [str(item["item_id"]) for item in answer["items"]]
        scores = [item["score"] for item in answer["items"]]
        ranks = [item["rank"] for item in answer["items"]]
        asked = str(answer["user_id"])
    except (ValueError, KeyError, TypeError) as error:
        return f"not an answer: {error!r}"
    if asked != user:
        return f"asked for {user}, answered for {asked}"
    if len(set(items)) != k or len(items) != k:
        return f"{len(items)} items, {len(set(items))} different ones, of {k}"
    if ranks != list(range(1, k + 1)) or any(b > a for a, b in itertools.pairwise(scores)):
        return "not in order"
    return ""


def report(load: Load, tally: Tally, wall: float, used: float) -> dict[str, Any]:
    """The line that is answered with."""
    found = [wrong(load.users[user], load.k, body) for user, body in tally.bodies]
    mistakes = Counter(one for one in found if one)
    answered = tally.statuses[200]
    latencies = np.frombuffer(tally.latencies) if tally.latencies else np.zeros(0)
    lateness = np.frombuffer(tally.lateness) if tally.lateness else np.zeros(0)
    return {
        "loop": "open" if load.rate else "closed",
        "rate": load.rate,
        "arrivals": load.arrivals if load.rate else "",
        "connections": load.connections,
        "sent": tally.sent,
        "answered": answered,
        "refused": sum(tally.statuses.values()) - answered,
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "lost": tally.lost,
        "broken": tally.broken,
        "judged": len(found),
        "wrong": sum(mistakes.values()),
        "mistakes": dict(mistakes.most_common(3)),
        "seconds": round(wall, 3),
        "answered_per_s": round(answered / max(wall, 1e-9), 1),
        "ms": _percentiles(latencies),
        "refused_ms": _percentiles(np.frombuffer(tally.refusals) if tally.refusals else np.zeros(0)),
        "late_ms": _percentiles(lateness),
        "generator_us": round(1e6 * used / max(1, tally.sent), 2),
    }


def _percentiles(seconds: Any) -> dict[str, float]:
    if not len(seconds):
        return {}
    values = np.percentile(seconds, [*PERCENTILES, 100]) * 1e3
    return dict(zip([f"p{one:g}" for one in PERCENTILES] + ["max"], values.round(3).tolist(), strict=True))


def run(load: Load) -> dict[str, Any]:
    """Does one run."""
    driver = Driver(load)
    gc.collect()
    gc.disable()  # a pause of the generator would be charged to the server
    try:
        wall, used = open_loop(driver) if load.rate else closed_loop(driver)
    finally:
        gc.enable()
        driver.close()
    return report(load, driver.tally, wall, used)


def main() -> int:
    """Answers questions until standard input ends; users stay those of the question before where none are given."""
    print("{}", flush=True)
    users: list[str] = []
    for line in sys.stdin:
        question = json.loads(line)
        users = question.pop("users", users)
        print(json.dumps(run(Load(users=users, **question))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
