"""The funnel against a slow loop, and the textbook's exercise."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace

import pytest
import torch

from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.data.splits import LeaveLast
from suisen.data.synthetic import World
from suisen.errors import InputError
from suisen.evaluation import evaluate
from suisen.models import EASE, FM, Popularity
from suisen.pipeline.funnel import expected_hits, funnel
from suisen.pipeline.recommender import Recommender
from suisen.recommending.engine import Filters
from tests.fitted import fitted, lists_of, seen_by, small_split


def test_the_textbooks_exercise():
    """Recall@500 = 0.8 and Precision@10 = 0.3: it depends on where the precision was measured."""
    assert expected_hits(10, 0.3) == pytest.approx(3.0)
    assert expected_hits(10, 0.3, recall=0.8) == pytest.approx(2.4)


def hard_queries():
    """The test queries with a second relevant item, one that is seen, one that is unknown, and one query of none."""
    test = small_split().test
    truth, seen = test.truth.tolist(), test.seen.tolist()
    rows = [[*row, 1 + at % 80] if 1 + at % 80 not in row else row for at, row in enumerate(truth)]
    rows[0] = [seen[0][0], rows[0][0]]
    rows[1] = [0]
    rows[2] = []
    return replace(test, truth=Ragged.of(rows))


@pytest.mark.parametrize("name", ["ease + fm", "two-tower + deepfm", "ease"])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_counts_are_those_of_a_loop(name, k):
    engine, queries = fitted(name).engine, hard_queries()
    out = funnel(engine, queries, k)
    depth = max(k, 30)
    truth, seen = queries.truth.tolist(), queries.seen.tolist()
    allowed = set(engine.allowed.nonzero().squeeze(1).tolist())
    counts = {"catalogue": 0, "not filtered": 0, "retrieved": 0, "top list": 0}
    recalls, precisions, given, gains, opened = [], [], [], [], []
    for at in range(len(queries)):
        contexts = queries.contexts.take(torch.tensor([at]))
        filters = Filters(Ragged.of([seen[at]]))
        found = set(engine.retrieve(contexts, depth, filters)[0][0].tolist()) - {0}
        top = engine.lists(contexts, k, filters)[0][0].tolist()
        wanted = truth[at]
        hits = [float(item in wanted and item > 0) for item in top]
        counts["catalogue"] += len(wanted)
        counts["not filtered"] += sum(item in allowed and item not in seen[at] for item in wanted)
        counts["retrieved"] += len(found & set(wanted))
        counts["top list"] += int(sum(hits))
        opened.append(len(allowed - set(seen[at])))
        if not wanted:
            continue
        recalls.append(len(found & set(wanted)) / len(wanted))
        precisions.append(sum(hits) / k)
        if found & set(wanted):
            given.append(sum(hits) / k)
        ideal = sum(1 / math.log2(i + 2) for i in range(min(len(wanted), k)))
        gains.append(sum(hit / math.log2(i + 2) for i, hit in enumerate(hits)) / ideal)
    assert {stage.stage: stage.hits for stage in out.stages} == counts
    assert out.relevant == counts["catalogue"]
    assert out.stages[1].items == pytest.approx(sum(opened) / len(opened))
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    values = [figure.value for figure in out.figures]
    assert values == pytest.approx([mean(recalls), mean(precisions), mean(given), mean(gains)])
    assert out.figures[0].name == f"recall@{depth}"
    assert all(figure.low <= figure.value <= figure.high for figure in out.figures)
    assert out.counted == pytest.approx(mean(precisions) * k)
    assert out.expected_end_to_end == pytest.approx(out.counted)
    assert out.expected_given_retrieved == pytest.approx(out.counted)


def test_losses_add_up():
    out = funnel(fitted("ease + fm").engine, hard_queries(), 5)
    first, *others = out.stages
    assert first.lost == 0
    assert first.hits - sum(stage.lost for stage in others) == out.stages[-1].hits
    assert all(stage.lost >= 0 for stage in others)
    assert others[0].lost >= 2  # the seen one and the unknown one
    assert [stage.items for stage in out.stages] == sorted((stage.items for stage in out.stages), reverse=True)


def test_it_agrees_with_the_evaluation():
    engine, test = fitted("ease + fm").engine, small_split().test
    out = funnel(engine, test, 10)
    report = evaluate(engine, test, ["ndcg@10", "precision@10"])
    assert out.figures[1].value == pytest.approx(report.value("precision@10"), abs=1e-6)
    assert out.figures[3].value == pytest.approx(report.value("ndcg@10"), abs=1e-6)
    assert out.protocol == test.protocol


def test_one_half_of_the_users_predicts_the_other():
    world = World(users=600, items=120, groups=6, sessions=5, events=4, repeats=False, seed=2)
    split = Dataset.of(world.generate().log).split(LeaveLast(test=2, valid=0))
    rec = Recommender(EASE(l2=20.0), FM(dim=4, epochs=2), candidates=40).fit(split.train)
    within = []
    for seed in range(20):
        predicted, counted = rec.funnel(split.test, seed=seed).halves
        within.append(predicted.low <= counted.value <= predicted.high)
        assert predicted.high - predicted.low < predicted.value / 2
    assert within[0]
    assert sum(within) >= 16  # 19 of 20 are to be expected, 15 or fewer one time in 400


def test_it_prints_and_dumps():
    out = fitted("ease + fm").funnel(small_split().test, k=5)
    text = str(out)
    for part in ("funnel of 57 queries, 57 relevant items", "retrieved", "lost here", "recall@30", "95 % interval",
                 "hits per query in the top 5", "one half of the users predicts"):  # fmt: skip
        assert part in text
    plain = json.loads(json.dumps(out.to_dict()))
    assert plain["stages"][2]["stage"] == "retrieved"
    assert plain["figures"][0]["name"] == "recall@30"
    assert set(plain["halves"][0]) == {"name", "value", "low", "high"}


def test_what_it_cannot_count():
    test = small_split().test
    with pytest.raises(InputError, match="these have given candidates"):
        funnel(fitted("ease + fm").engine, replace(test, candidates=torch.ones(len(test), 3).long()))
    with pytest.raises(InputError, match="queries hold no row"):
        funnel(fitted("ease + fm").engine, test.take(torch.arange(0)))
    with pytest.raises(InputError, match="not fitted"):
        Recommender(Popularity()).funnel(test)
    nothing = replace(test, truth=Ragged.of([[0]] * len(test)))
    out = funnel(fitted("ease + fm").engine, nothing, 5)
    assert out.counted == 0
    assert math.isnan(out.figures[2].value)
    assert "–" in str(out)


def test_rules_are_counted_beside_the_stages():
    rules = {
        "require": [{"name": "young", "expression": "price < request.age"}],
        "cap": [{"name": "one per category", "column": "category", "most": 1}],
        "pin": [{"name": "campaign", "item": "i007", "position": 1}],
    }
    rec, queries = fitted("ease + fm"), small_split().valid
    plain, ruled = rec.funnel(queries, 4), rec.with_rules(rules).funnel(queries, 4)
    assert plain.ruled is None
    assert ruled.stages == plain.stages
    counts = {one.rule: one for one in ruled.ruled.counts}
    assert [(name, one.kind) for name, one in counts.items()] == [
        ("young", "require"), ("one per category", "cap"), ("campaign", "pin"),
    ]  # fmt: skip
    users = rec.store.users.raw(queries.contexts.user.numpy()).to_list()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lists = lists_of(rec.with_rules(rules).recommend(users=users, k=4))
    seen = queries.seen.tolist()
    names = {user: set(rec.store.items.raw(torch.tensor(row).numpy()).to_list()) for user, row in zip(users, seen)}
    assert all(names[user] == seen_by(rec, user) for user in users)  # so that both were asked for the same
    truth = {user: set(rec.store.items.raw(torch.tensor(row).numpy()).to_list()) if all(row) else set()
             for user, row in zip(users, queries.truth.tolist())}  # fmt: skip
    assert ruled.ruled.hits == sum(len(set(lists[user]) & truth[user]) for user in users)
    assert ruled.ruled.items == pytest.approx(sum(map(len, lists.values())) / len(users))
    price = rec.store.item_frame["price"].to_list()
    ages = dict(zip(rec.store.users.raw_ids.to_list(), rec.store.user_frame["age"].slice(1).to_list()))
    allowed = rec.engine.allowed.tolist()
    refused = [
        sum(allowed[i] and not (price[i] is not None and price[i] < ages[user]) for i in range(len(price)))
        for user in users
    ]
    assert counts["young"].items == pytest.approx(sum(refused) / len(users))
    assert counts["young"].lists == pytest.approx(sum(one > 0 for one in refused) / len(users))
    pinned = [lists[user][0] == "i007" for user in users]
    assert counts["campaign"].lists == pytest.approx(sum(pinned) / len(users))
    assert counts["campaign"].unmet == pytest.approx(1 - counts["campaign"].lists)
    assert "one per category" in str(ruled)
    assert json.dumps(ruled.to_dict())
    lacking = rec.with_rules({"require": [{"name": "r", "expression": "price < request.budget"}]})
    with pytest.raises(InputError, match=r"rule 'r' needs request.budget"):
        lacking.funnel(queries, 4)
