"""Assignment: which arm a unit is in, from its id alone, the same on every machine and in every language.

The rules, in their order; the first that holds decides:

1. **override**: a tester's arm stands in the plan.
2. **ineligible**: the plan's predicate does not hold for the unit (or is null).
3. **holdout**: ``hash(holdout salt, unit) < holdout``; the same units for all experiments with that salt.
4. **layer**: ``hash(layer, unit)`` lies outside the experiment's slots.  Experiments of one layer with disjoint slots
   exclude each other; different layers are independent.
5. **closed**: ``u = hash(salt, unit)`` lies in no open bucket.  Arm i owns [start_i, start_i + weight_i), start_i the
   sum of the weights before it; its bucket is open on [start_i, start_i + coverage · weight_i).
6. **assigned**: to the arm whose open bucket holds u.

Starts do not depend on the coverage, so a ramp-up only adds units and moves none.  Numbers are IEEE doubles, sums are
taken in the order of the arms.  What salts each draw is prefixed, so that a layer, a holdout and an experiment of one
name stay independent: ``experiment/``, ``layer/`` and ``holdout/`` for suisen-1.  For growthbook-2 the salt of the
experiment is bare (its ``seed``), the layer's is ``__layer_`` and its name (a ``filter`` with that seed), the holdout's
``__holdout_`` and its salt.  For growthbook-1 the same, but a layer is one of GrowthBook's *namespaces*: the slots
[from, to) of namespace N hold the units whose v1 hash with the salt ``__N`` lies in them.  ``namespace = true`` says so
of a layer whose experiments are themselves drawn by growthbook-2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from suisen.errors import InputError, unknown
from suisen.experiments.frozen import Frozen, moving
from suisen.experiments.hashing import as_units, hashed_by, hashed_one
from suisen.experiments.plan import Plan

Why = Literal["override", "ineligible", "holdout", "layer", "closed", "assigned"]
WHYS: tuple[Why, ...] = get_args(Why)
_PREFIXES = {
    "suisen-1": ("experiment/", "layer/", "holdout/"),
    "growthbook-2": ("", "__layer_", "__holdout_"),
    "growthbook-1": ("", "__", "__holdout_"),
}


class Drawn(NamedTuple):
    """What a unit got, and which rule decided."""

    arm: str | None
    why: Why


@dataclass(frozen=True)
class Salts:
    """What is hashed in front of the unit, for each draw."""

    experiment: str
    layer: str
    holdout: str


def buckets(weights: Iterable[float], coverage: float = 1.0) -> list[tuple[float, float]]:
    """The open part [from, to) of each arm's bucket.

    >>> buckets([0.5, 0.5], 0.5)
    [(0.0, 0.25), (0.5, 0.75)]
    """
    sizes = list(weights)
    starts = accumulate(sizes[:-1], initial=0.0)
    return [(start, start + coverage * size) for start, size in zip(starts, sizes, strict=True)]


@dataclass(frozen=True)
class Assigner:
    """A plan, ready to assign at one moment of its ramp."""

    plan: Plan
    at: str = ""
    """ISO 8601 moment that picks the step of the ramp; empty: its last."""

    @classmethod
    def of(cls, plan: Plan, *, at: str = "", frozen: Frozen | None = None) -> "Assigner":
        """As planned.  Raises InputError where the plan moves units that the frozen one has assigned already."""
        moved = moving(frozen.plan, plan) if frozen else ()
        if frozen and moved:
            said = "; ".join(str(change) for change in moved)
            raise InputError(
                f"the plan changed after its start at {frozen.frozen_at} and would move units between arms ({said}); "
                "put it back, or start a new experiment under another name"
            )
        return cls(plan, at)

    @cached_property
    def salts(self) -> Salts:
        """The prefixes of the plan's hash and the plan's own salts."""
        of = self.plan.assignment
        experiment, _, holdout = _PREFIXES[of.hash]
        layer = _PREFIXES[of.layer_hash][1]
        return Salts(experiment + self.plan.seed, layer + of.layer, holdout + of.holdout_salt)

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Arm → the part [from, to) of [0, 1) that is open at this moment."""
        parts = buckets(self.plan.arms.values(), self.plan.assignment.coverage(self.at))
        return dict(zip(self.plan.arms, parts, strict=True))

    def one(self, unit: str | int, *, eligible: bool = True) -> Drawn:
        """One unit's arm, for a server; ``eligible`` says whether the plan's predicate holds."""
        of, name = self.plan.assignment, str(unit)
        if not name:
            raise InputError("unit = '' is empty; a unit without an id cannot be assigned")
        if name in of.overrides:
            return Drawn(of.overrides[name], "override")
        if not eligible:
            return Drawn(None, "ineligible")
        if of.holdout and hashed_one(self.salts.holdout, name, of.hash) < of.holdout:
            return Drawn(None, "holdout")
        if of.layer and not of.slots[0] <= hashed_one(self.salts.layer, name, of.layer_hash) < of.slots[1]:
            return Drawn(None, "layer")
        u = hashed_one(self.salts.experiment, name, of.hash)
        arm = next((arm for arm, (start, end) in self.ranges.items() if start <= u < end), None)
        return Drawn(arm, "assigned" if arm is not None else "closed")

    def assign(self, units: Any) -> pl.DataFrame:
        """The units with two more columns: ``arm`` (null where there is none) and ``why``.

        ``units``: a Polars frame or lazy frame, an Arrow table, or a column of either.  Raises InputError for a missing
        column, units that are null or empty, and a predicate that the columns cannot answer.
        """
        frame = self._frame(units)
        arms, why = self._drawn(as_units(frame[self.plan.unit], self.plan.unit), frame)
        taken = [name for name in ("arm", "why") if name in frame.columns]
        if taken:
            raise InputError(f"the units have a column {taken[0]!r} already; drop or rename it")
        return frame.with_columns(_enum("arm", arms, tuple(self.plan.arms)), _enum("why", why, WHYS))

    def arms(self, units: Any) -> pl.Series:
        """(n,) arms of a column of units, as an Enum; null where there is none."""
        frame = self._frame(units)
        places, _ = self._drawn(as_units(frame[self.plan.unit], self.plan.unit), frame)
        return _enum("arm", places, tuple(self.plan.arms))

    def _frame(self, units: Any) -> pl.DataFrame:
        name = self.plan.unit
        if isinstance(units, pl.LazyFrame):
            units = units.collect()
        if isinstance(units, pl.Series) or not (isinstance(units, pl.DataFrame) or hasattr(units, "column_names")):
            return pl.DataFrame({name: as_units(units, name)})
        frame = pl.DataFrame(units)
        if name not in frame.columns:
            raise unknown("unit", name, frame.columns)
        return frame

    def _drawn(self, units: pl.Series, frame: pl.DataFrame) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(n,) places of the arm, -1 = none, and of the rule."""
        of = self.plan.assignment
        salts = {"experiment": self.salts.experiment} | ({"holdout": self.salts.holdout} if of.holdout else {})
        by_hash = {of.hash: salts}
        if of.layer:  # of another hash, it may be
            by_hash.setdefault(of.layer_hash, {})["layer"] = self.salts.layer
        draws = {
            name: u
            for how, named in by_hash.items()
            for name, u in zip(named, hashed_by(list(named.values()), units, how), strict=True)
        }
        arms = self._bucketed(draws["experiment"])
        why = np.where(arms >= 0, np.int32(WHYS.index("assigned")), np.int32(WHYS.index("closed")))
        if "layer" in draws:
            _refuse(arms, why, (draws["layer"] < of.slots[0]) | (draws["layer"] >= of.slots[1]), "layer")
        if "holdout" in draws:
            _refuse(arms, why, draws["holdout"] < of.holdout, "holdout")
        if of.eligible:
            _refuse(arms, why, ~_holds(of.eligible, frame), "ineligible")
        names = list(self.plan.arms)
        for unit, arm in of.overrides.items():
            theirs = (units == unit).to_numpy()
            arms[theirs], why[theirs] = names.index(arm), WHYS.index("override")
        return arms, why

    def _bucketed(self, u: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
        starts, ends = (np.array(side) for side in zip(*self.ranges.values(), strict=True))
        place = np.searchsorted(starts, u, side="right") - 1
        return np.where(u < ends[place], place, -1).astype(np.int32)


def check_layers(plans: Iterable[Plan]) -> None:
    """Raises InputError where two experiments of one layer do not exclude each other.

    They must share the unit and the hash, and their slots must not overlap.
    """
    layers: dict[str, list[Plan]] = {}
    for plan in plans:
        if plan.assignment.layer:
            layers.setdefault(plan.assignment.layer, []).append(plan)
    for layer, members in layers.items():
        for one, next_one in pairwise(sorted(members, key=lambda plan: plan.assignment.slots)):
            a, b = one.assignment, next_one.assignment
            pair = f"{one.name!r} and {next_one.name!r} of layer {layer!r}"
            if (one.unit, a.layer_hash) != (next_one.unit, b.layer_hash):
                raise InputError(f"{pair} differ in unit or hash; a layer excludes by one draw, give them the same")
            if b.slots[0] < a.slots[1]:
                raise InputError(f"{pair} overlap: slots {list(a.slots)} and {list(b.slots)}; give them disjoint slots")


def _holds(predicate: str, frame: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """(n,) whether the SQL predicate is true."""
    try:
        held = frame.select(pl.sql_expr(predicate).alias("held"))["held"]
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"assignment.eligible = {predicate!r} cannot be answered: {str(error).splitlines()[0]}; the units have the "
            f"columns {', '.join(frame.columns)}"
        ) from None
    if len(held) != len(frame):
        raise InputError(f"assignment.eligible = {predicate!r} gives one value for all units; write one of each unit")
    if held.dtype != pl.Boolean:
        raise InputError(
            f"assignment.eligible = {predicate!r} gives {held.dtype}; write a condition that is true or false"
        )
    return held.fill_null(False).to_numpy()


def _refuse(arms: npt.NDArray[np.int32], why: npt.NDArray[np.int32], refused: npt.NDArray[np.bool_], rule: Why) -> None:
    arms[refused], why[refused] = -1, WHYS.index(rule)


def _enum(name: str, places: npt.NDArray[np.int32], words: tuple[str, ...]) -> pl.Series:
    column, at = pl.Series(name, words, dtype=pl.Enum(words)), pl.Series(places)
    return column.gather(at.set(at < 0, None))
