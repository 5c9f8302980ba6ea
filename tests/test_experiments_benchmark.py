"""The benchmarks of the experiments at a size that takes seconds: every part leaves its line, none is run twice."""

from __future__ import annotations

import json
import sys
import zipfile
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy import special

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "benchmarks")]

import common  # noqa: E402
import off_policy  # noqa: E402
import verdicts  # noqa: E402

import experiments  # noqa: E402
from suisen.experiments.off_policy import Settings, evaluate_policy  # noqa: E402
from suisen.experiments.simulation.simulate import FAST, RESAMPLING, band  # noqa: E402


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(experiments, "ProcessPoolExecutor", lambda threads, mp_context: ThreadPoolExecutor(1))
    monkeypatch.setattr(experiments, "SIZES", (40,))
    monkeypatch.setattr(experiments, "METRICS", ("counts", "ctr", "before"))
    monkeypatch.setattr(experiments, "COVERED", ("ctr", "lognormal-1"))
    monkeypatch.setattr(experiments, "POWERED", {"before": "welch"})
    return tmp_path / experiments.FILE


def test_every_part_leaves_its_lines_and_is_not_run_twice(results, monkeypatch, capsys):
    whole = list(experiments.jobs(10_000))
    assert len({job.key for job in whole}) == len(whole)
    assert {job.part for job in whole} == set(experiments.PARTS)
    chosen = ["errors", "resampling", "coverage", "power", "srm", "cuped", "unplanned", "zero", "adjusted"]
    monkeypatch.setattr(experiments, "jobs", lambda repeat: (job._replace(runs=20) for job in whole))
    todo = experiments.wanted(Namespace(repeat=20, part=chosen))
    assert {job.part for job in todo} == set(chosen)
    experiments.work(todo, 1)
    assert experiments.wanted(Namespace(repeat=20, part=chosen)) == []
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(lines) == len(todo) == len(capsys.readouterr().out.splitlines())
    tests = {line["name"]: [row["test"] for row in line["rows"]] for line in lines if line["part"] == "errors"}
    assert tests["ctr, n = 40, 90%/10%"] == list(FAST["ratio"])
    assert all(line["rows"][0]["test"] in RESAMPLING for line in lines if line["part"] == "resampling")
    report = "\n".join(experiments.report(lines))
    assert "| ctr, n = 40, 50%/50% | delta |" in report
    assert "| rho = 0.5 | 0.7" in report
    assert "| mean, correlation 0.98, effect +150% | cuped, relative, its interval |" in report
    zero = next(line for line in lines if line["name"] == "control 0, effect +0%")
    assert [row["test"] for row in zero["rows"]] == ["welch"]  # there is no share of 0
    row = next(line for line in lines if line["name"] == "control -1, effect +50%")["rows"][1]
    assert (row["test"], row["rejected"]) == ("welch, relative", None)  # an effect that is found is no false alarm
    assert row["covered"] >= 15


def test_verdicts_before_the_end_of_rare_buyers_and_on_one_side():
    early = {row["test"]: row for row in verdicts.early(3, users=1_500)}
    assert early[verdicts.BY_THEN]["rejected"] == 3
    assert early["z, one look"]["rejected"] < 3
    caps = {row["test"]: row for row in verdicts.capped(20, buyers=0.03, share=0.5, n=500)}
    assert set(caps) == {"welch", "winsorised, 0.95", "winsorised, 0.99", "cap = 5", "log"}
    assert all(row["covered"] + row["rejected"] == 20 for row in caps.values())
    up, down = (verdicts.one_sided(50, law_name="conversion", alternative=each) for each in ("greater", "less"))
    assert all(row["covered"] + row["rejected"] == 50 for row in (*up, *down))
    assert [row["rejected"] for row in up] != [row["rejected"] for row in down]


def test_looks_that_are_forgotten_find_what_is_not_there():
    kept, forgot = verdicts.unplanned(20_000, shares=(0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2), spending="pocock")
    assert kept["rejected"] < 0.055 * 20_000 < 0.09 * 20_000 < forgot["rejected"]


def test_the_worlds_parts_answer(monkeypatch):
    monkeypatch.setattr(experiments, "world", small_world)
    (line,) = experiments.interleaving(5, noise=0.2)
    assert line["times"] > 1
    assert {row["metric"] for row in experiments.browsing(3, noise=0.2)} >= {"ctr", "revenue"}
    (first, *_) = experiments.looks(3, law="counts", effect=True)
    assert first["lift"] > 0


def small_world(**habits):
    return experiments.Browsing.of(experiments.World(users=300, items=40, seed=0).generate(), **{"days": 4, **habits})


def test_the_effect_is_the_one_that_the_formula_finds():
    lift, analytic = experiments.detectable("before", 4_000)
    assert analytic == pytest.approx(0.8, abs=1e-3)
    assert lift == pytest.approx((1.96 + 0.8416) / np.sqrt(2000), rel=1e-2)
    for name in ("conversion", "ctr"):
        assert experiments.detectable(name, 4_000)[1] == pytest.approx(0.8, abs=0.02)


def test_rows_are_judged_by_one_band_for_all():
    lines = [
        {"name": "a", "runs": 1000, "rows": [{"test": "welch", "rejected": 50, "warned": 0.0}]},
        {"name": "b", "runs": 1000, "rows": [{"test": "welch", "rejected": 150, "warned": 1.0}]},
        {
            "name": "c",
            "runs": 1000,
            "rows": [{"test": "z", "rejected": 150, "warned": None}, {"test": "x", "rejected": 2}],
        },
        {"name": "d", "runs": 1000, "rows": [{"test": "z of impressions", "rejected": 150}]},
    ]
    rows = experiments.rated(lines, "rejected", 0.05)
    assert [row.verdict for row in rows] == ["inside", "above, warned", "above", "below", "above, the trap"]
    assert {(row.low, row.high) for row in rows} == {band(0.05, 1000, 5)}


# -- the Open Bandit sample, on a made-up copy of its layout ----------------------------------------------------------


@pytest.fixture
def wheel(tmp_path):
    rng = np.random.default_rng(0)
    head = "timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1"
    drawn = zip(rng.integers(4, size=240), rng.random(240) < 0.3)
    rows = [
        f"2019-11-24 00:00:{i % 60:02d}+00:00,{item},{1 + i % 3},{int(click)},0.25,u{i % 3},v{i % 2}"
        for i, (item, click) in enumerate(drawn)
    ]
    items = [f"{i},{i / 4},a{i % 2},b{i}" for i in range(4)]
    priors = "\n".join(
        f"{name}:\n  alpha:\n"
        + "\n".join(f"    - {a}.0" for a in (2, 3, 4, 5))
        + "\n  beta:\n    - 30.0"
        + "\n    - 40.0" * 3
        for name in ("all", "men")
    )
    path = tmp_path / "sample.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for log in ("random", "bts"):
            archive.writestr(f"obp/dataset/obd/{log}/all/all.csv", "\n".join([head, *rows]))
            archive.writestr(
                f"obp/dataset/obd/{log}/all/item_context.csv",
                "\n".join(["item_id,item_feature_0,item_feature_1,item_feature_2", *items]),
            )
        archive.writestr("obp/policy/conf/prior_bts.yaml", priors)
    return path


def test_the_sample_is_read_and_judged(wheel, monkeypatch):
    alpha, beta = off_policy.prior(wheel)
    assert (alpha.tolist(), beta.tolist()) == ([2, 3, 4, 5], [30, 40, 40, 40])
    chances = off_policy.target(alpha, beta, draws=500)
    assert chances.shape == (4, 3)
    assert chances.sum(0).tolist() == pytest.approx([1, 1, 1])
    actions, items = off_policy.read(wheel)
    model = off_policy.predictions(actions, items)
    assert ((model > 0) & (model < 1)).all()
    log = off_policy.logged(actions, chances, model)
    row = int(np.flatnonzero(actions["position"].to_numpy() == 3)[0])
    assert log.weight[row] == pytest.approx(chances[actions["item_id"][row], 2] / 0.25)
    assert log.expected[row] == pytest.approx(chances[:, 2] @ model[row])
    monkeypatch.setattr(off_policy, "DRAWS", 500)
    monkeypatch.setattr(off_policy, "EXPECTED", {"mean weight": (1.0, 0.3)})
    record = off_policy.measured(wheel)
    found = evaluate_policy(log, ["dr"], Settings(interval="normal"))
    assert set(record["values"]) == {"ips", "snips", "dm", "dr"}
    assert found["dr"].value > 0
    monkeypatch.setattr(off_policy, "EXPECTED", {"mean weight": (3.0, 0.1)})
    with pytest.raises(SystemExit, match=r"mean weight: .* expected 3\.0"):
        off_policy.measured(wheel)


def test_the_reward_model_is_the_penalised_maximum():
    rng = np.random.default_rng(1)
    rows = np.hstack([np.ones((300, 1)), rng.normal(size=(300, 2))])
    labels = (rng.random(300) < special.expit(rows @ [-1, 2, 0])).astype(float)
    weights = off_policy.logistic(rows, labels, l2=2.0)
    gradient = rows.T @ (special.expit(rows @ weights) - labels) + np.array([0, 2, 2]) * weights
    assert gradient == pytest.approx([0, 0, 0], abs=1e-2)
