"""Where an experiment stands against its plan: how much of it was seen, at which look, and whether that was planned."""

from suisen.data.durations import spelt
from suisen.experiments.plan import Plan
from suisen.experiments.result import Look

DONE = 0.99
"""Share of the planned units or time from which an experiment is at its end."""
LAST, DAY = 0.95, 86_400 * 10**6
"""Share of the planned time from which data that reach into its last day (microseconds) are all there is: nights are
quiet, and the latest event is no clock."""
NEAR = 0.005
"""How far before a planned look the data may still be."""


def look_of(plan: Plan, units: int, now: int | None) -> tuple[Look, tuple[float, ...]]:
    """The look, and for a group-sequential plan the information fractions of the looks until now.

    The fraction is of the planned sample, or of the time where no sample was planned.  A group's look is the last
    planned one that was reached; its bound is computed at the fraction that was really seen.
    """
    fraction, of_what = _fraction(plan, units, now)
    sequential = plan.sequential
    if sequential is None:
        return _fixed(plan, fraction, of_what, now), ()
    seen = f"{100 * min(fraction, 9.99):.0f} % of the {of_what}" if fraction is not None else "no sample or end planned"
    if sequential.kind == "always-valid":
        said = f"always-valid: any number of looks is allowed for ({seen})"
        return Look("always-valid", fraction, said), ()
    if fraction is None:  # looks are shares of something
        said = "group-sequential, but neither sample nor dates were planned"
        return Look("group", None, said, of=len(sequential.looks)), ()
    number = sum(look <= fraction + NEAR for look in sequential.looks)
    if not number:
        said = f"before the first planned look ({seen}; the first is at {100 * sequential.looks[0]:g} %)"
        return Look("group", fraction, said, of=len(sequential.looks)), ()
    last = 1.0 if number == len(sequential.looks) else fraction
    said = f"look {number} of {len(sequential.looks)} ({seen}), {sequential.spending} spending, {sequential.convention}"
    times = (*sequential.looks[: number - 1], last)
    return Look("group", fraction, said, number=number, of=len(sequential.looks)), times


def _fraction(plan: Plan, units: int, now: int | None) -> tuple[float | None, str]:
    if plan.sample is not None:
        return units / plan.sample, "planned sample"
    if plan.starts is not None and plan.ends is not None and now is not None:
        return max(0.0, now - plan.starts) / (plan.ends - plan.starts), "planned time"
    return None, ""


def _fixed(plan: Plan, fraction: float | None, of_what: str, now: int | None) -> Look:
    if fraction is None:
        return Look("fixed", None, "neither sample nor dates were planned, so nothing says that this is the only look")
    over = plan.ends is not None and now is not None and now >= plan.ends
    last_day = plan.sample is None and plan.ends is not None and now is not None and plan.ends - now < DAY
    if fraction >= DONE or (last_day and fraction >= LAST):
        return Look("fixed", fraction, f"{of_what} reached", reached=True)
    seen = f"{100 * fraction:.0f} % of the {of_what}"
    if over and plan.ends is not None:
        return Look("fixed", fraction, f"{seen} at the end ({spelt(plan.ends)}); power is less than planned")
    return Look("fixed", fraction, f"{seen}, looked at early without a sequential plan", early=True)
