"""Repetitions of what a verdict has to survive: looks before the follow-up is over, controls at and below zero, large
effects with covariates, one-sided plans, caps on rare buyers, looks that nobody planned.

Each scenario gives rows as the other parts of experiments.jsonl have them: the test, how often it claimed an effect
that is not there (rejected), how often its interval held the true effect (covered), how often the analysis warned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from suisen.experiments import AnalysisOptions, Plan, analyze
from suisen.experiments.analysis import analyze_units
from suisen.experiments.looks import look_of
from suisen.experiments.means import Alternative, Effect, Estimate, compare, cuped_of, estimate, share_warning
from suisen.experiments.moments import Moments
from suisen.experiments.proportions import Counts
from suisen.experiments.result import Estimated
from suisen.experiments.sequential import spending_bounds
from suisen.experiments.simulation.laws import Floats, Units, correlated, law
from suisen.experiments.simulation.simulate import Experiments
from suisen.experiments.standing import Taken
from suisen.experiments.statistical_tests import QUANTILE, TESTS, ComparisonOptions

LEVEL, ALPHA = 0.95, 0.05
BLOCK = 2**20
"""Units of an arm held at once."""
START, DAY = np.datetime64("2024-05-01", "us"), np.timedelta64(86_400 * 10**6, "us")
HALVES = {"control": 0.5, "treatment": 0.5}


class Seen(NamedTuple):
    """One verdict of one run; None where there is nothing to count."""

    rejected: bool
    covered: bool | None = None
    warned: bool | None = None


def tallied(found: dict[str, list[Seen]]) -> list[dict[str, Any]]:
    """Rows of the record: counts, and the share of the runs that were warned of."""
    return [_row(name, *(np.array(column, dtype=object) for column in zip(*seen, strict=True)))
            for name, seen in found.items()]  # fmt: skip


def _row(name: str, rejected: Any, covered: Any, warned: Any) -> dict[str, Any]:
    count = [None if column[0] is None else int(sum(column)) for column in (rejected, covered, warned)]
    return {"test": name, "runs": len(rejected), "rejected": count[0], "covered": count[1],
            "warned": None if count[2] is None else count[2] / len(rejected)}  # fmt: skip


def _vector(name: str, effect: Effect, truth: float | None, warned: Any = None) -> dict[str, Any]:
    """A row of effects (E,) that are judged together; ``truth``: None where there is no value to hold, and no effect.

    Where there is an effect, to find it is no false alarm and is not counted.
    """
    held = None if truth is None else int(((effect.low <= truth) & (truth <= effect.high)).sum())
    false = None if truth else int((effect.p <= ALPHA).sum())
    return {"test": name, "runs": int(effect.p.size), "rejected": false, "covered": held, "warned": warned}


def _added(rows: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Blocks of rows as one."""
    out = []
    for same in zip(*rows, strict=True):
        counts = {key: None if same[0][key] is None else sum(row[key] for row in same)
                  for key in ("runs", "rejected", "covered")}  # fmt: skip
        warned = None if same[0]["warned"] is None else float(np.mean([row["warned"] for row in same]))
        out.append({"test": same[0]["test"], **counts, "warned": warned})
    return out


def _blocks(runs: int, n: int, *name: int) -> Iterator[tuple[np.random.Generator, int]]:
    """Generators and how many experiments each draws."""
    size = max(1, BLOCK // n)
    for block, start in enumerate(range(0, runs, size)):
        yield np.random.default_rng([*name, block]), min(size, runs - start)


# -- before the end ---------------------------------------------------------------------------------------------------


BY_THEN = "z of what was bought by then"
"""A trap: the treatment's buyers are late, and who has not bought yet counts as one who does not."""


def early(runs: int, *, users: int = 2_000, day: float = 9.0) -> list[dict[str, Any]]:
    """Conversion within seven days, which the treatment makes as often and later; looked at on some days of 14.

    Nothing is to be found.
    """
    rules: dict[str, tuple[Sequence[float], dict[str, Any]]] = {
        "z, one look": ((day,), {}),
        BY_THEN: ((day,), {"window": ""}),
        "always valid, 7 looks": (range(8, 15), {"sequential": {"kind": "always-valid", "tune": users}}),
        "group, 3 looks": (
            (10.5, 12.25, 14),
            {"sequential": {"kind": "group", "looks": [0.5, 0.75, 1.0]}, "sample": users},
        ),
    }
    found: dict[str, list[Seen]] = {name: [] for name in rules}
    for run in range(runs):
        shown, bought = _late_buyers(users, np.random.default_rng([7, users, run]))
        for name, (days, more) in rules.items():
            found[name].append(Seen(any(_claims(shown, bought, at, **more) for at in days)))
    return tallied(found)


def _late_buyers(users: int, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Exposures over seven days, and purchases: 30 % of either arm, days 0–3 after the first sight or days 3–7."""
    treated = rng.random(users) < 0.5
    first = START + (7 * rng.random(users) * DAY).astype("timedelta64[us]")
    delay = np.where(treated, 3 + 4 * rng.random(users), 3 * rng.random(users))
    buys = rng.random(users) < 0.3
    shown = pl.DataFrame({"user": np.arange(users), "arm": np.where(treated, "treatment", "control"), "time": first})
    when = (first + (delay * DAY).astype("timedelta64[us]"))[buys]
    return shown, pl.DataFrame({"user": np.flatnonzero(buys), "time": when, "event": ["purchase"] * int(buys.sum())})


def _claims(shown: pl.DataFrame, bought: pl.DataFrame, day: float, *, window: str = "7d", **more: Any) -> bool:
    """Whether an analysis on a day finds an effect on the primary metric."""
    now = START + (day * DAY).astype("timedelta64[us]")
    plan = Plan.of({
        "name": "late", "arms": HALVES, "primary": "buyers", "start": "2024-05-01", "end": "2024-05-15",
        "metrics": {"buyers": {"kind": "conversion", "window": window}}, "scale": "absolute", **more,
    })  # fmt: skip
    seen = shown.filter(pl.col("time") < now), bought.filter(pl.col("time") < now)
    result = analyze(*seen, plan, options=AnalysisOptions(now=str(now), daily=False))
    (one,) = result.of("primary")
    return bool(one.p <= ALPHA)


# -- at and below zero ------------------------------------------------------------------------------------------------


def zero(runs: int, *, mean: float, lift: float, n: int = 1_000) -> list[dict[str, Any]]:
    """A normal metric of spread 1; the control is ``mean``, the effect ``lift`` of its size (of 1 where it is 0)."""
    effect = lift * (abs(mean) or 1.0)
    blocks = []
    for rng, count in _blocks(runs, n, 11, round(1e6 * abs(mean)), mean < 0, round(1e6 * lift)):
        a, b = (estimate(Moments.of(rng.normal(value, 1, (count, n)))) for value in (mean, mean + effect))
        rows = [_vector("welch", compare(a, b), effect)]
        if mean:
            rows.append(_vector("welch, relative", compare(a, b, scale="relative"), lift, _warned(a)))
        blocks.append(rows)
    return _added(blocks)


def _warned(control: Estimate, most: int = 200) -> float:
    """The share of experiments in which the analysis warns of shares of the control's value."""
    some = (Estimate(*(np.asarray(part)[row] for part in control)) for row in range(min(most, control.value.size)))
    return float(np.mean([bool(share_warning(each)) for each in some]))


# -- large effects with a covariate -----------------------------------------------------------------------------------


def adjusted(runs: int, *, kind: str, rho: float, lift: float, n: int = 500) -> list[dict[str, Any]]:
    """Relative effects by CUPED, of means and of ratios, whose covariate explains ``rho`` squared of them."""
    blocks = []
    for rng, count in _blocks(runs, n, 13, kind == "ratio", round(100 * rho), round(100 * lift)):
        made = _ratios if kind == "ratio" else _means
        arms = [Moments.of(*made(rng, (count, n), rho, each)) for each in (0.0, lift)]
        cuped = cuped_of(Moments.stacked(arms))
        plain = compare(*map(estimate, arms), scale="relative")
        sharp = compare(*(estimate(each, cuped=cuped) for each in arms), scale="relative")
        blocks.append([_vector("welch, relative", plain, lift), _vector("cuped, relative", sharp, lift)])
    return _added(blocks)


def _means(rng: np.random.Generator, shape: tuple[int, int], rho: float, lift: float) -> tuple[Floats | None, ...]:
    drawn = correlated(rho).draw(rng, shape, lift)
    return drawn.y, drawn.d, drawn.x, None


def _ratios(rng: np.random.Generator, shape: tuple[int, int], rho: float, lift: float) -> tuple[Floats | None, ...]:
    """Y/d and x/w of users with 5 to 14 views each; what a view is worth follows the user, before and after."""
    d, w = (rng.integers(5, 15, shape).astype(np.float64) for _ in range(2))
    z, own = rng.standard_normal(shape), rng.standard_normal(shape)
    y = d * (1 + 0.5 * (rho * z + np.sqrt(1 - rho**2) * own))
    return y * (1 + lift), d, w * (1 + 0.5 * z), w


# -- one-sided --------------------------------------------------------------------------------------------------------

SIDED = {
    "conversion": ("z", "chi2", "fisher", "welch"), "ctr": ("welch",), "counts": ("welch", "student", "mann-whitney"),
    "before": ("welch", "permutation", "bootstrap-t", "bootstrap-bca", "quantile"),
}  # fmt: skip
"""Law → the tests that fit it."""
SIDES = {**TESTS, "quantile": QUANTILE}


def one_sided(runs: int, *, law_name: str, alternative: Alternative, n: int = 1_000) -> list[dict[str, Any]]:
    """No effect, looked for on one side: false alarms, and the bound that holds 0."""
    rows = []
    for name in SIDED[law_name]:
        size = runs if SIDES[name].vectorised else max(100, runs // 10)
        blocks = [
            _sided(name, _drawn(law_name, rng, (count, n)), alternative)
            for rng, count in _blocks(size, n, 17, sum(map(ord, law_name)))
        ]
        rows += _added([[block] for block in blocks])
    return rows


def _drawn(law_name: str, rng: np.random.Generator, shape: tuple[int, int]) -> Experiments:
    control, treatment = (Units(*law(law_name).draw(rng, shape, 0.0)[:2]) for _ in range(2))
    counts = None
    if law_name == "conversion":
        counts = Counts.of(
            control.y.sum(-1), np.full(shape[0], shape[1]), treatment.y.sum(-1), np.full(shape[0], shape[1])
        )
    return Experiments(control, treatment, counts)


def _sided(name: str, arms: Experiments, alternative: Alternative) -> dict[str, Any]:
    test, options = SIDES[name], ComparisonOptions(alternative=alternative, resamples=499)
    if test.vectorised:
        effect = test.trial(arms.arms(), "absolute", options)
    else:
        rows = [test.trial(arms.one(row).arms(), "absolute", options) for row in range(len(arms))]
        effect = Effect(*(np.array([float(value) for value in column]) for column in zip(*rows, strict=True)))
    return _vector(name, effect, None if np.isnan(effect.low).all() else 0.0)


# -- caps on rare buyers ----------------------------------------------------------------------------------------------


def capped(runs: int, *, buyers: float, share: float, n: int = 2_000) -> list[dict[str, Any]]:
    """Revenue of which a few per cent of the units have any: no effect; caps as plans have them."""
    rules = {"welch": {}, "winsorised, 0.95": {"winsorize": 0.95}, "winsorised, 0.99": {"winsorize": 0.99},
             "cap = 5": {"cap": 5.0}, "log": {"transform": "log"}}  # fmt: skip
    plans = {
        name: Plan.of({"name": "caps", "arms": {"control": 1 - share, "treatment": share}, "primary": "m",
                       "metrics": {"m": {"kind": "value", **rule}}, "scale": "absolute"})
        for name, rule in rules.items()
    }  # fmt: skip
    found: dict[str, list[Seen]] = {name: [] for name in plans}
    treated = round(2 * n * share)
    arm = ["treatment"] * treated + ["control"] * (2 * n - treated)
    for run in range(runs):
        rng = np.random.default_rng([19, round(1000 * buyers), round(100 * share), n, run])
        spent = np.where(rng.random(2 * n) < buyers, rng.lognormal(0, 1, 2 * n), 0.0)
        frame = pl.DataFrame({"arm": arm, "m__y": spent})
        for name, plan in plans.items():
            one = analyze_units(frame, plan).estimates[0]
            found[name].append(Seen(bool(one.p <= ALPHA), _holds(one, 0.0), bool(one.warnings)))
    return tallied(found)


def _holds(one: Estimated, truth: float) -> bool:
    return one.absolute.low <= truth <= one.absolute.high


# -- looks that nobody planned ----------------------------------------------------------------------------------------

AS_PLANNED = "every look with the bound of the planned one"
"""A trap: what a plan of two looks allows whoever forgets the looks that were taken."""


def unplanned(runs: int, *, shares: tuple[float, ...], spending: str) -> list[dict[str, Any]]:
    """A plan of two looks, at half of its sample and all of it, that is looked at whenever somebody likes.

    z of the data at each share, under no effect; a look claims where |z| reaches its bound.
    """
    sample = 10_000
    plan = Plan.of({
        "name": "looked-at", "arms": HALVES, "primary": "m", "metrics": {"m": {"kind": "value"}}, "sample": sample,
        "sequential": {"kind": "group", "looks": [0.5, 1.0], "spending": spending},
    })  # fmt: skip
    units = [round(share * sample) for share in shares]
    kept, forgot, taken = [], [], list[Taken]()
    for n in units:
        look, _ = look_of(plan, n, None, taken)
        kept.append(np.inf if look.bound is None or look.barred else look.bound)
        alone, times = look_of(plan, n, None)
        free = min(alone.fraction or 0.0, 1.0) if times else None
        forgot.append(
            np.inf if free is None else spending_bounds([*times[:-1], free], plan.alpha, spending=spending).bounds[-1]
        )
        taken.append(Taken("group", look.fraction, n, str(n), look.number, look.spent, look.bound, "", f"look {n}"))
    rng = np.random.default_rng([23, *units])
    steps = rng.standard_normal((runs, len(units))) * np.sqrt(np.diff(units, prepend=0))
    z = np.abs(steps.cumsum(1) / np.sqrt(units))
    return [
        {
            "test": name,
            "runs": runs,
            "rejected": int((z >= np.array(bounds)).any(1).sum()),
            "covered": None,
            "warned": None,
        }
        for name, bounds in (("looks that are remembered", kept), (AS_PLANNED, forgot))
    ]
