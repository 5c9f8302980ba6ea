"""Beyond what a server bears: how much is still answered, and how soon the rest is refused.

What is borne is the throughput of a closed loop, the best of two numbers of connections.  Then requests are due at
shares of it, whatever the server does.
*Goodput* is what was answered with 200 per second of the offered load; a refusal's time counts from its sending.
"""

from __future__ import annotations

from typing import Any

from serving.bench import Bench, Generator
from serving.host import Host

CONNECTIONS, MANY = (64, 256), 768
SHARES = (0.9, 2.0, 5.0, 10.0)
MOST = 24_000
"""Requests per second that the generator can make beside the server on two cores."""
SIDES: dict[str, dict[str, Any]] = {"plan": {}, "precise": {"extra": {"precise": True}}}


def overload(bench: Bench) -> None:
    """Goodput at shares of what is borne, by the plan and on torch."""
    place, users = bench.bundle(bench.world), bench.users(bench.world)
    with bench.server(place) as server, bench.generator(users) as generator:
        generator.warm(server, 4 * len(users))
        for side, more in SIDES.items():
            measured(bench, server, generator, side, more)


def measured(bench: Bench, server: Host, generator: Generator, side: str, more: dict[str, Any]) -> None:
    """The records of one way of answering."""
    closed = [generator.load(server, seconds=bench.seconds(4.0), connections=each, **more) for each in CONNECTIONS]
    borne = max(one["answered_per_s"] for one in closed)
    bench.record("borne", side=side, rate=borne, workers=len(server.workers))
    for number in range(bench.rounds):
        for share in SHARES if number % 2 == 0 else SHARES[::-1]:
            rate, seconds = round(share * borne, 1), bench.seconds(5.0)
            if rate > MOST:
                bench.record("overload", side=side, share=share, skipped=f"the generator makes no {rate:,.0f} a second")
                continue
            found = generator.load(server, rate=rate, seconds=seconds, connections=MANY, **more)
            goodput = round(found["answered"] / seconds, 1)
            bench.record(
                "overload", side=side, share=share, round=number, workers=len(server.workers), goodput=goodput,
                of_borne=round(goodput / max(borne, 1e-9), 3), **found,
            )  # fmt: skip
