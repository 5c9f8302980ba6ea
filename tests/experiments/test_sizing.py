"""Sizing a plan from events: each run against sums by hand, the first day that is enough, sequential plans."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from suisen.errors import InputError
from suisen.experiments.plan import Plan
from suisen.experiments.power import Baseline, Design, margin_power, margin_size, mde, power, sample_size
from suisen.experiments.sequential import spending_bounds
from suisen.experiments.sizing import critical_of, share_of, size

DAY = 86_400 * 10**6
END = 1_700_000_000 * 10**6


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(0)
    n, days = 12_000, 20
    user = (1500 * rng.beta(1, 2, n)).astype(np.int64)
    at = END - np.sort(rng.integers(1, days * DAY, n))[::-1]
    at[0], at[-1] = END - days * DAY, END - 1
    shown = pl.DataFrame({"user": user, "time": at, "event": "impression", "value": 0.0})
    clicks = shown.filter(pl.Series(rng.random(n) < 0.2)).with_columns(event=pl.lit("click"), time=pl.col("time") + 1)
    bought = clicks.filter(pl.Series(rng.random(clicks.height) < 0.3)).with_columns(
        event=pl.lit("purchase"),
        value=pl.Series(rng.lognormal(0, 1, clicks.height)).head(1).first() + pl.col("user") / 100,
    )
    whole = pl.concat([shown, clicks, bought]).filter(pl.col("time") < END)
    return whole.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))


def plan(metric, **changed):
    values = {"name": "x", "arms": {"control": 0.5, "t": 0.5}, "primary": "m", "metrics": {"m": metric}, "mde": 0.1}
    return Plan.of(values | changed)


def last(events, days):
    return events.filter(pl.col("time").cast(pl.Int64) >= END - days * DAY)


def test_a_ratio_of_so_many_days_is_its_sums_by_hand(events):
    (run,) = size(plan({"kind": "ctr"}), events, days=[7]).runs
    table = (
        last(events, 7)
        .group_by("user")
        .agg(y=(pl.col("event") == "click").sum(), d=(pl.col("event") == "impression").sum())
    )
    baseline = Baseline.ratio(table["y"].to_numpy(), table["d"].to_numpy())
    design = Design(scale="relative")
    assert run.units == table.height
    assert run.baseline.value == pytest.approx(baseline.value, rel=1e-12)
    assert run.baseline.variance == pytest.approx(baseline.variance, rel=1e-9)
    assert run.power == pytest.approx(power(baseline, design, units=table.height, effect=0.1), rel=1e-9)
    assert run.needed == pytest.approx(sample_size(baseline, design, effect=0.1), rel=1e-9)
    assert run.mde == pytest.approx(mde(baseline, design, units=table.height), rel=1e-9)


def test_a_proportion_is_its_share_of_units(events):
    (run,) = size(plan({"kind": "conversion"}, scale="absolute", mde=0.05), events, days=[14]).runs
    table = last(events, 14).group_by("user").agg(y=(pl.col("event") == "purchase").any())
    design = Design(test="proportions")
    assert run.baseline.value == pytest.approx(table["y"].mean(), rel=1e-12)
    planned = power(Baseline.proportion(table["y"].mean()), design, units=table.height, effect=0.05)
    assert run.power == pytest.approx(planned, rel=1e-3)  # variance with 1 / (n - 1)


def test_a_covariate_takes_its_share_off_the_variance(events):
    plain = size(plan({"kind": "count"}, pre="7d"), events, days=[7]).runs[0].baseline
    found = size(plan({"kind": "count", "covariate": True}, pre="7d"), events, days=[7]).runs[0].baseline
    by_user = pl.col("time").cast(pl.Int64)
    during = last(events, 7).group_by("user").agg(y=pl.len(), since=by_user.min())
    before = events.join(during.select("user", "since"), on="user").filter(
        (by_user < pl.col("since")) & (by_user >= pl.col("since") - 7 * DAY)
    )
    table = during.join(before.group_by("user").agg(x=pl.len()), on="user", how="left").fill_null(0)
    rho = np.corrcoef(table["y"], table["x"])[0, 1]
    assert 0.1 < rho < 0.99
    assert found.variance / plain.variance == pytest.approx(1 - rho**2, rel=1e-9)


def test_the_answer_is_the_first_day_that_is_enough(events):
    made = size(plan({"kind": "ctr"}, mde=0.16), events)
    assert made.days is not None
    assert all((run.power >= 0.8) == (run.days >= made.days) for run in made.runs)
    assert {made.days - 1, made.days} <= {run.days for run in made.runs}
    needed = next(run.needed for run in made.runs if run.days == made.days)
    assert made.arms == {"control": int(np.ceil(needed / 2)), "t": int(np.ceil(needed / 2))}
    assert f"{made.days} days give" in made.text()
    assert made.frame()["days"].to_list() == [run.days for run in made.runs]


def test_more_than_the_events_reach_back_is_said(events):
    made = size(plan({"kind": "ctr"}, mde=0.01), events)
    assert made.days is None
    assert made.runs[-1].days == 14
    assert "and find effects from" in made.text()
    assert "run longer, or plan for a larger effect" in made.text()


def test_only_what_exposes_makes_units(events):
    (run,) = size(plan({"kind": "conversion"}), events, days=[7], exposed_by="click").runs
    assert run.units == last(events, 7).filter(pl.col("event") == "click")["user"].n_unique()


def test_what_the_assignment_leaves_out_is_taken_off(events):
    assignment = {"layer": "home", "slots": (0.0, 0.5), "holdout": 0.1, "ramp": {"2024-05-01": 0.1, "2024-05-02": 0.8}}
    made = plan({"kind": "ctr"}, assignment=assignment)
    assert share_of(made) == pytest.approx(0.5 * 0.9 * 0.8)
    whole = size(plan({"kind": "ctr"}), events, days=[7]).runs[0].units
    assert size(made, events, days=[7]).runs[0].units == int(whole * share_of(made))


def test_a_ratio_of_metrics_brings_its_parts(events):
    metrics = {
        "m": {"kind": "ratio", "numerator": "y", "denominator": "n"},
        "y": {"kind": "value"},
        "n": {"kind": "count"},
    }
    made = size(plan({}, metrics=metrics), events, days=[7])
    assert made.runs[0].baseline.value == pytest.approx(last(events, 7)["value"].sum() / last(events, 7).height)


@pytest.mark.parametrize("kind", ["us", "text", "naive"])
def test_times_of_any_spelling_give_the_same(events, kind):
    time = {
        "us": pl.col("time").cast(pl.Int64),
        "text": pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%S.%6fZ"),
        "naive": pl.col("time").dt.replace_time_zone(None),
    }[kind]
    (made,) = size(plan({"kind": "ctr"}), events.with_columns(time), days=[7]).runs
    (wanted,) = size(plan({"kind": "ctr"}), events, days=[7]).runs
    assert made.units == wanted.units
    assert made.needed == pytest.approx(wanted.needed, rel=1e-12)


def test_a_group_plan_is_sized_to_its_power():
    made = plan({"kind": "count"}, sequential={"kind": "group", "looks": (0.5, 0.75, 1.0)}, power=0.9)
    bound = critical_of(made)
    design = Design.of(made, bound)
    needed = sample_size(Baseline(1.0, 4.0), design, effect=0.1)
    drift = bound(needed) + stats.norm.ppf(0.9)
    assert spending_bounds((0.5, 0.75, 1.0)).power(drift) == pytest.approx(0.9, abs=1e-8)
    fixed = sample_size(Baseline(1.0, 4.0), Design(scale="relative", power=0.9, test="z"), effect=0.1)
    assert 1 < needed / fixed < 1.1


def test_an_always_valid_plan_needs_more_and_its_bound_is_tightest_where_it_is_tuned():
    bound = critical_of(plan({"kind": "count"}, sequential={"tune": 4000}))
    assert bound(4000) < min(bound(1000), bound(20_000))
    assert bound(4000) > 2.5
    assert critical_of(plan({"kind": "count"})) is None
    assert critical_of(plan({"kind": "count"}, sequential={"tune": 4000}, alternative="greater"))(4000) < bound(4000)


def test_a_covariate_that_reaches_back_too_far_is_said(events):
    made = size(plan({"kind": "count", "covariate": True}, pre="14d"), events, days=[3, 7])
    assert "runs of more than 6 days have less than pre = 14d before them" in "".join(made.notes)
    assert size(plan({"kind": "count", "covariate": True}, pre="12d"), events, days=[3, 7]).notes == ()


def test_a_test_that_is_sized_as_another_is_said(events):
    made = size(plan({"kind": "value", "test": "mann-whitney"}), events, days=[7])
    assert made.notes == ("sized as Welch's t, though m is going to be tested by mann-whitney",)


def test_a_run_without_units_finds_nothing(events):
    made = plan({"kind": "ctr"}, assignment={"ramp": {"2024-05-01": 0.0}})
    run = size(made, events, days=[7]).runs[0]
    assert (run.units, run.power) == (0, 0.0)
    assert np.isnan(run.mde)


@pytest.mark.parametrize(
    ("changed", "options", "said"),
    [
        ({"mde": None}, {}, "the plan has no mde; write the smallest effect"),
        ({}, {"days": [30]}, r"days = \[30\] do not fit into 20 days of events"),
        ({}, {"days": []}, r"days = \[\] do not fit"),
        ({}, {"days": [0, 7]}, r"days = \[0, 7\] do not fit"),
        ({"unit": "session"}, {}, "events: column = 'session' is unknown"),
        ({}, {"exposed_by": "view"}, "events hold none of type 'view'"),
    ],
)
def test_what_cannot_be_sized_is_refused(events, changed, options, said):
    with pytest.raises(InputError, match=said):
        size(plan({"kind": "ctr"}, **changed), events, **options)


def test_clicks_on_what_was_shown_before_the_cut_are_no_fault(events):
    early, late = (pl.Series([END - 7 * DAY + moment]).cast(pl.Datetime("us", "UTC")) for moment in (-5, 5))
    one = {"user": [99_999], "value": [0.0]}
    cut = pl.concat([
        pl.DataFrame({**one, "time": early, "event": ["impression"]}),
        pl.DataFrame({**one, "time": late, "event": ["click"]}),
    ]).select(events.columns)  # fmt: skip
    (bare,), (run,) = (size(plan({"kind": "ctr"}), log, days=[7]).runs for log in (events, pl.concat([events, cut])))
    assert run.units == bare.units + 1
    clicks, shown = (last(events, 7).filter(pl.col("event") == kind).height for kind in ("click", "impression"))
    assert run.baseline.value == pytest.approx((clicks + 1) / shown, rel=1e-12)


def test_more_clicks_than_impressions_altogether_are_refused(events):
    swapped = events.with_columns(pl.col("event").replace({"click": "impression", "impression": "click"}))
    with pytest.raises(InputError, match=r"metric 'm': .* units have more 'click' than 'impression' events"):
        size(plan({"kind": "ctr"}), swapped)


def test_guardrails_and_equivalences_are_sized_too(events):
    metrics = {
        "m": {"kind": "ctr"},
        "shown": {"kind": "count", "event": "impression"},
        "bought": {"kind": "conversion"},
    }
    claims = {
        "guardrails": {"shown": {"margin": 0.05}},
        "equivalence": {"bought": {"margin": 0.02, "scale": "absolute"}},
    }
    asked = plan({"kind": "ctr"}, metrics=metrics, mde=0.16, **claims)
    made = size(asked, events, days=[14])
    shown, bought = made.margins
    users = last(events, 14).group_by("user").agg(
        y=(pl.col("event") == "impression").sum(), b=(pl.col("event") == "purchase").any()
    )  # fmt: skip
    design = Design(alternative="greater", alpha=0.025, scale="relative")
    base = Baseline.mean(users["y"].to_numpy())
    assert shown.needed == pytest.approx(margin_size(base, design, margin=0.05), rel=1e-9)
    assert shown.power == pytest.approx(margin_power(base, design, units=users.height, margin=0.05), rel=1e-9)
    se = np.sqrt(4 * users["b"].mean() * (1 - users["b"].mean()) / users.height)
    assert bought.power == pytest.approx(max(2 * stats.norm.cdf(0.02 / se - stats.norm.ppf(0.95)) - 1, 0), abs=1e-3)
    assert "equivalence bought (equal within 0.02): with arms that are alike it is shown with" in made.text()
    always = size(plan({"kind": "ctr"}, metrics=metrics, sequential={"tune": 1000}, **claims), events, days=[14])
    assert all(more.needed > once.needed for more, once in zip(always.margins, made.margins, strict=True))


def test_a_claim_that_cannot_be_sized_is_said(events):
    metrics = {
        "m": {"kind": "ctr"},
        "p90": {"kind": "value", "quantile": 0.9},
        "viewed": {"kind": "count", "event": "view"},
    }
    made = size(
        plan({"kind": "ctr"}, metrics=metrics, guardrails={"p90": {"margin": 0.1}, "viewed": {"margin": 0.1}}), events
    )
    assert made.margins == ()
    assert "guardrail p90 is not sized: it is a quantile" in made.notes
    assert any(
        note.startswith("guardrail viewed is not sized: variance = 0.0 should be above 0") for note in made.notes
    )


def test_a_quantile_is_refused(events):
    with pytest.raises(InputError, match=r"metrics.m.quantile = 0.9 cannot be sized; size it by its mean"):
        size(plan({"kind": "value", "quantile": 0.9}), events)


def test_times_that_are_none_are_refused(events):
    broken = events.with_columns(pl.when(pl.col("user") > 5).then(pl.col("time")))
    with pytest.raises(InputError, match=r"events: 'time' is missing in \d+ rows"):
        size(plan({"kind": "ctr"}), broken)


def test_who_was_not_followed_is_no_unit_and_shorter_runs_are_not_tried(events):
    windowed = plan({"kind": "conversion", "window": "7d"}, mde=0.5)
    found = size(windowed, events)
    assert min(run.days for run in found.runs) > 7
    (run,) = size(windowed, events, days=[14]).runs
    first = last(events, 14).group_by("user").agg(since=pl.col("time").cast(pl.Int64).min())
    followed = first.filter(pl.col("since") + 7 * DAY <= END)
    assert 0 < followed.height < first.height
    assert run.units == followed.height
    bought = events.filter(event="purchase").join(followed, on="user").filter(
        pl.col("time").cast(pl.Int64).is_between("since", pl.col("since") + 7 * DAY, closed="left")
    )  # fmt: skip
    assert run.baseline.value == pytest.approx(bought["user"].n_unique() / followed.height)
    with pytest.raises(InputError, match="metric 'm' needs 7 days after exposure"):
        size(windowed, events, days=[5])


def test_the_order_of_the_events_changes_no_digit(events):
    made = plan({"kind": "ctr", "covariate": True})
    one, other = (size(made, each, days=[7, 9]) for each in (events, events.sample(fraction=1, shuffle=True, seed=1)))
    assert one.runs == other.runs
