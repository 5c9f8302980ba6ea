"""suisen experiment off-policy and interleave: what they print is what the functions say, and bad columns are named."""

import json

import numpy as np
import polars as pl
import pytest

from suisen.experiments.interleaving import preference
from suisen.experiments.logged import Logged
from suisen.experiments.off_policy import Settings, evaluate_policy
from tests.cli.conftest import call, refused

MEANS, TARGET = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.1, 0.1, 0.7])


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log of uniform draws among four actions, with a reward model that is right."""
    rng = np.random.default_rng(0)
    action = rng.integers(4, size=4_000)
    reward = (rng.random(4_000) < MEANS[action]).astype(int)
    frame = pl.DataFrame({
        "reward": reward, "propensity": 0.25, "target": TARGET[action], "user": np.arange(4_000) // 4,
        "q": MEANS[action], "q_new": float(TARGET @ MEANS), "name": "x", "gap": [None, *range(3_999)],
    })  # fmt: skip
    path = tmp_path_factory.mktemp("logged") / "log.csv"
    frame.write_csv(path)
    return path


def test_off_policy_says_what_the_function_says(log):
    words = ["experiment", "off-policy", log, "--unit", "user", "--expected", "q_new", "--predicted", "q"]
    said = json.loads(call(*words, "--json").stdout)
    frame = pl.read_csv(log, schema_overrides={"user": pl.String})
    read = Logged.read(
        frame, reward="reward", propensity="propensity", target="target", unit="user", expected="q_new", predicted="q"
    )
    found = evaluate_policy(read, ["ips", "snips", "dm", "dr"])
    assert said["units"] == 1_000
    for mine, theirs in zip(said["estimates"], found.estimates, strict=True):
        assert list(mine.values())[1:] == pytest.approx(theirs[1:], rel=1e-12)
    for each in said["estimates"]:
        if each["estimator"] != "dm":
            assert each["lift_low"] < TARGET @ MEANS - 0.25 < each["lift_high"]
            assert each["relative_low"] < (TARGET @ MEANS - 0.25) / 0.25 < each["relative_high"]
    assert "lift over the log" in call(*words).stdout


def test_off_policy_passes_its_settings_on(log):
    words = ["experiment", "off-policy", log, "--interval", "bernstein", "--clip", "2", "--level", "0.9", "--json"]
    said = json.loads(call(*words).stdout)
    read = Logged.read(pl.read_csv(log), reward="reward", propensity="propensity", target="target")
    found = evaluate_policy(read, ["ips"], Settings(interval="bernstein", clip=2, level=0.9))
    assert [each["estimator"] for each in said["estimates"]] == ["ips"]
    assert said["estimates"][0]["lift_low"] == pytest.approx(found["ips"].lift_low)
    assert said["estimates"][0]["relative_low"] is None
    assert said["clipped"] == found.clipped > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.csv"], "table = none.csv is no file"),
        (["{log}", "--target", "targt"], "column = 'targt' is unknown; did you mean 'target'?"),
        (["{log}", "--propensity", "propensities"], "column = 'propensities' is unknown; did you mean 'propensity'?"),
        (["{log}", "--reward", "name"], "reward: the column 'name' holds String; give numbers"),
        (["{log}", "--reward", "gap"], "reward = nan in row 0; give finite numbers"),
        (["{log}", "--unit", "gap"], "unit: the column 'gap' is empty in 1 rows"),
        (["{log}", "--predicted", "q"], "--predicted goes with --expected"),
        (["{log}", "--target", "user"], "outside [0, 1]; give the policy's probabilities"),
        (["{log}", "--level", "95"], "level = 95"),
        (["{log}", "--interval", "bernstein"], "needs a bound on the weights"),
    ],
)
def test_what_is_wrong_with_a_log_is_one_line(log, words, message):
    assert message in refused("experiment", "off-policy", *(word.replace("{log}", str(log)) for word in words))


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """(credits of lists, the same shown item by item): B is clicked three times as often."""
    rng, folder = np.random.default_rng(1), tmp_path_factory.mktemp("lists")
    user, team = np.repeat(np.arange(200), 6), np.tile(["old", "new", ""], 400)
    clicks = (rng.random(1_200) < np.where(team == "new", 0.3, 0.1)).astype(int)
    shown = pl.DataFrame({"user": user, "team": team, "clicks": clicks, "other": np.where(team == "", "x", team)})
    shown.write_csv(folder / "shown.csv")
    credits = shown.group_by("user", maintain_order=True).agg(
        a=pl.col("clicks").filter(pl.col("team") == "old").sum(),
        b=pl.col("clicks").filter(pl.col("team") == "new").sum(),
    )
    credits.write_csv(folder / "credits.csv")
    return folder


def test_interleave_says_the_same_of_credits_and_of_clicks(lists):
    of_credits = json.loads(call("experiment", "interleave", lists / "credits.csv", "--json").stdout)
    words = ["--team", "team", "--clicks", "clicks", "--unit", "user", "--a", "old", "--b", "new"]
    of_clicks = json.loads(call("experiment", "interleave", lists / "shown.csv", *words, "--json").stdout)
    found = preference(pl.read_csv(lists / "credits.csv").select("a", "b").to_numpy())
    assert of_credits == of_clicks == pytest.approx(found._asdict())
    assert found.p < 0.01
    said = call("experiment", "interleave", lists / "shown.csv", *words).stdout
    assert f"{found.wins_b} prefer B" in said
    assert f"p = {found.p:.3g}" in said
    swapped = json.loads(
        call("experiment", "interleave", lists / "credits.csv", "--a", "b", "--b", "a", "--json").stdout
    )
    assert (swapped["wins_a"], swapped["delta"]) == (found.wins_b, pytest.approx(-found.delta))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["credits.csv", "--a", "c"], "column = 'c' is unknown"),
        (["credits.csv", "--team", "a"], "--team and --clicks go together"),
        (["shown.csv", "--team", "team", "--clicks", "clicks"], "--team needs --unit"),
        (["credits.csv", "--a", "b"], "--a and --b both say 'b'; name two rankers"),
        (["shown.csv", "--a", "team", "--b", "clicks"], "team: the column 'team' holds String; give numbers"),
        (["credits.csv", "--level", "95"], "level = 95"),
        (
            ["shown.csv", "--team", "other", "--clicks", "clicks", "--unit", "user", "--a", "old", "--b", "new"],
            "team: the column 'other' holds 'x', which is neither --a old nor --b new",
        ),
    ],
)
def test_what_is_wrong_with_lists_is_one_line(lists, words, message):
    assert message in refused("experiment", "interleave", lists / words[0], *words[1:])
