import json
import math

import numpy as np
import pytest

from suisen.errors import InputError
from suisen.evaluation import Report, compare
from suisen.evaluation.report import interval, number, probability
from suisen.stats import bootstrap_means, holm, paired_differences


def report(name="A", seed=0, shift=0.0, **changes):
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(99).random(400)
    values = {
        "ndcg@10": (base + shift + 0.1 * rng.standard_normal(400)).astype(np.float32),
        "hr@10": (rng.random(400) < 0.5 + shift).astype(np.float32),
    }
    plain = {"protocol": "leave last; full ranking", "fingerprint": "f", "values": values, "notes": ("counted",)}
    return Report(name=name, **{**plain, "seconds": 1.5, "peak_bytes": 2**20, **changes})


def test_each_metric_is_found_by_its_name():
    found = report()
    assert [found[name].metric for name in ("hr@10", "ndcg@10")] == ["hr@10", "ndcg@10"]
    assert [found[name].value for name in ("hr@10", "ndcg@10")] == [found.value("hr@10"), found.value("ndcg@10")]


def test_scores_carry_value_interval_n_and_protocol():
    score = report()["ndcg@10"]
    assert score.value == pytest.approx(float(report().values["ndcg@10"].mean()), abs=1e-6)
    assert score.low < score.value < score.high
    low, high = bootstrap_means(report().values["ndcg@10"], level=0.95)
    assert (score.low, score.high) == (low[0], high[0])
    assert score.high - score.low == pytest.approx(2 * 1.96 * report().values["ndcg@10"].std() / 20, rel=0.15)
    assert (score.n, score.protocol) == (400, "leave last; full ranking")
    assert report().value("ndcg@10") == score.value


def test_queries_without_a_value_are_left_out_of_n():
    values = {"hr@1": np.array([1, 0, np.nan, 1], dtype=np.float32), "mrr": np.full(4, np.nan, dtype=np.float32)}
    hit, none = report(values=values).scores
    assert (hit.value, hit.n) == (pytest.approx(2 / 3), 3)
    assert none.n == 0
    assert math.isnan(none.value)
    assert "–" in str(report(values=values))


def test_a_report_prints_itself():
    values = {"hr@10": np.array([1, 0, 1, 1] * 300, dtype=np.float32)}
    head, protocol, columns, row, note = str(report(values=values)).splitlines()
    assert head == "A: 1,200 queries in 1.5 s, 1.0 MiB of scores at once"
    assert protocol == "protocol: leave last; full ranking"
    assert columns.split() == ["metric", "value", "95", "%", "interval", "n"]
    assert row.startswith("hr@10   0.7500  [0.7")
    assert row.endswith("1,200")
    assert note == "note: counted"


def test_markdown_and_frame_hold_the_same():
    one = report()
    assert one.to_markdown().splitlines()[0] == "| model | metric | value | 95 % interval | n | protocol |"
    assert f"| A | ndcg@10 | {one.value('ndcg@10'):.4f} | [" in one.to_markdown()
    frame = one.to_frame()
    assert frame.columns == ["model", "metric", "value", "low", "high", "n", "protocol"]
    assert frame["value"].to_list() == [score.value for score in one.scores]


def test_json_goes_round():
    values = report().values | {"map@5": np.full(400, np.nan, dtype=np.float32)}
    one = report(values=values)
    again = Report.from_json(one.to_json())
    assert [again.name, again.protocol, again.fingerprint, again.notes, again.seconds, again.peak_bytes] == [
        *("A", "leave last; full ranking", "f", ("counted",), 1.5, 2**20)
    ]
    for metric, column in values.items():
        np.testing.assert_array_equal(again.values[metric], column)
    assert str(again) == str(one)
    assert json.loads(one.to_json())["scores"][2]["value"] is None


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"values_float32_base64": {"a": 3}}'])
def test_json_of_something_else_is_refused(text):
    with pytest.raises(InputError, match="not a report that Suisen wrote"):
        Report.from_json(text)


def test_an_unknown_metric_is_named():
    with pytest.raises(InputError, match="did you mean 'ndcg@10'"):
        report()["ndcg@1"]


def test_compare_finds_a_planted_difference_and_not_a_null_one():
    table = compare(report("base"), report("better", seed=1, shift=0.05), report("same", seed=2))
    planted, null = table.row("ndcg@10", "better"), table.row("ndcg@10", "same")
    assert planted.difference == pytest.approx(0.05, abs=0.02)
    assert planted.p_holm < 0.001
    assert planted.low > 0
    assert null.p_holm > 0.05
    assert null.low < 0 < null.high
    assert len(table) == 4
    assert [row.p_holm for row in table.rows] == pytest.approx(holm([row.p for row in table.rows]).tolist())
    assert (table[0].model, table[0].baseline, table[0].n) == ("better", "base", 400)
    ours, theirs = report("better", seed=1, shift=0.05), report("base")
    (row,) = paired_differences(ours.values["ndcg@10"], theirs.values["ndcg@10"], level=0.95)
    assert (planted.low, planted.high) == pytest.approx((row.low, row.high))


def test_null_differences_are_rarely_called_significant():
    alarms = [compare(report(seed=2 * i), report(seed=2 * i + 1)).row("ndcg@10").p < 0.05 for i in range(1, 101)]
    assert sum(alarms) <= 12


def test_a_comparison_prints_itself():
    table = compare(
        report("base"), report("base", seed=1, shift=0.05, values={"ndcg@10": report(shift=0.05).values["ndcg@10"]})
    )
    text = str(table)
    assert text.count("leave last; full ranking") == 1
    assert text.startswith("protocol: leave last; full ranking\nmetric")
    assert "base (2) − base" in text
    assert "+0.0500" in text
    assert "<0.0001" in text
    assert text.splitlines()[-1] == "note: not in all reports and left out: hr@10"
    assert compare(report(), report(values={"ndcg@10": report().values["ndcg@10"]}), metrics=["ndcg@10"]).notes == ()
    assert table.to_markdown().startswith(
        "| metric | models | difference | 95 % interval | p | p (Holm) | n | protocol |"
    )
    assert table.to_frame()["p_holm"].to_list() == [row.p_holm for row in table.rows]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "99 given"}, "'B' cannot be paired with 'A': protocol '99 given' is not"),
        ({"fingerprint": "g"}, "truth 'g' is not 'f'; evaluate both on the same queries"),
        ({"values": {"hr@10": np.zeros(3, dtype=np.float32)}}, "number of queries 3 is not 400"),
        ({"values": {"mrr": np.zeros(400, dtype=np.float32)}}, "no metric in common"),
    ],
)
def test_reports_of_other_queries_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        compare(report("A"), report("B", **changes))


def test_compare_needs_two_and_known_metrics():
    with pytest.raises(InputError, match="compare\\(\\) was given one report"):
        compare(report())
    with pytest.raises(InputError, match="did you mean 'hr@10'"):
        compare(report(), report(), metrics=["hr@1"])
    with pytest.raises(InputError, match="comparison = 'auc' is unknown"):
        compare(report(), report()).row("auc")
    assert [row.metric for row in compare(report(), report(), metrics=["hr@10"]).rows] == ["hr@10"]


def test_rounding_lives_in_one_place():
    assert [number(x) for x in (0.5, -0.12345, 3.14159, 1234.5, 0.0)] == [
        "0.5000",
        "-0.1235",
        "3.142",
        "1234",
        "0.0000",
    ]
    assert interval(0.1, float("nan")) == "–"
    assert [probability(p) for p in (0.04999, 1e-9, 0.0001, 1.0)] == ["0.0500", "<0.0001", "0.0001", "1.0000"]
