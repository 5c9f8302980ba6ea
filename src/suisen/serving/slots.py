"""Slots: versions that are loaded beside each other.  One of them answers now, and a request is bound to one of them.

A slot never changes what it answers from: another bundle is another slot.  So a request that began on one version ends
on it, whatever is switched meanwhile, and its answer names that version.  Events count in every slot.

A slot is gone, its memory with it, when the service let go of it and the last request that is bound to it is answered:
nothing waits for a garbage collector, which would stop the server for a moment.
"""

import time
import weakref
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from suisen.recommending.engine import Engine
from suisen.serving.answering import Answering, Job, Look, Rank, Recommend, Result, Similar
from suisen.serving.messages import RankQuery

SMALL = 200
"""Most ids in a request that is recorded."""


@dataclass(frozen=True, eq=False)
class Slot:
    """One version, ready to answer, from a System that no other has."""

    answering: Answering
    loaded: float = field(default_factory=time.time)
    """When, in seconds since 1970."""

    def __post_init__(self) -> None:
        weakref.finalize(self, _open_circle, self.answering.system.engine)

    @property
    def version(self) -> str:
        """Names its bundle."""
        return self.answering.version


def _open_circle(engine: Engine) -> None:
    """The engine and its plan hold each other: without this they would stay until the next garbage collection."""
    engine.plan = None


class Bound:
    """A job and the slot that answers it.  0.2 µs a request."""

    __slots__ = ("job", "slot")

    def __init__(self, slot: Slot, job: Job) -> None:
        self.slot, self.job = slot, job

    def __len__(self) -> int:
        """Queries."""
        return len(self.job)

    def quick(self, units: float) -> bool:
        """Whether it may be computed in the event loop, at its price."""
        return self.slot.answering.quick(self.job, units)

    @property
    def large(self) -> bool:
        """Whether it is part of a batch, or a look at a version."""
        return isinstance(self.job, Look) or (isinstance(self.job, Recommend) and self.job.large)


def work(given: Sequence[Bound]) -> Sequence[Result | Exception]:
    """One result or error per job, each by its own slot; the jobs of a slot are computed together."""
    first = given[0].slot
    if all(one.slot is first for one in given):  # what nearly every call is
        return first.answering.work([one.job for one in given])
    places: dict[Slot, list[int]] = defaultdict(list)
    for place, one in enumerate(given):
        places[one.slot].append(place)
    results: list[Result | Exception] = [[]] * len(given)
    for slot, its in places.items():
        for place, result in zip(its, slot.answering.work([given[place].job for place in its]), strict=True):
            results[place] = result
    return results


def small(job: Job) -> bool:
    """Whether a job takes little memory: such jobs are recorded, to warm the next version on."""
    if not isinstance(job, Recommend | Rank):
        return isinstance(job, Similar)
    ids = len(job.options.exclude) + len(job.options.among or ())
    for query in job.queries[:SMALL]:
        ids += 1 + len(query.history or ()) + (len(query.items) if isinstance(query, RankQuery) else 0)
    return ids <= SMALL and len(job.queries) <= SMALL


def warm(slot: Slot, jobs: Iterable[Job], seconds: float) -> None:
    """Answers recorded jobs, then computes rows of those who acted last, so that first requests find all in place.

    ``seconds``: most that each of both may take.
    """
    until = time.monotonic() + seconds
    for job in jobs:
        if time.monotonic() >= until:
            break
        slot.answering.work([job])
    if slot.answering.visitors is not None:
        slot.answering.visitors.warm(seconds)
