import numpy as np
import pytest
from scipy import stats as scipy_stats

from suisen.errors import InputError
from suisen.experiments.srm import ratio_p, sample_ratio

HALVES = {"a": 0.5, "b": 0.5}


def test_r11_published_mismatch():
    found = sample_ratio({"a": 821_588, "b": 815_482}, HALVES)
    assert found.statistic == pytest.approx(22.7744, abs=5e-5)
    assert found.p == pytest.approx(1.8218e-06, abs=5e-11)
    assert not found.holds
    assert sample_ratio({"a": 502, "b": 498}, HALVES).holds
    assert not sample_ratio({"a": 600, "b": 400}, HALVES).holds


def test_r13_is_corrected_for_continuity():
    assert ratio_p([2023, 1977], [1, 1], continuity=True)[1] == pytest.approx(0.47676672399858, rel=1e-12)
    assert ratio_p([2023, 1977], [1, 1])[1] == pytest.approx(scipy_stats.chisquare([2023, 1977]).pvalue)


def test_the_line_shows_p_and_the_threshold_it_was_held_to():
    counts = {"gate_30": 44_700, "gate_40": 45_489}
    kept, lost = (sample_ratio(counts, {"gate_30": 0.5, "gate_40": 0.5}, threshold=t) for t in (0.001, 0.01))
    assert str(kept) == (
        "sample ratio as planned: 44,700 : 45,489 units, 45,094.5 : 45,094.5 expected, chi-square 6.902, "
        "p = 0.00861 >= threshold 0.001"
    )
    assert str(lost).startswith("SAMPLE RATIO MISMATCH: ")
    assert str(lost).endswith("p = 0.00861 < threshold 0.01")


def test_many_experiments_and_any_weights():
    counts = np.array([[900, 110, 50], [500, 30, 20]])
    statistic, p = ratio_p(counts, [0.8, 0.1, 0.1])
    for row, s, each in zip(counts, statistic, p):
        true = scipy_stats.chisquare(row, row.sum() * np.array([0.8, 0.1, 0.1]))
        assert (s, each) == (pytest.approx(true.statistic), pytest.approx(true.pvalue))


@pytest.mark.parametrize(
    ("counts", "weights", "message"),
    [
        ({"a": 5}, {"a": 1.0}, "is one arm; a comparison needs two or more"),
        ({"a": 5, "b": 0}, HALVES, "arm 'b' has no units"),
        ({"a": 5}, HALVES, "arm 'b' has no units"),
        ({"a": 5, "b": 5, "c": 1}, HALVES, r"arm 'c' is not in the plan \(a, b\)"),
        ({"a": 5, "b": 5}, {"a": 1.0, "b": 0.0}, "arm 'b' has weight 0.0"),
    ],
)
def test_what_cannot_be_held_to_weights_is_refused(counts, weights, message):
    with pytest.raises(InputError, match=message):
        sample_ratio(counts, weights)


def test_a_ratio_that_a_stricter_threshold_would_refuse_is_doubted():
    counts, weights = {"gate_30": 44_700, "gate_40": 45_489}, {"gate_30": 0.5, "gate_40": 0.5}  # Cookie Cats
    found = sample_ratio(counts, weights)
    assert found.holds
    assert found.doubt == "sample ratio p = 0.0086 passes at 0.001 and would fail at 0.01"
    assert str(found).endswith("p = 0.00861 >= threshold 0.001")
    strict = sample_ratio(counts, weights, threshold=0.01)
    assert not strict.holds
    assert str(strict).endswith("p = 0.00861 < threshold 0.01")
    assert strict.doubt == sample_ratio({"gate_30": 500, "gate_40": 510}, weights).doubt == ""
