from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from suisen.errors import InputError
from suisen.evaluation import Facts, Scorer, TileScorer, evaluate
from tests.evaluation.toys import (
    ListsOnly,
    Table,
    candidate_pool,
    full_pool,
    queries_of,
    slow_metric,
    slow_ranks,
    worlds,
)

METRICS = [f"{base}@{k}" for base in ("hr", "recall", "precision", "ndcg", "map", "mrr") for k in (1, 3, 20)]


def assert_definition(report, world, pool_of):
    ranks = [slow_ranks(pool_of(row), world.truth[row]) for row in range(len(world.truth))]
    for metric in METRICS:
        base, k = metric.split("@")
        expected = [slow_metric(base, own, int(k)) for own in ranks]
        assert report.values[metric].tolist() == pytest.approx(expected, nan_ok=True, abs=1e-6), metric


@given(worlds())
@settings(max_examples=60, deadline=None)
def test_full_ranking_is_the_definition(world):
    report = evaluate(world.scorer, world.queries(), METRICS)
    assert_definition(report, world, lambda row: full_pool(world, row))


@given(worlds())
@settings(max_examples=60, deadline=None)
def test_seen_items_may_stay_whatever_is_relevant(world):
    """The candidates do not come from the truth: a model that repeats pays for what is not taken again."""
    report = evaluate(world.scorer, world.queries(), METRICS, exclude_seen=False)
    assert_definition(report, world, lambda row: full_pool(world, row, repeats=True))
    assert report.protocol == "toy; full ranking, nothing excluded, ties count against the model"
    assert report.fingerprint == evaluate(world.scorer, world.queries(), METRICS, repeats=True).fingerprint


@given(worlds())
@settings(max_examples=60, deadline=None)
def test_what_is_asked_for_and_never_offered_is_counted(world):
    pairs = [(item, row) for row, truth in enumerate(world.truth) for item in truth]
    lost = sum(item in world.seen[row] for item, row in pairs if item)
    notes = evaluate(world.scorer, world.queries(), METRICS).notes
    said = [note for note in notes if "was taken before and is never offered" in note]
    share = f"{lost / max(1, len(pairs)):.0%} of what is asked for ({lost:,} of {len(pairs):,} items)"
    mend = "if people take things again, exclude_seen=False (--no-exclude-seen)"
    assert said == ([f"{share} was taken before and is never offered: {mend}"] if lost else [])
    assert not [
        note for note in evaluate(world.scorer, world.queries(), METRICS, exclude_seen=False).notes if mend in note
    ]


@given(worlds())
@settings(max_examples=60, deadline=None)
def test_given_candidates_are_the_definition(world):
    report = evaluate(world.scorer, world.queries(candidates=True), METRICS)
    assert_definition(report, world, lambda row: candidate_pool(world, row))


@given(worlds())
@settings(max_examples=60, deadline=None)
def test_lists_longer_than_the_catalogue_agree_with_tiles(world):
    queries = world.queries()
    by_tiles, by_lists = (evaluate(s, queries, METRICS) for s in (world.scorer, ListsOnly(world.scorer)))
    for metric in METRICS:
        assert by_lists.values[metric].tolist() == pytest.approx(by_tiles.values[metric].tolist(), nan_ok=True), metric
    assert by_lists.protocol == by_tiles.protocol
    assert by_lists.fingerprint == by_tiles.fingerprint


@pytest.mark.parametrize("k", [1, 10, 30])
@pytest.mark.parametrize("wrap", [lambda scorer: scorer, ListsOnly], ids=["tiles", "lists"])
def test_a_constant_scorer_gets_nothing_on_full_ranking(wrap, k):
    scorer = wrap(Table(torch.full((4, 50), 0.3)))
    report = evaluate(scorer, queries_of([[1], [49], [7, 8], [2]], [[3], [4], [], [1]]), [f"hr@{k}", f"ndcg@{k}"])
    assert [score.value for score in report.scores] == [0.0, 0.0]


def test_a_constant_scorer_gets_nothing_on_given_candidates():
    candidates = torch.cat([torch.tensor([[1], [2]]), torch.arange(3, 23).expand(2, -1)], 1)
    queries = queries_of([[1], [2]], candidates=candidates)
    report = evaluate(Table(torch.full((2, 50), 0.3)), queries, ["hr@20", "mrr"])
    assert report.value("hr@20") == 0
    assert report.value("mrr") == pytest.approx(1 / 21)
    assert report.protocol == "toy; 21 given candidates, ties count against the model"


def test_a_seen_item_never_counts_and_never_stands_in_the_way():
    table = torch.arange(10.0).flip(0)[None]  # item 1 first, 2 second …
    table[0, 0] = 99.0
    report = evaluate(Table(table), queries_of([[4]], [[1, 2, 3]]), ["hr@1"])
    assert report.value("hr@1") == 1
    assert evaluate(Table(table), queries_of([[1, 4]], [[1, 2, 3]]), ["recall@5"]).value("recall@5") == 0.5
    assert "seen items excluded" in report.protocol
    assert "nothing excluded" in evaluate(Table(table), queries_of([[4]]), ["hr@1"]).protocol


def test_tile_sizes_change_no_value():
    torch.manual_seed(3)
    scorer = Table(torch.randperm(40 * 60).view(40, 60).float())
    queries = queries_of([[i + 1, 59 - i] for i in range(40)], [[i % 7 + 1] for i in range(40)])
    facts = Facts(torch.arange(60), torch.randn(60, 4))
    names = [*METRICS, "mrr", "auc", "coverage@5", "novelty@5", "popularity_bias@5", "diversity@5"]
    whole = evaluate(scorer, queries, names, facts=facts)
    for budget in (12, 300, 5000, 40_000):
        part = evaluate(scorer, queries, names, facts=facts, memory_bytes=budget)
        assert part.peak_bytes <= budget
        for name in names:
            assert (part.values[name] == whole.values[name]).all(), name


def test_metrics_beyond_accuracy_agree_between_tiles_and_lists():
    torch.manual_seed(4)
    scorer = Table(torch.randperm(20 * 30).view(20, 30).float())
    queries = queries_of([[i + 1] for i in range(20)])
    facts = Facts(torch.arange(30), torch.randn(30, 4), "random vectors")
    names = ["coverage@5", "novelty@3", "popularity_bias@5", "diversity@4"]
    tiles, lists = (evaluate(s, queries, names, facts=facts) for s in (scorer, ListsOnly(scorer)))
    for name in names:
        assert tiles.values[name].tolist() == pytest.approx(lists.values[name].tolist()), name
    assert tiles.notes == ("diversity compares random vectors",)


def test_clicks_give_auc_and_logloss():
    table = torch.tensor([[0.0, 2.0], [0.0, -1.0], [0.0, 2.0], [0.0, 0.5]])
    labels, items = torch.tensor([[1.0], [0.0], [0.0], [1.0]]), torch.ones((4, 1), dtype=torch.int64)
    report = evaluate(Table(table), queries_of([[], [], [], []], candidates=items, labels=labels))
    assert report.value("auc") == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    s = table[:, 1].double()
    expected = -(labels[:, 0] * s.sigmoid().log() + (1 - labels[:, 0]) * (1 - s.sigmoid()).log()).mean().item()
    assert report.value("logloss") == pytest.approx(expected)
    assert report.protocol == "toy; labelled clicks, ties count one half"


def test_notes_count_what_cannot_be_hit():
    allowed = torch.ones(6, dtype=torch.bool)
    allowed[5] = False
    report = evaluate(Table(torch.zeros(3, 6), allowed), queries_of([[0, 5], [], [2, 2]]), ["hr@1"])
    assert report.notes == (
        "1 of 3 relevant items are unknown to train: misses",
        "1 of 3 relevant items may not be recommended: misses",
        "1 relevant items were named twice in a query and count once",
        "1 queries have no relevant item and are left out of accuracy",
    )
    assert report["hr@1"].n == 2


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["ndgc@10"], "did you mean 'ndcg@10'"),
        ([], "name at least one"),
        (["logloss"], "'logloss' needs labels"),
        (["novelty@5"], "needs facts about the items"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(metrics, message):
    with pytest.raises(InputError, match=message):
        evaluate(Table(torch.zeros(1, 4)), queries_of([[1]]), metrics)


def test_lists_cannot_answer_for_the_whole_ranking():
    scorer = ListsOnly(Table(torch.zeros(1, 4)))
    with pytest.raises(InputError, match="'mrr' needs the whole ranking, and ListsOnly gives lists"):
        evaluate(scorer, queries_of([[1]]), ["mrr"])
    with pytest.raises(InputError, match="coverage@2' needs the catalogue's size"):
        evaluate(scorer, queries_of([[1]]), ["coverage@2"])


def test_queries_that_do_not_fit_are_refused():
    scorer, items = Table(torch.full((1, 4), torch.nan)), torch.ones((1, 1), dtype=torch.int64)
    with pytest.raises(InputError, match="queries hold no row"):
        evaluate(scorer, queries_of([]))
    with pytest.raises(InputError, match="labelled queries need candidates and labels"):
        evaluate(scorer, queries_of([[1]], labels=torch.ones(1, 1)))
    clicks = queries_of([[1]], candidates=items, labels=torch.ones(1, 1))
    with pytest.raises(InputError, match="'hr@1' ranks, and these queries are labelled clicks"):
        evaluate(scorer, clicks, ["hr@1"])
    with pytest.raises(InputError, match="scores hold NaN"):
        evaluate(scorer, clicks)


def test_other_queries_have_another_fingerprint():
    scorer, plain = Table(torch.zeros(2, 5)), queries_of([[1], [2]])
    prints = {
        evaluate(scorer, queries, ["hr@1"]).fingerprint
        for queries in (
            queries_of([[1], [2]]),
            queries_of([[1, 2], []]),
            queries_of([[1], [2]], [[3], []]),
            queries_of([[1], [2]], candidates=torch.tensor([[1, 3], [2, 3]])),
            replace(plain, contexts=replace(plain.contexts, time=torch.arange(2))),
        )
    }
    assert len(prints) == 5
    assert evaluate(scorer, queries_of([[1], [2]]), ["mrr"], name="x").fingerprint in prints


def test_scorers_are_told_apart_by_what_they_can_do():
    scorer = Table(torch.zeros(1, 4))
    assert isinstance(scorer, TileScorer)
    assert isinstance(ListsOnly(scorer), Scorer)
    assert not isinstance(ListsOnly(scorer), TileScorer)


def test_a_value_does_not_depend_on_what_else_is_measured():
    torch.manual_seed(5)
    scorer, queries = Table(torch.rand(9, 20)), queries_of([[i + 1, 19 - i] for i in range(9)])
    facts = Facts(torch.arange(20), torch.randn(20, 4))
    names = [f"{base}@{k}" for base in ("coverage", "novelty", "diversity", "popularity_bias", "ndcg") for k in (2, 5)]
    together = evaluate(scorer, queries, names, facts=facts)
    for name in names:
        alone = evaluate(scorer, queries, [name], facts=facts)
        assert alone.values[name].tolist() == together.values[name].tolist(), name


def test_what_cannot_be_found_is_worth_nothing_in_a_whole_ranking():
    scorer = Table(torch.arange(6.0)[None], torch.tensor([False, True, True, True, True, False]))
    assert evaluate(scorer, queries_of([[5]]), ["mrr"]).value("mrr") == 0.0
