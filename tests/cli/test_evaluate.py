import json

import pytest

from suisen.evaluation import Report
from tests.cli.conftest import call, data_flags, refused


def test_a_run_is_measured_again(run_folder):
    said = json.loads(call("evaluate", run_folder, "--json").stdout)
    kept = json.loads((run_folder / "metrics.json").read_text())["reports"]["test"]
    assert said["values_float32_base64"] == kept["values_float32_base64"]
    table = call("evaluate", run_folder, "--metrics", "hr@3,coverage@3,diversity@3", "--part", "valid").stdout
    assert [line.split()[0] for line in table.splitlines()[3:6]] == ["hr@3", "coverage@3", "diversity@3"]


def test_a_bundle_remembers_its_data_or_is_told(run_folder, shop):
    one = call("evaluate", run_folder / "measured", "--json").stdout
    flags = [word for word in data_flags(shop) if word not in ("--threads", "1")]
    two = call("evaluate", run_folder / "measured", *flags, "--json").stdout
    values = [Report.from_json(text).value("ndcg@10") for text in (one, two)]
    assert values[0] == values[1]


def test_other_data_are_refused(run_folder):
    assert "is not what the bundle was trained on" in refused("evaluate", run_folder, "--split.test", "2")


def test_runs_are_compared(run_folder, shop, tmp_path):
    call("train", *data_flags(shop), "--retriever", "popularity", "--out", tmp_path / "p", "--quiet")
    said = call("compare", tmp_path / "p", run_folder, "--metrics", "ndcg@10").stdout
    assert "a − p" in said
    row = json.loads(call("compare", tmp_path / "p", run_folder, "--metrics", "ndcg@10", "--json").stdout)[0]
    a, p = (json.loads((run / "metrics.json").read_text())["reports"]["test"] for run in (run_folder, tmp_path / "p"))
    assert row["difference"] == pytest.approx(a["scores"][0]["value"] - p["scores"][0]["value"])


@pytest.mark.parametrize("words", [["compare"], ["evaluate"]])
def test_something_must_be_named(words):
    assert "Missing argument" in refused(*words)


def test_mistakes_are_named(run_folder, tmp_path):
    assert "needs two runs or more" in refused("compare", run_folder)
    assert "is no run folder" in refused("compare", run_folder, run_folder / "bundle")
    assert "is no folder" in refused("compare", run_folder, tmp_path / "none")
    assert "did you mean 'ndcg@10'" in refused("evaluate", run_folder, "--metrics", "ncdg@10")
    assert "holds no bundle" in refused("evaluate", tmp_path)
