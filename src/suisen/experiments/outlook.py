"""Power in the middle of an experiment: what the units seen so far can find, and how many would do.

It asks about the plan's smallest effect with the spread that was really seen, which the sizing could only guess.  It
never looks at the effect that was observed: "observed power" says nothing that p does not say (Hoenig, Heisey 2001).
"""

from dataclasses import dataclass
from math import ceil

from suisen.errors import InputError
from suisen.experiments.means import Estimate
from suisen.experiments.plan import Plan
from suisen.experiments.power import Baseline, Design, power, sample_size
from suisen.experiments.sizing import critical_of


@dataclass(frozen=True)
class Outlook:
    """What an experiment can find, by the spread of its control."""

    units: int
    """Seen so far, all arms together."""
    power: float
    """Of finding the plan's smallest effect with them, at the end of its looks."""
    needed: int
    """Units that find it with the plan's power."""
    planned: float | None
    """Power of the planned sample; None: none was planned."""
    effect: str
    """The smallest effect, in words."""

    def __str__(self) -> str:
        said = f"an effect of {self.effect} is found with power {self.power:.0%} by {self.units:,} units"
        ahead = "" if self.planned is None else f", {self.planned:.0%} by the planned sample"
        return f"{said}{ahead}; {self.needed:,} units reach the planned power"


def outlook(plan: Plan, control: Estimate, units: int) -> Outlook | None:
    """Of the primary metric, from its value in the control (adjusted as planned); None where nothing can be said.

    That is without an ``mde``, of quantiles, and for a control whose value or spread allows no such effect.
    """
    if plan.mde is None or plan.metrics[plan.primary].quantile is not None:
        return None
    effect = -plan.mde if plan.alternative == "less" else plan.mde
    try:
        base, design = Baseline.of(control), Design.of(plan, critical_of(plan))
        needed = sample_size(base, design, effect=effect)
        now = power(base, design, units=units, effect=effect)
        planned = None if plan.sample is None else power(base, design, units=plan.sample, effect=effect)
    except InputError:
        return None
    shown = f"{100 * effect:g} %" if plan.scale == "relative" else f"{effect:g}"
    return Outlook(units, now, ceil(needed - 1e-9), planned, shown)
