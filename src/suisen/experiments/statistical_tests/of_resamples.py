"""Tests that draw: bootstrap (BCa, t), permutation, and the bootstrap of a quantile."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from suisen.errors import InputError
from suisen.experiments.means import Effect, Estimate, tail_warning
from suisen.experiments.resampling import bootstrap, permutation, quantile, quantile_of
from suisen.experiments.statistical_tests.contract import Arms, ComparisonOptions, EffectScale, StatisticalTest


class Permutation(StatisticalTest):
    """The studentised permutation test (Chung, Romano 2013)."""

    name = "permutation"
    words = "permutation of t"
    draw: ClassVar[Callable[..., Effect]] = staticmethod(permutation)
    """What is done to the two samples."""

    def effect(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """By as many draws as the options say."""
        control, treatment = arms.samples()
        return self.draw(
            control, treatment, scale=scale, level=options.level, alternative=options.alternative,
            resamples=options.resamples, seed=options.seed,
        )  # fmt: skip


class BootstrapT(Permutation):
    """The studentised bootstrap (Hall 1992): units of both arms are resampled."""

    name = "bootstrap-t"
    words = "bootstrap-t"
    draw = staticmethod(partial(bootstrap, method="t"))

    def warnings(self, arms: Arms) -> list[str]:
        """A tail that the units have not shown."""
        return [tail_warning(*arms.moments, resampled=True)]


class BootstrapBCa(BootstrapT):
    """Bias-corrected and accelerated percentiles (Efron 1987)."""

    name = "bootstrap-bca"
    words = "bootstrap BCa"
    draw = staticmethod(partial(bootstrap, method="bca"))


class QuantileBootstrap(StatisticalTest):
    """The difference of a quantile of the units (Schultzberg, Ankargren 2022): ``quantile = 0.9`` in a plan."""

    name = "quantile"
    words = "bootstrap of the quantile"
    uses_covariate = False

    def effect(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """By order statistics; nothing is resampled, so the number of draws is its own."""
        control, treatment = arms.samples()
        return quantile(
            control.y, treatment.y, options.quantile, level=options.level, scale=scale, alternative=options.alternative
        )

    def base(self, arms: Arms, options: ComparisonOptions) -> Estimate:
        """The control's quantile."""
        return quantile_of(arms.samples()[0].y, options.quantile)

    def refuse(self, arms: Arms, options: ComparisonOptions) -> None:
        """Ratios have no quantile."""
        super().refuse(arms, options)
        if arms.samples()[0].d is not None:
            raise InputError(f"metrics.{arms.metric}.quantile is of one value per unit, and it is a ratio; drop it")
