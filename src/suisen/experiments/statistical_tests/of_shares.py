"""Tests of the table of successes: Pearson's chi-square, Fisher's exact test."""

import numpy as np
from scipy import special

from suisen.experiments.means import Effect, agreeing, cut, fieller, opened
from suisen.experiments.moments import Floats
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
        """The effect of z, as a share with Fieller's interval; p is that of the table on either scale."""
        found, level, alternative = self.ends(arms, scale, options), options.level, options.alternative
        if scale == "relative":
            low, high = fieller(*arms.estimates, special.ndtri(cut(level, alternative)))
            found = opened(found._replace(low=low, high=high), alternative)
        p = np.where(np.isnan(found.value), np.nan, self.chance(arms, options))
        return agreeing(found._replace(p=p), level)

    def ends(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """The effect with an interval that p is not yet held against."""
        return super().effect(arms, scale, options)

    def chance(self, arms: Arms, options: ComparisonOptions) -> Floats:
        """The p of the table."""
        if options.alternative == "two-sided":
            return chi_square(_table(arms)).p
        return z_test(_table(arms), alternative=options.alternative).p

    def sized_as(self, *, share: bool) -> PowerTest:
        """Its p is that of z."""
        return "proportions"


class Fisher(ChiSquare):
    """Fisher's exact test, beside Newcombe's interval: for few successes."""

    name = "fisher"
    words = "Fisher's exact"
    normal = False

    def ends(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """Newcombe's interval of the difference."""
        if scale == "relative":
            return super().ends(arms, scale, options)
        return z_test(_table(arms), level=options.level, interval="newcombe", alternative=options.alternative)

    def chance(self, arms: Arms, options: ComparisonOptions) -> Floats:
        """The exact p."""
        return np.asarray(fisher(_table(arms), alternative=options.alternative))

    def warnings(self, arms: Arms) -> list[str]:
        """It is exact."""
        return []


def _table(arms: Arms) -> Counts:
    """The successes, which ``refuse`` has seen to."""
    if arms.counts is None:
        raise TypeError("refuse() was not called: these arms are no shares")
    return arms.counts
