"""A plain table of recommendations is measured as the system that made it."""

from __future__ import annotations

import math
from dataclasses import replace

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import suisen as su
from suisen.data.candidates import with_negatives
from suisen.data.dataset import Dataset
from suisen.errors import InputError
from tests.evaluation.toys import SLOW, slow_ranks
from tests.fitted import fitted, small_log, small_split

METRICS = ["ndcg@10", "hr@10", "recall@5", "mrr@10", "map@10", "precision@3", "coverage@10", "novelty@10",
           "popularity_bias@10"]  # fmt: skip


def plain(ids="text"):
    """The test queries without context features, which ``recommend`` is not given here."""
    test = small_split(ids).test
    missing = fitted("ease", ids).store.contexts(test.contexts.user, 0).context_features
    return replace(test, contexts=replace(test.contexts, context_features=missing))


def asked(rec, queries, k=30):
    """Lists for the queries' own histories: what ``evaluate`` asks for."""
    users = rec.store.users.raw(queries.contexts.user.numpy()).to_list()
    past = [rec.store.items.raw(row).to_list() if len(row) else [] for row in rows(queries.contexts.history)]
    return rec.recommend(users, k, history=past)


def rows(ragged):
    return [ragged.values[a:b].numpy() for a, b in zip(ragged.offsets[:-1].tolist(), ragged.offsets[1:].tolist())]


@pytest.mark.parametrize("name", ["ease", "ials", "two-tower", "ease + fm"])
@pytest.mark.parametrize("ids", ["text", "number"])
def test_the_lists_of_a_recommender_have_its_own_numbers(name, ids):
    rec, test = fitted(name, ids), plain(ids)
    report = su.evaluate(rec, test, METRICS)
    table = su.evaluate_frame(asked(rec, test), test, METRICS, name="mine")
    for metric in METRICS:
        assert table.value(metric) == pytest.approx(report.value(metric), abs=1e-6), metric
        assert table[metric].low == pytest.approx(report[metric].low, abs=1e-6)
        assert table[metric].n == report[metric].n
    assert (table.protocol, table.fingerprint) == (report.protocol, report.fingerprint)
    assert len(su.compare(report, table)) == len(METRICS)
    assert table.name == "mine"


@pytest.mark.parametrize("model", [su.EASE(l2=20.0), su.IALS(dim=8, epochs=2), su.ItemKNN()])
def test_lists_for_everybody_have_the_numbers_of_evaluate(model):
    split = Dataset.of(small_log()).split(su.LeaveLast(test=1, valid=0))
    rec = su.Recommender(model).fit(split.train)
    everybody = pl.concat(list(rec.recommend_all(80)))
    report, table = su.evaluate(rec, split.test, METRICS), su.evaluate_frame(everybody, split.test, METRICS)
    for metric in METRICS[:6]:  # the others count items, of which some tie for a place in the list
        assert table.value(metric) == pytest.approx(report.value(metric), abs=1e-6), metric
    assert "was taken before and is never offered" in str(table.notes)


def test_a_pandas_table_is_a_table():
    pandas = pytest.importorskip("pandas")
    rec, test = fitted("ease", "number"), small_split("number").test
    frame = asked(rec, test)
    theirs = pandas.DataFrame({name: frame[name].to_list() for name in frame.columns})
    assert su.evaluate_frame(theirs, test, ["ndcg@10"]).value("ndcg@10") == pytest.approx(
        su.evaluate_frame(frame, test, ["ndcg@10"]).value("ndcg@10"), abs=1e-6
    )


def test_ranks_alone_scores_alone_pandas_and_files_say_the_same(tmp_path):
    rec, test = fitted("ease"), small_split().test
    frame = asked(rec, test)
    whole = su.evaluate_frame(frame, test, ["ndcg@10", "hr@5"])
    frame.sample(fraction=1.0, shuffle=True, seed=1).write_csv(tmp_path / "recs.csv")
    ways = [frame.drop(*names) for names in (["score"], ["rank"], ["rank", "score"])]
    ways += [frame.lazy(), frame.to_arrow(), tmp_path / "recs.csv", frame.rename({"user_id": "user"})]
    for other in ways:
        report = su.evaluate_frame(other, test, ["ndcg@10", "hr@5"])
        assert report.value("ndcg@10") == pytest.approx(whole.value("ndcg@10"), abs=1e-6)
    assert "in the order of the table" in str(su.evaluate_frame(frame.drop("rank", "score"), test).notes)


def test_ids_of_another_type_meet():
    rec, test = fitted("ease", "number"), small_split("number").test
    frame = asked(rec, test)
    text = frame.with_columns(pl.col("user_id").cast(pl.String), pl.col("item_id").cast(pl.Float64))
    same = [su.evaluate_frame(each, test, ["ndcg@10"]).value("ndcg@10") for each in (frame, text)]
    assert same[0] == same[1] > 0


@st.composite
def tables(draw):
    """Users with relevant items and short lists with ties, repetitions and items that nobody took."""
    users = draw(st.integers(1, 5))
    truth = {f"u{u}": draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)) for u in range(users)}
    recs = [
        (f"u{u}", draw(st.integers(1, 14)), draw(st.integers(0, 3)))
        for u in range(users + 1)
        for _ in range(draw(st.integers(0, 6)))
    ]
    return truth, recs or [("u0", 1, 1)]


@given(tables(), st.sampled_from(sorted(SLOW)), st.integers(1, 6), st.booleans())
def test_every_metric_is_its_definition(table, base, k, by_rank):
    truth, recs = table
    test = {"user": [u for u, its in truth.items() for _ in its], "item": [i for its in truth.values() for i in its]}
    column = "rank" if by_rank else "score"
    frame = {"user": [u for u, _, _ in recs], "item": [i for _, i, _ in recs],
             column: [10 - level if by_rank else level for _, _, level in recs]}  # fmt: skip
    report = su.evaluate_frame(frame, test, [f"{base}@{k}"])
    expected = []
    for user, wanted in truth.items():
        best = {}
        for who, item, level in recs:
            if who == user:
                best[item] = max(level, best.get(item, -1))
        expected.append(SLOW[base](slow_ranks(list(best.items()), wanted), k))
    assert report.values[f"{base}@{k}"].tolist() == pytest.approx(expected, abs=1e-6)


def test_users_without_recommendations_count_as_nothing_found():
    test = {"user_id": ["a", "b", "c"], "item_id": [1, 2, 3]}
    report = su.evaluate_frame({"user_id": ["a", "x"], "item_id": [1, 2], "score": [1.0, 1.0]}, test, ["hr@1"])
    assert report.values["hr@1"].tolist() == [1, 0, 0]
    said = " ".join(report.notes)
    assert "2 of 3 queries have no recommendations and count as 0" in said
    assert "1 users of the recommendations are not asked for" in said


def test_equal_scores_and_equal_ranks_find_nothing_by_luck():
    test = {"user_id": ["a"], "item_id": [1]}
    for column in ("score", "rank"):
        frame = {"user_id": ["a"] * 3, "item_id": [1, 2, 3], column: [5, 5, 5]}
        report = su.evaluate_frame(frame, test, ["hr@1", "hr@2", "hr@3"])
        assert [report.value(f"hr@{k}") for k in (1, 2, 3)] == [0, 0, 1]


def test_equal_scores_are_ties_whatever_the_ranks_beside_them_say():
    frame = {"user_id": ["a"] * 3, "item_id": [1, 2, 3], "score": [5.0, 5.0, 1.0], "rank": [1, 2, 3]}
    report = su.evaluate_frame(frame, {"user_id": ["a"], "item_id": [1]}, ["hr@1", "hr@2"])
    assert [report.value("hr@1"), report.value("hr@2")] == [0, 1]


def test_scores_that_float32_cannot_tell_apart_are_told_apart():
    frame = {"user_id": ["a"] * 3, "item_id": [1, 2, 3], "score": [1e9 + 3, 1e9 + 2, 1e9 + 1]}
    report = su.evaluate_frame(frame, {"user_id": ["a"], "item_id": [2]}, ["mrr@3"])
    assert report.value("mrr@3") == 0.5


def test_columns_of_the_test_that_are_not_read_are_said():
    test = {"user_id": ["a"], "item_id": [1], "rating": [1.0]}
    report = su.evaluate_frame({"user_id": ["a"], "item_id": [1], "rank": [1]}, test, ["hr@1"])
    assert "every row counts as taken; 1 more columns are not read" in str(report.notes)


def test_where_people_take_things_again_seen_items_may_be_recommended():
    rec, test = fitted("ease"), plain()
    users = rec.store.users.raw(test.contexts.user.numpy()).to_list()
    past = [rec.store.items.raw(row).to_list() for row in rows(test.contexts.history)]
    frame = rec.recommend(users, 30, history=past, exclude_seen=False)
    report = su.evaluate(rec, test, ["hr@10"], exclude_seen=False)
    table = su.evaluate_frame(frame, test, ["hr@10"], exclude_seen=False)
    assert table.value("hr@10") == pytest.approx(report.value("hr@10"), abs=1e-6)
    assert (table.protocol, table.fingerprint) == (report.protocol, report.fingerprint)


def test_a_diversified_list_goes_by_its_rank():
    frame = {"user_id": ["a"] * 3, "item_id": [1, 2, 3], "score": [3.0, 1.0, 2.0], "rank": [1, 2, 3]}
    report = su.evaluate_frame(frame, {"user_id": ["a"], "item_id": [2]}, ["mrr@3"])
    assert report.value("mrr@3") == 0.5
    assert "rank gives the order" in str(report.notes)


def test_what_was_taken_before_is_passed_over_and_said():
    rec, test = fitted("ease"), small_split().test
    clean = su.evaluate_frame(asked(rec, test), test, ["ndcg@10"])
    seen = pl.DataFrame({
        "user_id": [u for u, row in zip(rec.store.users.raw(test.contexts.user.numpy()), rows(test.seen)) for _ in row],
        "item_id": pl.concat([rec.store.items.raw(row) for row in rows(test.seen)]), "score": 1e6, "rank": 0,
    })  # fmt: skip
    mixed = pl.concat([seen, asked(rec, test)], how="vertical_relaxed")
    report = su.evaluate_frame(mixed, test, ["ndcg@10"])
    assert report.value("ndcg@10") == pytest.approx(clean.value("ndcg@10"), abs=1e-6)
    assert f"{seen.height:,} recommended items were taken before" in str(report.notes)


def test_short_lists_repeats_and_unknown_items_are_said():
    test = small_split().test
    user = small_split().train.users.raw(test.contexts.user[:1].numpy())[0]
    frame = {"user_id": [user] * 3, "item_id": ["nothing", "nothing", "else"], "rank": [1, 2, 3]}
    report = su.evaluate_frame(frame, test, ["hr@10", "coverage@10"])
    said = " ".join(report.notes)
    for words in ("1 rows repeat an item", "longest list holds 2 items", "2 recommended items are unknown to train"):
        assert words in said
    assert math.isclose(report.value("coverage@10"), 0, abs_tol=1e-9)


TEST = {"user_id": ["a"], "item_id": [1]}


@pytest.mark.parametrize(
    ("frame", "metrics", "message"),
    [
        ({"who": ["a"], "item_id": [1]}, None, "pass user="),
        ({"user_id": ["a"], "what": [1]}, None, "pass item="),
        ({"user_id": ["a", None], "item_id": [1, 2]}, None, "user_id is missing in 1 rows, first at row 2"),
        ({"user_id": ["a"], "item_id": [1], "score": [math.nan]}, None, "score = nan at row 1 is no number"),
        ({"user_id": ["a"], "item_id": [1], "rank": ["best"]}, None, "rank = 'best' at row 1 is no number"),
        ({"user_id": [], "item_id": []}, None, "has no rows"),
        ({"user_id": ["a"], "item_id": [1]}, ["ndgc@10"], "did you mean 'ndcg@10'"),
        ({"user_id": ["a"], "item_id": [1]}, ["mrr"], "write a cut-off"),
        ({"user_id": ["a"], "item_id": [1]}, ["novelty@10"], "give the test queries of a split"),
        ({"user_id": ["a"], "item_id": [1]}, [], "name at least one"),
    ],
)
def test_what_cannot_be_measured_is_refused(frame, metrics, message):
    with pytest.raises(InputError, match=message):
        su.evaluate_frame(frame, TEST, metrics)


def test_queries_that_a_table_cannot_answer_are_refused():
    split = small_split()
    negatives = with_negatives(split.test, split.train, n=5)
    with pytest.raises(InputError, match="queries without candidates"):
        su.evaluate_frame(TEST, negatives)
    with pytest.raises(InputError, match=r"give its part: split\.test"):
        su.evaluate_frame(TEST, split)
    with pytest.raises(InputError, match="do not know the ids of their users"):
        su.evaluate_frame(TEST, replace(split.test, asked=None))


def test_a_part_of_the_queries_and_valid_are_measured_too():
    rec, split = fitted("ease"), small_split()
    some = plain().take(torch.arange(0, 40, 3))
    whole = su.evaluate(rec, some, ["ndcg@10"])
    assert su.evaluate_frame(asked(rec, some), some, ["ndcg@10"]).value("ndcg@10") == pytest.approx(
        whole.value("ndcg@10"), abs=1e-6
    )
    assert len(su.evaluate_frame(asked(rec, split.valid), split.valid)) == len(split.valid)
