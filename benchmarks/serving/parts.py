"""The parts of ``make bench-serving``: what each measures, how long it takes on two quiet cores, and who does it."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple


class Part(NamedTuple):
    """A part."""

    told: str
    minutes: float
    where: str
    """Module and function; imported when it runs, so that the program which starts the parts stays small."""
    usual: bool = True
    """False: it runs only where it is asked for by name."""

    def run(self, bench: Any) -> None:
        """Measures, and leaves records."""
        module, _, function = self.where.partition(":")
        getattr(import_module(f"serving.{module}"), function)(bench)


PARTS: dict[str, Part] = {
    "world": Part("trains the world once, lays out its bundle", 4, "over_http:world"),
    "ratio": Part("closed loop beside the naive service, in turn", 2, "over_http:ratio"),
    "open": Part("open loop at 1,000, 10,000 and 12,000 a second", 2, "over_http:open_loop"),
    "knee": Part("the highest rate that is borne, and shares of it", 2, "over_http:knee"),
    "overload": Part(
        "goodput and refusals at 0.9 to 10 times what is borne, by the plan and on torch", 3, "overload:overload", False
    ),
    "triton": Part("a real tritonserver beside ours", 3, "model_server:triton", False),
    "k6": Part("k6's constant arrival rate, a quarter of the knee", 0.5, "over_http:k6"),
    "events": Part("the next list after an event", 1, "freshness:events"),
    "memory": Part("start-up, memory per worker, growth over requests", 1.5, "over_http:memory"),
    "items": Part("a million items: exact int8, IVF, the indexes of old", 2.5, "in_process:items"),
    "users": Part("a million users: bytes of each", 1, "in_process:users"),
    "agreement": Part("lists by the plan and by torch, world and MovieLens-1M", 2, "in_process:agreement"),
    "models": Part("every retriever with every ranker: cost and agreement", 4, "in_process:models"),
}
"""In the order in which they are run; k6 needs the knee."""
