"""One metric of every treatment against the control: the planned test, its intervals, its warnings.

Tests of means, ratios and shares need nothing but the table of moments; ranks, resamples and quantiles go back to the
units.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import numpy as np
import polars as pl
from scipy import special

from suisen.errors import InputError
from suisen.experiments.bayes import Posterior, posterior
from suisen.experiments.equivalence import equalled, guarded
from suisen.experiments.families import ARM, Metric
from suisen.experiments.means import (
    SURE,
    Alternative,
    Cuped,
    Effect,
    Estimate,
    cuped_of,
    estimate,
    opened,
    share_warning,
    shares_of,
    statistic_of,
)
from suisen.experiments.moments import Floats, Moments, aggregate, moments
from suisen.experiments.plan import Plan
from suisen.experiments.proportions import Counts
from suisen.experiments.resampling import Sample
from suisen.experiments.result import Equality, Estimated, Guard, Joint, Range, Role
from suisen.experiments.scales import NOTHING, decides, held_to, separated
from suisen.experiments.sequential import both_sides, confidence_sequence, repeated_p, spending_bounds
from suisen.experiments.standing import Look
from suisen.experiments.statistical_tests import QUANTILE, Arms, ComparisonOptions, Pair, StatisticalTest

STRATUM = "__stratum"
MIN_WITH_EVENTS = 30
"""Units of an arm with any event below which a ratio's or a sum's normal interval is a guess."""


@dataclass(frozen=True)
class Comparing:
    """Everything that comparing any metric of one set of units needs."""

    frame: pl.DataFrame
    """``Units.frame``."""
    plan: Plan
    look: Look
    times: tuple[float, ...] = ()
    """group: information fractions of the looks until now."""
    options: ComparisonOptions = field(default_factory=ComparisonOptions)
    """How resampling tests draw; level, alternative and quantile are the plan's."""

    @cached_property
    def present(self) -> tuple[str, ...]:
        """The plan's metrics that the frame has."""
        return tuple(name for name in self.plan.metrics if f"{name}__y" in self.frame.columns)

    @cached_property
    def strata(self) -> tuple[pl.DataFrame, str]:
        """The frame with its stratum; what was put together, in words."""
        return with_stratum(self.frame, self.plan)

    @cached_property
    def table(self) -> pl.DataFrame:
        """Sums by arm and stratum."""
        return aggregate(self.strata[0], self.present, (ARM, STRATUM))

    def moments(self, name: str) -> Moments:
        """(arms in the plan's order, strata) of a metric."""
        found = moments(self.table, name)
        arms, strata = self.table[ARM].to_list(), sorted(set(self.table[STRATUM].to_list()))
        place = {pair: i for i, pair in enumerate(zip(arms, self.table[STRATUM].to_list(), strict=True))}
        rows = np.array([[place[arm, stratum] for stratum in strata] for arm in self.plan.arms])
        return found[rows]

    def units(self, name: str, arm: str) -> pl.DataFrame:
        """The units of an arm that have a value."""
        return self.frame.filter((pl.col(ARM) == arm) & pl.col(f"{name}__y").is_not_null())

    def control(self, name: str) -> Estimate:
        """A metric in the control, adjusted as planned."""
        return _Metric(self, name, "primary").value(self.plan.control)

    def estimated(self, name: str, role: Role) -> list[Estimated]:
        """One estimate per treatment; ``corrected`` is p until ``corrections`` are made."""
        metric = _Metric(self, name, role)
        return [replace(metric.estimated(arm), joint=metric.joint(arm)) for arm in self.plan.treatments]


def with_stratum(frame: pl.DataFrame, plan: Plan) -> tuple[pl.DataFrame, str]:
    """The frame with a column of strata; one in which an arm has fewer than two units joins the largest."""
    if not plan.strata:
        return frame.with_columns(pl.lit("").alias(STRATUM)), ""
    named = frame.with_columns(pl.concat_str(list(plan.strata), separator=" / ").alias(STRATUM))
    counts = named.group_by(STRATUM).agg(
        *((pl.col(ARM) == arm).sum().alias(f"n{i}") for i, arm in enumerate(plan.arms)), pl.len().alias("units")
    ).sort("units", STRATUM, descending=[True, False])  # fmt: skip
    least = pl.min_horizontal(f"n{i}" for i in range(len(plan.arms)))
    small = counts.filter(least < 2)[STRATUM].to_list()
    if not small:
        return named, ""
    largest = counts[STRATUM][0]
    joined = pl.when(pl.col(STRATUM).is_in(small)).then(pl.lit(largest)).otherwise(pl.col(STRATUM)).alias(STRATUM)
    return named.with_columns(joined), f"{len(small):,} strata with fewer than 2 units in an arm are in {largest!r}"


@dataclass(frozen=True)
class _Metric:
    """One metric of a comparison."""

    of: Comparing
    name: str
    role: Role

    @property
    def metric(self) -> Metric:
        return self.of.plan.metrics[self.name]

    @property
    def has_denominator(self) -> bool:
        return f"{self.name}__d" in self.of.frame.columns

    @cached_property
    def by_stratum(self) -> Moments:
        found = self.of.moments(self.name)
        for arm, n in zip(self.of.plan.arms, found.n.sum(-1), strict=True):
            if n < 2:
                raise InputError(f"metric {self.name!r}: arm {arm!r} has {n:.0f} units with a value; a test needs 2")
        return found

    @cached_property
    def flat(self) -> Moments:
        """(arms,)"""
        return self.by_stratum.pooled()

    @cached_property
    def cuped(self) -> Cuped | None:
        if not (self.metric.adjusts and self.test.uses_covariate and f"{self.name}__x" in self.of.frame.columns):
            return None
        if not bool((self.flat.mean[:, 3] > 0).all()):  # an arm without any unit seen before
            return None
        found = cuped_of(self.by_stratum, strata=True) if self.stratified else cuped_of(self.flat)
        return found if float(found.theta) != 0 else None

    def place(self, arm: str) -> int:
        return list(self.of.plan.arms).index(arm)

    @property
    def divided(self) -> bool:
        """Whether strata are planned and every arm has two units with a value in each."""
        return bool(self.of.plan.strata) and bool((self.by_stratum.n >= 2).all())

    @property
    def stratified(self) -> bool:
        """Whether the test uses the strata."""
        return self.divided and self.test.uses_strata

    @cached_property
    def value(self) -> Callable[[str], Estimate]:
        """The metric in an arm, with all adjustments that are planned and possible; each is computed once."""
        return cache(self._value)

    def _value(self, arm: str) -> Estimate:
        i = self.place(arm)
        if not self.stratified:
            return estimate(self.flat[i], cuped=self.cuped)
        return estimate(self.by_stratum[i], cuped=self.cuped, shares=shares_of(self.by_stratum))

    def counts(self, arm: str) -> Counts | None:
        """Successes of control and arm, where every unit's value is 0 or 1."""
        if self.has_denominator:
            return None
        n, mean = self.flat.n, self.flat.mean[:, 0]
        if not np.allclose(self.flat.products[:, 0, 0], n * mean * (1 - mean), rtol=1e-9, atol=1e-9):
            return None
        a, b = self.place(self.of.plan.control), self.place(arm)
        x = np.rint(n * mean)
        return Counts.of(x[a], n[a], x[b], n[b])

    @cached_property
    def test(self) -> StatisticalTest:
        """The planned test; auto is resolved."""
        if self.metric.quantile is not None:
            return QUANTILE
        plain = not self.metric.adjusts and not self.divided and not self.has_denominator
        return self.metric.planned_test(plain=plain)

    def sample(self, arm: str) -> Sample:
        """The units of an arm, adjusted by the covariate: y − θ (d̄/w̄)(x − c·w), with means over all arms."""
        table, names = self.of.units(self.name, arm), self.of.frame.columns
        y = table[f"{self.name}__y"].cast(pl.Float64).to_numpy()
        d = table[f"{self.name}__d"].to_numpy() if self.has_denominator else None
        if self.cuped is not None:
            x = table[f"{self.name}__x"].to_numpy()
            w = table[f"{self.name}__w"].to_numpy() if f"{self.name}__w" in names else np.ones_like(y)
            whole = self.flat.pooled().mean
            gap = float(self.cuped.theta) / whole[3] * (x - float(self.cuped.centre) * w)
            value, part = self.value(arm), len(y) / float(self.flat.n.sum())
            made = Sample.of(y - whole[1] * gap, d)
            return replace(made, shift=part * gap, shared=float(value.shared), along=float(value.along))
        return Sample.of(y, d)

    @cached_property
    def arms(self) -> Callable[[str], Arms]:
        """The control and an arm, as a test is given them; their samples and values are made once for all questions."""
        return cache(self._arms)

    def _arms(self, arm: str) -> Arms:
        control = self.of.plan.control
        return Arms(
            metric=self.name,
            estimates=(self.value(control), self.value(arm)),
            adjusted=self.cuped is not None or self.stratified,
            moments=(self.flat[self.place(control)], self.flat[self.place(arm)]),
            counts=self.counts(arm),
            values=cache(lambda: (self.own(control), self.own(arm))),
            samples=cache(lambda: (self.sample(control), self.sample(arm))),
            rare=lambda: self.few(arm),
        )

    def estimated(self, arm: str) -> Estimated:
        """The estimate of one treatment."""
        plan, control, treatment = self.of.plan, self.value(self.of.plan.control), self.value(arm)
        none = self.untestable(arm)
        self.test.refuse(self.arms(arm), self.options(1 - plan.alpha, self.alternative))
        pair, looked = (Pair(NOTHING, NOTHING), "") if none else self.judged(arm, plan.alpha, self.alternative)
        scale, why = decides(pair, self.base(arm), plan.scale)
        guard, equal = self.guard(arm, pair), self.equality(arm)
        if none:
            warnings = [none]
        else:
            warnings = [*self.warnings(arm, why), *(each.why for each in (guard, equal) if each and each.why)]
            warnings += [self.disagree(pair)] if scale == plan.scale and self.disagree(pair) else []
        p = pair.p if pair.p is not None else float(pair.on(scale).p)
        return Estimated(
            self.name, arm, self.role, self.test.words, scale, self.shown(plan.control), self.shown(arm),
            int(control.n), int(treatment.n), Range.of(pair.absolute), Range.of(pair.relative), p, p, "none",
            plan.alpha, self.metric.better, f"{self.how()}{looked}",
            None if self.cuped is None else float(self.cuped.rho), pair.ranks, guard, equal, tuple(warnings),
            tuple(self.remedies()),
            posterior=self.posterior(pair) if scale == plan.scale else None,
        )  # fmt: skip

    def shown(self, arm: str) -> float:
        """What an arm's column says: the metric's value, or the quantile that is compared."""
        if self.metric.quantile is None:
            return float(self.value(arm).value)
        return float(np.quantile(self.own(arm), self.metric.quantile, method="inverted_cdf"))

    def untestable(self, arm: str) -> str:
        """Why there is no test of an arm against the control; empty: there is one."""
        a, b = self.value(self.of.plan.control), self.value(arm)
        for name, value in ((self.of.plan.control, a.value), (arm, b.value)):
            if not np.isfinite(value):
                return f"{self.name} has no value in {name}: its denominator is 0 in all units; check its definition"
        if self.flat_arms(arm) and a.value == b.value:
            return f"{self.name} does not vary, so it cannot be tested; {self.unseen()}"
        return ""

    def flat_arms(self, arm: str) -> bool:
        """Whether neither arm has any spread."""
        return not bool(self.value(self.of.plan.control).var + self.value(arm).var > 0)

    def disagree(self, pair: Pair) -> str:
        """That the tests of both scales say different things; empty: they do not, or neither decides."""
        plan, absolute, relative = self.of.plan, float(pair.absolute.p), float(pair.relative.p)
        if pair.p is not None or np.isnan(absolute + relative) or (absolute <= plan.alpha) == (relative <= plan.alpha):
            return ""
        return (
            f"the tests of the absolute effect (p = {absolute:.3g}) and of the relative one (p = {relative:.3g}) "
            f"disagree; the plan decides by the {plan.scale} one"
        )

    @property
    def alternative(self) -> Alternative:
        return self.of.plan.alternative if self.role == "primary" else "two-sided"

    # -- tests --------------------------------------------------------------------------------------------------------

    def judged(self, arm: str, alpha: float, alternative: Alternative) -> tuple[Pair, str]:
        """The planned test, with intervals of level 1 − alpha and p that hold under the plan's looks."""
        pair = self.test.judged(self.arms(arm), self.options(1 - alpha, alternative))
        if not self.flat_arms(arm):
            return self.with_looks(pair, arm, alpha, alternative)
        places = [self.place(each) for each in (self.of.plan.control, arm)]
        n = (self.by_stratum.n if self.stratified else self.flat.n[:, None])[places]
        looks = "" if self.of.plan.sequential is None else ", for one look"
        said = f"; all units of an arm are alike: p is the share of the ways to deal the units that part them so{looks}"
        return separated(pair, n, alternative, alpha), said

    def options(self, level: float, alternative: Alternative) -> ComparisonOptions:
        """How the test is to compare."""
        made = replace(self.of.options, level=level, alternative=alternative)
        return made if self.metric.quantile is None else replace(made, quantile=self.metric.quantile)

    def base(self, arm: str) -> Estimate:
        """What relative effects are shares of."""
        if not np.isfinite(self.value(self.of.plan.control).value):
            return self.value(self.of.plan.control)
        return self.test.base(self.arms(arm), self.options(0.95, "two-sided"))

    def own(self, arm: str) -> Floats:
        """A unit's own value: y, or y/d of the units that have a d."""
        table = self.of.units(self.name, arm)
        if self.has_denominator:
            table = table.filter(pl.col(f"{self.name}__d") > 0)
            return (table[f"{self.name}__y"] / table[f"{self.name}__d"]).to_numpy()
        return table[f"{self.name}__y"].to_numpy()

    # -- looks --------------------------------------------------------------------------------------------------------

    def with_looks(self, pair: Pair, arm: str, alpha: float, alternative: Alternative) -> tuple[Pair, str]:
        """Intervals of level 1 − alpha and p that hold under the plan's looks."""
        plan, sequential = self.of.plan, self.of.plan.sequential
        if sequential is None or self.of.look.kind == "fixed":
            return pair, ""
        if not self.test.normal:
            if self.role == "primary":
                raise InputError(
                    f"metrics.{self.name}.test = {self.test.name!r} knows no looks; use welch, or plan without "
                    "'sequential'"
                )
            return pair, "; holds for one look only"
        if sequential.kind == "group":
            return (
                Pair(
                    self._bounded(pair.absolute, alpha, alternative), self._bounded(pair.relative, alpha, alternative)
                ),
                f"; bounds of {sequential.spending} spending ({sequential.convention}) at look {self.of.look.number}",
            )
        part = plan.arms[plan.control] + plan.arms[arm]
        n = float(self.flat.n[self.place(plan.control)] + self.flat.n[self.place(arm)])
        absolute, relative = (
            confidence_sequence(effect, n, alpha=alpha, tune=sequential.tune * part, alternative=alternative)
            for effect in (pair.absolute, pair.relative)
        )
        return Pair(absolute, relative), f"; confidence sequence tuned for {sequential.tune:,} units"

    def _bounded(self, effect: Effect, alpha: float, alternative: Alternative) -> Effect:
        """The repeated interval and p of a group-sequential plan (Jennison, Turnbull 2000); one-sided: half of one."""
        sequential, times = self.of.plan.sequential, self.of.times
        if sequential is None or not times:
            inf = np.asarray(np.inf)
            return effect._replace(low=-inf, high=inf, p=np.asarray(1.0))
        if np.isnan(effect.value):
            return effect
        sides = 1 if alternative == "two-sided" else 2
        spending, convention = sequential.spending, sequential.convention
        both = both_sides(alpha, alternative)
        bound = spending_bounds(times, both, spending=spending, convention=convention).bounds[-1]
        t = float(statistic_of(effect.value, effect.se))
        z = float(-special.ndtri(max(float(special.stdtr(effect.df, -abs(t))), 1e-300)))
        p = repeated_p(z, times, spending=spending, convention=convention) / sides
        if alternative != "two-sided" and (t > 0) != (alternative == "greater"):
            p = 1 - p
        half = -special.stdtrit(effect.df, special.ndtr(-bound)) * effect.se  # as far out in t as the bound in z
        return opened(effect._replace(low=effect.value - half, high=effect.value + half, p=np.asarray(p)), alternative)

    def joint(self, arm: str) -> Joint | None:
        """The interval that holds for all arms of the primary metric together: the same test's, at 1 − alpha / arms."""
        plan, arms = self.of.plan, len(self.of.plan.treatments)
        if self.role != "primary" or arms < 2 or plan.correction == "none" or self.untestable(arm):
            return None
        alpha = plan.alpha / arms
        pair, _ = self.judged(arm, alpha, self.alternative)
        if pair.ranks is None:
            return Joint(Range.of(pair.on(decides(pair, self.base(arm), plan.scale)[0])), 1 - alpha, arms)
        ranks = pair.ranks
        return Joint(Range(ranks.superiority, ranks.low, ranks.high, ranks.p), 1 - alpha, arms, none=0.5)

    # -- guardrails, warnings, words ----------------------------------------------------------------------------------

    def guard(self, arm: str, pair: Pair) -> Guard | None:
        """Whether the metric is not worse than its margin, where the plan asks; by two-sided intervals."""
        rule = self.of.plan.guardrails.get(self.name)
        if rule is None:
            return None
        if self.alternative != "two-sided" and not np.isnan(pair.absolute.value):
            pair, _ = self.judged(arm, self.of.plan.alpha, "two-sided")
        return guarded(held_to(rule, "guardrail", pair, self.base(arm)), self.metric.better)

    def posterior(self, pair: Pair) -> Posterior | None:
        """The Bayesian read-out where the plan asks; looks do not change it."""
        bayes, effect = self.of.plan.bayes, pair.on(self.of.plan.scale)
        if bayes is None or self.role != "primary" or not self.test.normal or not 0 < float(effect.se) < np.inf:
            return None
        prior = {"prior_sd": bayes.prior_sd, "prior_mean": bayes.prior_mean}
        level, better = 1 - self.of.plan.alpha, self.metric.better
        return posterior(float(effect.value), float(effect.se), **prior, better=better, level=level)

    def equality(self, arm: str) -> Equality | None:
        """Whether the metric is equal within its margins, where the plan asks; intervals of level 1 − 2 alpha."""
        rule, alpha = self.of.plan.equivalence.get(self.name), self.of.plan.alpha
        if rule is None:
            return None
        none = bool(self.untestable(arm)) and not self.flat_arms(arm)
        pair = Pair(NOTHING, NOTHING) if none else self.judged(arm, 2 * alpha, "two-sided")[0]
        return equalled(held_to(rule, "equivalence", pair, self.base(arm)), alpha)

    def warnings(self, arm: str, scale: str) -> list[str]:
        """Where the theory of the test does not hold for these data; ``scale``: why another scale decides, if so."""
        plan, out = self.of.plan, self.test.warnings(self.arms(arm))
        if plan.scale == "relative":
            out.append(scale or (share_warning(self.value(plan.control), SURE) if self.test.normal else ""))
        if self.metric.adjusts and not self.test.uses_covariate:
            out.append(f"the covariate is not used by {self.test.words}")
        elif self.metric.adjusts and self.cuped is None:
            out.append("the covariate tells nothing (no events before the exposure, or no spread) and is not used")
        if plan.strata and not self.test.uses_strata:
            out.append(f"strata are not used by {self.test.words}")
        elif plan.strata and not self.divided:
            out.append("strata are not used: one has an arm with fewer than 2 units with a value")
        return [each for each in out if each]

    def few(self, arm: str) -> str:
        """A warning where few units of an arm have any event."""
        if not self.metric.family.rare:
            return ""
        some = self.of.frame.lazy().filter(pl.col(f"{self.name}__y") != 0)  # two columns are read, not all
        counts = dict(some.group_by(ARM).len().collect(engine="streaming").iter_rows())
        positive = [counts.get(each, 0) for each in (self.of.plan.control, arm)]
        if min(positive) >= MIN_WITH_EVENTS:
            return ""
        word = self.metric.event_type or "event"
        return (
            f"few events: {min(positive)} units of an arm have any {word} (at least {MIN_WITH_EVENTS} needed), so the "
            "interval is a guess; wait, or use a permutation test"
        )

    def unseen(self) -> str:
        """Why a metric may not vary."""
        event = self.metric.event_type
        return f"is {event!r} how its events are called?" if event else "check its definition"

    def remedies(self) -> list[str]:
        """Planned answers to heavy tails, applied."""
        out = []
        if self.metric.winsorize is not None:
            out.append(f"winsorized at the quantile {self.metric.winsorize:g}")
        if self.metric.cap is not None:
            out.append(f"capped at {self.metric.cap:g}")
        if self.metric.transform == "log":
            out.append("log(1 + y)")
        if not self.test.normal:
            out.append(f"{self.test.words} in place of a normal test")
        return out

    def how(self) -> str:
        """How the numbers were made, in words."""
        plan = self.of.plan
        what = "Σy/Σd over units, variance by the delta method" if self.has_denominator else "mean over units"
        if self.metric.quantile is not None:
            what = f"quantile {self.metric.quantile:g} of units"
        ends = {"two-sided": "intervals", "greater": "lower bounds", "less": "upper bounds"}[self.alternative]
        parts = [f"{what}; {self.test.words}, {100 * (1 - plan.alpha):g} % {ends}"]
        if self.test.note:
            parts.append(self.test.note)
        if self.cuped is not None:
            rho = float(self.cuped.rho)
            parts.append(f"CUPED with rho = {rho:.3f}, which leaves {100 * (1 - rho**2):.3g} % of the variance")
        if self.stratified:
            parts.append(f"post-stratified by {', '.join(plan.strata)}")
        return "; ".join(parts)


def corrected(estimates: Sequence[Estimated], values: Sequence[float], said: str) -> list[Estimated]:
    """The estimates with their corrected p-values."""
    return [replace(each, corrected=float(p), correction=said) for each, p in zip(estimates, values, strict=True)]
