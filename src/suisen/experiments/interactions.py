"""Two experiments on the same units: whether the effect of one depends on the arm of the other.

Units were assigned to two experiments independently.  Of arms a of the one and b of the other, with their controls 0:

    interaction = (v_ab − v_0b) − (v_a0 − v_00)

v is a cell's mean, or its ratio Σy/Σd by the delta method; the four cells hold different units, so variances add up.
For means this is the coefficient of the product in an ordinary regression on both arms, with HC2 errors (MacKinnon and
White 1985), for four cells of two by two.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from suisen.errors import InputError, unknown
from suisen.experiments.means import Effect, Estimate, compare, estimate
from suisen.experiments.moments import Floats, Moments


class Interaction(NamedTuple):
    """How an arm of the one experiment and an arm of the other work together, in the metric's own unit."""

    first: str
    second: str
    alone: Effect
    """Of ``first`` where the other experiment's control is."""
    beside: Effect
    """Of ``first`` where the other experiment's arm is ``second``."""
    effect: Effect
    """``beside`` minus ``alone``; p: of "the effects add up"."""


def interaction(
    y: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    d: npt.ArrayLike | None = None,
    controls: tuple[str, str] = ("control", "control"),
    level: float = 0.95,
) -> list[Interaction]:
    """One row per pair of arms that are not controls; of many pairs, correct the p-values (``suisen.stats.holm``).

    ``y`` (n,) of each unit, with ``d`` a ratio's denominator; ``first``, ``second`` (n,) its arms in both experiments;
    ``controls`` names theirs.  Raises InputError for columns of other lengths, unknown controls and cells of fewer than
    two units.
    """
    one, two = np.asarray(first).astype(str), np.asarray(second).astype(str)
    values = np.asarray(y, dtype=np.float64)
    under = None if d is None else np.asarray(d, dtype=np.float64)
    for name, column in {"first": one, "second": two, "d": under}.items():
        if column is not None and column.shape != values.shape:
            raise InputError(f"{name} has shape {column.shape} and y {values.shape}; give one value per unit")
    if not all(np.isfinite(column).all() for column in (values, under) if column is not None):
        raise InputError("y holds NaN or infinity, or d does; give finite numbers")
    for name, column, control in (("first", one, controls[0]), ("second", two, controls[1])):
        if control not in column:
            raise unknown(f"controls, {name}", control, np.unique(column).tolist())
    cells = {
        (a, b): _cell(values, under, (one == a) & (two == b), f"first = {a!r}, second = {b!r}")
        for a in np.unique(one).tolist()
        for b in np.unique(two).tolist()
    }
    out = []
    for (a, b), both in cells.items():
        if a != controls[0] and b != controls[1]:
            alone = compare(cells[controls], cells[a, controls[1]], level=level)
            beside = compare(cells[controls[0], b], both, level=level)
            effect = compare(_as_estimate(alone), _as_estimate(beside), level=level)
            out.append(Interaction(a, b, alone, beside, effect))
    return out


def _cell(y: Floats, d: Floats | None, inside: npt.NDArray[np.bool_], name: str) -> Estimate:
    """The metric in one cell."""
    if inside.sum() < 2:
        raise InputError(f"{name}: {int(inside.sum())} units; an interaction needs 2 or more in every pair of arms")
    return estimate(Moments.of(y[inside], None if d is None else d[inside]))


def _as_estimate(effect: Effect) -> Estimate:
    """A difference as a value with its variance, so that two of them can be compared."""
    return Estimate(effect.value, effect.se**2, effect.df, np.asarray(np.nan))
