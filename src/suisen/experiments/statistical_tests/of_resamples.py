"""Tests that draw: bootstrap (BCa, t), permutation, and the bootstrap of a quantile."""

from __future__ import annotations

from typing import ClassVar, Literal

from suisen.errors import InputError
from suisen.experiments.means import Effect, tail_warning
from suisen.experiments.resampling import bootstrap, permutation, quantile
from suisen.experiments.statistical_tests.contract import Arms, ComparisonOptions, EffectScale, StatisticalTest


class BootstrapT(StatisticalTest):
    """The studentised bootstrap (Hall 1992)."""

    name = "bootstrap-t"
    words = "bootstrap-t"
    one_sided = False
    method: ClassVar[Literal["bca", "t"]] = "t"

    def effect(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """Units of both arms are resampled."""
        control, treatment = arms.samples()
        return bootstrap(
            control, treatment, method=self.method, scale=scale, level=options.level, resamples=options.resamples,
            seed=options.seed,
        )  # fmt: skip

    def warnings(self, arms: Arms) -> list[str]:
        """A tail that the units have not shown."""
        return [tail_warning(*arms.moments, resampled=True)]


class BootstrapBCa(BootstrapT):
    """Bias-corrected and accelerated percentiles (Efron 1987)."""

    name = "bootstrap-bca"
    words = "bootstrap BCa"
    method = "bca"


class Permutation(StatisticalTest):
    """The studentised permutation test (Chung, Romano 2013)."""

    name = "permutation"
    words = "permutation of t"
    one_sided = False

    def effect(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """Arms are dealt anew among the units."""
        control, treatment = arms.samples()
        return permutation(
            control, treatment, scale=scale, level=options.level, resamples=options.resamples, seed=options.seed
        )


class QuantileBootstrap(StatisticalTest):
    """The difference of a quantile of the units (Schultzberg, Ankargren 2022): ``quantile = 0.9`` in a plan."""

    name = "quantile"
    words = "bootstrap of the quantile"
    uses_covariate = False

    def effect(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """By order statistics; nothing is resampled, so the number of draws is its own."""
        control, treatment = arms.samples()
        return quantile(control.y, treatment.y, options.quantile, level=options.level, scale=scale)

    def refuse(self, arms: Arms, options: ComparisonOptions) -> None:
        """Ratios have no quantile."""
        super().refuse(arms, options)
        if arms.samples()[0].d is not None:
            raise InputError(f"metrics.{arms.metric}.quantile is of one value per unit, and it is a ratio; drop it")
