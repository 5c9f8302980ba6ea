"""suisen experiment: every command on small files, and what is said of bad ones."""

import json
import sys

import numpy as np
import polars as pl
import pytest

from suisen.cli.experiment_demo import band, covered
from suisen.experiments.simulation.repeats import Line, Repeated, Repeats
from tests.cli.conftest import call, refused

PLAN = """name = "buttons"
hypothesis = "A larger button is clicked more."
primary = "{primary}"
mde = 0.2
start = 2024-05-01
end = 2024-05-15
{more}
[arms]
control = 0.5
treatment = 0.5
[metrics.ctr]
kind = "ctr"
[metrics.bought]
kind = "conversion"
"""


def written(folder, primary="ctr", more="", name="plan.toml"):
    """A plan file."""
    path = folder / name
    path.write_text(PLAN.format(primary=primary, more=more), encoding="utf-8")
    return path


def log(days, users=400, start="2024-05-01", lift=0.0, seed=0):
    """(exposures, events): one visit a user of ten impressions; odd users are treated."""
    rng = np.random.default_rng(seed)
    at = np.datetime64(start, "us") + rng.integers(0, days * 86_400, users) * np.timedelta64(10**6, "us")
    arm = np.where(np.arange(users) % 2, "treatment", "control")
    clicks = rng.binomial(10, np.where(arm == "treatment", 0.2 * (1 + lift), 0.2))
    bought = rng.random(users) < 0.1
    ids = np.array([f"{i:04d}" for i in range(users)])
    parts = [np.repeat(10, users), clicks, bought.astype(int)]
    kinds = ("impression", "click", "purchase")
    events = pl.concat([
        pl.DataFrame({
            "user": np.repeat(ids, n), "time": np.repeat(at, n), "event": np.full(n.sum(), kind),
            "item": np.concatenate([np.arange(each) for each in n]),
        })
        for n, kind in zip(parts, kinds)
    ])  # fmt: skip
    return pl.DataFrame({"user": ids, "arm": arm, "time": at, "country": np.where(at < at[0], "JP", "DE")}), events


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Exposures and events of an experiment whose treatment is clicked half as often again, and events before it."""
    folder = tmp_path_factory.mktemp("experiment")
    exposures, events = log(14, lift=0.5)
    exposures.write_csv(folder / "exposures.csv")
    events.write_parquet(folder / "events.parquet")
    log(21, users=800, start="2024-04-01")[1].write_csv(folder / "before.csv")
    return folder


# -- plan --------------------------------------------------------------------------------------------------------------


def test_a_plan_is_said_and_frozen_and_what_changed_is_said(tmp_path):
    path = written(tmp_path)
    said = call("experiment", "plan", path).stdout
    assert "A larger button is clicked more." in said
    assert "not frozen" in said
    assert "frozen at" in call("experiment", "plan", path, "--freeze").stdout
    written(tmp_path, more="alpha = 0.1")
    assert "changed since: alpha: planned 0.05, now 0.1" in call("experiment", "plan", path).stdout
    assert "put it back" in refused("experiment", "plan", path, "--freeze")


def test_a_plan_is_sized_by_the_events_before_it(files, tmp_path):
    path = written(tmp_path)
    words = ["experiment", "plan", path, "--events", files / "before.csv", "--exposed-by", "impression"]
    facts = json.loads(call(*words, "--json").stdout)
    runs = {run["days"]: run for run in facts["runs"]}
    assert runs[14]["value"] == pytest.approx(0.2, abs=0.01)
    units = [runs[days]["units"] for days in sorted(runs)]
    assert units == sorted(units)
    assert facts["days"] == min(days for days, run in runs.items() if run["power"] >= 0.8)
    said = call(*words).stdout
    assert "smallest effect" in said
    assert f"{facts['days']} days give" in said


def test_a_plan_is_sized_by_numbers(tmp_path):
    from suisen.experiments.plan import load
    from suisen.experiments.power import Baseline, Design, arms_of, sample_size

    path = written(tmp_path, "bought", "sample = 9_000")
    said = json.loads(call("experiment", "plan", path, "--value", "0.1", "--daily", "500", "--json").stdout)
    plan = load(path)
    needed = sample_size(Baseline.proportion(0.1), Design.of(plan), effect=0.2)
    assert said["needed"] == pytest.approx(needed)
    assert said["arms"] == arms_of(needed, plan)
    assert said["days"] == -(-needed // 500)
    assert said["sample"]["power"] > 0.8
    assert "units find effects from" in call("experiment", "plan", path, "--value", "0.1").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "none.toml"], "none.toml does not exist; give the TOML file of a plan"),
        (["plan", "{plan}", "--value", "0.1"], "variance is missing: 'ctr' is no share of units"),
        (["plan", "{plan}", "--daily", "5"], "--daily goes with --value"),
        (["plan", "{plan}", "--value", "0.1", "--variance", "-1"], "variance = -1.0 must be above 0"),
        (["plan", "{plan}", "--exposed-by", "click"], "--exposed-by goes with --events"),
        (["plan", "{plan}", "--events", "x.csv", "--value", "1"], "give one of them"),
        (["plan", "{plan}", "--events", "none.csv"], "events = none.csv is no file; give a table of events"),
        (["plan", "{plan}", "--events", "{tmp}"], "is a folder; give a table of events"),
        (["plan", "{plan}", "--events", "{plan}"], "is of no known format; give .csv"),
        (["assign", "{plan}"], "give either --units FILE or --unit ID"),
        (["assign", "{plan}", "--unit", "1", "--out", "x.csv"], "--out goes with --units"),
        (["assign", "{plan}", "--units", "x.csv"], "--units needs --out FILE"),
        (["assign", "{plan}", "--units", "x.csv", "--out", "x.xls"], "out = x.xls has no known suffix"),
        (["assign", "{plan}", "--units", "x.csv", "--out", "no/x.csv"], "the folder no does not exist; make it first"),
        (["assign", "{plan}", "--unit", "1", "--at", "noon"], "at = 'noon' is neither a duration"),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, message):
    path = written(tmp_path, more="assignment = {ramp = {2024-05-01 = 0.5}}")
    filled = [word.replace("{plan}", str(path)).replace("{tmp}", str(tmp_path)) for word in words]
    assert message in refused("experiment", *filled)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read (empty CSV)"),
        ("user,time\n", "has a header and no rows; give at least one"),
        ("user,time\n1,2,3\n", "cannot be read (found more fields than defined in 'Schema')"),
        ("user,user\n1,2\n", "has the column 'user' twice; rename one"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, text, message):
    (tmp_path / "units.csv").write_text(text)
    words = ["experiment", "assign", written(tmp_path), "--units", tmp_path / "units.csv", "--out", tmp_path / "a.csv"]
    line = refused(*words)
    assert f"units = {tmp_path / 'units.csv'}" in line
    assert message in line
    assert not (tmp_path / "a.csv").exists()


# -- assign ------------------------------------------------------------------------------------------------------------


def test_units_get_their_arms_and_ids_stay_text(tmp_path):
    from suisen.experiments.assignment import Assigner
    from suisen.experiments.plan import load

    path = written(tmp_path, more='assignment = {eligible = "visits >= 3", holdout = 0.1}')
    ids = [f"{i:05d}" for i in range(2_000)]
    pl.DataFrame({"user": ids, "visits": [i % 10 for i in range(2_000)]}).write_csv(tmp_path / "units.csv")
    said = call(
        "experiment", "assign", path, "--units", tmp_path / "units.csv", "--out", tmp_path / "arms.parquet"
    ).stdout
    made = pl.read_parquet(tmp_path / "arms.parquet")
    assert made["user"].to_list() == ids
    alike = Assigner.of(load(path)).assign(pl.DataFrame({"user": ids, "visits": made["visits"]}))
    assert made["arm"].cast(pl.String).to_list() == alike["arm"].cast(pl.String).to_list()
    assert "no arm, ineligible: 600" in said
    first = made.filter(made["why"] == "assigned").row(0, named=True)
    one = call("experiment", "assign", path, "--unit", first["user"]).stdout
    assert one == f"{first['user']}\t{first['arm']}\tassigned\n"


def test_a_frozen_plan_moves_nobody(tmp_path):
    path = written(tmp_path)
    call("experiment", "plan", path, "--freeze")
    written(tmp_path, more='salt = "another"')
    assert "would move units between arms" in refused("experiment", "assign", path, "--unit", "1")


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "units.csv").write_text("uid\n1\n")
    words = ["experiment", "assign", written(tmp_path), "--units", tmp_path / "units.csv", "--out", tmp_path / "a.csv"]
    assert "unit = 'user' is unknown" in refused(*words)


# -- analyze and report ------------------------------------------------------------------------------------------------


def analyze_words(files, path, out):
    """The command line of an analysis."""
    where = ["--exposures", files / "exposures.csv", "--events", files / "events.parquet"]
    return ["experiment", "analyze", path, *where, "--out", out]


def test_an_analysis_is_said_kept_and_shown_again(files, tmp_path):
    path, out = written(tmp_path, more='segments = ["country"]'), tmp_path / "run"
    call("experiment", "plan", path, "--freeze")
    said = call(*analyze_words(files, path, out), "--moments", "3").stdout
    verdict = said.splitlines()[0]
    assert verdict.startswith("Treatment raises ctr by ")
    assert sorted(each.name for each in out.iterdir()) == [
        "estimates.csv", "plan.toml", "report.html", "result.json", "result.md"
    ]  # fmt: skip
    assert (out / "plan.toml").read_text() == path.read_text()
    assert (out / "result.md").read_text().startswith(f"**{verdict}**")
    assert pl.read_csv(out / "estimates.csv")["metric"].to_list() == ["ctr", "bought"]
    page = (out / "report.html").read_text()
    assert verdict in page
    for said in (verdict, page):
        assert "lan frozen at 20" in said  # today, and so
        assert "after the last event (2024-05-" in said
    assert "Nothing was changed after" not in page
    (out / "report.html").unlink()
    assert call("experiment", "report", out).stdout.splitlines()[0] == verdict
    assert (out / "report.html").read_text() == page
    assert json.loads((out / "result.json").read_text())["result"]["verdict"] == verdict


def test_without_the_report_an_analysis_is_whole_and_says_that_the_page_was_not_written(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)  # as if it were not installed
    path, out = written(tmp_path), tmp_path / "run"
    done = call(*analyze_words(files, path, out), "--moments", "0")
    assert "report.html was not written: jinja2 is not installed; run: pip install 'suisen[report]'" in done.stderr
    assert f"wrote {out / 'result.md'}, estimates.csv, result.json\n" in done.stdout
    assert {each.name for each in out.iterdir()} == {"plan.toml", "result.json", "result.md", "estimates.csv"}
    assert refused("experiment", "report", out).endswith("run: pip install 'suisen[report]'")


def test_the_command_on_the_page_repeats_the_analysis(files, tmp_path):
    import shlex

    path, out = written(tmp_path), tmp_path / "run"
    first = call(*analyze_words(files, path, out), "--moments", "0", "--now", "2024-05-20", "--json").stdout
    again = shlex.split(json.loads(first)["about"]["command"])
    assert again[0] == "suisen"
    second = json.loads(call(*again[1:], "--json").stdout)
    assert second["result"] == json.loads(first)["result"]
    asked = call(*analyze_words(files, path, tmp_path / "b"), "--moments", "0", "--duplicates", "drop", "--json").stdout
    assert "--duplicates drop" in json.loads(asked)["about"]["command"]
    assert json.loads(asked)["result"]["repeated"] == 0
    line = refused(*analyze_words(files, path, out))
    assert "is not empty; give another --out, or pass --overwrite" in line
    assert "--overwrite" in line


def test_looks_are_kept_beside_the_plan_and_spend_what_is_left(files, tmp_path):
    sequential = 'sample = 400\nsequential = {kind = "group", looks = [0.5, 1.0]}'
    path = written(tmp_path, more=sequential)
    exposures = pl.read_csv(files / "exposures.csv", infer_schema=False)

    def seen(units):
        exposures.head(units).write_csv(tmp_path / "exposures.csv")
        pl.read_parquet(files / "events.parquet").write_parquet(tmp_path / "events.parquet")
        words = [*analyze_words(tmp_path, path, tmp_path / "run"), "--moments", "3", "--overwrite"]
        return call(*words).stdout.splitlines()[0]

    first = seen(200)
    assert "; look 1 of 2 (50 % of the planned sample), " in first
    assert seen(200) == first
    assert "; UNPLANNED LOOK (75 % of the planned sample; planned at 50 %, 100 %), which spends only" in seen(300)
    assert "* looks: UNPLANNED LOOK (75 %" in (tmp_path / "run" / "result.md").read_text()
    assert "; look 2 of 2 (100 % of the planned sample), " in seen(400)
    assert "looks: UNPLANNED" not in (tmp_path / "run" / "result.md").read_text()
    looks = json.loads((tmp_path / "plan.looks.json").read_text())["looks"]
    assert [(one["share"], one["number"]) for one in looks] == [(0.5, 1), (0.75, 1), (1.0, 2)]
    assert looks[0]["verdict"] == first
    facts = json.loads((tmp_path / "run" / "result.json").read_text())["result"]
    assert [one["verdict"] for one in facts["looks"]] == [one["verdict"] for one in looks[:2]]
    assert "Looks before this one:" in (tmp_path / "run" / "report.html").read_text()


def test_a_changed_plan_is_on_the_page(files, tmp_path):
    path, out = written(tmp_path), tmp_path / "run"
    call("experiment", "plan", path, "--freeze")
    written(tmp_path, more="alpha = 0.1")
    said = call(*analyze_words(files, path, out), "--moments", "0").stdout
    assert "1 field of the plan changed after the start" in said.splitlines()[0]
    assert "Changed after the plan was frozen." in (out / "report.html").read_text()


def test_ids_of_two_types_meet(tmp_path):
    exposures, events = log(14, users=100)
    as_int = events.with_columns(pl.col("user").cast(pl.Int64))
    exposures.with_columns(pl.col("user").cast(pl.Int64)).write_csv(tmp_path / "exposures.csv")
    as_int.write_parquet(tmp_path / "events.parquet")
    said = call(*analyze_words(tmp_path, written(tmp_path), tmp_path / "run"), "--moments", "0").stdout
    assert "50 : 50 units" in said


def test_aa_says_that_arms_are_alike(tmp_path):
    exposures, events = log(14)
    exposures.write_csv(tmp_path / "exposures.csv")
    events.write_parquet(tmp_path / "events.parquet")
    words = analyze_words(tmp_path, written(tmp_path), tmp_path / "run")
    assert call(*words, "--aa", "--moments", "0").stdout.startswith("A/A: no difference in 2 tests")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ex, ev: (ex.drop("arm"), ev), "exposures has no column 'arm'"),
        (lambda ex, ev: (ex.filter(pl.col("arm") == "control"), ev), "arm 'treatment' has no units"),
        (lambda ex, ev: (ex, ev.filter(pl.col("event") != "impression")), "more 'click' than 'impression' events"),
        (lambda ex, ev: (ex.with_columns(arm=pl.lit("blue")), ev), "arm 'blue' is not in the plan"),
        (lambda ex, ev: (ex.with_columns(time=pl.lit("noon")), ev), "time = 'noon' is not a time"),
        (lambda ex, ev: (ex.with_columns(time=pl.col("time").dt.offset_by("1y")), ev), "none of 60 is between start"),
        (lambda ex, ev: (ex, ev.drop("user")), "events has no column 'user'"),
    ],
)
def test_bad_tables_are_one_line_and_leave_nothing(tmp_path, change, message):
    exposures, events = change(*log(14, users=60))
    exposures.write_csv(tmp_path / "exposures.csv")
    events.write_parquet(tmp_path / "events.parquet")
    assert message in refused(*analyze_words(tmp_path, written(tmp_path), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_result_is_named(tmp_path):
    assert "result.json does not exist" in refused("experiment", "report", tmp_path)
    assert "is no folder" in refused("experiment", "report", tmp_path / "none")


# -- demo and simulate -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """(what a small demo says, its folder)."""
    out = tmp_path_factory.mktemp("demo") / "run"
    return call("experiment", "demo", "--users", "600", "--out", out).stdout, out


def test_the_demo_prints_the_truth_beside_the_estimate(shown):
    said, out = shown
    facts = json.loads((out / "analysis" / "result.json").read_text())
    rows = {line.split()[0]: line for line in said.splitlines() if line.endswith(("  yes", "  no"))}
    assert list(rows) == ["ctr", "sessions", "conversion", "revenue"]
    for metric, _, _, relative in facts["about"]["truth"]:
        assert f"{100 * relative:+.3g} %" in rows[metric]
    assert facts["result"]["verdict"] in said
    assert facts["about"]["frozen_at"]
    assert "LOOKED AT EARLY" not in said
    sample = facts["result"]["plan"]["sample"]
    assert f"; sample ratio as planned; 600 of {sample:,} planned units ({60_000 / sample:.3g} %) at the end" in said
    assert facts["result"]["late"] == ""  # frozen before its world began
    assert "true effect" in (out / "analysis" / "report.html").read_text()


def test_every_command_works_on_the_files_of_the_demo(shown, tmp_path):
    _, out = shown
    assert "frozen at" in call("experiment", "plan", out / "plan.toml", "--events", out / "before.parquet").stdout
    arms = pl.read_csv(out / "arms.csv")
    one = call("experiment", "assign", out / "plan.toml", "--unit", arms["user"][0]).stdout
    assert one == f"{arms['user'][0]}\t{arms['arm'][0]}\tassigned\n"
    words = ["--exposures", out / "exposures.csv", "--events", out / "events.parquet", "--pre", out / "before.parquet"]
    again = call("experiment", "analyze", out / "plan.toml", *words, "--now", "2024-03-05", "--out", tmp_path / "a")
    assert (
        again.stdout.splitlines()[0] == json.loads((out / "analysis" / "result.json").read_text())["result"]["verdict"]
    )
    assert call("experiment", "report", out / "analysis").stdout.startswith(again.stdout.splitlines()[0])


def test_the_demo_takes_no_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    assert "holds something else than a run" in refused("experiment", "demo", "--out", tmp_path)
    assert "give 200 or more" in refused("experiment", "demo", "--users", "100", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_simulate_counts_the_intervals_that_hold_the_truth():
    words = ["experiment", "simulate", "--repeat", "40", "--units", "400", "--users", "600"]
    said = json.loads(call(*words, "--json").stdout)
    assert {line["metric"] for line in said["lines"]} >= {"ctr", "revenue"}
    for line in said["lines"]:
        assert line["coverage"] == line["covered"] / 40
        assert line["coverage"] > 0.8
    assert {line["adjusted"] for line in said["lines"]} == {True, False}
    assert "coverage of the 95 % intervals: " in call(*words, "--no-cuped").stdout


def test_few_repetitions_scatter_more():
    assert band(400) == band(4_000) == (0.92, 0.98)
    assert band(100) == pytest.approx((0.89, 1.0))
    line = Line("ctr", "absolute", adjusted=False, truth=0, mean=0, error=0, covered=36, coverage=0.9, found=0)
    assert "all inside 86% to 100%" in covered(Repeated((line,), Repeats(repeat=40)))
    assert covered(Repeated((line,), Repeats())).endswith("outside 92% to 98%: ctr (absolute)")
