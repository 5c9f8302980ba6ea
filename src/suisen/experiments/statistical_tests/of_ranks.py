"""Tests of ranks, beside Welch's t of the means, which is another question and labelled as such."""

from suisen.experiments.means import Effect, compare
from suisen.experiments.ranks import RankEffect, mann_whitney, mann_whitney_p
from suisen.experiments.statistical_tests.contract import (
    Arms,
    ComparisonOptions,
    EffectScale,
    StatisticalTest,
    rank_trial,
)


class MannWhitney(StatisticalTest):
    """Mann and Whitney's U (1947), with the probability of superiority and the Hodges-Lehmann shift."""

    name = "mann-whitney"
    words = "Mann-Whitney U"
    note = "the absolute and relative effects are those of the means, by Welch's t"
    uses_covariate = False
    vectorised = True

    def effect(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """Of the means, by Welch's t."""
        return compare(*arms.estimates, scale=scale, level=options.level, alternative=options.alternative)

    def ranks(self, arms: Arms, options: ComparisonOptions) -> RankEffect | None:
        """Of the units' own values."""
        return mann_whitney(*arms.values(), level=options.level, alternative=options.alternative)

    def trial(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """Many experiments at once: the normal approximation, and no interval."""
        control, treatment = arms.values()
        u, p = mann_whitney_p(control, treatment, alternative=options.alternative)
        return rank_trial(u / (control.shape[-1] * treatment.shape[-1]), p)
