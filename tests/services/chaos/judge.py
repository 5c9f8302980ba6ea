"""The verdict: every request, every list, every event, every process, every alert."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.services.chaos.traffic import GONE, UNSENT, Act, Outcome, Told
from tests.services.chaos.world import Asked, Version

GROWTH = 1.15
"""A process that grew by more than this, and by ``GROWTH_BYTES``, between two thirds of its life is a leak."""
GROWTH_BYTES = 24 << 20
ENDS = {0: "no answer", GONE: "came when the server had ended", UNSENT: "not sent: the clients were too slow"}
LIFE_S = 90.0
"""Seconds that a process must have lived to be judged."""


def lists(told: Told, versions: dict[str, Version]) -> dict[str, Any]:
    """How the served lists compare with the offline ones of their versions."""
    found: Counter[str] = Counter()
    wrong: list[str] = []
    served = [one for one in told.outcomes if one.status == 200 and one.asked is not None]
    by_version: dict[str, list[Outcome]] = defaultdict(list)
    for one in served:
        by_version[one.version].append(one)
    for name, its in by_version.items():
        if name not in versions:
            wrong.append(f"{len(its)} answers of a version that nobody offered: {name!r}")
            continue
        version = versions[name]
        version.learn([at for one in its for at in allowed(one)])
        for one in its:
            if any(version.agrees(at, one.items) for at in allowed(one)):
                found["degraded and by its rule" if one.degraded else "equal to the offline list"] += 1
            else:
                wrong.append(f"{one.kind} {one.asked} of {name}: {list(one.items)}")
    return {**found, "wrong": len(wrong), "examples": wrong[:5], "by version": dict(Counter(o.version for o in served))}


def allowed(one: Outcome) -> list[Asked]:
    """What a list may be the answer to.  A degraded one is made from what was at hand: the first events of the user,
    none of them at least.
    """
    asked = one.asked
    assert asked is not None
    if not one.degraded:
        return [asked]
    return [Asked(asked.user, asked.events[:n], asked.precise) for n in range(len(asked.events), -1, -1)]


def requests(told: Told) -> dict[str, Any]:
    """How many came to which end, and how quickly."""
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for one in told.outcomes:
        end = "answered" if one.status in (200, 202) else f"refused: {one.code}" if one.status > 0 else ENDS[one.status]
        ends[one.kind][end] += 1
        if one.tries > 1:
            ends[one.kind]["asked again (its connection broke or hung)"] += 1
        if one.status in (429, 503) and not one.retry_after:
            ends[one.kind]["refused without Retry-After"] += 1
    once = sorted(one.seconds for one in told.outcomes if one.status == 200 and one.tries == 1)
    steps = {f"p{100 * share:g}": round(1000 * once[int(share * (len(once) - 1))], 1) for share in (0.5, 0.9, 0.99)}
    return {"ends": {kind: dict(found) for kind, found in ends.items()}, "ms": steps if once else {}}


def unfinished(told: Told) -> int:
    """Requests that were neither answered nor refused, or refused by a server's own fault."""
    bad = [one for one in told.outcomes if one.status == 0 or one.status in (500, 502) or one.status == 404]
    return len(bad)


def logged(paths: Iterable[Path]) -> Counter[str]:
    """Event ids of a log's files, by how often they stand there."""
    found: Counter[str] = Counter()
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            found[json.loads(line)["event_id"]] += 1
    return found


def events(acts: Sequence[Act], ids: Counter[str]) -> dict[str, int]:
    """Acknowledged events in a log: each must be there once after de-duplication; refused ones must not."""
    taken = [act.event_id for act in acts if act.status == 202]
    refused = [act.event_id for act in acts if act.status not in (0, 202)]
    return {
        "acknowledged": len(taken),
        "missing": sum(ids[one] == 0 for one in taken),
        "written more than once": sum(ids[one] > 1 for one in taken),
        "refused": len(refused),
        "refused and written": sum(ids[one] > 0 for one in refused),
    }


def memory(samples: dict[int, list[tuple[float, int]]]) -> dict[str, Any]:
    """Resident bytes of each process between the second and the last third of its life."""
    grown, judged = [], 0
    for pid, series in samples.items():
        if not series or series[-1][0] - series[0][0] < LIFE_S:
            continue
        judged += 1
        third = len(series) // 3
        middle, last = (
            statistics.median(size for _, size in part) for part in (series[third : 2 * third], series[-third:])
        )
        if last > GROWTH * middle and last - middle > GROWTH_BYTES:
            grown.append(f"process {pid}: {middle / 2**20:.0f} → {last / 2**20:.0f} MiB")
    return {"processes judged": judged, "grown": grown}
