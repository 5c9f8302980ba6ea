"""Beyond what a server bears: how much is still answered, and how soon the rest is refused.

Two bundles of the same system: with a plan, and without one, so that all of it runs on torch.  What is borne is the
median throughput of three closed loops.  Then requests are due at shares of it, whatever the server does.
*Goodput* is what was answered with 200 per second, to the last answer; a refusal's time counts from its sending.  The
generator runs on the server's cores, and at ten times what torch bears takes a tenth of them.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from serving import worlds
from serving.bench import Bench, Generator
from serving.host import Host
from suisen.recommending import bundle

CLOSED, MANY = 128, 768
"""Connections of the closed loops, and of the open ones."""
SHARES = (0.9, 2.0, 5.0, 10.0)
MOST = 24_000
"""Requests per second that the generator can make beside the server on two cores."""


def overload(bench: Bench) -> None:
    """Goodput at shares of what is borne, by the plan and on torch."""
    users, planned = bench.users(bench.world), bench.bundle(bench.world)

    def without_plan(place: Path) -> None:
        bundle.save(bundle.load(planned), place, plan=False)

    sides = {"plan": planned, "torch": worlds.kept(planned.with_name(f"{planned.name}-torch"), without_plan)}
    for side, place in sides.items():
        with bench.server(place) as server, bench.generator(users) as generator:
            generator.warm(server, len(users))
            measured(bench, server, generator, side)


def measured(bench: Bench, server: Host, generator: Generator, side: str) -> None:
    """The records of one way of answering."""
    closed = [generator.load(server, seconds=bench.seconds(3.0), connections=CLOSED) for _ in range(3)]
    borne = median(one["answered_per_s"] for one in closed)
    bench.record("borne", side=side, rate=borne, workers=len(server.workers))
    for number in range(bench.rounds):
        for share in SHARES if number % 2 == 0 else SHARES[::-1]:
            rate, seconds = round(share * borne, 1), bench.seconds(5.0)
            if rate > MOST:
                bench.record("overload", side=side, share=share, skipped=f"the generator makes no {rate:,.0f} a second")
                continue
            found = generator.load(server, rate=rate, seconds=seconds, connections=MANY)
            goodput = found["answered_per_s"]
            bench.record(
                "overload", side=side, share=share, round=number, workers=len(server.workers), goodput=goodput,
                of_borne=round(goodput / max(borne, 1e-9), 3), **found,
            )  # fmt: skip
