"""A/A without an experiment: units that were all treated alike are dealt to arms at random, again and again.

If the planned test is right for these data, alpha of the deals are "significant"; more says that its p-values cannot be
trusted on this metric with this split, before anything is at stake.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from suisen.errors import InputError
from suisen.experiments.means import p_of
from suisen.experiments.plan import Plan
from suisen.experiments.resampling import Sample, permuted
from suisen.experiments.units import Units

LEVEL = 0.99
"""Of the band of false alarms."""


@dataclass(frozen=True)
class Rerandomised:
    """False alarms of the t test (delta method for ratios) on one metric."""

    metric: str
    repeats: int
    alarms: float
    """Share of the deals with p at or below alpha."""
    low: float
    """Where the share lies with 99 % probability if the test is right."""
    high: float

    @property
    def holds(self) -> bool:
        """Whether the share is inside."""
        return self.low <= self.alarms <= self.high

    def __str__(self) -> str:
        word = "as it should be" if self.holds else "NOT AS IT SHOULD BE"
        return (
            f"{self.metric}: {100 * self.alarms:.2f} % false alarms in {self.repeats:,} deals, {word} "
            f"([{100 * self.low:.2f}, {100 * self.high:.2f}] %)"
        )


def rerandomise(found: Units | pl.DataFrame, plan: Plan, *, repeats: int = 1000, seed: int = 0) -> list[Rerandomised]:
    """For every metric of the plan, arms of the planned control and first treatment drawn anew ``repeats`` times.

    ``found``: units of one arm, or of arms that were treated alike.  Raises InputError for fewer than 100 repeats.
    """
    if repeats < 100:
        raise InputError(f"repeats = {repeats!r} must be at least 100, or the band says nothing")
    frame = found.frame if isinstance(found, Units) else found
    weights = plan.arms[plan.control], plan.arms[plan.treatments[0]]
    band = stats.binom.ppf(((1 - LEVEL) / 2, (1 + LEVEL) / 2), repeats, plan.alpha) / repeats
    out = []
    for i, name in enumerate(plan.metrics):
        units = frame.filter(pl.col(f"{name}__y").is_not_null())
        treated = round(units.height * weights[1] / sum(weights))
        if min(treated, units.height - treated) < 2:
            raise InputError(f"metric {name!r}: {units.height} units cannot be dealt to two arms; give more")
        y = units[f"{name}__y"].cast(pl.Float64).to_numpy()
        d = units[f"{name}__d"].to_numpy() if f"{name}__d" in units.columns else None
        sample = Sample.of(y, d)
        drawn = permuted(sample, treated, repeats, np.random.default_rng([seed, i]))
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(drawn.value == 0, 0.0, drawn.value / np.sqrt(drawn.var))
        p = p_of(t, np.full(repeats, units.height - 2.0))
        out.append(Rerandomised(name, repeats, float((p <= plan.alpha).mean()), float(band[0]), float(band[1])))
    return out
