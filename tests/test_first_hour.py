"""What a newcomer does wrong in the first hour: each slip gets one line that says the mend, or simply works.

The family: every public verb × every natural wrong argument.  Nothing but Suisen's own errors may come out.
"""

import json
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import suisen as su
from suisen.cli.flags import GroupedOption, in_flags
from suisen.data.durations import instant
from suisen.data.splits import ByRows
from suisen.data.synthetic import World
from suisen.errors import SuisenError
from suisen.pipeline.two_stage import RankerLists
from tests.cli.conftest import call, refused
from tests.fitted import allowed_of, fitted, small_log, small_split

TABLE = pl.DataFrame({"user": ["u1", "u2"], "item": ["i1", "i2"], "time": [1, 2]})
LISTS = pl.DataFrame({"user_id": ["u0001"], "item_id": ["i001"], "rank": [1]})
SLIPS = {
    "a name": "ease",
    "a class": su.EASE,
    "another class": dict,
    "a model": su.EASE(),
    "a ranker": su.DeepFM(),
    "a path": Path("events.csv"),
    "a frame": TABLE,
    "a lazy frame": TABLE.lazy(),
    "a pandas frame": TABLE.to_pandas(),
    "a column": TABLE["user"],
    "a pandas column": TABLE["user"].to_pandas(),
    "a split": small_split(),
    "a dataset": small_split().train,
    "queries": small_split().test,
    "a log": small_log(),
    "a rule": su.LeaveLast(),
    "options": su.RunOptions(),
    "settings": RankerLists(),
    "an index": su.HNSW(),
    "a recommender": fitted("ease"),
    "one id": "u1",
    "a number": 7,
    "a fraction": 0.5,
    "nan": float("nan"),
    "true": True,
    "nothing": None,
    "numpy's number": np.int64(5),
    "numpy's fraction": np.float32(0.5),
    "an array": np.array([1, 2]),
    "a matrix": np.array([[1, 2], [3, 4]]),
    "a tensor": torch.tensor([1, 2]),
    "a set": {"u1"},
    "a dict": {"a": 1},
    "a list": ["u1", "i1"],
    "a list of lists": [["u1"], ["i1"]],
    "a list of nothing": [None],
    "bytes": b"u1",
    "a date": date(2024, 1, 1),
    "a duration": timedelta(days=7),
    "a function": lambda: None,
}


@cache
def report():
    return su.evaluate(fitted("ease"), small_split().test)


VERBS = {
    "Recommender(x)": su.Recommender,
    "Recommender(ranker=x)": lambda x: su.Recommender(ranker=x),
    "Recommender(EASE(), ranker=x)": lambda x: su.Recommender(su.EASE(), ranker=x),
    "candidates=x": lambda x: su.Recommender(su.EASE(), candidates=x),
    "index=x": lambda x: su.Recommender(su.EASE(), index=x),
    "seed=x": lambda x: su.Recommender(su.EASE(), seed=x),
    "lists=x": lambda x: su.Recommender(su.EASE(), lists=x),
    "fit(x)": lambda x: su.Recommender(su.Popularity()).fit(x),
    "fit(train, x)": lambda x: su.Recommender(su.Popularity()).fit(small_split().train, x),
    "fit(train, options=x)": lambda x: su.Recommender(su.Popularity()).fit(small_split().train, options=x),
    "evaluate(x, test)": lambda x: su.evaluate(x, small_split().test),
    "evaluate(rec, x)": lambda x: su.evaluate(fitted("ease"), x),
    "evaluate(metrics=x)": lambda x: su.evaluate(fitted("ease"), small_split().test, x),
    "compare(x, report)": lambda x: su.compare(x, report()),
    "compare(metrics=x)": lambda x: su.compare(report(), report(), metrics=x),
    "compare(x)": su.compare,
    "funnel(x)": lambda x: fitted("ease + fm").funnel(x),
    "recommend(x)": lambda x: fitted("ease").recommend(x, unknown="skip"),
    "recommend(k=x)": lambda x: fitted("ease").recommend(["u0001"], k=x),
    "recommend(history=x)": lambda x: fitted("ease").recommend(history=x, unknown="skip"),
    "recommend(history=[x])": lambda x: fitted("ease").recommend(history=[x], unknown="skip"),
    "recommend(exclude=x)": lambda x: fitted("ease").recommend(["u0001"], exclude=x),
    "recommend(among=x)": lambda x: fitted("ease").recommend(["u0001"], among=x),
    "recommend(at=x)": lambda x: fitted("ease").recommend(["u0001"], at=x, unknown="skip"),
    "recommend(unknown=x)": lambda x: fitted("ease").recommend(["u0001"], unknown=x),
    "recommend(diversity=x)": lambda x: fitted("ease").recommend(["u0001"], diversity=x),
    "recommend(user_features=x)": lambda x: fitted("two-tower").recommend(user_features=x),
    "recommend(context=x)": lambda x: fitted("fm").recommend(["u0001"], context=x),
    "similar_items(x)": lambda x: fitted("ease").similar_items(x),
    "similar_items(k=x)": lambda x: fitted("ease").similar_items(["i001"], k=x),
    "load(x)": su.load,
    "from_frame(x)": su.Dataset.from_frame,
    "from_frame(user=x)": lambda x: su.Dataset.from_frame(TABLE, user=x),
    "from_frame(context=x)": lambda x: su.Dataset.from_frame(TABLE, context=x),
    "from_frame(user_features=x)": lambda x: su.Dataset.from_frame(TABLE, user_features=x),
    "from_frame(kinds=x)": lambda x: su.Dataset.from_frame(TABLE, kinds=x),
    "from_path(x)": su.Dataset.from_path,
    "Dataset.of(x)": su.Dataset.of,
    "split(x)": small_split().train.split,
    "LeaveLast(test=x)": lambda x: su.LeaveLast(test=x),
    "LeaveLast(valid=x)": lambda x: su.LeaveLast(valid=x),
    "LeaveLast(seed=x)": lambda x: su.LeaveLast(seed=x),
    "GlobalTime(test=x)": lambda x: su.GlobalTime(test=x),
    "GlobalTime(valid=x)": lambda x: su.GlobalTime(valid=x),
    "Ratio(test=x)": lambda x: su.Ratio(test=x),
    "Ratio(by=x)": lambda x: su.Ratio(by=x),
    "Sessions(test=x)": lambda x: su.Sessions(test=x),
    "Sessions(gap=x)": lambda x: su.Sessions(gap=x),
    "ClickRatio(valid=x)": lambda x: su.ClickRatio(valid=x),
    "ByRows(x)": ByRows,
    "RunOptions(patience=x)": lambda x: su.RunOptions(patience=x),
    "RunOptions(clip=x)": lambda x: su.RunOptions(clip=x),
    "RunOptions(average=x)": lambda x: su.RunOptions(average=x),
    "RunOptions(max_seconds=x)": lambda x: su.RunOptions(max_seconds=x),
    "RunOptions(checkpoint=x)": lambda x: su.RunOptions(checkpoint=x),
    "RunOptions(callbacks=x)": lambda x: su.RunOptions(callbacks=x),
    "RunOptions(seed=x)": lambda x: su.RunOptions(seed=x),
    "k_core(x)": lambda x: su.k_core(x, 1, 1),
    "refit(x)": lambda x: fitted("ease").refit(x),
    "partial_fit(x)": lambda x: fitted("ease").partial_fit(x),
    "explain(x)": lambda x: fitted("ease").explain(x, "u0001"),
    "explain(user=x)": lambda x: fitted("ease").explain("i001", x),
    "vectors(x)": lambda x: fitted("mf").vectors(x),
    "recommend(where=x)": lambda x: fitted("ease").recommend(["u0001"], where=x),
    "recommend_all(k=x)": lambda x: next(fitted("ease").recommend_all(k=x)),
    "evaluate_frame(x, test)": lambda x: su.evaluate_frame(x, small_split().test),
    "evaluate_frame(table, x)": lambda x: su.evaluate_frame(LISTS, x),
    "segments(x)": lambda x: su.segments(x, small_split().test),
    "segments(report, x)": lambda x: su.segments(report(), x),
    "segments(by=x)": lambda x: su.segments(report(), small_split().test, x),
    "cross_validate(x)": lambda x: su.cross_validate(x, small_split().train, su.Rolling(folds=2, test="1d")),
    "cross_validate(rec, x)": lambda x: su.cross_validate(su.Recommender(su.Popularity()), x, su.Rolling(folds=2)),
    "cross_validate(rec, data, x)": lambda x: su.cross_validate(su.Recommender(su.EASE()), small_split().train, x),
    "Rolling(folds=x)": lambda x: su.Rolling(folds=x),
    "Rolling(test=x)": lambda x: su.Rolling(test=x),
    "given_split(x)": lambda x: su.given_split(x, TABLE),
    "given_split(train, x)": lambda x: su.given_split(TABLE, x),
    "load_data(x)": lambda x: su.load_data(x, download=False),
}


@pytest.mark.filterwarnings("ignore:history. items that train does not know")
@pytest.mark.parametrize("verb", VERBS)
def test_no_slip_ends_in_somebody_elses_error(verb):
    for name, wrong in SLIPS.items():
        try:
            VERBS[verb](wrong)
        except SuisenError as error:
            said = str(error)
            assert "\n" not in said, (name, said)
            assert len(said) < 420, (name, said)
            assert "object at 0x" not in said, (name, said)
        except Exception as error:
            raise AssertionError(f"{verb} with {name}: {type(error).__name__}: {error}") from error


SAID = {
    "fit(x), a split": r"fit\(split.train, split.valid\)",
    "fit(x), a frame": r"Dataset.from_frame\(table\)",
    "fit(x), a path": r"Dataset.from_path\(path\)",
    "fit(x), queries": r"learn from split.train",
    "fit(x), a log": r"Dataset.of\(log\)",
    "fit(train, x), a dataset": r"valid = Dataset\(.*fit\(split.train, split.valid\)",
    "fit(train, x), options": r"fit\(train, options=",
    "evaluate(rec, x), a dataset": r"queries = Dataset\(.*give split.test",
    "evaluate(rec, x), a split": r"split.test",
    "evaluate(x, test), a model": r"Recommender\(EASE\(\)\).fit\(split.train\)",
    "evaluate(x, test), a path": r"suisen.load\(path\)",
    "Recommender(x), a name": r"retriever = 'ease' is a name; give the model: Recommender\(suisen.EASE\(\)\)",
    "Recommender(x), a class": r"the class EASE itself; make a model of it: Recommender\(EASE\(\)\)",
    "Recommender(x), a ranker": r"Recommender\(ranker=DeepFM\(\)\)",
    "split(x), a name": r"rule = 'ease' is no rule; give one",
    "GlobalTime(test=x), a number": r"GlobalTime: test = 7 is no duration and no time; name the unit, like '7d'",
    "recommend(x), one id": r"users = 'u1' is not a list; give a list, like users=\['u1'\]",
    "recommend(history=[x]), a set": "history = {'u1'} is a set, which has no order",
    "recommend(x), a frame": r"users = a DataFrame has several columns; give one of them, like users=table\['id'\]",
    "recommend(at=x), one id": r"at = 'u1' is no time; give ISO text",
    "compare(x), a list": r"compare\(\*reports\)",
    "from_path(x), a frame": r"Dataset.from_frame\(table\)",
    "from_frame(user=x), a column": "user = a Series must be the name of a column",
}


@pytest.mark.parametrize("case", SAID)
def test_the_line_says_the_mend(case):
    verb, slip = case.rsplit(", ", 1)
    with pytest.raises(SuisenError, match=SAID[case]):
        VERBS[verb](SLIPS[slip])


@pytest.mark.parametrize(("name", "model"), [("SASRec", "SASRec"), ("itemknn", "ItemKNN"), ("two_tower", "TwoTower")])
def test_a_model_by_name_is_told_its_class(name, model):
    with pytest.raises(su.InputError, match=rf"suisen.{model}\(\)"):
        su.Recommender(name)


# -- what simply works -------------------------------------------------------------------------------------------------


def numbers(k):
    return [np.int64(k), np.uint8(k), np.array(k), torch.tensor(k), pd.Series([k])[0]]


def test_numbers_of_any_library():
    rec = fitted("ease")
    plain = rec.recommend(["u0001"], k=5)
    for k in numbers(5):
        assert rec.recommend(["u0001"], k=k).equals(plain)
        assert rec.similar_items(["i001"], k=k).height == 5
        assert su.LeaveLast(test=k, valid=k) == su.LeaveLast(test=5, valid=5)
        assert su.Recommender(su.EASE(), candidates=k).candidates == 5
    for wrong in (5.0, "5", True, np.float64(5), None):
        with pytest.raises(su.InputError, match="must be a whole number"):
            rec.recommend(["u0001"], k=wrong)


def many(ids):
    """The same ids, held by everything that holds ids."""
    series = pd.Series(ids, index=range(7, 7 + len(ids)))  # an index that is no position
    plain = [tuple(ids), (one for one in ids), np.array(ids), np.array(ids, dtype=object), pl.Series(ids), series]
    categories = [series.astype("category"), pl.Series(ids).cast(pl.Categorical)]
    return [*plain, *categories, pd.Index(ids), dict.fromkeys(ids).keys()]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from([f"u{n:04}" for n in range(1, 60)]), min_size=1, max_size=4, unique=True))
def test_users_held_by_anything(ids):
    rec = fitted("ease")
    plain = rec.recommend(ids, k=3)
    for users in [*many(ids), set(ids)]:
        assert rec.recommend(users, k=3).sort("user_id", "rank").equals(plain.sort("user_id", "rank"))


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from(sorted(allowed_of(fitted("ease")))), min_size=1, max_size=4, unique=True))
def test_items_held_by_anything(ids):
    rec = fitted("ease")
    plain, barred = rec.recommend(history=[ids], k=3), rec.recommend(["u0001"], exclude=ids)
    among = rec.recommend(["u0001"], among=ids)
    alike = rec.similar_items(ids, k=2)
    for items in many(ids):
        held = items if not hasattr(items, "__next__") else list(items)
        assert rec.recommend(history=held, k=3).equals(plain)
        assert rec.recommend(history=(one for one in held), k=3).equals(plain)
        assert rec.recommend(history=[one for one in [held]], k=3).equals(plain)
        assert rec.recommend(["u0001"], exclude=held).equals(barred)
        assert rec.recommend(["u0001"], among=held).equals(among)
        assert rec.similar_items(held, k=2).equals(alike)


def test_numbers_as_ids_held_by_numpy():
    rec = fitted("ease", "numbers")
    plain = rec.recommend([1, 2], k=3)
    for users in (np.array([1, 2]), [np.int64(1), np.int32(2)], [1, np.int64(2)], pd.Series([1, 2]), range(1, 3)):
        assert rec.recommend(users, k=3).equals(plain)


def test_several_histories_held_by_anything():
    rec = fitted("ease")
    plain = rec.recommend(history=[["i001", "i002"], ["i003", "i004"]], k=3)
    for held in (
        np.array([["i001", "i002"], ["i003", "i004"]]),
        pd.Series([["i001", "i002"], ["i003", "i004"]]),
        pl.Series([["i001", "i002"], ["i003", "i004"]]),
        (iter(row) for row in (["i001", "i002"], ["i003", "i004"])),
        [pl.Series(["i001", "i002"]), np.array(["i003", "i004"])],
    ):
        assert rec.recommend(history=held, k=3).equals(plain)


# -- times -------------------------------------------------------------------------------------------------------------


MOMENT = datetime(2020, 1, 1, 12, 30, 15, 250_000, tzinfo=UTC)


def test_times_of_any_library_are_the_same_moment():
    micros = 1_577_881_815_250_000
    spelled = [micros, np.int64(micros), MOMENT, MOMENT.replace(tzinfo=None), MOMENT.isoformat(), pd.Timestamp(MOMENT),
               "2020-01-01T12:30:15.25", "2020-01-01T12:30:15.25Z", "2020-01-01 13:30:15.25+01:00",
               np.datetime64("2020-01-01T12:30:15.250"), np.datetime64("2020-01-01T12:30:15.250000000")]  # fmt: skip
    assert {instant("at", each) for each in spelled} == {micros}
    assert instant("at", date(2020, 1, 1)) == instant("at", "2020-01-01") == instant("at", np.datetime64("2020-01-01"))


@pytest.mark.parametrize("wrong", ["soon", "7d", 1.5, True, pd.NaT, np.datetime64("NaT"), [1], float("nan"), ""])
def test_what_is_no_time_is_refused(wrong):
    with pytest.raises(su.InputError, match=r"at = .* is no time; give ISO text"):
        fitted("ease").recommend(["u0001"], at=wrong)


def test_a_time_cuts_what_came_later():
    """Before anything happened the user has no history: nothing is left out as seen."""
    rec = fitted("ease")
    whole = rec.recommend(["u0001"], k=80)
    for early in ("1971-01-01", datetime(1971, 1, 1), date(1971, 1, 1), 31_536_000_000_000):
        assert rec.recommend(["u0001"], k=80, at=early, unknown="popular").height > whole.height


def test_cuts_of_any_spelling():
    week = su.GlobalTime(test="7d", valid="7d")
    for each in (timedelta(days=7), np.timedelta64(7, "D"), pd.Timedelta("7D"), timedelta(hours=168)):
        assert su.GlobalTime(test=each, valid=each) == week
    at = su.GlobalTime(test="2020-01-02T00:00:00")
    for each in (datetime(2020, 1, 2), np.datetime64("2020-01-02"), pd.Timestamp("2020-01-02")):
        assert su.GlobalTime(test=each) == at
    data = su.Dataset.of(World(users=30, items=20, seed=0).generate().log)
    half = data.split(su.GlobalTime(test=timedelta(hours=12), valid=timedelta(hours=6)))
    assert half.facts == data.split(su.GlobalTime(test="12h", valid="6h")).facts
    assert su.Sessions(test=timedelta(days=1), gap=timedelta(minutes=5)) == su.Sessions(test="1d", gap="300s")


@pytest.mark.parametrize("wrong", [7, 7.5, np.int64(7), "soon", "", "7", "7 days ago", True, [1], pd.NaT])
def test_a_cut_names_its_field_when_it_is_made(wrong):
    for field in ("test", "valid"):
        with pytest.raises(su.InputError, match=f"GlobalTime: {field} = "):
            su.GlobalTime(**{field: wrong})


# -- tables without names ----------------------------------------------------------------------------------------------


def test_a_frame_whose_columns_are_numbers():
    frame = pd.DataFrame([["u1", "i1", 5], ["u1", "i2", 6], ["u2", "i1", 7]])
    assert list(frame.columns) == [0, 1, 2]
    data = su.Dataset.from_frame(frame, user=0, item=1, time=2)
    assert repr(data) == "Dataset(2 users, 2 items, 3 events)"
    assert data.has_time
    with pytest.raises(su.InputError, match="columns: 0, 1, 2; pass user="):
        su.Dataset.from_frame(frame)
    frame, features = frame[[1, 0]].set_axis([0, 1], axis=1), pd.DataFrame([["i1", "red"], ["i2", "blue"]])
    data = su.Dataset.from_frame(frame, user=1, item=0, time=None, item_features=features, kinds={1: "categorical"})
    assert [field.name for field in data.schema.item] == ["1"]


def test_rows_as_dicts_are_a_table():
    rows = [{"user": "a", "item": "x"}, {"user": "b", "item": "y"}]
    assert repr(su.Dataset.from_frame(rows)) == "Dataset(2 users, 2 items, 2 events)"


# -- histories ---------------------------------------------------------------------------------------------------------


def test_unknown_items_of_a_history_are_named():
    rec = fitted("ease")
    with pytest.warns(UserWarning, match="items that train does not know are passed over: 'i999', 'x,y'$"):
        mixed = rec.recommend(history=["i001", "i999", "x,y"], k=3)
    assert mixed.equals(rec.recommend(history=["i001"], k=3))
    with pytest.warns(UserWarning, match="'z0', 'z1', 'z2', 'z3', 'z4' and 4 more$"):
        rec.recommend(history=[[f"z{n}" for n in range(9)] + ["i001"]], k=3)


def test_a_history_of_unknown_items_alone_is_refused_by_their_names():
    with pytest.raises(su.UnsupportedQuery if hasattr(su, "UnsupportedQuery") else su.SuisenError, match="'z1', 'z2'"):
        fitted("sasrec").recommend(history=["z1", "z2"])


def test_options_that_do_not_exist_have_a_near_one():
    with pytest.raises(su.InputError, match="evaluate: option = 'reapeats' is unknown; did you mean 'repeats'"):
        su.evaluate(fitted("ease"), small_split().test, reapeats=True)


# -- on the command line -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle whose ids hold commas, quotes and spaces."""
    items = ["a,b", "c, d", 'say "e"', "f"]
    rows = [(f"u,{user}", items[(user + step) % 4]) for user in range(8) for step in range(3)]
    data = su.Dataset.from_frame(pl.DataFrame(rows, schema=["user", "item"], orient="row"))
    return su.Recommender(su.EASE(l2=1.0)).fit(data).save(tmp_path_factory.mktemp("commas") / "bundle")


def listed_by(bundle, *words):
    said = call("recommend", bundle, *words, "--json")
    return [row["item_id"] for row in json.loads(said.stdout)["answers"][0]["items"]], said.stderr


def test_ids_that_hold_commas_can_be_given(bundle):
    everything = {"a,b", "c, d", 'say "e"', "f"}
    for words, gone in (
        (["--history", '"a,b"'], {"a,b"}),
        (["--history", '"a,b","c, d"'], {"a,b", "c, d"}),
        (["--history", '"a,b", f'], {"a,b", "f"}),
        (["--history", '"say ""e""",f'], {'say "e"', "f"}),
        (["--history", "f", "--exclude", '"c, d"'], {"f", "c, d"}),
    ):
        got, said = listed_by(bundle, *words)
        assert set(got) == everything - gone
        assert "passed over" not in said
    assert set(listed_by(bundle, "--history", "f", "--among", '"a,b","c, d"')[0]) == {"a,b", "c, d"}
    assert len(listed_by(bundle, "--user", "u,3")[0]) == 1


def test_an_id_split_at_its_comma_is_told_how_it_is_written(bundle):
    said = listed_by(bundle, "--history", "a,b", "--unknown", "popular")[1]
    assert "passed over: a, b; the id with a comma is written '\"a,b\"'" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-k", "0"], "-k = 0 must be a whole number from 1"),
        (["--diversity", "3"], "--diversity = 3.0 must be from 0 to 1"),
        (["--unknown", "nobody"], "--unknown = 'nobody' is unknown; known: error, popular, skip"),
    ],
)
def test_the_command_line_names_flags(bundle, words, said):
    assert said in refused("recommend", bundle, "--user", "u,1", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "leave-last", "--split.test", "-1"], "--split.test = -1 must be at least"),
        (["--split", "global-time", "--split.test", "7"], "--split.test = '7' is neither a duration"),
        (["--retriever", "mf", "--retriever.dim", "0"], "--retriever.dim = 0 should be"),
        (["--patience", "0"], "--patience = 0 must be at least 1"),
        (["--average", "2"], "--average = 2.0 must be"),
        (["--user", "who"], "--user = 'who' is no column"),
        (["--candidates", "0"], "--candidates = 0 must be at least 1"),
    ],
)
def test_training_names_flags(tmp_path, words, said):
    (tmp_path / "log.csv").write_text("user,item,time\n" + "".join(f"u{n % 9},i{n % 7},{n}\n" for n in range(63)))
    model = [] if "--retriever" in words else ["--retriever", "ease"]
    got = refused("train", "--events", tmp_path / "log.csv", *model, *words, "--out", tmp_path / "run")
    assert got.startswith(f"error: {said}")


def test_flags_stand_for_the_arguments_of_a_message():
    user = GroupedOption(["--user", "data__user"], "Data")
    test = GroupedOption(["--split.test", "split__test"], "Split: LeaveLast")
    assert in_flags("session = 1; pass user=", [user]) == "session = 1; pass --user"
    assert in_flags("LeaveLast: test = 0", [user, test]) == "--split.test = 0"
    assert (
        in_flags("Ratio: test = 0; LeaveLast(test=1, test='2')", [test])
        == "Ratio: test = 0; LeaveLast(test=1, test='2')"
    )
    assert in_flags("user = None needs session=: name it", [user]) == "--user = None needs session=: name it"
    assert in_flags("x; test=True or test='b c'", [test]) == "x; --split.test true or --split.test b c"
