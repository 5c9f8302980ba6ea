"""The plan of an experiment: what was meant before anything was seen, as one TOML file, and the hash that freezes it.

```toml
name = "ranker-may"
hypothesis = "DeepFM behind SASRec raises click-through without costing revenue."
primary = "ctr"
mde = 0.02                         # relative: 2 % of the control's value
start = 2024-05-01
end = 2024-05-15                   # the first moment that no longer counts

[arms]
control = 0.5
treatment = 0.5

[metrics.ctr]
kind = "ctr"
covariate = true

[metrics.revenue]
kind = "value"
winsorize = 0.999

[guardrails.revenue]
margin = 0.01
```

``suisen.experiments.frozen`` writes the plan and its fingerprint beside the file when the experiment starts, and says
what was changed after.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from suisen.data.durations import duration, moment
from suisen.errors import InputError, unknown
from suisen.experiments.families import Metric
from suisen.experiments.hashing import Hash
from suisen.parameters import parameters

Share = Annotated[float, Field(ge=0, le=1)]
Scale = Literal["relative", "absolute"]
_ONE = 1e-9
"""How far from 1 the sum of weights may be: decimal shares are no binary numbers."""


def _as_text(value: Any) -> Any:
    """TOML has dates of its own; they are kept as ISO 8601 text."""
    return value.isoformat() if isinstance(value, date) else value


def _as_ramp(value: Any) -> Any:
    return {_as_text(when): share for when, share in value.items()} if isinstance(value, Mapping) else value


When = Annotated[str, BeforeValidator(_as_text)]
"""An ISO 8601 moment; UTC where it names no zone, midnight where it names no time.  Empty: not stated."""


@parameters
class Guardrail:
    """A metric that must not get worse: non-inferiority within a margin."""

    margin: Annotated[float, Field(gt=0)]
    """How much worse, in the metric's bad direction, is still accepted."""
    scale: Scale = "relative"
    """relative: the margin is a share of the control's value; absolute: in the metric's own unit."""


@parameters
class Equivalence:
    """A metric that must not differ: two one-sided tests against margins on both sides (TOST)."""

    margin: Annotated[float, Field(gt=0)]
    """How much higher or lower still counts as equal."""
    scale: Scale = "relative"
    """relative: the margin is a share of the control's value; absolute: in the metric's own unit."""


@parameters
class Sequential:
    """How the data may be looked at before the end."""

    kind: Literal["always-valid", "group"] = "always-valid"
    """always-valid: a confidence sequence, any number of looks.  group: the looks below and no others."""
    tune: Annotated[int, Field(ge=1)] = 5000
    """always-valid: number of units, all arms together, at which the sequence is tightest."""
    looks: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """group: information fractions of the looks, ascending, the last one 1."""
    spending: Literal["obrien-fleming", "pocock"] = "obrien-fleming"
    """group: the function that spends alpha (Lan and DeMets 1983)."""
    convention: Literal["two-sided", "per-side"] = "per-side"
    """group: per-side spends alpha / 2 on each side by the one-sided function (R's usual tables); two-sided spends
    alpha by the two-sided function."""

    @model_validator(mode="after")
    def _ordered(self) -> Sequential:
        if self.kind == "group":
            rising = all(a < b for a, b in pairwise(self.looks))
            if len(self.looks) < 2 or not rising or self.looks[-1] != 1:
                raise ValueError(
                    f"looks = {list(self.looks)} should be two or more rising shares of the data that end with 1, "
                    "like [0.25, 0.5, 0.75, 1]"
                )
        elif self.looks:
            raise ValueError(f"looks = {list(self.looks)} belong to kind = 'group'; an always-valid plan needs none")
        return self


@parameters
class Bayes:
    """A Bayesian read-out of the primary metric beside the verdict, which it does not change."""

    prior_sd: Annotated[float, Field(gt=0)]
    """How far true effects of such changes lie from ``prior_mean``: their standard deviation, on the plan's scale."""
    prior_mean: float = 0.0


@parameters
class Assignment:
    """How units come to arms."""

    hash: Hash = "suisen-1"
    """The function from (salt, unit) to [0, 1); ``suisen.experiments.hashing`` states each."""
    layer: str = ""
    """Experiments of one layer share its slots, so they exclude each other; different layers are independent."""
    slots: tuple[Share, Share] = (0.0, 1.0)
    """The part of the layer that is this experiment's, [from, to)."""
    ramp: Annotated[dict[str, Share], BeforeValidator(_as_ramp)] = Field(default_factory=dict)
    """Moment → share of each arm's bucket that is open from then on, rising; empty: all of it."""
    eligible: str = ""
    """SQL predicate over the columns of the units, like ``country = 'JP' AND visits >= 3``; others get no arm."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of units that no experiment with the same ``holdout_salt`` may touch."""
    holdout_salt: str = "holdout"
    """Salt of the holdout."""
    overrides: dict[str, str] = Field(default_factory=dict)
    """Unit → arm, for testers; they are assigned and left out of the analysis."""
    namespace: bool = False
    """Whether the layer is a GrowthBook namespace, drawn by growthbook-1; with that hash it always is."""

    @model_validator(mode="after")
    def _sound(self) -> Assignment:
        if not self.slots[0] < self.slots[1]:
            raise ValueError(f"slots = {list(self.slots)} are empty; give [from, to) with from < to")
        if self.slots != (0.0, 1.0) and not self.layer:
            raise ValueError(f"slots = {list(self.slots)} are a part of a layer; name the layer")
        if self.namespace and (self.hash == "suisen-1" or not self.layer):
            raise ValueError("namespace = true is of a layer of GrowthBook's; name the layer and one of its hashes")
        steps = list(self.ramp.items())
        for (earlier, before), (later, after) in pairwise(steps):
            if moment("ramp", earlier, 0) >= moment("ramp", later, 0):
                raise ValueError(f"ramp: {later!r} is not after {earlier!r}; write the steps in order")
            if after < before:
                raise ValueError(f"ramp falls from {before:g} to {after:g} at {later!r}; units would lose their arm")
        if len(steps) == 1:
            moment("ramp", steps[0][0], 0)
        return self

    @property
    def layer_hash(self) -> Hash:
        """The hash that draws the layer."""
        return "growthbook-1" if self.namespace else self.hash

    def coverage(self, at: str = "") -> float:
        """The share of each bucket that is open at the moment ``at``; empty: at the end of the ramp."""
        if not self.ramp:
            return 1.0
        if not at:
            return list(self.ramp.values())[-1]
        now = moment("at", at, 0)
        return max((share for when, share in self.ramp.items() if moment("ramp", when, 0) <= now), default=0.0)


@parameters
class Columns:
    """Names of the columns in the caller's exposures and events, beside the unit's."""

    arm: str = "arm"
    """exposures: the arm that was shown."""
    time: str = "time"
    """When."""
    event: str = "event"
    """events: their type."""
    value: str = "value"
    """events: what they are worth; used where a metric asks for it."""
    item: str = "item"
    """events: what they are about; used where a metric asks for it."""
    event_id: str = ""
    """events: the id of one event; a unit's rows of one type with an equal id are one event, logged again, and those
    without an id are not compared.  Empty: there is none, and equal rows are as many events."""


@parameters
class Plan:
    """One experiment, before it starts.  ``load`` reads it from TOML."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the experiment."""
    hypothesis: str = ""
    """What is believed, in one sentence."""
    unit: Annotated[str, Field(min_length=1)] = "user"
    """What is assigned and counted: the column of its id in exposures and events, like ``user`` or ``session``."""
    salt: str = ""
    """What makes this experiment's draw its own; empty: the name."""
    arms: dict[str, Annotated[float, Field(gt=0, lt=1)]]
    """Arm → weight, in the order of their buckets; the weights sum to 1."""
    control: str = "control"
    """The arm that the others are compared with."""
    metrics: Annotated[dict[str, Metric], Field(min_length=1)]
    """Name → metric."""
    primary: str
    """The metric that decides."""
    guardrails: dict[str, Guardrail] = Field(default_factory=dict)
    """Metric → margin within which it may be worse."""
    equivalence: dict[str, Equivalence] = Field(default_factory=dict)
    """Metric → margin within which it counts as equal."""
    mde: Annotated[float, Field(gt=0)] | None = None
    """Smallest effect on the primary metric that must not be missed, on ``scale``."""
    scale: Scale = "relative"
    """relative: effects are shares of the control's value, and so is the test that decides; absolute: differences."""
    alternative: Literal["two-sided", "greater", "less"] = "two-sided"
    """What the test that decides looks for; greater: the arm above the control."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of false alarms that is accepted where there is no effect."""
    power: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Probability with which an effect of ``mde`` is to be found."""
    correction: Literal["holm", "bh", "none"] = "holm"
    """Of the p-values over arms and secondary metrics: Holm, or Benjamini and Hochberg."""
    start: When = ""
    """First moment that counts."""
    end: When = ""
    """First moment that no longer counts."""
    sample: Annotated[int, Field(ge=2)] | None = None
    """Units planned, all arms together."""
    pre: str = "14d"
    """How long before a unit's first exposure its covariates reach."""
    sequential: Sequential | None = None
    """None: one look, at the end."""
    strata: tuple[str, ...] = ()
    """Columns of the exposures that post-stratify."""
    segments: tuple[str, ...] = ()
    """Columns of the exposures that are looked at one by one, corrected."""
    contamination: Literal["drop", "first"] = "drop"
    """Units seen in two arms: drop leaves them out of every arm; first keeps the arm seen first.  Both count them."""
    srm_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.001
    """p of the sample ratio below which no verdict is given."""
    assignment: Assignment = Field(default_factory=Assignment)
    """How units come to arms."""
    columns: Columns = Field(default_factory=Columns)
    """Names of the columns in the caller's tables."""
    bayes: Bayes | None = None
    """None: no Bayesian read-out."""

    @model_validator(mode="after")
    def _sound(self) -> Plan:
        self._check_arms()
        self._check_metrics()
        self._check_equivalence()
        starts, ends = self.starts, self.ends
        if starts is not None and ends is not None and ends <= starts:
            raise ValueError(f"end = {self.end!r} is not after start = {self.start!r}; swap them")
        duration("pre", self.pre)
        return self

    def _check_arms(self) -> None:
        if len(self.arms) < 2:
            raise ValueError(f"arms = {self.arms} is one arm; a comparison needs two or more")
        total = sum(self.arms.values())
        if abs(total - 1) > _ONE:
            raise ValueError(f"arms = {self.arms} have weights that sum to {total:g}; make them sum to 1")
        if self.control not in self.arms:
            raise unknown("control", self.control, self.arms)
        for unit, arm in self.assignment.overrides.items():
            if arm not in self.arms:
                raise unknown(f"assignment.overrides.{unit}", arm, self.arms)

    def _check_metrics(self) -> None:
        if self.primary not in self.metrics:
            raise unknown("primary", self.primary, self.metrics)
        for name in self.guardrails:
            if name not in self.metrics:
                raise unknown("guardrails", name, self.metrics)
        for name, metric in self.metrics.items():
            for other in (each for each in metric.covariates if each not in self.metrics):
                if other in (*self.strata, *self.segments):
                    raise ValueError(
                        f"metrics.{name}.covariates: {other!r} is a stratum or a segment, whose values are names; give "
                        "its numbers in a column of their own"
                    )
            for part, other in metric.parts.items():
                if other not in self.metrics or other == name or self.metrics[other].is_ratio:
                    plain = [each for each in self.metrics if not self.metrics[each].is_ratio]
                    raise unknown(f"metrics.{name}.{part}", other, plain)

    def _check_equivalence(self) -> None:
        for name in self.equivalence:
            if name not in self.metrics:
                raise unknown("equivalence", name, self.metrics)
            if name in self.guardrails:
                raise ValueError(f"{name!r} is in guardrails and in equivalence, which holds on both sides; keep one")
            if name == self.primary and self.alternative != "two-sided":
                raise ValueError(
                    f"alternative = {self.alternative!r} looks one way, and equivalence.{name} both; use two-sided"
                )

    @property
    def starts(self) -> int | None:
        """``start`` in microseconds since 1970 UTC; None where it is not stated."""
        return _moment("start", self.start)

    @property
    def ends(self) -> int | None:
        """``end`` in microseconds since 1970 UTC; None where it is not stated."""
        return _moment("end", self.end)

    @property
    def seed(self) -> str:
        """What salts the hash: ``salt``, or the name where there is none."""
        return self.salt or self.name

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms without the control, in their order."""
        return tuple(arm for arm in self.arms if arm != self.control)

    @property
    def secondary(self) -> tuple[str, ...]:
        """The metrics that are neither primary nor guardrails, in their order."""
        return tuple(name for name in self.metrics if name != self.primary and name not in self.guardrails)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, defaults included; ``Plan.of`` reads them back."""
        made: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return made

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the plan in canonical JSON: any change of any field, or of the order of arms, changes it."""
        return fingerprint_of(self.as_dict())

    @classmethod
    def of(cls, tables: Mapping[str, Any]) -> Plan:
        """A plan from the tables of a TOML file.  Raises InputError naming the table, the field and the mend."""
        values = dict(tables)
        for name, table in _TABLES.items():
            if isinstance(values.get(name), Mapping):
                values[name] = _built(name, table, values[name])
        for name, table in _NAMED.items():
            if isinstance(values.get(name), Mapping):
                values[name] = {key: _built(f"{name}.{key}", table, each) for key, each in values[name].items()}
        for field in ("name", "arms", "metrics", "primary"):
            if field not in values:
                raise InputError(f"the plan has no {field}; write it into the TOML")
        return cls(**values)


_TABLES: dict[str, type[Any]] = {
    "assignment": Assignment, "columns": Columns, "sequential": Sequential, "bayes": Bayes,
}  # fmt: skip
_NAMED: dict[str, type[Any]] = {"metrics": Metric, "guardrails": Guardrail, "equivalence": Equivalence}


def _built(where: str, cls: type[Any], values: Any) -> Any:
    """One table of the file; what is wrong in it is named with its place."""
    if isinstance(values, cls):
        return values
    if not isinstance(values, Mapping):
        raise InputError(f"{where} = {values!r} is no table; write [{where}] and its fields below")
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"[{where}] {error}") from None


def _moment(field: str, text: str) -> int | None:
    if not text:
        return None
    try:
        return moment(field, datetime.fromisoformat(text).isoformat(), 0)
    except ValueError:
        raise InputError(f"{field} = {text!r} is no ISO 8601 date or time, like '2024-05-01T00:00:00Z'") from None


def fingerprint_of(plan: Mapping[str, Any]) -> str:
    """SHA-256 of ``Plan.as_dict``: keys in order, but for the arms, whose own order is part of the plan."""
    ordered = {**plan, "arms": list(plan["arms"].items())}
    text = json.dumps(ordered, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def load(path: Path | str) -> Plan:
    """The plan in a TOML file.  Raises InputError naming the file and what is wrong."""
    path = Path(path)
    try:
        return Plan.of(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the TOML file of a plan") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
