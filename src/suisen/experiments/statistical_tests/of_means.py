"""Tests of means and ratios by their estimates: Welch's t, Student's t, z."""

from typing import ClassVar

from suisen.experiments.means import Effect, MeanTest, agreeing, compare, tail_warning
from suisen.experiments.proportions import few_warning, z_test
from suisen.experiments.statistical_tests.contract import (
    Arms,
    ComparisonOptions,
    EffectScale,
    PowerTest,
    StatisticalTest,
)


class Welch(StatisticalTest):
    """Unequal variances (Welch 1947); of a ratio, by the delta method."""

    name = "welch"
    words = "Welch's t"
    normal = True
    uses_strata = True
    own_size = True
    vectorised = True
    variances: ClassVar[MeanTest] = "welch"
    """How ``means.compare`` puts the arms' variances together."""

    def effect(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """By the estimates alone."""
        return compare(
            *arms.estimates, test=self.variances, scale=scale, level=options.level, alternative=options.alternative
        )

    def warnings(self, arms: Arms) -> list[str]:
        """Few successes; else heavy tails and few units with any event."""
        if arms.counts is not None:
            return [few_warning(arms.counts)]
        return [tail_warning(*arms.moments), arms.rare()]


class Student(Welch):
    """One variance for both arms (Student 1908)."""

    name = "student"
    words = "Student's t"
    variances = "student"

    def sized_as(self, *, share: bool) -> PowerTest:
        """By the t distribution of n_a + n_b − 2 degrees of freedom."""
        return "student"


class Z(Welch):
    """The normal distribution; of shares with the pooled variance."""

    name = "z"
    words = "z"
    variances = "z"

    def effect(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """The difference of plain shares is tested with the pooled variance, everything else by the estimates."""
        if scale == "absolute" and arms.counts is not None and not arms.adjusted:
            found = z_test(arms.counts, level=options.level, alternative=options.alternative)
            return agreeing(found, options.level)
        return super().effect(arms, scale, options)

    def sized_as(self, *, share: bool) -> PowerTest:
        """Shares with the pooled variance."""
        return "proportions" if share else "z"
