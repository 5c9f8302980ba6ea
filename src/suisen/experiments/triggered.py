"""What an effect on some units is worth among all: a triggered analysis told for everybody (Deng, Hu 2015).

Where an arm could only make a difference to some units (they searched, they reached the page), the sharp comparison is
that of these alone; but what the company gains is their effect diluted by all others, who saw the same in both arms.
With r the share of triggered units, a and b the means of the triggered in control and treatment, c that of the others:

    absolute effect among all = r (b − a)        relative = r (b − a) / |r a + (1 − r) c|

Comparing all units directly estimates the same, with the noise of the others on top.
"""

import numpy as np
from scipy import special

from suisen.errors import InputError
from suisen.experiments.means import (
    Alternative,
    Effect,
    Estimate,
    check_level,
    compare,
    cut,
    opened,
    p_of,
    statistic_of,
)
from suisen.experiments.plan import Scale


def diluted(
    control: Estimate,
    treatment: Estimate,
    others: Estimate,
    *,
    scale: Scale = "absolute",
    level: float = 0.95,
    alternative: Alternative = "two-sided",
) -> Effect:
    """The effect among all units, triggered or not; its interval by the delta method.

    ``control``, ``treatment``: the metric among the triggered units of either arm (``means.estimate`` of one value per
    unit); ``others``: among the untriggered units of both arms together.  The share of triggered units is that of the
    units given.  Means alone: the parts of a ratio are diluted by their denominators, so it has to be taken apart.
    Raises InputError for arms without units.
    """
    check_level(level)
    a, b, c = (float(each.value) for each in (control, treatment, others))
    triggered, all_units = float(control.n + treatment.n), float(control.n + treatment.n + others.n)
    if not triggered > 0 or not np.isfinite([a, b, c]).all():
        raise InputError("an effect is diluted from units that were triggered and units that were not; one is missing")
    r = triggered / all_units
    gain, whole = r * (b - a), r * a + (1 - r) * c
    slopes = {"a": -r, "b": r, "c": 0.0, "r": b - a}
    if scale == "relative":
        if whole == 0:
            raise InputError("the control's value among all units is 0, so no effect is a share of it; use absolute")
        sign = np.sign(whole)
        slopes = {"a": -r - gain / whole * r, "b": r, "c": -gain / whole * (1 - r), "r": b - a - gain / whole * (a - c)}
        slopes = {name: slope / whole * sign for name, slope in slopes.items()}
        gain = gain / abs(whole)
    spread = {"a": float(control.var), "b": float(treatment.var), "c": float(others.var), "r": r * (1 - r) / all_units}
    se = np.asarray(sum(slopes[name] ** 2 * spread[name] for name in slopes) ** 0.5)
    value, df = np.asarray(gain), compare(control, treatment).df
    half, statistic = special.stdtrit(df, cut(level, alternative)) * se, statistic_of(value, se)
    p = p_of(statistic, df, alternative)
    return opened(Effect(value, se, df, value - half, value + half, p, statistic), alternative)
