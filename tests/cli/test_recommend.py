import json

import polars as pl
import pytest

from tests.cli.conftest import call, refused

KNOWN = 'user "3", é'


def answers(run, *words):
    return json.loads(call("recommend", run, *words, "--json").stdout)["answers"]


def items(run, *words):
    return [item["item_id"] for item in answers(run, *words)[0]["items"]]


def test_titles_are_shown(run_folder):
    said = call("recommend", run_folder, "--user", KNOWN, "-k", "3").stdout
    assert "映画, “" in said
    assert said.splitlines()[1].split() == ["rank", "item", "title", "score"]
    assert len(said.splitlines()) == 5


def test_the_bundle_alone_answers_as_the_run_does(run_folder):
    assert items(run_folder, "--user", KNOWN) == items(run_folder / "bundle", "--user", KNOWN)


def test_an_unknown_user_gets_the_popular_list_and_is_told(run_folder):
    result = call("recommend", run_folder, "--user", "nobody", "-k", "3")
    assert "nothing is known of user nobody: this is the popular list" in result.stderr
    answer = answers(run_folder, "--user", "nobody", "-k", "3")[0]
    assert answer["answered_by"] == "popular"
    assert len(answer["items"]) == 3
    assert "pass unknown='popular'" in refused("recommend", run_folder, "--user", "nobody", "--unknown", "error")
    assert answers(run_folder, "--user", "nobody", "--unknown", "skip")[0] == {
        "query": "user nobody", "answered_by": "nobody", "items": [],
    }  # fmt: skip


def test_history_changes_the_list(run_folder):
    a, b = items(run_folder, "--history", "A-1, A-2, A-3"), items(run_folder, "--history", "B-1,B-2,B-3")
    assert a != b
    assert not {"A-1", "A-2", "A-3"} & set(a)
    assert "A-1" in items(run_folder, "--history", "A-1,A-2", "--with-seen", "-k", "48")
    result = call("recommend", run_folder, "--history", "A-1,A-99")
    assert "train does not know are passed over: A-99" in result.stderr


def test_filters(run_folder):
    first = items(run_folder, "--user", KNOWN, "-k", "5")
    rest = items(run_folder, "--user", KNOWN, "-k", "5", "--exclude", ",".join(first[:2]))
    assert not set(first[:2]) & set(rest)
    assert len(rest) == 5
    assert sorted(items(run_folder, "--user", KNOWN, "--among", ",".join(first[:2]))) == sorted(first[:2])
    assert set(items(run_folder, "--user", KNOWN, "-k", "5", "--diversity", "0.9")) != set(first)


def test_k_larger_than_the_catalogue_returns_what_there_is(run_folder):
    assert len(items(run_folder, "--user", "nobody", "-k", "1000")) == 48


def test_several_users(run_folder):
    both = answers(run_folder, "--user", KNOWN, "--user", "nobody")
    assert [answer["answered_by"] for answer in both] == ["model", "popular"]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_all_users_go_into_a_file(run_folder, tmp_path, suffix):
    out = tmp_path / "deep" / f"recs.{suffix}"
    said = call("recommend", run_folder, "--all-users", "-k", "4", "--out", out).stdout
    assert "160 rows in" in said
    frame = (pl.read_parquet if suffix == "parquet" else pl.read_csv)(out)
    assert frame.columns == ["user_id", "item_id", "score", "rank"]
    assert frame["user_id"].n_unique() == 40
    mine = frame.filter(pl.col("user_id") == KNOWN).sort("rank")["item_id"].to_list()
    assert mine == items(run_folder, "--user", KNOWN, "-k", "4")
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nobody is asked for; give --user"),
        (["--all-users"], "--all-users needs --out"),
        (["--all-users", "--out", "x.txt"], "must end in .parquet or .csv"),
        (["--all-users", "--user", "u", "--out", "x.csv"], "goes without --user"),
        (["--user", "u", "--out", "x.csv"], "--out goes with --all-users"),
        (["--user", "u", "-k", "0"], "k = 0 must be a whole number from 1"),
        (["--user", "u", "--diversity", "2"], "diversity = 2.0 must be from 0 to 1"),
        (["--user", "u", "--unknown", "popluar"], "did you mean 'popular'"),
        (["--user", "u", "--context", "shelf"], "names no value; write name=value"),
        (["--user-features", "age=3"], "user feature"),
        (["--user", "u", "--histroy", "a"], "Did you mean '--history'"),
    ],
)
def test_mistakes_are_named(run_folder, words, message):
    assert message in refused("recommend", run_folder, *words)
