import numpy as np
import pytest

from suisen.experiments.analysis import AnalysisOptions, analyze_units
from suisen.experiments.result import HEAD, Range, Trend
from suisen.experiments.verdict import verdict
from tests.experiments.made import plan, units_of

METRICS = {
    "m": {"kind": "value", "winsorize": 0.99},
    "g": {"kind": "value"},
    "w": {"kind": "value", "test": "mann-whitney"},
}


def found(shift=0.5, guard=0.0, metrics=None, now="", **more):
    rng = np.random.default_rng(0)
    y = rng.normal(10, 1, 800)
    parts = {"m__y": (y[:400], y[400:] + shift), "g__y": (y[:400], y[400:] + guard), "w__y": (y[:400], y[400:] + shift)}
    base = {"guardrails": {"g": {"margin": 0.05}}, "sample": 800}
    frame = units_of(["control", "treatment"], **parts)
    return analyze_units(
        frame, plan(metrics or METRICS, **(base | more)), options=AnalysisOptions(resamples=199, now=now)
    )


def test_text_holds_everything():
    text = found().text()
    lines = text.splitlines()
    assert lines[0].startswith("Treatment raises m by ")
    assert lines[1].startswith("sample ratio as planned: 400 : 400 units, ")
    assert lines[2] == "planned sample reached"
    assert lines[4].split()[:3] == ["metric", "arm", "role"]
    for part in ("Remedies applied:", "Ranks:", "% of pairs", "says nothing about means", "holds (margin 5 %)"):
        assert part in text
    marked = [line for line in lines if " *  " in line]
    assert len(marked) == 3  # the scale that decides, of every metric
    assert "Segments" not in text


def test_markdown_is_a_table():
    text = found().markdown()
    assert text.startswith("**Treatment raises m by ")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert {row.count("|") for row in rows} == {len(HEAD)}  # none is planned to be equal
    assert "* m, treatment: winsorized at the quantile 0.99" in text


def test_the_frame_has_one_row_an_estimate():
    frame = found().frame()
    assert frame["metric"].to_list() == ["m", "g", "w"]
    assert frame["guardrail"].to_list() == [None, "holds", None]
    assert frame["superiority"].null_count() == 2
    assert frame["decision"].to_list() == ["raises", "not shown", "raises"]
    assert frame["relative_low"][0] < frame["relative"][0] < frame["relative_high"][0]


def test_ranges_in_words():
    effect = Range(0.031, 0.012, 0.05, 0.001)
    assert effect.percent() == effect.shown("relative") == "+3.1 % [1.2, 5]"
    assert effect.plain() == effect.shown("absolute") == "+0.031 [0.012, 0.05]"
    assert str(Trend("b", "0-1", "2-3", effect)) == (
        "b: effect on days 2-3 less that on days 0-1: +0.031 [0.012, 0.05], p = 0.001"
    )


# -- the sentence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"shift": -0.5}, "Treatment lowers m by "),
        ({"shift": 0.0}, "No effect of treatment on m is shown: "),
        ({"shift": 0.0, "mde": 0.05}, ", and one of 5 % is ruled out; guardrails hold; sample as planned"),
        ({"shift": 0.0, "mde": 0.5, "scale": "absolute"}, ", and one of 0.5 is ruled out"),
        ({"guard": -2.0}, "; guardrail g FAILS (-"),
        ({"guard": -0.5}, "; guardrail g is undecided (-"),
        ({"sample": None}, "; sample ratio as planned, but neither sample nor end was"),
        ({"sample": 900, "now": "2024-05-11"}, "; sample ratio as planned, 89 % of the planned sample at the end"),
        ({"sample": 900}, "; LOOKED AT EARLY (89 % of what was planned) without a sequential plan"),
        ({"sequential": {"kind": "group", "looks": [0.5, 1.0]}}, "; look 2 of 2 (100 % of the planned sample), "),
    ],
)
def test_sentences(more, said):
    if more.get("sample", 0) is None:
        more = more | {"start": "", "end": ""}
    result = found(**more)
    assert said in result.verdict
    assert verdict(result) == result.verdict


def test_the_scale_is_in_the_sentence():
    absolute = found(scale="absolute").verdict
    assert absolute.startswith("Treatment raises m by 0.51")
    assert " %" not in absolute.split(";")[0]
    lowered = found(shift=-0.5).estimates[0].relative
    assert f"lowers m by {-100 * lowered.value:.3g} % [{-100 * lowered.high:.3g}, {-100 * lowered.low:.3g}]" in (
        found(shift=-0.5).verdict
    )


def test_ranks_speak_of_pairs():
    metrics = {"m": {"kind": "value", "test": "mann-whitney"}, "g": {"kind": "value"}}
    assert found(metrics=metrics).verdict.startswith("Treatment is above control in m: above in 6")
    assert "of pairs [" in found(metrics=metrics).verdict
    assert "(ranks, not means)" in found(metrics=metrics).verdict
    assert found(metrics=metrics, shift=0.0).verdict.startswith("Treatment is not shown to be ")


def test_warnings_are_named():
    rng = np.random.default_rng(1)
    frame = units_of(["control", "treatment"], m__y=(rng.lognormal(0, 2, 900), rng.lognormal(0, 2, 100)))
    one = plan({"m": {"kind": "value"}}, arms={"control": 0.9, "treatment": 0.1}, sample=1000)
    assert "; warning: heavy tail and unequal split" in analyze_units(frame, one).verdict


# -- planned to be equal ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "margin", "state", "said"),
    [
        (0.0, 0.05, "holds", "Treatment equals control in m within 5 %: "),
        (0.3, 0.05, "holds", "], equal within 5 %; "),
        (0.5, 0.05, "undecided", "], not shown to be equal within 5 %; "),
        (0.0, 0.005, "undecided", "No effect of treatment on m is shown: "),
        (1.5, 0.05, "fails", "], NOT EQUAL within 5 %; "),
        (-1.5, 0.05, "fails", "Treatment lowers m by "),
    ],
)
def test_a_primary_that_is_to_be_equal(shift, margin, state, said):
    made = found(shift, equivalence={"m": {"margin": margin}})
    first = made.estimates[0]
    assert first.equality.state == state
    assert said in made.verdict
    assert (first.equality.effect.p < 0.05) == (state == "holds")
    assert first.effect.low < first.equality.effect.low < first.equality.effect.high < first.effect.high  # 90 in 95 %
    assert made.frame()["equality"].to_list() == [state, None, None]
    assert f"{state} (± {100 * margin:g} %: " in made.text()
    assert made.markdown().splitlines()[6].endswith("| equality |")


def test_the_interval_of_equality_is_that_of_two_one_sided_tests():
    made = found(0.0, equivalence={"m": {"margin": 0.3, "scale": "absolute"}})
    wider = found(0.0, alpha=0.1).estimates[0].absolute
    equal = made.estimates[0].equality.effect
    assert (equal.low, equal.high) == (pytest.approx(wider.low), pytest.approx(wider.high))
    assert f"within 0.3: {equal.plain()} at 90 %; " in made.verdict


def test_other_metrics_that_are_to_be_equal_stand_in_the_verdict():
    rules = {"g": {"margin": 0.05}}
    for shift, said in ((0.0, "; g equal within 5 % ("), (0.5, "; g not shown to be equal within 5 % ("),
                        (2.0, "; g NOT EQUAL within 5 % (")):  # fmt: skip
        assert said in found(guard=shift, guardrails={}, equivalence=rules).verdict
    flat = found(guardrails={}, equivalence={"w": {"margin": 0.2}})
    assert flat.estimates[-1].equality.state == "holds"  # of the means, beside the test of ranks


def test_looks_widen_the_interval_of_equality():
    rules = {"m": {"margin": 0.05}}
    one = found(0.0, equivalence=rules).estimates[0].equality
    for looks in ({"kind": "always-valid", "tune": 800}, {"kind": "group", "looks": [0.5, 1.0]}):
        other = found(0.0, equivalence=rules, sequential=looks, sample=1600).estimates[0].equality
        assert other.effect.high - other.effect.low > 1.2 * (one.effect.high - one.effect.low)
        assert other.effect.p == pytest.approx(one.effect.p)  # of one look, as the page says


def test_what_does_not_vary_is_not_shown_to_be_equal():
    frame = units_of(["control", "treatment"], m__y=np.ones((2, 50)), g__y=np.zeros((2, 50)))
    two = plan({"m": {"kind": "value"}, "g": {"kind": "value"}}, scale="absolute",
               equivalence={name: {"margin": 0.1, "scale": "absolute"} for name in "mg"})  # fmt: skip
    made = analyze_units(frame, two)
    assert [each.equality.state for each in made.estimates] == ["undecided", "undecided"]
    assert made.verdict == "No verdict: m does not vary, so it cannot be tested"


def test_segments_and_days_make_no_claim_of_equality():
    rng = np.random.default_rng(1)
    frame = units_of(["control", "treatment"], m__y=rng.normal(10, 1, (2, 200))).with_columns(
        country=np.repeat(["JP", "FI"], 200)[rng.permutation(400)]
    )
    made = analyze_units(frame, plan({"m": {"kind": "value"}}, segments=["country"], equivalence={"m": {"margin": 1}}))
    assert {each.estimate.equality for each in made.segments} == {None}
