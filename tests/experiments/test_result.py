import numpy as np
import pytest

from suisen.experiments.analysis import Options, analyze_units
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
    return analyze_units(frame, plan(metrics or METRICS, **(base | more)), options=Options(resamples=199, now=now))


def test_text_holds_everything():
    text = found().text()
    lines = text.splitlines()
    assert lines[0].startswith("Treatment raises m by ")
    assert lines[1].startswith("sample ratio as planned: 400 : 400 units, ")
    assert lines[2] == "planned sample reached"
    assert lines[4].split()[:3] == ["metric", "arm", "role"]
    for part in ("Remedies applied:", "Mann-Whitney:", "% of pairs", "says nothing about means", "holds (margin 5 %)"):
        assert part in text
    marked = [line for line in lines if " *  " in line]
    assert len(marked) == 3  # the scale that decides, of every metric
    assert "Segments" not in text


def test_markdown_is_a_table():
    text = found().markdown()
    assert text.startswith("**Treatment raises m by ")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert {row.count("|") for row in rows} == {len(HEAD) + 1}
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
    assert absolute.startswith("Treatment raises m by 0.52")
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
