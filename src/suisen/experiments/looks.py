"""Where an experiment stands against its plan: how much was seen, which look it is, what earlier looks left of alpha.

A group-sequential plan holds its alpha only where every look spends what the looks before it left (Lan, DeMets 1983).
So looks are kept beside the plan's file, ``ranker.toml`` → ``ranker.looks.json``: ``read_looks`` before an analysis,
``remember`` after it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from suisen.data.durations import spelt
from suisen.errors import InputError
from suisen.experiments.plan import Plan, Sequential
from suisen.experiments.result import Result
from suisen.experiments.sequential import both_sides, spending_bounds, spent
from suisen.experiments.standing import Look, Taken
from suisen.files import write_text

DONE = 0.99
"""Share of the planned units or time from which an experiment is at its end."""
LAST, DAY = 0.95, 86_400 * 10**6
"""Share of the planned time from which data that reach into its last day (microseconds) are all there is: nights are
quiet, and the latest event is no clock."""
NEAR = 0.005
"""How far before a planned look the data may still be; how much less a cleaned table of the same look may hold."""
STEP = 0.001
"""How much more of what was planned makes another look."""
LATE = 0.05
"""How far behind its planned share a look is called late."""
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def look_of(
    plan: Plan, units: int, now: int | None, looks: Sequence[Taken] | None = None
) -> tuple[Look, tuple[float, ...]]:
    """The look, and for a group-sequential plan the information fractions at which alpha was spent until now.

    The fraction is of the planned sample, or of the time where no sample was planned.  A group's look is the last
    planned one that was reached; its bound is computed at the fraction that was really seen.  ``looks``: those taken
    before, in their order (one that saw the same data is this one); None: nobody knows, and the planned ones count as
    taken.  Raises InputError for looks that were taken under another plan.
    """
    fraction, of_what = _fraction(plan, units, now)
    sequential = plan.sequential
    until = "" if now is None else spelt(now)
    look = Look("fixed" if sequential is None else sequential.kind, fraction, "", units=units, sample=plan.sample,
                until=until)  # fmt: skip
    for one in looks or ():
        _refuse_another_plan(one, plan)
    before = None if looks is None else earlier(looks, look)
    look = replace(look, order=1 + sum(one.judged for one in before or ()))
    if sequential is None:
        return _fixed(plan, look, of_what, now), ()
    seen = f"{100 * min(fraction, 9.99):.0f} % of the {of_what}" if fraction is not None else "no sample or end planned"
    if sequential.kind == "always-valid":
        return replace(look, said=f"always-valid: any number of looks is allowed for ({seen})"), ()
    return _group(plan, sequential, replace(look, of=len(sequential.looks)), seen, before)


def _fraction(plan: Plan, units: int, now: int | None) -> tuple[float | None, str]:
    if plan.sample is not None:
        return units / plan.sample, "planned sample"
    if plan.starts is not None and plan.ends is not None and now is not None:  # what comes after the end does not count
        return min(1.0, max(0.0, now - plan.starts) / (plan.ends - plan.starts)), "planned time"
    return None, ""


def _fixed(plan: Plan, look: Look, of_what: str, now: int | None) -> Look:
    fraction = look.fraction
    more = f"; {ordinal(look.order)} look" if look.order > 1 else ""
    again = f"{more} without a sequential plan" if more else ""
    if fraction is None:
        only = "so nothing says that this is the only look"
        return replace(look, said=f"neither sample nor dates were planned, {only}{again}")
    over = plan.ends is not None and now is not None and now >= plan.ends
    last_day = plan.sample is None and plan.ends is not None and now is not None and plan.ends - now < DAY
    if fraction >= DONE or (last_day and fraction >= LAST):
        return replace(look, said=f"{of_what} reached{again}", reached=True)
    seen = f"{100 * fraction:.0f} % of the {of_what}"
    if over and plan.ends is not None:
        said = f"{seen} at the end ({spelt(plan.ends)}); power is less than planned{again}"
        return replace(look, said=said)
    return replace(look, said=f"{seen}, looked at early without a sequential plan{more}", early=True)


# -- group-sequential plans -------------------------------------------------------------------------------------------


def _group(
    plan: Plan, sequential: Sequential, look: Look, seen: str, before: tuple[Taken, ...] | None
) -> tuple[Look, tuple[float, ...]]:
    fraction, planned = look.fraction, sequential.looks
    if fraction is None:  # looks are shares of something
        return replace(look, said="group-sequential, but neither sample nor dates were planned"), ()
    number = sum(share <= fraction + NEAR for share in planned)
    if not number:
        said = f"before the first planned look ({seen}; the first is at {100 * planned[0]:g} %)"
        return replace(look, said=said), ()
    chances = [one for one in before or () if one.bound is not None]
    used = planned[: number - 1] if before is None else tuple(_time(one.share) for one in chances)
    time = _time(fraction)
    look = replace(look, number=number, unplanned=any(one.number == number for one in chances))
    how = f"{sequential.spending} spending, {sequential.convention}"
    if used and time <= used[-1]:
        last = chances[-1]
        left = "nothing is left of alpha since" if used[-1] == 1 else "these data hold no more than those of"
        barred = f"{left} the {ordinal(len(chances))} look ({last.when[:10]}, at {_percent(last.share)})"
        return replace(look, said=f"no new look ({seen}), {how}", barred=barred), ()
    times = (*used, time)
    both = both_sides(plan.alpha, plan.alternative)
    design = spending_bounds(times, both, spending=sequential.spending, convention=sequential.convention)
    bound = float(design.bounds[-1]) if np.isfinite(design.bounds[-1]) else None
    named = _named(look, sequential, seen)
    return replace(look, named=named, said=f"{named}, {how}", bound=bound, spent=_spent(plan, sequential, time)), times


def _named(look: Look, sequential: Sequential, seen: str) -> str:
    """Which look it is, in words."""
    due = sequential.looks[look.number - 1]
    if look.unplanned:
        planned = ", ".join(_percent(share) for share in sequential.looks)
        return f"UNPLANNED LOOK ({seen}; planned at {planned}), which spends only what the looks before left"
    late = f"; planned at {_percent(due)}" if (look.fraction or 0) > due + LATE and look.number < look.of else ""
    return f"look {look.number} of {look.of} ({seen}{late})"


def _time(share: float | None) -> float:
    """The information fraction at which alpha is spent: all of it at the end, and none is made by going on."""
    return 1.0 if share is None or share >= 1 - NEAR else share


def _spent(plan: Plan, sequential: Sequential, time: float) -> float:
    both = both_sides(plan.alpha, plan.alternative)
    found = spent(time, both, spending=sequential.spending, convention=sequential.convention)
    return float(found) * plan.alpha / both


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0):.3g} %"


def ordinal(n: int) -> str:
    """In words, up to the tenth."""
    return ORDINALS[n - 1] if n <= len(ORDINALS) else f"{n}th"


# -- looks that were taken --------------------------------------------------------------------------------------------


def earlier(looks: Sequence[Taken], look: Look) -> tuple[Taken, ...]:
    """The looks before this one; the one that was judged on the same data, if any, is this one."""
    again = [(apart, i) for i, one in enumerate(looks) if one.judged and (apart := _apart(one, look)) is not None]
    return tuple(looks[: min(again)[1]] if again else looks)


def _apart(taken: Taken, look: Look) -> float | None:
    """How far a look is from these data if it saw the same: hardly less, or a little more, as they were cleaned."""
    if (taken.units, taken.until) == (look.units, look.until):
        return 0.0
    if taken.share is None or look.fraction is None:
        return None
    more = taken.share - look.fraction
    return abs(more) if -STEP <= more <= NEAR else None


def _refuse_another_plan(taken: Taken, plan: Plan) -> None:
    sequential = plan.sequential
    kind = "fixed" if sequential is None else sequential.kind
    due = taken.spent
    if sequential is not None and taken.spent is not None:
        due = _spent(plan, sequential, _time(taken.share))
    if taken.kind != kind or (due is not None and taken.spent is not None and abs(due - taken.spent) > 1e-6):
        raise InputError(
            f"looks: the one of {taken.when} was taken under another plan (kind {taken.kind!r}, alpha spent "
            f"{taken.spent}; now kind {kind!r}, {due}); put alpha and [sequential] back, or start a new experiment"
        )


def taken_of(result: Result, when: datetime | None = None) -> Taken:
    """The look that a result is, to be passed to the next analysis; ``when``: by the clock, else now."""
    look, at = result.look, (when or datetime.now(UTC)).astimezone(UTC)
    stamp = at.isoformat(timespec="seconds").replace("+00:00", "Z")
    spent, bound = (look.spent, look.bound) if result.blocked is None else (None, None)
    return Taken(
        look.kind, look.fraction, look.units, look.until, look.number, spent, bound, result.verdict, stamp,
        judged=result.blocked is None,
    )  # fmt: skip


def looks_path(path: Path | str) -> Path:
    """Where the looks of a TOML file's plan are kept: beside it, ``ranker.toml`` → ``ranker.looks.json``."""
    return Path(path).with_suffix(".looks.json")


def read_looks(path: Path | str, plan: Plan) -> tuple[Taken, ...]:
    """The looks in a file (of ``looks_path``), oldest first; none where there is no file.

    Raises InputError for a file that is damaged or of another experiment.
    """
    place = Path(path)
    if not place.exists():
        return ()
    try:
        made = json.loads(place.read_text(encoding="utf-8"))
        name, looks = made["name"], [Taken(**one) for one in made["looks"]]
        sound = all(isinstance(one.share, float | None) and isinstance(one.bound, float | None) for one in looks)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise InputError(f"{place} is damaged, so nobody knows which looks were taken; take it from a backup")
    if name != plan.name:
        raise InputError(f"{place} holds looks of {name!r}, not of {plan.name!r}; give the new plan a file of its own")
    return tuple(looks)


def remember(path: Path | str, result: Result, when: datetime | None = None) -> None:
    """Adds a result's look to the file, aside and then renamed; one that saw the same data is not added again.

    Raises InputError for a file that is damaged, of another experiment, or cannot be written.
    """
    place = Path(path)
    looks, taken = read_looks(place, result.plan), taken_of(result, when)
    if any(_apart(one, result.look) is not None and (one.judged or not taken.judged) for one in looks):
        return
    made = {"format": 1, "name": result.plan.name, "looks": [asdict(one) for one in (*looks, taken)]}
    try:
        write_text(place, json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"{place} cannot be written ({error}), and a look must be kept; open its folder") from None
