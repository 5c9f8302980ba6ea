"""Measuring a Recommender: the same numbers as of its scorer, and only on queries of its own ids."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import suisen
from suisen.data.batch import Queries
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.evaluation.contract import Scorer
from suisen.models import EASE
from suisen.pipeline import Recommender, evaluate
from suisen.recommending.scorers import NetScorer
from tests.fitted import EVERY, allowed_of, fitted, lists_of, small_split


@pytest.mark.parametrize("name", EVERY)
def test_what_is_measured_is_what_is_recommended(name):
    """HR@10 and NDCG@10 from the lists of ``recommend``, whose stored histories end where the queries' begin."""
    rec, split = fitted(name), small_split()
    test = split.test
    contexts = replace(test.contexts, context_features=rec.store.contexts(test.contexts.user, 0).context_features)
    report = evaluate(rec, replace(test, contexts=contexts), ["hr@10", "ndcg@10"])
    assert report.name == rec.name
    items = rec.store.items
    hits, gains = [], []
    for at in range(len(test)):
        row = test.take(torch.tensor([at]))
        past = items.raw(row.contexts.history.values.numpy()).to_list()
        user = rec.store.users.raw(row.contexts.user.numpy()).to_list()
        lists = lists_of(rec.recommend(user, 10, history=[past]))[user[0]]
        wanted = [] if int(row.truth.values[0]) == 0 else items.raw(row.truth.values.numpy()).to_list()
        places = [lists.index(item) for item in wanted if item in lists]
        hits.append(bool(places))
        gains.append(sum(1 / torch.log2(torch.tensor(place + 2.0)).item() for place in places))
    if name != "popularity":  # its ties count against it
        assert report.value("hr@10") == pytest.approx(sum(hits) / len(hits), abs=1e-6)
        assert report.value("ndcg@10") == pytest.approx(sum(gains) / len(gains), abs=1e-5)
    else:
        assert report.value("hr@10") <= sum(hits) / len(hits)


@pytest.mark.parametrize("name", ["ease", "two-tower", "fm", "ease + fm"])
def test_given_candidates_and_a_recommender_as_a_scorer(name):
    rec, test = fitted(name), small_split().test
    generator = torch.Generator().manual_seed(2)
    negatives = torch.randint(1, 80, (len(test), 20), generator=generator)
    given = replace(test, candidates=torch.cat([test.truth.values[:, None], negatives], 1))
    assert isinstance(rec, Scorer)
    one, two = (evaluate(scorer, given, ["ndcg@10", "mrr@10"]) for scorer in (rec, rec.scorer()))
    assert one.value("ndcg@10") == two.value("ndcg@10") > 0
    assert "21 given candidates" in one.protocol
    lists = suisen.pipeline.evaluate_scorer(rec, test, ["ndcg@10"])
    assert lists.value("ndcg@10") == pytest.approx(evaluate(rec, test, ["ndcg@10"]).value("ndcg@10"), abs=1e-6)


def test_facts_are_brought():
    rec, test = fitted("ease + fm"), small_split().test
    report = evaluate(rec, test, ["coverage@10", "novelty@10", "diversity@10"])
    assert 0 < report.value("coverage@10") <= 1
    assert "the retriever's own similarities of items" in str(report.notes)
    assert rec.facts(vectors=False).item_vectors is None
    assert len(allowed_of(rec)) == rec.engine.n_allowed
    named = evaluate(rec, test, ["ndcg@10"], name="mine")
    assert named.name == "mine"
    assert evaluate(NetScorer(rec.engine.first.net, rec.engine.allowed), test).name == "NetScorer"


def moved(queries: Queries, **parts) -> Queries:
    return replace(queries, **parts)


def test_queries_of_other_ids_are_refused():
    rec, test = fitted("ease + fm"), small_split().test
    n, m = rec.store.schema.n_users, rec.store.schema.n_items
    other = Ragged.of([[m]] + [[]] * (len(test) - 1))
    wrong = [
        (moved(test, truth=Ragged.of([[m]] * len(test))), f"dense item {m} and the Recommender knows 1 to {m - 1}"),
        (moved(test, seen=other), f"dense item {m}"),
        (moved(test, candidates=torch.full((len(test), 2), m + 5)), f"dense item {m + 5}"),
        (moved(test, contexts=replace(test.contexts, user=test.contexts.user + n)), "dense user"),
        (moved(test, contexts=replace(test.contexts, history=other, history_time=torch.zeros(1).long())), "dense item"),
    ]
    for queries, message in wrong:
        with pytest.raises(InputError, match=message):
            evaluate(rec, queries)
    with pytest.raises(InputError, match="give queries of the split that it was trained on"):
        rec.funnel(wrong[0][0])
    with pytest.raises(InputError, match="not fitted"):
        evaluate(Recommender(EASE()), test)
