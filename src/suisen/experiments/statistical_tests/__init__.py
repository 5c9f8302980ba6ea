"""The statistical tests that a plan may name.  A new one is a file with its class, and one line in ``TESTS``."""

from suisen.experiments.statistical_tests.contract import (
    Arms,
    ComparisonOptions,
    EffectScale,
    Pair,
    PowerTest,
    StatisticalTest,
)
from suisen.experiments.statistical_tests.of_means import Student, Welch, Z
from suisen.experiments.statistical_tests.of_ranks import MannWhitney
from suisen.experiments.statistical_tests.of_resamples import BootstrapBCa, BootstrapT, Permutation, QuantileBootstrap
from suisen.experiments.statistical_tests.of_shares import ChiSquare, Fisher

QUANTILE = QuantileBootstrap()
"""The test of a metric whose plan says ``quantile``."""
TESTS: dict[str, StatisticalTest] = {
    test.name: test()
    for test in (Welch, Student, Z, ChiSquare, Fisher, MannWhitney, BootstrapBCa, BootstrapT, Permutation)
}
"""Name in a plan → test."""

__all__ = ["QUANTILE", "TESTS", "Arms", "ComparisonOptions", "EffectScale", "Pair", "PowerTest", "StatisticalTest"]
