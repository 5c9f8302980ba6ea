import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.evaluation import metrics as m
from suisen.evaluation.ranks import UNRANKED, Ranking
from tests.evaluation.toys import SLOW, slow_metric

with warnings.catch_warnings():  # numba and friends warn when ranx is imported
    warnings.simplefilter("ignore")
    import numba

    numba.config.DISABLE_JIT = True  # compiling the oracle takes a minute, running it as plain Python a second
    import ranx

    numba.config.DISABLE_JIT = False  # for the tests of other files in this process

KS = (1, 3, 10)


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch):
    """The oracle's containers ask again when it runs."""
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)


ranks_of_queries = st.lists(
    st.tuples(st.sets(st.integers(1, 14), max_size=6), st.integers(0, 2)), min_size=1, max_size=5
)


@given(ranks_of_queries, st.sampled_from(KS))
def test_metrics_of_ranks_are_their_definitions(rows, k):
    rows = [[*sorted(ranks), *([None] * missing)] for ranks, missing in rows]
    ranks = Ragged.of([[UNRANKED if rank is None else rank for rank in row] for row in rows])
    for base, slow in SLOW.items():
        expected = [slow(row, k) for row in rows]
        assert m.METRICS[base].of_ranks(ranks, k).tolist() == pytest.approx(expected, nan_ok=True), base
    assert m.reciprocal_rank(ranks).tolist() == pytest.approx(
        [slow_metric("mrr", row, None) for row in rows], nan_ok=True
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_of_ranks_are_those_of_ranx_value_by_value(seed):
    rng = np.random.default_rng(seed)
    n_items, queries = 40, 60
    ranks, qrels, run = [], {}, {}
    for query in range(queries):
        order = rng.permutation(n_items)
        truth = rng.choice(n_items + 5, size=rng.integers(1, 16), replace=False)  # five that no list holds
        place = {int(item): position for position, item in enumerate(order, start=1)}
        ranks.append(sorted(place.get(int(item), UNRANKED) for item in truth))
        qrels[f"q{query:03}"] = {f"i{item}": 1 for item in truth}
        run[f"q{query:03}"] = {f"i{item}": float(n_items - position) for position, item in enumerate(order)}
    peers = {"hr": "hit_rate", "recall": "recall", "precision": "precision", "ndcg": "ndcg", "map": "map", "mrr": "mrr"}
    names = [f"{theirs}@{k}" for theirs in peers.values() for k in KS]
    answers = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), names, return_mean=False)
    for (ours, theirs), k in itertools.product(peers.items(), KS):
        values = m.METRICS[ours].of_ranks(Ragged.of(ranks), k)
        assert values.numpy() == pytest.approx(answers[f"{theirs}@{k}"], abs=1e-12), f"{ours}@{k}"


@given(st.lists(st.integers(-2, 2), min_size=2, max_size=9), st.data())
def test_auc_of_a_query_counts_pairs_and_ties_are_lost(scores, data):
    relevant = data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1, max_size=len(scores) - 1))
    own = sorted((scores[i] for i in relevant), reverse=True)
    rivals = [score for i, score in enumerate(scores) if i not in relevant]
    ranks = [1 + j + sum(rival >= score for rival in rivals) for j, score in enumerate(own)]
    ranking = Ragged.of([[*ranks, UNRANKED]])  # one more that cannot be found loses to all
    expected = sum(score > rival for score in own for rival in rivals) / ((len(own) + 1) * len(rivals))
    assert m.query_auc(ranking, torch.tensor([len(rivals)])).item() == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_auc_of_clicks_is_the_share_of_pairs_and_its_spread_is_delongs(rows):
    scores, labels = torch.tensor([float(s) for s, _ in rows]), torch.tensor([float(y) for _, y in rows])
    wins = [[(a > b) + 0.5 * (a == b) for b, z in rows if not z] for a, y in rows if y]
    if not wins or not wins[0]:
        with pytest.raises(InputError, match="auc needs rows of both labels"):
            m.auc(scores, labels)
        return
    table = np.array(wins, dtype=float)
    values = m.auc(scores, labels).numpy()
    assert values.mean() == pytest.approx(table.mean())
    clicks, others = table.mean(1), table.mean(0)
    delong = ((clicks - table.mean()) ** 2).sum() / clicks.size**2 + (
        (others - table.mean()) ** 2
    ).sum() / others.size**2
    assert values.var() / values.size == pytest.approx(delong, abs=1e-12)


def test_logloss_is_minus_the_log_probability_and_does_not_overflow():
    scores, labels = torch.tensor([0.3, -2.0, 800.0, -800.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    expected = [-math.log(1 / (1 + math.exp(-0.3))), -math.log(1 - 1 / (1 + math.exp(2.0))), 0.0, 0.0]
    assert m.logloss(scores, labels).tolist() == pytest.approx(expected)
    assert m.logloss(torch.tensor([-800.0]), torch.tensor([1.0])).tolist() == pytest.approx([800.0])


LISTS = torch.tensor([[1, 2], [2, 3], [4, 0], [0, 0]])
COUNTS = torch.tensor([99, 4, 2, 2, 0, 0])


def test_coverage_is_the_share_of_items_given_and_its_spread_the_jackknifes():
    values = m.coverage(LISTS, 6)
    assert values.mean().item() == pytest.approx(4 / 5)
    without = [len(set(torch.cat([LISTS[:q], LISTS[q + 1 :]]).flatten().tolist()) - {0}) / 5 for q in range(4)]
    jackknife = 3 / 4 * sum((x - sum(without) / 4) ** 2 for x in without)
    assert values.var(unbiased=True).item() / 4 == pytest.approx(jackknife)


def test_novelty_is_the_mean_self_information():
    assert m.novelty(LISTS, m.Facts(COUNTS)).tolist() == pytest.approx([1.5, 2.0, 3.0, math.nan], nan_ok=True)


def test_popularity_bias_is_half_over_the_catalogue():
    facts = m.Facts(COUNTS)
    assert m.popularity_bias(torch.arange(1, 6)[None], facts).item() == pytest.approx(0.5)
    expected = [(0.9 + 0.6) / 2, 0.6, 0.2, math.nan]
    assert m.popularity_bias(LISTS, facts).tolist() == pytest.approx(expected, nan_ok=True)


@given(st.integers(0, 1000), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_diversity_is_one_minus_the_mean_cosine_of_pairs(seed, k):
    vectors = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
    vectors[5] = 0
    lists = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(seed + i))[:k] for i in range(4)])
    values = m.diversity(lists, m.Facts(COUNTS, vectors)).tolist()
    for row, value in zip(lists.tolist(), values):
        pairs = list(itertools.combinations([item for item in row if item], 2))
        cosines = [torch.cosine_similarity(vectors[a], vectors[b], dim=0).item() for a, b in pairs]
        assert value == pytest.approx(1 - sum(cosines) / len(cosines) if cosines else math.nan, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndgc@10", r"metric = 'ndgc@10' is unknown; did you mean 'ndcg@10'\?"),
        ("ndgc@7", r"metric = 'ndgc@7' is unknown; did you mean 'ndcg@7'\?"),
        ("gain", r"metric = 'gain' is unknown; known: hr@10, recall@10, "),
        ("ndcg", "needs a cut-off; write 'ndcg@10'"),
        ("auc@5", "auc has no cut-off; write 'auc'"),
        ("hr@0", "whole number from 1"),
        ("hr@ten", "whole number from 1"),
        ("hr@", "whole number from 1"),
    ],
)
def test_names_are_checked(name, message):
    with pytest.raises(InputError, match=message):
        m.parse(name)


def test_names_are_parsed_once_each():
    assert [str(metric) for metric in m.parse_all(["MRR", "hr@10", "hr@10", "auc"])] == ["mrr", "hr@10", "auc"]
    with pytest.raises(InputError, match=r"give a list of names, like \['hr@10'\]"):
        m.parse_all("hr@10")


def test_metrics_say_what_they_lack():
    bare = Ranking(Ragged.of([[1]]))
    for name, message in (
        ("auc", "a scorer of lists gives none"),
        ("novelty@5", "needs lists"),
    ):
        with pytest.raises(InputError, match=message):
            m.parse(name).of_ranking(bare, m.Facts(COUNTS))
    with pytest.raises(InputError, match=r"novelty@5' needs facts about the items; give facts=Facts\(train"):
        m.parse("novelty@5").check(None, 5)
    with pytest.raises(InputError, match=r"needs facts\.item_vectors"):
        m.parse("diversity@5").check(m.Facts(COUNTS), 5)
    with pytest.raises(InputError, match="'logloss' needs labels"):
        m.parse("logloss").check(m.Facts(COUNTS), 5)
    with pytest.raises(InputError, match=r"coverage@5' needs the catalogue's size; give facts=Facts\(train"):
        m.parse("coverage@5").check(None, 0)
    m.parse("coverage@5").check(None, 5)


def test_a_metric_without_a_formula_or_with_unknown_facts_is_refused():
    for changes in ({}, {"of_ranks": m.hit_rate, "needs": ("item_prices",)}):
        with pytest.raises(InputError, match="'mine' needs a formula, and facts among item_counts, item_vectors, vec"):
            m.Metric(name="mine", better="higher", **changes)


@given(st.lists(st.tuples(st.lists(st.booleans(), min_size=7, max_size=7), st.integers(0, 4)), min_size=1))
@pytest.mark.parametrize("k", [1, 5, 9])
def test_ndcg_of_marked_hits_is_that_of_their_ranks(k, rows):
    hits, missed = torch.tensor([marks for marks, _ in rows]), torch.tensor([count for _, count in rows])
    ranks = Ragged.of([[*(j + 1 for j, hit in enumerate(marks) if hit), *[UNRANKED] * count] for marks, count in rows])
    for kind in (torch.float32, torch.float64):
        values = m.ndcg_of_hits(hits.to(kind), hits.sum(1) + missed, k)
        assert values.dtype == kind
        expected = m.ndcg(ranks, k).nan_to_num(0.0)  # of nothing relevant, nothing was gained
        assert values.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
