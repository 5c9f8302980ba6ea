"""What is inspected is what is recommended; each rule names what it keeps out; contributions add up."""

from __future__ import annotations

import re
from dataclasses import replace

import polars as pl
import pytest
import torch

from suisen.errors import InputError, UnsupportedQuery
from suisen.recommending.answering import answer
from suisen.recommending.inspecting import SHOWN, inspect
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.users import RecentEvents
from tests.fitted import allowed_of, fitted, seen_by

HISTORY = ["i003", "i010", "i044"]
POPULAR = RecommendOptions(7, unknown="popular")
QUERIES = [
    {"users": ["u0001"]},
    {"users": ["u0007"], "history": [HISTORY]},
    {"history": [["i007"]]},
    {"users": ["ghost"]},
]


def raw(rec, items):
    return rec.store.items.raw(torch.as_tensor(items).numpy()).to_list()


def everything(rec):
    """Items of the catalogue."""
    return len(rec.store.items) - 1


def rules_of(rec, found):
    """item → rules, of those kept out."""
    return {raw(rec, [one.item])[0]: set(one.rules) for one in found.kept_out}


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(
    "options",
    [
        POPULAR,
        replace(POPULAR, k=100, exclude_seen=False),
        replace(POPULAR, diversity=0.4, exclude=["i003", "nothing"]),
    ],
)
def test_the_list_is_the_one_that_is_recommended(rec, query, options):
    try:
        given = answer(rec.system, RawQueries(**query), options)
    except UnsupportedQuery as error:  # diversity of a model that cannot tell what is alike
        with pytest.raises(UnsupportedQuery, match=re.escape(str(error))):
            inspect(rec.system, RawQueries(**query), options)
        return
    found = inspect(rec.system, RawQueries(**query), options)
    real = given.items[0] > 0
    assert found.items.tolist() == given.items[0][real].tolist()
    assert found.scores.tolist() == given.scores[0][real].tolist()
    assert found.by == given.by[0]
    last = found.stages[-1]
    assert last.items[: len(found.items)].tolist() == found.items.tolist()
    assert set(last.items.tolist()) <= set(found.stages[0].items.tolist())
    if found.by == "popular":
        assert [stage.name for stage in found.stages] == ["popular"]
    else:
        wanted = ["rank"] * (rec.engine.states is not None) + ["diversify"] * (options.diversity > 0)
        assert [stage.name for stage in found.stages] == ["retrieve", *wanted]
        assert found.stages[0].scores.tolist() == sorted(found.stages[0].scores.tolist(), reverse=True)
    assert {stage.name for stage in found.stages} | {"rows"} == found.seconds.keys()
    assert all(0 <= seconds < 60 for seconds in found.seconds.values())


def kept_out_slowly(rec, query, barred, candidates):
    """The items kept out and their ranks, from the whole catalogue's scores, one item after the other."""
    whole = answer(rec.system, RawQueries(**query), RecommendOptions(1000, exclude_seen=False))
    out, passed = {}, 0
    for rank, item in enumerate(raw(rec, whole.items[0][whole.items[0] > 0]), 1):
        if item in barred:
            out[item] = rank
        else:
            passed += 1
        if passed == candidates:
            break
    return out


@pytest.mark.parametrize("name", ["mf", "ials", "ease", "fm"])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_what_is_kept_out_is_what_would_stand_before_the_last_candidate(name, k):
    rec = fitted(name)
    query, system = {"users": ["u0005"]}, rec.system.apart()
    top = rec.recommend(["u0005"], k=6)["item_id"].to_list()
    system.block(torch.from_numpy(rec.store.items.dense(top[:2])))
    found = inspect(system, RawQueries(**query), RecommendOptions(k, exclude=[top[2], top[0]]))
    seen = seen_by(rec, "u0005")
    expected = {item: {"seen"} for item in seen}
    expected |= {top[0]: {"blocked", "excluded"}, top[1]: {"blocked"}, top[2]: {"excluded"}}
    slow = kept_out_slowly(rec, query, seen | set(top[:3]), k)  # "new items" or not: the slow way has no untrained ones
    fast = {item: rules for item, rules in rules_of(rec, found).items() if rules != {"untrained"}}
    assert fast == {item: expected[item] for item in slow}
    assert slow
    if len(allowed_of(rec)) == everything(rec):  # nothing is untrained, so the ranks are the same
        assert {raw(rec, [one.item])[0]: one.rank for one in found.kept_out} == slow
    assert found.rules["blocked"] == 2
    assert found.rules["excluded"] == 2
    assert found.rules["seen"] == len(seen)


def test_each_rule_is_named_with_how_much_of_the_catalogue_it_keeps_out():
    rec = fitted("mf")
    query, every = RawQueries(["u0001"]), everything(rec)
    found = inspect(rec.system, query, RecommendOptions(100, exclude_seen=False))
    assert {frozenset(rules) for rules in rules_of(rec, found).values()} == {frozenset({"untrained"})}
    assert rules_of(rec, found).keys() <= set(raw(rec, torch.arange(1, every + 1))) - allowed_of(rec)
    assert found.rules == {"untrained": every - len(allowed_of(rec)), "blocked": 0}
    some = rec.recommend(["u0001"], k=4)["item_id"].to_list()
    found = inspect(rec.system, query, RecommendOptions(3, among=some[1:]))
    assert rules_of(rec, found)[some[0]] == {"among"}
    assert found.rules["among"] == every - 3
    column = next(one.name for one in rec.store.encoders["item"].columns if one.kind == "categorical")
    value = next(one for one in rec.store.item_frame[column].to_list() if one is not None)
    found = inspect(rec.system, query, RecommendOptions(3, where={column: value}, exclude_seen=False))
    inside = rec.store.item_frame.with_row_index("row").filter(pl.col(column) == value)["row"].to_list()
    assert set(found.items.tolist()) <= set(inside)
    assert found.rules["where"] == every - len(inside)
    assert all("where" in one.rules for one in found.kept_out if one.item not in inside)


def test_where_nothing_is_left_the_best_of_what_was_kept_out_is_named():
    rec = fitted("ease")
    found = inspect(rec.system, RawQueries(["u0001"]), RecommendOptions(5, among=["nothing"]))
    assert found.items.tolist() == []
    assert len(found.kept_out) == min(SHOWN, everything(rec))
    assert all("among" in one.rules for one in found.kept_out)
    assert [one.rank for one in found.kept_out] == list(range(1, len(found.kept_out) + 1))


def test_the_popular_list_is_inspected_too():
    rec = fitted("ease")
    popular = raw(rec, rec.store.popular[:6])
    found = inspect(rec.system, RawQueries(["ghost"]), replace(POPULAR, k=4, exclude=popular[1:2]), explain=popular[:1])
    assert (found.by, found.known) == ("popular", False)
    assert raw(rec, found.items) == [popular[0], *popular[2:5]]
    assert rules_of(rec, found) == {popular[1]: {"excluded"}}
    assert found.kept_out[0].rank == 2
    assert found.kept_out[0].score == int(rec.store.item_counts[rec.store.popular[1]])
    assert (found.why[0].stage, found.why[0].parts) == (None, None)
    skipped = inspect(rec.system, RawQueries(["ghost"]), replace(POPULAR, unknown="skip"))
    assert (skipped.by, skipped.items.tolist(), list(skipped.kept_out)) == ("nobody", [], [])
    with pytest.raises(UnsupportedQuery, match="user 'ghost' is unknown"):
        inspect(rec.system, RawQueries(["ghost"]), RecommendOptions())


@pytest.mark.parametrize("name", ["ease", "ials", "fm", "deepfm", "ease + fm", "two-tower + deepfm"])
def test_contributions_are_those_of_explain_and_add_up_to_the_score(name):
    rec = fitted(name)
    query = RawQueries(["u0007"])
    items = raw(rec, inspect(rec.system, query, RecommendOptions(3)).items)
    found = inspect(rec.system, query, RecommendOptions(3), explain=items)
    for why, item, score in zip(found.why, items, found.scores.tolist()):
        assert (why.stage, why.said) == ("last", "")
        assert why.parts["contribution"].sum() == pytest.approx(score, abs=1e-4)
        expected = rec.explain(item, "u0007")
        assert why.parts.columns == expected.columns
        assert why.parts["contribution"].to_list() == pytest.approx(expected["contribution"].to_list(), abs=1e-4)


def test_what_the_last_stage_cannot_explain_is_explained_by_the_first_and_said():
    query = RawQueries(history=[HISTORY])
    rec = fitted("ease + sasrec")
    (item,) = raw(rec, inspect(rec.system, query, RecommendOptions(1)).items)
    (why,) = inspect(rec.system, query, RecommendOptions(1), explain=[item]).why
    assert (why.stage, why.said) == (
        "retriever", "its score is no sum of parts in the second stage; this is the first stage's"
    )  # fmt: skip
    alone = fitted("ease").explain(item, history=HISTORY)["contribution"].sum()
    assert why.parts["contribution"].sum() == pytest.approx(alone, abs=1e-4)
    (why,) = inspect(fitted("sasrec").system, query, RecommendOptions(1), explain=[item]).why
    assert (why.stage, why.parts) == (None, None)
    assert "EASE, ItemKNN and IALS say it" in why.said


def test_an_item_that_is_no_candidate_says_so():
    rec = fitted("ease + fm")
    (why,) = inspect(rec.system, RawQueries(history=[HISTORY]), RecommendOptions(2), explain=[HISTORY[0]]).why
    assert why.stage == "retriever"
    assert "is not among the candidates" in why.said


def test_recent_events_count():
    rec = fitted("ease")
    recent = RecentEvents(rec.store, 1 << 20)
    (first, *_) = raw(rec, inspect(rec.system, RawQueries(["u0001"]), RecommendOptions(5)).items)
    recent.add(["u0001"], [first], [1_900_000_000 * 10**6], [None])
    found = inspect(rec.system, RawQueries(["u0001"]), RecommendOptions(5), recent)
    assert raw(rec, found.history[-1:]) == [first]
    assert first not in raw(rec, found.items)


def test_what_cannot_be_inspected_is_refused():
    system = fitted("ease").system
    with pytest.raises(InputError, match="was given 2 queries"):
        inspect(system, RawQueries(["u0001", "u0002"]), RecommendOptions())
    with pytest.raises(InputError, match="explain: item 'nothing' is unknown"):
        inspect(system, RawQueries(["u0001"]), RecommendOptions(), explain=["nothing"])


def test_expressions_of_the_last_stage_are_said_to_keep_items_out():
    rec = fitted("ease")
    ruled = rec.with_rules({"require": [{"name": "r", "expression": "price < request.most"}]})
    price = rec.store.item_frame["price"].to_list()
    most = sorted(one for one in price if one is not None)[40]
    query = RawQueries(["u0001"], context=[{"most": most}])
    found = inspect(ruled.system, query, RecommendOptions(k=5))
    refused = [n for n, one in enumerate(price) if rec.engine.allowed[n] and not (one is not None and one < most)]
    assert found.rules["required"] == len(refused)
    assert not {item.item for item in found.kept_out if "required" in item.rules} - set(refused)
    assert any("required" in item.rules for item in found.kept_out)
    answers = answer(ruled.system, query, RecommendOptions(k=5))
    assert found.items.tolist() == answers.items[0].tolist()
    assert "required" not in inspect(rec.system, RawQueries(["u0001"]), RecommendOptions(k=5)).rules


def test_of_several_sources_each_candidate_says_where_it_was_found():
    rec = fitted("ease, mf + fm")
    found = inspect(rec.system, RawQueries(["u0005"]), RecommendOptions(5))
    assert set(found.sources) == set(found.stages[0].items.tolist())
    names = [source.name for source in rec.engine.sources]
    lists = {name: {} for name in names}
    for item, ranks in found.sources.items():
        assert ranks
        assert ranks.keys() <= set(names)
        for name, rank in ranks.items():
            lists[name][rank] = item
    alone = fitted("ease").recommend(["u0005"], k=max(lists["ease"]))["item_id"].to_list()
    assert {rank: raw(rec, [item])[0] for rank, item in lists["ease"].items()} == {
        rank: alone[rank - 1] for rank in lists["ease"]
    }
    assert inspect(fitted("ease").system, RawQueries(["u0005"]), RecommendOptions(5)).sources == {}
