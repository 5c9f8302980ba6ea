from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from suisen.errors import InputError
from suisen.experiments.analysis import AnalysisOptions, analyze, analyze_units
from suisen.experiments.frozen import Frozen
from suisen.experiments.means import compare, estimate
from suisen.experiments.moments import Moments
from suisen.stats import benjamini_hochberg, holm
from tests.experiments.made import HOUR, START, made, plan, units_of

QUIET = AnalysisOptions(daily=False)


@pytest.fixture(scope="module")
def world():
    return made(3000, lift=0.3, seed=1)


@pytest.fixture(scope="module")
def result(world):
    metrics = {
        "ctr": {"kind": "ctr", "covariate": True}, "buyers": {"kind": "conversion"},
        "revenue": {"kind": "value", "winsorize": 0.99}, "visits": {"kind": "sessions", "test": "mann-whitney"},
    }  # fmt: skip
    return analyze(*world, plan(metrics, guardrails={"revenue": {"margin": 0.2}}, sample=3000, segments=["country"]),
                   options=AnalysisOptions(cumulative=3))  # fmt: skip


def test_an_effect_is_found_and_said(result):
    first = result.estimates[0]
    assert (first.metric, first.role, first.decision, first.good) == ("ctr", "primary", "raises", True)
    assert first.relative.low < 0.3 < first.relative.high
    assert result.verdict == (
        f"Treatment raises ctr by {100 * first.relative.value:.3g} % [{100 * first.relative.low:.3g}, "
        f"{100 * first.relative.high:.3g}]; guardrails hold; sample ratio as planned; 3,000 of 3,000 planned "
        "units (100 %)"
    )
    assert result.ratio.holds
    assert [each.role for each in result.estimates] == ["primary", "guardrail", "secondary", "secondary"]


def test_numbers_are_those_of_the_events(world, result):
    shown, log = world
    end = pl.lit("2024-05-11").str.to_datetime(time_zone="UTC")
    since = shown.select("user", "arm", pl.col("time").alias("since"))
    inside = log.join(since, on="user").filter((pl.col("time") >= pl.col("since")) & (pl.col("time") < end))
    clicks = inside.group_by("user", "arm").agg(
        (pl.col("event") == "click").sum().alias("y"), (pl.col("event") == "impression").sum().alias("d")
    )
    by_arm = [clicks.filter(pl.col("arm") == arm) for arm in ("control", "treatment")]
    arms = [estimate(Moments.of(part["y"], part["d"])) for part in by_arm]
    plain = analyze(*world, plan({"ctr": {"kind": "ctr"}}), options=QUIET).estimates[0]
    effect = compare(*arms)
    assert plain.absolute.value == pytest.approx(float(effect.value), rel=1e-9)
    assert plain.absolute.p == pytest.approx(float(effect.p), rel=1e-6)
    assert result.estimates[0].absolute.value == pytest.approx(plain.absolute.value, abs=float(effect.se))
    assert 0.1 < result.estimates[0].rho < 1


def test_segments_are_corrected_together(result):
    assert sorted(each.value for each in result.segments) == ["DE", "FI", "JP"]
    ps = [each.estimate.p for each in result.segments]
    assert [each.estimate.corrected for each in result.segments] == pytest.approx(holm(ps).tolist())
    assert len({each.differ_p for each in result.segments}) == 1
    assert result.segments[0].differ_p > 0.01  # the effect is the same in all


def test_segments_that_differ_are_found():
    rng = np.random.default_rng(2)
    y = rng.normal(10, 1, 1200)
    frame = units_of(["control", "treatment"], m__y=(y[:600], y[600:])).with_columns(
        pl.Series("country", rng.choice(["JP", "FI"], 1200).tolist())
    )
    moved = (pl.col("arm") == "treatment") & (pl.col("country") == "JP")
    frame = frame.with_columns(pl.when(moved).then(pl.col("m__y") + 1).otherwise(pl.col("m__y")).alias("m__y"))
    found = analyze_units(frame, plan({"m": {"kind": "value"}}, segments=["country"]))
    assert found.segments[0].differ_p < 1e-6
    lone = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("DE")).otherwise("country").alias("country")
    )
    noted = analyze_units(lone, plan({"m": {"kind": "value"}}, segments=["country"]), options=AnalysisOptions(most=3))
    assert "segments: country = 'DE' has an arm with fewer than 2 units and is not shown" in noted.notes
    one = AnalysisOptions(most=1)
    shown = analyze_units(frame, plan({"m": {"kind": "value"}}, segments=["country"]), options=one)
    assert any("the 1 most frequent are shown" in note for note in shown.notes)


def test_as_it_stood_earlier(result):
    cumulative = result.cumulative
    assert [each.n for each in cumulative][-1] == 3000
    assert cumulative[0].n < 3000
    assert cumulative[-1].effect.value == pytest.approx(result.estimates[0].relative.value)
    widths = [each.effect.high - each.effect.low for each in cumulative]
    assert widths == sorted(widths, reverse=True)


def test_lazy_files_are_the_same(world, tmp_path):
    shown, log = world
    shown.write_parquet(tmp_path / "shown.parquet")
    log.write_parquet(tmp_path / "log.parquet")
    lazy = pl.scan_parquet(tmp_path / "shown.parquet"), pl.scan_parquet(tmp_path / "log.parquet")
    one, other = (analyze(*tables, plan(), options=QUIET) for tables in (world, lazy))
    for a, b in zip(one.estimates, other.estimates):
        assert a.relative.low == pytest.approx(b.relative.low, rel=1e-9)
    kept = analyze(*lazy, plan(), options=AnalysisOptions(daily=False, duplicates="keep"))
    assert kept.verdict == other.verdict


# -- several arms and metrics -----------------------------------------------------------------------------------------


def three_arms(correction, mode="A/B"):
    rng = np.random.default_rng(3)
    arms = ["control", "a", "b"]
    parts = {f"{name}__y": [rng.normal(10 + shift * i, 1, 200) for i in range(3)]
             for name, shift in (("m", 0.1), ("k", 0.2), ("l", 0.0), ("g", 0.0))}  # fmt: skip
    metrics = {name: {"kind": "value"} for name in "mklg"}
    made_ = plan(metrics, arms={"control": 0.4, "a": 0.3, "b": 0.3}, correction=correction, srm_threshold=1e-9,
                 guardrails={"g": {"margin": 0.05}})  # fmt: skip
    return analyze_units(units_of(arms, **parts), made_, mode=mode)


@pytest.mark.parametrize(("name", "rule"), [("holm", holm), ("bh", benjamini_hochberg)])
def test_families_are_corrected_apart(name, rule):
    found = three_arms(name)
    for role in ("primary", "secondary"):
        estimates = found.of(role)
        assert len(estimates) == {"primary": 2, "secondary": 4}[role]
        assert [each.corrected for each in estimates] == pytest.approx(rule([each.p for each in estimates]).tolist())
        assert estimates[0].correction.endswith(f"over {len(estimates)}")
    assert [(each.correction, each.corrected) for each in found.of("guardrail")] == [
        ("none", each.p) for each in found.of("guardrail")
    ]
    assert all(each.corrected == each.p for each in three_arms("none").estimates)


def test_every_arm_is_in_the_verdict():
    said = three_arms("holm").verdict
    assert "of a on m" in said or "A raises m" in said
    assert "B raises m" in said
    assert "guardrails hold" in said


def test_a_a_mode_is_one_family():
    found = three_arms("holm", mode="A/A")
    assert all(each.correction == "Holm over 8" for each in found.estimates)
    assert found.verdict.startswith("A/A: b differs from control in k (corrected p = ")
    rng = np.random.default_rng(4)
    same = units_of(["control", "treatment"], m__y=rng.normal(0, 1, (2, 200)) + 5)
    assert analyze_units(same, plan({"m": {"kind": "value"}}), mode="A/A").verdict.startswith(
        "A/A: no difference in 1 tests (least corrected p = "
    )


# -- what blocks or qualifies a verdict -------------------------------------------------------------------------------


def test_a_broken_sample_ratio_blocks_the_verdict():
    shown, log = made(3000, lift=0.5, seed=5, share=0.4)
    found = analyze(shown, log, plan(), options=QUIET)
    assert found.verdict.startswith("No verdict: sample ratio mismatch (")
    assert "< 0.001); assignment, logging or filtering is broken" in found.verdict
    assert "SAMPLE RATIO MISMATCH" in found.text()
    assert "Treatment raises" not in found.text()


def test_peeking_is_allowed_and_flagged(world):
    early = analyze(*world, plan(sample=9000, end=""), options=QUIET)
    assert (
        "LOOKED AT EARLY (33 % of what was planned) without a sequential plan: significance is overstated"
        in early.verdict
    )
    assert early.look.early
    by_time = analyze(*world, plan(end="2024-06-10"), options=AnalysisOptions(daily=False, now="2024-05-11"))
    assert "LOOKED AT EARLY (25 % of what was planned)" in by_time.verdict
    planned = analyze(*world, plan(sample=9000, sequential={"kind": "always-valid"}), options=QUIET)
    assert "always-valid, sample ratio as planned" in planned.verdict
    group = plan(sample=9000, end="", sequential={"kind": "group", "looks": [0.3, 0.6, 1.0]})
    found = analyze(*world, group, options=QUIET)
    assert "look 1 of 3 (33 % of the planned sample), sample ratio as planned" in found.verdict
    assert found.look.bound == pytest.approx(3.73, abs=0.02)
    before = replace(group, sample=90_000)
    assert analyze(*world, before, options=QUIET).verdict.startswith("No verdict yet: before the first planned look")


def test_a_changed_plan_is_said(world):
    now = plan()
    frozen = Frozen(plan(alpha=0.01), "", "2024-05-01T00:00:00Z")
    found = analyze(*world, now, frozen=frozen, options=QUIET)
    assert found.verdict.endswith("1 field of the plan changed after the start")
    assert "alpha: planned 0.01, now 0.05" in found.text()


def test_contamination_is_counted_and_doubted(world):
    shown, log = world
    again = shown[:100].with_columns(pl.lit("treatment").alias("arm"), pl.col("time").dt.offset_by("1h"))
    found = analyze(pl.concat([shown, again]), log, plan(), options=QUIET)
    assert 30 < found.contaminated < 70
    assert found.exposed == 3000
    assert "contamination: 1." in found.warnings[0]
    assert any("were seen in more than one arm; left out of every arm" in note for note in found.notes)


def test_a_primary_without_variance_has_no_verdict(world):
    found = analyze(*world, plan({"m": {"kind": "count", "event": "clik"}}), options=QUIET)
    assert found.verdict == "No verdict: m does not vary, so it cannot be tested"
    assert "is 'clik' how its events are called?" in found.text()


def test_one_arm_is_refused(world):
    shown, log = world
    with pytest.raises(InputError, match="arm 'treatment' has no units; nothing can be compared with it"):
        analyze(shown.filter(pl.col("arm") == "control"), log, plan(), options=QUIET)


# -- by day -----------------------------------------------------------------------------------------------------------


def test_days_since_exposure_and_a_constant_effect(result):
    assert [day.day for day in result.days] == list(range(10))
    assert result.days[0].n == 3000
    assert result.days[9].n < 1500
    assert [day.corrected for day in result.days] == pytest.approx(holm([day.effect.p for day in result.days]).tolist())
    (trend,) = result.trends
    assert (trend.early, trend.late) == ("0-2", "3-6")
    assert trend.change.p > 0.01


def test_a_day_is_its_definition(world):
    shown, log = world
    (first, *_) = analyze(shown, log, plan({"ctr": {"kind": "ctr"}})).days
    since = shown.select("user", "arm", pl.col("time").alias("since"))
    part = log.join(since, on="user").filter(
        (pl.col("time") >= pl.col("since")) & (pl.col("time") < pl.col("since") + pl.duration(days=1))
    )
    seen = part.group_by("arm", "event").len()
    rate = {(arm, kind): n for arm, kind, n in seen.iter_rows()}
    assert first.control == pytest.approx(rate["control", "click"] / rate["control", "impression"])
    assert first.treatment == pytest.approx(rate["treatment", "click"] / rate["treatment", "impression"])


@pytest.mark.parametrize("kind", ["ctr", "count"])
def test_an_effect_that_wears_off_is_a_trend(kind):
    shown, log = made(4000, lift=1.0, seed=6, fade=0.6)
    metric = {"ctr": {"kind": "ctr"}, "count": {"kind": "count", "event": "click"}}[kind]
    (trend,) = analyze(shown, log, plan({"m": metric})).trends
    assert trend.change.high < 0
    assert trend.change.p < 0.001
    assert str(trend).startswith("treatment: effect on days 3-6 less that on days 0-2: -")


def test_metrics_without_days_have_none(world):
    found = analyze(*world, plan({"r": {"kind": "retention", "first_day": 1, "last_day": 3}}))
    assert found.days == ()
    assert found.trends == ()


# -- units as they are ------------------------------------------------------------------------------------------------


def test_frames_of_units_are_checked():
    good = units_of(["control", "treatment"], m__y=([1.0, 2.0, 4.0], [2.0, 3.0, 5.0]))
    one = plan({"m": {"kind": "value"}})
    assert analyze_units(good, one).estimates[0].n_control == 3
    for frame, message in (
        (good.drop("m__y"), r"the units have no column 'm__y' \(they have arm\)"),
        (good.with_columns(pl.lit(None, pl.String).alias("arm")), "6 units have no arm"),
        (good.with_columns(pl.lit(float("nan")).alias("m__y")), "metric 'm': 6 units have a value that is NaN"),
    ):
        with pytest.raises(InputError, match=message):
            analyze_units(frame, one)


def test_few_units_are_doubted():
    tiny = units_of(["control", "treatment"], m__y=([1.0, 2.0, 4.0], [2.0, 3.0, 5.0]))
    found = analyze_units(tiny, plan({"m": {"kind": "value"}}))
    assert found.warnings == ("sample ratio: an arm has fewer than 5 expected units, so its test says little",)


def test_a_world_without_events_of_users(world):
    shown, log = world
    strangers = log.with_columns(pl.col("user") + 10**6)
    found = analyze(shown, strangers, plan({"n": {"kind": "count"}}))
    assert found.verdict == "No verdict: n does not vary, so it cannot be tested"
    late = shown.with_columns(
        (pl.col("time").cast(pl.Int64) - START + START + 400 * 24 * HOUR).cast(pl.Datetime("us", "UTC"))
    )
    with pytest.raises(InputError, match="none of 3,000 is between start"):
        analyze(late, log, plan())


def test_a_frame_of_units_is_transformed_as_planned():
    rng = np.random.default_rng(7)
    y = rng.lognormal(0, 2, (2, 500))
    frame = units_of(["control", "treatment"], w__y=y, l__y=y)
    metrics = {"w": {"kind": "value", "winsorize": 0.9}, "l": {"kind": "value", "transform": "log"}}
    found = analyze_units(frame, plan(metrics))
    top = np.quantile(y, 0.9, method="higher")
    assert found.estimates[0].control == pytest.approx(np.minimum(y[0], top).mean())
    assert found.estimates[1].treatment == pytest.approx(np.log1p(y[1]).mean())
    assert found.notes[0].startswith("w: 99 values above the quantile 0.9, ")
