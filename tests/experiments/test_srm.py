import numpy as np
import polars as pl
import pytest
from scipy import stats as scipy_stats

from suisen.errors import InputError
from suisen.experiments.analysis import analyze
from suisen.experiments.srm import mismatched, ratio_p, sample_ratio
from suisen.stats import holm
from tests.experiments.made import HOUR, START, made, plan

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


# -- where units are missing ------------------------------------------------------------------------------------------


def split(n=20_000, seed=0, weights=(0.5, 0.5)):
    """Units of two arms with a system, a country and a day of first exposure."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame({
        "arm": rng.choice(["a", "b"], n, p=weights), "os": rng.choice(["Android", "iOS", "web"], n, p=[0.3, 0.5, 0.2]),
        "country": rng.choice(["JP", "FI"], n), "__since": START + rng.integers(0, 10 * 24, n) * HOUR,
    })  # fmt: skip


def lost(frame, where, keep=0.8):
    """Without some of the treated units of a part."""
    rows = np.random.default_rng(1).random(frame.height) > keep
    return frame.filter(~((pl.col("arm") == "b") & where & pl.Series(rows)))


COLUMNS = ["os", "country"]


@pytest.mark.parametrize("weights", [HALVES, {"a": 0.8, "b": 0.2}])
def test_a_segment_that_lost_units_is_to_blame(weights):
    frame = lost(split(weights=tuple(weights.values())), pl.col("os") == "Android")
    first, *_ = found = mismatched(frame, COLUMNS, weights)
    assert (first.column, first.value, first.alone) == ("os", "Android", True)
    counts = dict(frame.filter(pl.col("os") == "Android").group_by("arm").len().iter_rows())
    assert first.counts == {"a": counts["a"], "b": counts["b"]}
    assert not {part.value for part in found} & {"iOS", "web"}


def test_a_day_that_lost_units_is_to_blame():
    day = pl.col("__since") // (24 * HOUR) == START // (24 * HOUR) + 3
    (first,) = mismatched(lost(split(), day, 0.7), COLUMNS, HALVES)
    assert (first.column, first.value) == ("day", "2024-05-04")
    assert str(first).startswith("day = 2024-05-04 (")


def test_values_and_days_are_corrected_together_and_small_ones_left_out():
    few = pl.DataFrame({"arm": ["a"] * 19, "os": "TV", "country": "JP", "__since": START})
    frame = pl.concat([lost(split(), pl.col("os") == "Android", 0.5), few])
    keyed = frame.with_columns(day=pl.col("__since") // (24 * HOUR))
    ps = {}
    for value, rows in [*keyed.group_by("os"), *keyed.group_by("day")]:
        counts = [(rows["arm"] == arm).sum() for arm in HALVES]
        if sum(counts) >= 20:
            ps[value[0]] = ratio_p(counts, [1, 1], continuity=True)[1]
    found = mismatched(frame, ["os", "os"], HALVES)
    (android,) = [part for part in found if part.value == "Android"]
    assert android.corrected == pytest.approx(dict(zip(ps, holm(list(ps.values()))))["Android"])
    assert len(ps) == 3 + 10
    assert "TV" not in {part.value for part in found}


def test_parts_are_as_planned_as_often_as_the_threshold_says():
    alarms = sum(bool(mismatched(split(2_000, seed), COLUMNS, HALVES, threshold=0.05)) for seed in range(300))
    assert alarms <= 300 * 0.05 + 3 * np.sqrt(300 * 0.05 * 0.95)
    assert mismatched(split().select("arm"), COLUMNS, HALVES) == ()  # neither columns nor times


def without(shown, arm, country, every):
    return shown.filter(~((pl.col("arm") == arm) & (pl.col("country") == country) & (pl.col("user") % every == 0)))


def test_the_segment_to_blame_is_in_the_headline_and_in_the_warnings():
    shown, log = made(8000, seed=4)
    result = analyze(without(shown, "treatment", "FI", 3), log, plan(segments=["country"], strata=["country"]))
    assert (result.parts[0].value, result.blocked.why) == ("FI", "sample ratio")
    assert "; look first at country = FI (1," in result.verdict
    assert result.verdict.endswith(": without it the ratio is as planned")
    assert any(said.startswith("sample ratio: country = FI (1,") for said in result.warnings)
    assert {each.decision for each in result.estimates} == {"no verdict"}


def test_losses_that_cancel_are_a_mismatch():
    shown, log = made(8000, seed=4)
    both = without(without(shown, "treatment", "FI", 3), "control", "JP", 5)
    result = analyze(both, log, plan(segments=["country"]))
    assert result.ratio.holds
    assert {part.value for part in result.parts} == {"FI", "JP"}
    assert result.verdict.startswith("No verdict: sample ratio mismatch in country = ")
    assert result.text().splitlines()[1].startswith("SAMPLE RATIO MISMATCH in country = ")
    assert "sample ratio as planned" not in result.text()
