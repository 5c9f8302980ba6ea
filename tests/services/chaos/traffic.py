"""What clients do: requests that are due whatever the server does, users who act, slow ones, a burst.

Every request is followed to its end: answered, refused with a problem document, or, where its connection broke or did
not answer in time, asked again as a careful client does.  Events carry an id, so that asking again is safe.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.services.chaos.world import Asked, K

PATIENCE_S = 4.0
"""Seconds without an answer after which a client gives the connection up."""
UNTIL_S = 30.0
"""Seconds in which a request must come to its end."""
CONNECTIONS = 48
GONE, UNSENT = -1, -2
"""Status of a request that found no server any more, after it was told to end; and of one that found no connection of
ours free in ``UNTIL_S``: more was due than the clients could send.
"""


@dataclass
class Outcome:
    """What became of a request."""

    kind: str
    due: float
    asked: Asked | None = None
    status: int = 0
    """0: no answer within ``UNTIL_S``."""
    code: str = ""
    tries: int = 0
    seconds: float = 0.0
    version: str = ""
    items: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    retry_after: str = ""


@dataclass
class Act:
    """An event of an acting user, and whether it was acknowledged."""

    user: str
    item: str
    event_id: str
    time: str
    status: int = 0
    code: str = ""


@dataclass
class Told:
    """All that was seen."""

    outcomes: list[Outcome] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bursts: list[dict[str, Any]] = field(default_factory=list)


class Connection:
    """One HTTP/1.1 connection that is made anew when it broke."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self.port, self.patience_s = port, PATIENCE_S
        self.head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, body.  Raises OSError or TimeoutError where there was no answer."""
        try:
            return await asyncio.wait_for(self._ask(method, path, body), self.patience_s)
        except BaseException:
            self.close()
            raise

    async def _ask(self, method: str, path: str, body: Any) -> tuple[int, dict[str, str], bytes]:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        sent = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: suisen\r\n{self.head}"
        if body is not None:
            head += f"content-type: application/json\r\ncontent-length: {len(sent)}\r\n"
        self.writer.write(head.encode() + b"\r\n" + sent)
        reader = self.reader
        assert reader is not None
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {}
            for line in lines[1:]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            read = await reader.readexactly(int(headers.get("content-length", "0")))
        except asyncio.IncompleteReadError as error:
            raise ConnectionError("the connection ended before the answer") from error
        if headers.get("connection", "") == "close":
            self.close()
        return int(lines[0].split()[1]), headers, read

    def close(self) -> None:
        """Ends it; the next request makes another."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


class Clients:
    """Everybody who asks."""

    def __init__(self, port: int, told: Told, seed: int, headers: dict[str, str] | None = None) -> None:
        self.port, self.told, self.rng = port, told, random.Random(seed)
        self.headers = headers or {}
        self.ending = asyncio.Event()
        """From now on the server may be gone: what finds no port is over, not lost."""
        self._free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
        for _ in range(CONNECTIONS):
            self._free.put_nowait(Connection(port, self.headers))
        self._open: set[asyncio.Task[None]] = set()

    async def steadily(self, rate: float, seconds: float, quiet: list[str], kind: str = "steady") -> None:
        """Requests of users who do nothing, due at random moments."""
        due, end = time.monotonic(), time.monotonic() + seconds
        while due < end and not self.ending.is_set():
            due += self.rng.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            asked = Asked(self.rng.choice(quiet), precise=self.rng.random() < 0.3)
            task = asyncio.create_task(self.one(Outcome(kind, due, asked)))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def settled(self) -> None:
        """Returns when every request has come to its end."""
        while self._open:
            await asyncio.wait(list(self._open))

    async def one(self, one: Outcome) -> None:
        """A query, followed to its end and kept."""
        asked = one.asked
        assert asked is not None
        body = {"queries": [{"user_id": asked.user}], "k": K, "precise": asked.precise}
        status, headers, read = await self.follow("POST", "/v1/recommend", body, one)
        if status == 200:
            answered(one, read)
        elif status:
            one.code = json.loads(read)["code"]
            one.retry_after = headers.get("retry-after", "")
        self.told.outcomes.append(one)

    async def follow(self, method: str, path: str, body: Any, one: Outcome) -> tuple[int, dict[str, str], bytes]:
        """Asks until there is an answer; a refusal is one."""
        until = one.due + UNTIL_S
        connection = await self._free.get()
        one.status = UNSENT if time.monotonic() >= until else 0
        try:
            while time.monotonic() < until:
                one.tries += 1
                try:
                    status, headers, read = await connection.ask(method, path, body)
                except (OSError, TimeoutError) as error:
                    if self.ending.is_set() and isinstance(error, ConnectionRefusedError):
                        one.status = GONE
                        break
                    await asyncio.sleep(0.05 + 0.1 * self.rng.random())
                    continue
                one.status, one.seconds = status, time.monotonic() - one.due
                return status, headers, read
        finally:
            self._free.put_nowait(connection)
        return 0, {}, b""

    async def acting(self, user: str, items: list[str], seconds: float, pause: float) -> None:
        """A user who takes items one after the other and asks for a list after each."""
        end, taken, number = time.monotonic() + seconds, [], 0
        rng = random.Random(f"{user} acts")
        while time.monotonic() < end and not self.ending.is_set():
            await asyncio.sleep(pause * (0.5 + rng.random()))
            item = rng.choice(items)
            if item in taken or self.ending.is_set():
                continue
            number += 1
            when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{int(time.time() % 1 * 1e6):06d}Z"
            act = Act(user, item, f"{user}-{number}-{rng.randrange(10**9)}", when)
            if not await self._act(act):
                if self.ending.is_set():
                    return
                self.told.notes.append(f"{user}: nobody knows whether {act.event_id} was taken; the user acts no more")
                return
            if act.status == 202:
                taken.append(item)
            one = Outcome("acting", time.monotonic(), Asked(user, tuple(taken), rng.random() < 0.5))
            await self.one(one)

    async def _act(self, act: Act) -> bool:
        """Sends an event until it is taken or refused; whether that is known."""
        event = {
            "user_id": act.user, "item_id": act.item, "event": "click", "time": act.time, "event_id": act.event_id,
        }  # fmt: skip
        one = Outcome("event", time.monotonic())
        status, headers, read = await self.follow("POST", "/v1/events", {"events": [event]}, one)
        act.status = status
        if status not in (0, 202):
            act.code = one.code = json.loads(read)["code"]
            one.retry_after = headers.get("retry-after", "")
        self.told.acts.append(act)
        self.told.outcomes.append(one)
        return status != 0

    async def slowly(self, connections: int, seconds: float) -> Counter[str]:
        """Clients that send a byte now and then; what became of their connections."""
        found: Counter[str] = Counter()

        async def one(number: int) -> None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                found["not let in"] += 1
                return
            end = time.monotonic() + seconds
            text = f"POST /v1/recommend HTTP/1.1\r\nhost: slow\r\nx-pad: {'a' * 5000}"
            try:
                for letter in text:
                    if time.monotonic() > end or reader.at_eof():
                        break
                    writer.write(letter.encode())
                    await writer.drain()
                    await asyncio.sleep(0.4 + 0.01 * (number % 20))
                found["refused" if reader.at_eof() else "held to the end"] += 1
            except OSError:
                found["refused"] += 1
            finally:
                writer.close()

        await asyncio.gather(*[one(number) for number in range(connections)])
        return found


def answered(one: Outcome, body: bytes) -> None:
    """Keeps what an answer says."""
    read = json.loads(body)
    (answer,) = read["answers"]
    one.version = read["version"]
    one.items = tuple(str(item["item_id"]) for item in answer["items"])
    one.degraded = tuple(read.get("degraded") or answer.get("degraded") or ())
