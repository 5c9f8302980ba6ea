"""On which scale an effect is judged: a share of a control's value that may be 0 says nothing, and 0 has no shares.

"There is no effect" is the same claim on either scale, so where a relative effect cannot be trusted the absolute one
decides in its place; a margin that is a share of the control's value then is that share of the value that was seen.
"""

from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from suisen.experiments.means import Alternative, Effect, Estimate, opened
from suisen.experiments.moments import Floats
from suisen.experiments.plan import Equivalence, Guardrail, Scale
from suisen.experiments.statistical_tests import Pair

CLEAR = 3.0
"""Standard errors that the control's value must be away from 0 for shares of it to be judged."""
NOTHING = Effect(*(np.asarray(np.nan) for _ in Effect._fields))
"""The effect on a metric that has no value."""
LEAST = 1e-300
"""A p-value below which none is told: it would be 0 in doubles."""


def clear(control: Estimate) -> bool:
    """Whether the control's value (no leading axes) is clearly away from 0."""
    return bool(control.value != 0) and bool(np.abs(control.value) >= CLEAR * control.error)


def _near(control: Estimate) -> str:
    if control.value == 0:
        return "is 0"
    return (
        f"is {float(control.value):.3g} ± {float(control.error):.2g} (standard error), not clear of 0 (at least "
        f"{CLEAR:g} standard errors wanted)"
    )


def decides(pair: Pair, control: Estimate, planned: Scale) -> tuple[Scale, str]:
    """The scale whose test decides, and why it is not the planned one; empty: it is."""
    defined = bool(np.isfinite(pair.relative.value) and np.isfinite(pair.relative.p))
    if planned == "absolute" or (defined and clear(control)) or np.isnan(pair.absolute.p):
        return planned, ""
    said = "a share of it says too much" if defined else "a share of it is not defined"
    return "absolute", f"relative effect: the control's value {_near(control)}, so {said}; the absolute effect decides"


class Held(NamedTuple):
    """A margin on the scale on which it is judged."""

    effect: Effect
    margin: float
    scale: Scale
    why: str
    """Why that is not the planned scale; empty: it is."""


def held_to(rule: Guardrail | Equivalence, kind: Literal["guardrail", "equivalence"], pair: Pair,
            control: Estimate) -> Held:  # fmt: skip
    """A planned margin beside the effect; of a control that is not clear of 0, that share of its size, absolute."""
    if rule.scale == "absolute" or (clear(control) and np.isfinite(pair.relative.se)):
        return Held(pair.on(rule.scale), rule.margin, rule.scale, "")
    margin = rule.margin * abs(float(control.value))
    said = f"its margin of {100 * rule.margin:g} % is judged as a difference of {margin:.3g}"
    return Held(pair.absolute, margin, "absolute", f"{kind}: the control's value {_near(control)}, so {said}")


def separated(pair: Pair, n: Floats, alternative: Alternative, alpha: float) -> Pair:
    """Two arms whose units are all alike, yet differ: no spread that a test could go by, but an exact p all the same.

    Were the arm without an effect on any unit, only the way in which the units were dealt would tell them apart: one of
    C(n_a + n_b, n_a) ways (in each stratum; ``n`` (2, strata)), and one more on the other side.  The interval is the
    value itself, or everything where p does not reject.
    """
    ways = special.gammaln(n.sum(0) + 1) - special.gammaln(n[0] + 1) - special.gammaln(n[1] + 1)
    one = float(np.exp(-ways.sum()))
    up = bool(pair.absolute.value > 0)
    toward = {"two-sided": min(1.0, 2 * one), "greater": one if up else 1.0, "less": 1.0 if up else one}
    p = max(toward[alternative], LEAST)
    half = 0.0 if p <= alpha else np.inf

    def exact(effect: Effect) -> Effect:
        told = np.where(np.isnan(effect.value), np.nan, p)
        found = effect._replace(low=effect.value - half, high=effect.value + half, p=told)
        return opened(found, alternative)

    made = pair._replace(absolute=exact(pair.absolute), relative=exact(pair.relative))
    return made if pair.ranks is None else made._replace(p=p, ranks=replace(pair.ranks, p=p))
