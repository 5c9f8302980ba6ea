"""Tests of the table of successes: Pearson's chi-square, Fisher's exact test."""

import numpy as np

from suisen.experiments.means import Effect, agreeing
from suisen.experiments.proportions import Counts, chi_square, fisher, z_test
from suisen.experiments.statistical_tests.contract import Arms, ComparisonOptions, EffectScale, PowerTest
from suisen.experiments.statistical_tests.of_means import Z


class ChiSquare(Z):
    """Pearson's test of the 2 × 2 table, without a continuity correction; its interval is that of z.

    One-sided it is the signed root of chi-square, which is z.
    """

    name = "chi2"
    words = "chi-square"
    own_p = True
    uses_strata = False
    of_shares = True

    def effect(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """The effect of z; p of the table where it is the difference."""
        found = super().effect(arms, scale, options)
        if scale == "relative" or options.alternative != "two-sided":
            return found
        return agreeing(found._replace(p=chi_square(_table(arms)).p), options.level, options.alternative)

    def sized_as(self, *, share: bool) -> PowerTest:
        """Its p is that of z."""
        return "proportions"


class Fisher(ChiSquare):
    """Fisher's exact test, beside Newcombe's interval: for few successes."""

    name = "fisher"
    words = "Fisher's exact"
    normal = False

    def effect(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """The difference by Fisher and Newcombe; the share of the control by z."""
        if scale == "relative":
            return super().effect(arms, scale, options)
        counts = _table(arms)
        found = z_test(counts, level=options.level, interval="newcombe", alternative=options.alternative)
        exact = found._replace(p=np.asarray(fisher(counts, alternative=options.alternative)))
        return agreeing(exact, options.level, options.alternative)

    def warnings(self, arms: Arms) -> list[str]:
        """It is exact."""
        return []


def _table(arms: Arms) -> Counts:
    """The successes, which ``refuse`` has seen to."""
    if arms.counts is None:
        raise TypeError("refuse() was not called: these arms are no shares")
    return arms.counts
