"""Rules on a whole Recommender: lists are those that a loop makes of the unruled ranking, on torch and by the plan."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import suisen as su
from suisen.errors import InputError
from suisen.recommending import answering
from suisen.recommending.kernels import paths_here
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.rules import bound
from suisen.recommending.rules.declared import Rules
from tests.fitted import allowed_of, fitted, lists_of, seen_by, small_split
from tests.recommending.rules.test_filling import slow

USERS = [f"u{n:04}" for n in range(1, 13)]
AT = "2030-01-01"
CANDIDATES = 30


@pytest.fixture(scope="module", params=["ease", "ease + fm"])
def rec(request):
    return fitted(request.param)


def ask(rec, users=USERS, **options):
    """user → items; what is not met is no error here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="rule ")
        return lists_of(rec.recommend(users=users, at=AT, **options))


def column(rec, name):
    """Raw item → its value."""
    frame = rec.store.item_frame
    return dict(zip(rec.store.items.raw_ids.to_list(), frame[name].slice(1).to_list(), strict=True))


def require(expression, name="r"):
    return {"require": [{"name": name, "expression": expression}]}


def cap(column, most, first=None, name="c"):
    return {"cap": [{"name": name, "column": column, "most": most, **({} if first is None else {"first": first})}]}


def test_lists_hold_only_items_for_which_the_expression_is_true_and_as_many_as_before(rec):
    price, category = column(rec, "price"), column(rec, "category")
    middle = sorted(one for one in price.values() if one is not None)[len(price) // 3]
    rules = require(f'price >= {middle} and category != "category-1"')
    found = ask(rec, k=12, rules=rules)
    for user, items in found.items():
        allowed = [
            item for item in price
            if price[item] is not None and price[item] >= middle and category[item] not in (None, "category-1")
            and item not in seen_by(rec, user) and rec.engine.allowed[int(rec.store.items.dense([item])[0])]
        ]  # fmt: skip
        assert set(items) <= set(allowed)
        assert len(items) == min(12, len(allowed))
        among = ask(rec, [user], k=12, among=allowed)[user]
        assert items == among


EXPRESSIONS = {
    "": lambda category, tags: True,
    'category == "category-0" or "tag-1" in tags': lambda category, tags: (
        category == "category-0" or "tag-1" in (tags or ())
    ),
    'category in ["category-2"]': lambda category, tags: category == "category-2",
}


@given(
    st.sampled_from(["ease", "ease + fm", "popularity"]),
    st.integers(1, 12),
    st.lists(
        st.tuples(st.sampled_from(["category", "tags", "price"]), st.integers(1, 3), st.integers(1, 12)), max_size=2
    ),
    st.lists(
        st.tuples(st.integers(1, 80), st.integers(1, 14)),
        max_size=2,
        unique_by=(lambda one: one[0], lambda one: one[1]),
    ),
    st.sampled_from(list(EXPRESSIONS)),
)
@settings(max_examples=40, deadline=None)
def test_caps_pins_and_expressions_are_their_definition(name, k, caps, pins, expression):
    rec = fitted(name)
    raw = rec.store.items.raw_ids.to_list()
    rules = require(expression) if expression else {}
    whole = ask(rec, k=max(k, CANDIDATES), rules=rules)
    rules = {
        **rules,
        "cap": [{"name": f"c{n}", "column": c, "most": m, "first": f} for n, (c, m, f) in enumerate(caps)],
        "pin": [{"name": f"p{n}", "item": raw[item - 1], "position": at} for n, (item, at) in enumerate(pins)],
    }
    values = {name: column(rec, name) for name, _, _ in caps}
    tables = [column(rec, name) for name in ("category", "tags")]
    fits = {item for item in raw if EXPRESSIONS[expression](*(table[item] for table in tables))}
    found = ask(rec, k=k, rules=rules)
    for user in USERS:
        tables = [
            (most, min(first, k), {item: set(_listed(values[name][item])) for item in raw})
            for name, most, first in caps
        ]
        pinned = {
            at - 1: raw[item - 1] for item, at in pins
            if at <= k and raw[item - 1] not in seen_by(rec, user) and raw[item - 1] in fits
        }  # fmt: skip
        reserve = whole[user] if caps else whole[user][:k]
        expected = slow(reserve, [0.0] * len(reserve), k, tables, pinned)[0]
        assert found[user] == expected


def _listed(value):
    return [] if value is None else value if isinstance(value, list) else [value]


def test_requests_are_read_from_the_context_then_the_features_then_the_user_table(rec):
    age, price = dict(zip(rec.store.users.raw_ids, rec.store.user_frame["age"].slice(1))), column(rec, "price")
    rules = require("price < request.age")
    for brought, limit in (
        ({}, age[USERS[0]]), ({"user_features": [{"age": 30}]}, 30), ({"context": [{"age": 25}]}, 25),
        ({"context": [{"age": 25}], "user_features": [{"age": 30}]}, 25), ({"context": [{"age": None}]}, age[USERS[0]]),
    ):  # fmt: skip
        items = ask(rec, USERS[:1], k=80, rules=rules, **brought)[USERS[0]]
        fits = {item for item, one in price.items() if one is not None and one < limit} & allowed_of(rec)
        assert set(items) <= fits
        assert len(items) == len(fits - seen_by(rec, USERS[0]))


def test_queries_of_a_batch_are_each_held_to_what_they_bring(rec):
    rules, limits = require("price < request.most"), [5, 20, None, 20, 40, 5, 1e9, 0]
    rules["require"][0]["expression"] += " or request.most is null"
    users, contexts = USERS[: len(limits)], [None if one is None else {"most": one} for one in limits]
    together = ask(rec, users, k=9, rules=rules, context=contexts)
    for user, context in zip(users, contexts):
        assert ask(rec, [user], k=9, rules=rules, context=[context]).get(user) == together.get(user)


def test_a_request_that_lacks_what_a_rule_needs_is_one_error_with_the_mend(rec):
    with pytest.raises(InputError, match=r"rule 'r' needs request.most, and neither .* give most in context=, or let"):
        ask(rec, rules=require("price < request.most"))
    with pytest.raises(InputError, match=r"rule 'r': request.most = 'x', and price holds numbers; give a number"):
        ask(rec, USERS[:1], rules=require("price < request.most"), context=[{"most": "x"}])
    with pytest.raises(InputError, match="context feature = 'moist' is unknown"):
        ask(rec, USERS[:1], rules=require("price < request.most or request.most is null"), context=[{"moist": 1}])


def test_an_empty_list_is_said(rec):
    rules = require("price < request.most")
    with pytest.warns(UserWarning, match="rule 'r' left fewer items than were asked for in 2 of 3 lists"):
        frame = rec.recommend(
            users=USERS[:3], k=3, rules=rules, context=[{"most": -1}, {"most": 1e9}, {"most": -2}], at=AT
        )
    assert set(frame["user_id"]) == {USERS[1]}


def test_a_rule_that_no_item_meets_and_rules_that_do_not_fit_are_refused(rec):
    for rules, message in (
        (require("price < -1"), "rule 'r' is true of none of 81 items"),
        (require("prize < 1"), "rule 'r': column = 'prize' is unknown; did you mean 'price'"),
        (cap("artist", 1), "rule 'c': column = 'artist' is unknown"),
        ({"pin": [{"name": "p", "item": "nothing", "position": 1}]}, "rule 'p': item 'nothing' is unknown"),
        (
            {"boost": [{"name": "b", "add": 1.0, "expression": "price < request.x"}]},
            "a boost reads the catalogue alone",
        ),
        ({"boost": [{"name": "b", "add": 1.0, "half_life": "7d", "since": "price"}]}, "since = 'price' holds numbers"),
    ):
        with pytest.raises(InputError, match=message):
            ask(rec, rules=rules)
        with pytest.raises(InputError, match=message):
            rec.with_rules(rules)
    with pytest.raises(InputError, match="column = 'prize' is unknown"):
        su.Recommender(su.EASE()).with_rules(require("prize < 1")).fit(small_split().train)


def test_the_models_own_rules_hold_where_a_request_brings_none_and_do_not_change_the_model(rec, tmp_path):
    rules = {**require('category != "category-0"'), **cap("category", 2, 5)}
    ruled = rec.with_rules(rules)
    assert ask(ruled) == ask(rec, rules=rules) != ask(rec)
    assert ask(ruled, rules={}) == ask(rec)
    loaded = su.load(ruled.save(tmp_path / "bundle"))
    assert loaded.rules == ruled.rules == Rules.of(rules)
    assert ask(loaded) == ask(ruled)
    path = tmp_path / "rules.toml"
    path.write_text('[[cap]]\nname = "c"\ncolumn = "category"\nmost = 1\n', encoding="utf-8")
    assert ask(rec, rules=path) == ask(rec, rules=cap("category", 1))


def test_pins_that_may_not_be_in_a_list_are_left_out_and_said(rec):
    raw, user = rec.store.items.raw_ids.to_list(), USERS[0]
    seen, free = sorted(seen_by(rec, user)), [item for item in raw if item not in seen_by(rec, user)]
    pins = [
        {"name": "seen", "item": seen[0], "position": 1},
        {"name": "excluded", "item": free[0], "position": 2},
        {"name": "shown", "item": free[1], "position": 4},
        {"name": "far", "item": free[2], "position": 40},
    ]
    options = RecommendOptions(k=6, exclude=[free[0]], rules={"pin": pins})
    answers = answering.answer(rec.system, RawQueries([user]), options)
    assert dict(answers.unmet[0]) == {"seen": "barred", "excluded": "barred"}
    items = rec.store.items.raw(answers.items[0].numpy()).to_list()
    plain = ask(rec, [user], k=6, exclude=[free[0]])[user]
    assert items[3] == free[1]
    assert [item for item in items if item != free[1]] == [item for item in plain if item != free[1]][:5]
    assert answers.scores[0].isfinite().all()
    with_seen = ask(rec, [user], k=6, rules={"pin": pins[:1]}, exclude_seen=False)[user]
    assert with_seen[0] == seen[0]


def test_blocked_items_are_pinned_nowhere():
    rec = fitted("ease")
    system = rec.system.apart()
    pin = ask(rec, USERS[:1], k=3)[USERS[0]][0]
    rules = Rules.of({"pin": [{"name": "p", "item": pin, "position": 2}], **cap("category", 3)})
    queries, options = RawQueries(USERS[:1]), RecommendOptions(k=5, rules=rules)
    before = answering.answer(system, queries, options)
    system.block(torch.from_numpy(system.store.items.dense([pin])))
    after = answering.answer(system, queries, options)
    dense = int(system.store.items.dense([pin])[0])
    assert int(before.items[0, 1]) == dense
    assert dense not in after.items[0].tolist()
    assert dict(after.unmet[0]) == {"p": "barred"}
    assert (after.items > 0).sum() == 5


def test_caps_that_leave_too_few_give_way_and_are_said(rec):
    rules = cap("category", 1)
    categories = column(rec, "category")
    answers = answering.answer(rec.system, RawQueries(USERS), RecommendOptions(k=8, rules=rules))
    assert set(answers.unmet) == set(range(len(USERS)))
    assert all(dict(one) == {"c": "relaxed"} for one in answers.unmet.values())
    assert (answers.items > 0).all()
    first = [categories[item] for item in rec.store.items.raw(answers.items[0].numpy()).to_list()]
    assert len(set(first[:3])) == 3  # as long as there are categories, no two items share one
    assert not answering.answer(rec.system, RawQueries(USERS), RecommendOptions(k=3, rules=rules)).unmet


def test_rules_that_touch_nothing_leave_lists_and_scores_as_they_were(rec):
    queries = RawQueries(USERS)
    plain = answering.answer(rec.system, queries, RecommendOptions(k=10, at=AT))
    rules = {**require("price > -1 or price is null"), **cap("category", 10)}
    under = answering.answer(rec.system, queries, RecommendOptions(k=10, at=AT, rules=rules))
    assert torch.equal(plain.items, under.items)
    assert torch.allclose(plain.scores, under.scores)
    assert not under.marks.items.any()
    assert not under.unmet


def test_the_popular_list_is_under_the_rules_too(rec):
    price = column(rec, "price")
    most = price[rec.store.items.raw(rec.store.popular[:1].numpy())[0]]
    rules = {**require("price != request.most"), **cap("category", 2, 4)}
    options = {"users": ["nobody", "nobody else"], "k": 4, "unknown": "popular", "rules": rules}
    frame = rec.recommend(**options, context=[{"most": most}, {"most": 1e9}])
    found, category = lists_of(frame), column(rec, "category")
    assert all(price[item] != most for item in found["nobody"])
    assert found["nobody"] != found["nobody else"]
    for items in found.values():
        assert max(pl.Series([category[item] for item in items]).value_counts()["count"]) <= 2


def test_given_items_are_ranked_without_those_that_an_expression_refuses(rec):
    category = column(rec, "category")
    ruled = rec.with_rules(require('category == "category-1"'))
    given = rec.store.items.raw_ids.to_list()[:40]
    options = RecommendOptions(unknown="popular")
    plain = answering.rank(rec.system, RawQueries([USERS[0], "nobody"]), [given, given], options)
    found = answering.rank(ruled.system, RawQueries([USERS[0], "nobody"]), [given, given], options)
    for row in range(2):
        before, after = (
            rec.store.items.raw(one.items[row][one.items[row] > 0].numpy()).to_list() for one in (plain, found)
        )
        assert set(after) == {item for item in before if category[item] == "category-1"}
        if rec.engine.states is None:  # a ranker reads the ranks of the given items among themselves
            assert after == [item for item in before if category[item] == "category-1"]


def test_similar_items_hold_to_expressions_over_the_catalogue():
    rec, category = fitted("ease"), column(fitted("ease"), "category")
    both = {"require": [
        {"name": "a", "expression": 'category == "category-1"'}, {"name": "b", "expression": "price < request.x"},
    ]}  # fmt: skip
    found = rec.with_rules(both).similar_items([rec.store.items.raw_ids[3]], 5)["similar_id"].to_list()
    assert len(found) == 5
    assert all(category[item] == "category-1" for item in found)


@pytest.mark.parametrize("by", ["mmr", "dpp"])
def test_diversity_comes_before_caps_and_is_refilled(rec, by):
    plain = ask(rec, k=8, diversity=0.7, diversity_by=by)
    touched = ask(rec, k=8, diversity=0.7, diversity_by=by, rules=cap("category", 8))
    assert touched == plain
    category = column(rec, "category")
    for items in ask(rec, k=6, diversity=0.7, diversity_by=by, rules=cap("category", 2)).values():
        assert len(items) == len(set(items)) == 6
        assert max(pl.Series([category[item] for item in items]).value_counts()["count"]) <= 2


def test_what_rules_did_is_counted(rec):
    category = column(rec, "category")
    refused = sum(one == "category-0" for item, one in category.items()
                  if rec.engine.allowed[int(rec.store.items.dense([item])[0])])  # fmt: skip
    rules = {**require('category != "category-0"', "no zero"), **cap("category", 2, name="two"),
             "pin": [{"name": "top", "item": rec.store.items.raw_ids[0], "position": 1}]}  # fmt: skip
    marks = answering.answer(rec.system, RawQueries(USERS), RecommendOptions(k=4, rules=rules)).marks
    assert marks.names == ("no zero", "two", "top")
    assert marks.items[:, 0].tolist() == [refused] * len(USERS)
    assert (marks.items[:, 1] >= 0).all()
    assert set(marks.items[:, 2].tolist()) <= {0, 1}
    barred = {
        row
        for row, unmet in answering.answer(
            rec.system, RawQueries(USERS), RecommendOptions(k=4, rules=rules)
        ).unmet.items()
        if "top" in unmet
    }
    assert {row for row in range(len(USERS)) if not marks.items[row, 2]} == barred


def test_masks_are_kept_by_key_and_no_more_than_memory_allows(monkeypatch):
    monkeypatch.setattr(bound, "KEPT_BYTES", 0)
    rec = fitted("ease").with_rules(require("price < request.most"))
    rules = rec.system.bound_rules
    made, make = [], type(rules)._made
    monkeypatch.setattr(type(rules), "_made", lambda self, key, open_: made.append(key) or make(self, key, open_))
    for most in (*range(20), *range(20)):
        ask(rec, USERS[:1], context=[{"most": most * 3}])
    assert len(rules._kept) <= bound.LEAST_KEPT
    distinct = len(set(made))
    made.clear()
    for _ in range(5):
        ask(rec, USERS[:1], context=[{"most": 57}])
    assert not made
    assert distinct > bound.LEAST_KEPT


@pytest.mark.skipif(paths_here() == ("plain",), reason="no plan is made here")
@pytest.mark.parametrize("name", ["two-tower + deepfm", "ease + fm", "two-tower"])
def test_the_plan_answers_under_rules_as_torch_does(name, tmp_path):
    rules = {**require("price < request.age"), **cap("category", 2, 5),
             "pin": [{"name": "p", "item": "i005", "position": 2}]}  # fmt: skip
    saved = fitted(name).with_rules(rules).save(tmp_path / "b", identical=0.0)
    rec = su.load(saved)
    assert rec.engine.plan is not None
    options = {"k": 5, "unknown": "popular", "context": [{"age": 20 + user % 4 * 9} for user in range(len(USERS))]}
    precise, fast = (
        answering.answer(rec.system, RawQueries(USERS, context=options["context"]),
                         RecommendOptions(k=5, unknown="popular", precise=precise)) for precise in (True, False)
    )  # fmt: skip
    same = (precise.items == fast.items).double().mean()
    assert same > 0.9  # what is made in float32 by compiled code nearly ties here and there
    assert dict(precise.unmet) == dict(fast.unmet)
    limits = torch.tensor([context["age"] for context in options["context"]], dtype=torch.float64)
    price = torch.from_numpy(
        np.nan_to_num(rec.store.item_frame["price"].cast(pl.Float64).to_numpy(), nan=np.inf).copy()
    )
    assert (price[fast.items][fast.items > 0] < limits[:, None].expand_as(fast.items)[fast.items > 0]).all()


def test_several_sources_are_under_the_rules_together(tmp_path):
    rec = su.Recommender([su.EASE(l2=20.0), su.Popularity()], candidates=CANDIDATES).fit(small_split().train)
    price, category = column(rec, "price"), column(rec, "category")
    rules = {**require("price < request.most"), **cap("category", 2, 5)}
    limits = dict(zip(USERS, [15.0, 25.0, 1e9] * 4))
    context = [{"most": most} for most in limits.values()]
    found = ask(rec, k=6, rules=rules, context=context)
    for user, items in found.items():
        fits = [item for item, one in price.items() if one is not None and one < limits[user]]
        assert set(items) <= set(fits) - seen_by(rec, user)
        whole = ask(rec, [user], k=CANDIDATES, among=fits)[user]
        table = {item: set(_listed(category[item])) for item in whole}
        assert items == slow(whole, [0.0] * len(whole), 6, [(2, 5, table)], {})[0]
    loaded = su.load(rec.with_rules(rules).save(tmp_path / "b"))
    assert ask(loaded, k=6, context=context) == found
