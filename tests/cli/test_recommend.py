import json

import polars as pl
import pytest

from suisen.cli.queries import conditions
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
    assert "pass --unknown popular or --unknown skip" in refused(
        "recommend", run_folder, "--user", "nobody", "--unknown", "error"
    )
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
        (["--user", "u", "-k", "0"], "-k = 0 must be a whole number from 1"),
        (["--user", "u", "--diversity", "2"], "--diversity = 2.0 must be from 0 to 1"),
        (["--user", "u", "--unknown", "popluar"], "did you mean 'popular'"),
        (["--user", "u", "--context", "shelf"], "names no value; write name=value"),
        (["--user-features", "age=3"], "user feature"),
        (["--user", "u", "--histroy", "a"], "Did you mean '--history'"),
    ],
)
def test_mistakes_are_named(run_folder, words, message):
    assert message in refused("recommend", run_folder, *words)


def test_where_filters_by_attributes(run_folder):
    assert {item[0] for item in items(run_folder, "--user", KNOWN, "--where", "shelf=A", "-k", "40")} == {"A"}
    assert {i[0] for i in items(run_folder, "--user", KNOWN, "--where", "shelf = A|B", "-k", "40")} == {"A", "B"}
    assert "did you mean 'shelf'" in refused("recommend", run_folder, "--user", KNOWN, "--where", "shelv=A")
    assert "where: shelf = 'C' is unknown" in refused("recommend", run_folder, "--user", KNOWN, "--where", "shelf=C")
    assert "is no condition" in refused("recommend", run_folder, "--user", KNOWN, "--where", "shelf")
    assert "given twice" in refused("recommend", run_folder, "--user", "1", "--where", "a=1", "--where", "a=2")


def test_conditions_are_what_recommend_takes():
    assert conditions([]) is None
    assert conditions(["genre=Drama|War", "year>=1990", "year <= 1999", "note=a=b"]) == {
        "genre": ["Drama", "War"], "year": ("1990", "1999"), "note": ["a=b"],
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_file_of_users_and_histories(run_folder, tmp_path, suffix):
    rows = [(KNOWN, None), ("nobody", None), (None, ["A-1", "A-2", "A-3"]), (KNOWN, ["B-1", "B-2"])]
    frame = pl.DataFrame({"user_id": [u for u, _ in rows], "history": [h for _, h in rows]},
                         schema={"user_id": pl.String, "history": pl.List(pl.String)})  # fmt: skip
    path, out = tmp_path / f"q.{suffix}", tmp_path / "recs.parquet"
    if suffix == "csv":
        frame.with_columns(pl.col("history").list.join("|")).write_csv(path)
    elif suffix == "parquet":
        frame.write_parquet(path)
    else:
        frame.write_ndjson(path)
    result = call("recommend", run_folder, "--queries", path, "-k", "4", "--out", out)
    assert "16 rows in" in result.stdout
    assert "1 of 4 queries, of which the model knows nothing, got the popular list" in result.stderr
    recs = pl.read_parquet(out)
    assert recs.columns == ["user_id", "item_id", "score", "rank"]
    lists = recs["item_id"].reshape((4, 4)).to_list()
    assert lists[0] == items(run_folder, "--user", KNOWN, "-k", "4")
    assert lists[2] == items(run_folder, "--history", "A-1,A-2,A-3", "-k", "4")
    assert recs["user_id"].to_list()[::4] == [KNOWN, "nobody", "2", KNOWN]
    assert lists[3] != lists[0]


def test_histories_alone_are_numbered_through_the_chunks(run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("suisen.cli.queries.QUERIES_PER_CHUNK", 2)
    path, out = tmp_path / "q.csv", tmp_path / "recs.csv"
    path.write_text("history\nA-1|A-2\nB-1\nA-3|A-1\nB-2|B-5\nA-9\n")
    call("recommend", run_folder, "--queries", path, "-k", "3", "--out", out, "--where", "shelf=A")
    recs = pl.read_csv(out)
    assert recs["user_id"].to_list()[::3] == [0, 1, 2, 3, 4]
    assert recs["item_id"].to_list()[6:9] == items(run_folder, "--history", "A-3,A-1", "-k", "3", "--where", "shelf=A")


def test_files_that_ask_nothing_are_refused(run_folder, tmp_path):
    path, out = tmp_path / "q.csv", tmp_path / "recs.csv"
    path.write_text("who,what\n1,2\n")
    assert "name a column user_id or history" in refused("recommend", run_folder, "--queries", path, "--out", out)
    assert "--queries needs --out" in refused("recommend", run_folder, "--queries", path)
    assert "exclude each other" in refused("recommend", run_folder, "--queries", path, "--all-users", "--out", out)
    assert "--queries goes without --user" in refused("recommend", run_folder, "--queries", path, "--user", "1")
    path.write_text("user_id,history\n1,\n,A-1\n")
    assert "row 1 names no user, and 1 is a user too" in refused(
        "recommend", run_folder, "--queries", path, "--out", out
    )


def test_rules_of_a_file(run_folder, tmp_path):
    rules = tmp_path / "rules.toml"
    first = items(run_folder, "--user", KNOWN, "-k", "4")
    rules.write_text(f'[[pin]]\nname = "top"\nitem = "{first[3]}"\nposition = 1\n', encoding="utf-8")
    assert items(run_folder, "--user", KNOWN, "-k", "4", "--rules", rules) == [first[3], *first[:3]]
    rules.write_text('[[require]]\nname = "shelf"\nexpression = "shelf == request.shelf"\n', encoding="utf-8")
    found = answers(run_folder, "--user", KNOWN, "-k", "30", "--rules", rules, "--context", "shelf=A")[0]
    assert {item["item_id"][0] for item in found["items"]} == {"A"}
    assert found["unmet"] == {"shelf": "short"}
    result = call("recommend", run_folder, "--user", KNOWN, "-k", "30", "--rules", rules, "--context", "shelf=A")
    assert "note: rule 'shelf' left fewer items than were asked for in 1 of 1 lists" in result.stderr
    said = refused("recommend", run_folder, "--user", KNOWN, "--rules", rules)
    assert "rule 'shelf' needs request.shelf" in said
    assert "give shelf in --context" in said
    rules.write_text('[[cap]]\nname = "c"\ncolumn = "artist"\nmost = 1\n', encoding="utf-8")
    assert "rule 'c': column = 'artist' is unknown" in refused(
        "recommend", run_folder, "--user", KNOWN, "--rules", rules
    )
    assert "cannot be read" in refused("recommend", run_folder, "--user", KNOWN, "--rules", tmp_path / "absent.toml")


def test_rules_of_lists_for_everybody_are_said_once(run_folder, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('[[cap]]\nname = "one per shelf"\ncolumn = "shelf"\nmost = 1\n', encoding="utf-8")
    (tmp_path / "visitors.csv").write_text("history\nA-1|A-2\nB-1\n", encoding="utf-8")
    for words in (("--all-users",), ("--queries", tmp_path / "visitors.csv")):
        result = call("recommend", run_folder, *words, "-k", "3", "--rules", rules, "--out", tmp_path / "out.csv")
        assert result.stderr.count("rule 'one per shelf' gave way in") == 1
