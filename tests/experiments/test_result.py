from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from suisen.experiments.analysis import AnalysisOptions, analyze_units
from suisen.experiments.comparing import Comparing
from suisen.experiments.looks import taken_of
from suisen.experiments.result import HEAD, UNJUDGED, Joint, Range, Trend
from suisen.experiments.standing import Look
from suisen.experiments.units import Units
from suisen.experiments.verdict import verdict
from tests.experiments.made import plan, units_of

QUICK = AnalysisOptions(resamples=199)
METRICS = {
    "m": {"kind": "value", "winsorize": 0.99},
    "g": {"kind": "value"},
    "w": {"kind": "value", "test": "mann-whitney"},
}


def frame_of(n, shift=0.0):
    """So many units, half of them treated."""
    y = np.random.default_rng(0).normal(10, 1, (2, n // 2)) + np.array([[0.0], [shift]])
    return units_of(["control", "treatment"], m__y=y, g__y=y, w__y=y)


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
    assert {row.count("|") for row in rows} == {len(HEAD) - 1}  # one arm, none is planned to be equal
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
        (
            {"shift": 0.0, "mde": 0.05},
            ", and one of 5 % is ruled out; guardrails hold; sample ratio as planned; 800 of 800 planned units (100 %)",
        ),
        ({"shift": 0.0, "mde": 0.5, "scale": "absolute"}, ", and one of 0.5 is ruled out"),
        ({"guard": -2.0}, "; guardrail g FAILS (-"),
        ({"guard": -0.5}, "; guardrail g is undecided (-"),
        ({"sample": None}, "; sample ratio as planned, but neither sample nor end was"),
        (
            {"sample": 900, "now": "2024-05-11"},
            "; sample ratio as planned; 800 of 900 planned units (88.9 %) at the end; power is less",
        ),
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


# -- what blocks it blocks everything ---------------------------------------------------------------------------------


def blocked(counts=(400, 400), exposed=0, contaminated=0, shift=0.5, **more):
    """A treatment that is clearly better, a guardrail that holds, and segments; and what is wrong with them."""
    rng = np.random.default_rng(0)
    y = [rng.normal(10, 1, n) + shift * i for i, n in enumerate(counts)]
    frame = units_of(["control", "treatment"], m__y=y, g__y=y, e__y=y)
    frame = frame.with_columns(os=pl.Series(np.arange(frame.height) % 2).cast(pl.String))
    metrics = {name: {"kind": "value"} for name in "mge"}
    rules = {"guardrails": {"g": {"margin": 0.05}}, "equivalence": {"e": {"margin": 0.5}}, "segments": ["os"]}
    known = Units(frame, contaminated, exposed or frame.height)
    return analyze_units(known, plan(metrics, **rules, **{"sample": frame.height} | more))


SEEN = "% of the units were seen in more than one arm, "
BLOCKS = [
    ("sample ratio", {"counts": (400, 250)}, "sample ratio mismatch (400 : 250 units, p = ",
     "; find where units of one arm are lost, mend it, and analyze again"),
    ("contamination", {"exposed": 860, "contaminated": 60},
     f"contamination: 7 {SEEN}and more than 5 % leave nothing to compare", "; mend the assignment, and start again"),
    ("contamination", {"exposed": 820, "contaminated": 20, "shift": 0.15},
     f"contamination: 2.4 {SEEN}which alone may make an effect of 1.7 %", "; mend the assignment"),
    ("too early", {"sample": 10_000, "sequential": {"kind": "group", "looks": [0.5, 1.0]}},
     "before the first planned look (8 % of the planned sample; the first is at 50 %)", "; wait for it"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "wrong", "said", "todo"), BLOCKS)
def test_what_blocks_the_verdict_blocks_everything_and_says_what_to_do(why, wrong, said, todo):
    assert {"raises", "not shown"} >= set(blocked().frame()["decision"]) >= {"raises"}
    found = blocked(**wrong)
    assert found.blocked.why == why
    assert found.verdict.startswith(f"No verdict{' yet' if why == 'too early' else ''}: {said}")
    assert todo in found.verdict
    frame = found.frame()
    assert set(frame["decision"]) == {"no verdict"}
    assert set(frame["blocked"]) == {found.verdict}
    assert [frame["guardrail"][1], frame["equality"][2]] == ["not judged", "not judged"]
    assert {each.decision for each in found.estimates} == {each.estimate.decision for each in found.segments}
    for text in (found.text(), found.markdown()):
        assert UNJUDGED in text
        assert f"{found.verdict}\n" in text[text.index("Warnings:") :]
        for word in ("holds (", "raises", "sample ratio as planned;"):
            assert word not in text
    assert UNJUDGED not in blocked().text()
    assert set(blocked().frame()["blocked"]) == {""}


def test_few_units_in_two_arms_are_in_the_headline_and_a_larger_effect_stands():
    found = blocked(exposed=820, contaminated=20)
    assert found.blocked is None
    assert found.verdict.startswith("Treatment raises m by 5.")
    assert "; contamination: 2.4 % of the units were seen in more than one arm" in found.verdict
    assert "contamination" not in blocked(exposed=807, contaminated=7).verdict  # below 1 %
    assert "contamination" not in blocked(exposed=820, contaminated=20, shift=0.0).text().splitlines()[2]


def test_a_look_that_gives_no_new_chance_has_no_verdict():
    rules = {"sequential": {"kind": "group", "looks": [0.5, 1.0]}, "sample": 800}
    first = found(**rules)
    again = analyze_units(frame_of(800), plan(METRICS, **rules), looks=[taken_of(first)], options=QUICK)
    assert "; look 2 of 2 (100 % of the planned sample), sample ratio as planned" in again.verdict  # the same data
    more = analyze_units(frame_of(1000), plan(METRICS, **rules), looks=[taken_of(first)], options=QUICK)
    assert more.verdict.startswith("No verdict: no new look: nothing is left of alpha since the first look (20")
    assert set(more.frame()["decision"]) == {"no verdict"}
    assert more.looks == (taken_of(first, datetime.fromisoformat(more.looks[0].when)),)
    assert f"Looks before this one:\n  {more.looks[0]}" in more.text()
    assert str(more.looks[0]).endswith(
        f"800 units, 100 % of what was planned, alpha 0.05 spent until then: {first.verdict}"
    )


# -- how much was seen ------------------------------------------------------------------------------------------------


def test_a_ratio_as_planned_says_nothing_about_the_size():
    quarter = found(sample=3200, now="2024-05-11").verdict
    assert quarter.endswith(
        "sample ratio as planned; 800 of 3,200 planned units (25 %) at the end; power is less than planned"
    )
    always = found(sample=3200, sequential={"kind": "always-valid"}).verdict
    assert always.endswith("always-valid, sample ratio as planned; 800 of 3,200 planned units (25 %)")
    assert found(sample=None, now="2024-05-11").verdict.endswith("sample ratio as planned; planned time reached")


def test_looks_without_a_sequential_plan_are_in_the_headline():
    early = plan(METRICS, sample=8000)
    first = analyze_units(frame_of(1000), early, looks=[], options=QUICK)
    assert "LOOKED AT EARLY (12 % of what was planned) without a sequential plan" in first.verdict
    second = analyze_units(frame_of(2000), early, looks=[taken_of(first)], options=QUICK)
    assert "LOOKED AT EARLY (25 % of what was planned), second look, without a sequential plan: " in second.verdict
    assert second.warnings[-1] == (
        "looks: 25 % of the planned sample, looked at early without a sequential plan; second look, so significance is "
        "overstated"
    )
    at_end = analyze_units(frame_of(8000), early, looks=[taken_of(first), taken_of(second)], options=QUICK)
    assert at_end.verdict.endswith("; THIRD LOOK without a sequential plan: significance is overstated")


# -- several arms -----------------------------------------------------------------------------------------------------


def several(shifts, metric=None, n=400, **more):
    rng = np.random.default_rng(3)
    arms = ["control", *"abc"[: len(shifts)]]
    y = [rng.normal(10 + shift, 1, n) for shift in (0, *shifts)]
    share = {arm: 1 / len(arms) for arm in arms}
    one = plan({"m": metric or {"kind": "value"}}, arms=share, sample=n * len(arms), **more)
    return analyze_units(units_of(arms, m__y=y), one, options=QUICK)


@pytest.mark.parametrize(
    ("metric", "more"),
    [
        ({"kind": "value"}, {}), ({"kind": "value"}, {"scale": "absolute"}),
        ({"kind": "value", "test": "bootstrap-t"}, {"correction": "bh"}),
        ({"kind": "value"}, {"sequential": {"kind": "group", "looks": [0.5, 1.0]}}),
        ({"kind": "value"}, {"sequential": {"kind": "always-valid"}}),
    ],
)  # fmt: skip
def test_intervals_of_all_arms_together_are_those_of_the_same_test_at_a_higher_level(metric, more):
    made = several([0.1, 0.2, -0.3], metric, **more)
    alone = several([0.1, 0.2, -0.3], metric, **more | {"alpha": 0.05 / 3, "correction": "none"})
    for each, one in zip(made.estimates, alone.estimates):
        assert each.joint.effect == one.effect
        assert (each.joint.level, each.joint.arms, one.joint) == (pytest.approx(1 - 0.05 / 3), 3, None)
        assert each.effect.low > each.joint.effect.low
    assert made.frame()["joint_low"].to_list() == [each.joint.effect.low for each in made.estimates]
    assert "at 98.33 %" in made.text()
    assert "at 98.33 %" in made.markdown()
    assert "(98.33 % intervals, which hold for all 3 arms together)" in made.verdict
    assert all(f"{each.joint.effect.shown(each.scale).split('[')[1]}" in made.verdict for each in made.estimates[:1])


def test_together_they_hold_as_often_as_they_say():
    rng, hold = np.random.default_rng(5), 0
    arms = ["control", "a", "b", "c"]
    one = plan({"m": {"kind": "value"}}, arms=dict.fromkeys(arms, 0.25), scale="absolute", sample=160)
    for _ in range(300):
        frame = units_of(arms, m__y=rng.normal(0, 1, (4, 40)))
        made = Comparing(frame, one, Look("fixed", None, "")).estimated("m", "primary")
        hold += all(each.joint.reaches for each in made)
    assert hold >= 300 * 0.95 - 3 * np.sqrt(300 * 0.05 * 0.95)


def test_a_p_that_the_wider_interval_contradicts_is_said_to():
    one = several([0.0, 0.0]).estimates
    wide = Range(0.02, -0.01, 0.05, 0.02)
    shown = replace(one[0], p=0.02, corrected=0.04, correction="Holm over 2", relative=Range(0.02, 0.001, 0.04, 0.02),
                    joint=Joint(wide, 0.975, 2))  # fmt: skip
    result = replace(several([0.0, 0.0]), estimates=(shown, one[1]))
    assert verdict(result).startswith("A raises m by 2 % [-1, 5]; No effect of b on m is shown")
    said = (
        "(97.5 % intervals, which hold for all 2 arms together); that of a reaches no effect, though Holm's p shows one"
    )
    assert said in verdict(result)


def test_ranks_of_several_arms_speak_of_pairs_together():
    made = several([0.3, 0.3], {"kind": "value", "test": "mann-whitney"})
    first = made.estimates[0]
    assert first.joint.effect.low < first.ranks.low < first.ranks.superiority == first.joint.effect.value
    assert (first.joint.none, first.joint.reaches) == (0.5, False)
    assert f"of pairs [{100 * first.joint.effect.low:.1f}, {100 * first.joint.effect.high:.1f}] (ranks" in made.verdict
    assert several([0.3]).estimates[0].joint is None


@pytest.mark.parametrize(
    ("alternative", "said"),
    [
        ("greater", "Treatment is not shown to be above control in m: above in 47.5 % of pairs, at least 46.3 % ("),
        ("less", "Treatment is below control in m: above in 47.5 % of pairs, at most 48.7 % (ranks"),
        ("two-sided", "Treatment is below control in m: above in 47.5 % of pairs [46.1, 48.9] (ranks"),
    ],
)
def test_ranks_are_told_on_the_side_that_was_planned(alternative, said):
    rule = {"m": {"kind": "value", "test": "mann-whitney"}}
    y = np.repeat([1.0, 0.0], [150, 850]), np.repeat([1.0, 0.0], [100, 900])
    found = analyze_units(units_of(["control", "treatment"], m__y=y), plan(rule, alternative=alternative))
    assert found.verdict.startswith(said)
