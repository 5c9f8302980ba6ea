"""What every metric of ``METRICS`` keeps to.  A new one is in the suite as soon as it stands in the registry."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.evaluation import METRICS, Facts, compare, evaluate
from suisen.evaluation.metrics import facts_needed, parse
from suisen.evaluation.ranks import UNRANKED
from suisen.evaluation.report import Comparison
from suisen.pages.report import outcome
from suisen.pipeline.tuning import check_metric
from tests.evaluation.toys import ListsOnly, Table, queries_of

N_ITEMS = 12
FACTS = Facts(torch.arange(N_ITEMS), torch.randn(N_ITEMS, 4, generator=torch.Generator().manual_seed(0)))

every = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def with_formula(name):
    """Over the metrics that have a formula of that name."""
    found = {metric.name: metric for metric in METRICS.values() if getattr(metric, name) is not None}
    return pytest.mark.parametrize("metric", found.values(), ids=found)


ranks_of_a_query = st.builds(
    lambda found, missed: sorted(found) + [UNRANKED] * missed,
    st.sets(st.integers(1, 14), max_size=6),
    st.integers(0, 2),
)
ranks_of_queries = st.lists(ranks_of_a_query, min_size=1, max_size=5)
lists_of_items = st.lists(
    st.builds(
        lambda items, length: items[:length] + [0] * (4 - length),
        st.lists(st.integers(1, N_ITEMS - 1), min_size=4, max_size=4, unique=True),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=6,
)
labelled_scores = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=20).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


def sign(metric):
    """By what a difference is to be multiplied so that an improvement is positive; 0 = no direction."""
    return {"higher": 1, "lower": -1, "neither": 0}[metric.better]


def in_bounds(metric, values):
    low, high = metric.bounds
    return bool(((values >= low - 1e-9) & (values <= high + 1e-9)).all())


def mean(values):
    return float(values[~values.isnan()].mean())


def improved(row, draw):
    """The ranks with one relevant item nearer to the top, on a place that no other relevant item has."""
    which = draw(st.integers(0, len(row) - 1))
    free = [rank for rank in range(1, min(row[which], 15)) if rank not in row]
    return sorted([*row[:which], draw(st.sampled_from(free)), *row[which + 1 :]]) if free else row


@every
def test_a_metric_is_found_by_its_name(metric):
    assert METRICS[metric.name] is metric
    assert metric.name == metric.name.strip().lower()
    written = metric.example(7)
    assert (str(parse(written)), parse(written).metric) == (written, metric)
    if metric.cutoff == "optional":
        assert parse(metric.name).k is None
    assert facts_needed([written]) == set(metric.needs)
    assert metric.bounds[0] < metric.bounds[1]


@with_formula("of_ranks")
@given(rows=ranks_of_queries, k=st.integers(1, 12))
def test_values_of_ranks_are_in_bounds_one_per_query_and_nan_where_nothing_is_relevant(metric, rows, k):
    values = metric.of_ranks(Ragged.of(rows), k)
    assert values.dtype == torch.float64
    assert values.isnan().tolist() == [not row for row in rows]
    assert in_bounds(metric, values[~values.isnan()])
    alone = [metric.of_ranks(Ragged.of([row]), k).item() for row in rows]
    assert values.tolist() == pytest.approx(alone, nan_ok=True)


@with_formula("of_ranks")
@given(row=ranks_of_a_query.filter(len), k=st.integers(1, 12), data=st.data())
def test_a_relevant_item_nearer_to_the_top_never_worsens_a_metric(metric, row, k, data):
    better = metric.of_ranks(Ragged.of([improved(row, data.draw)]), k) - metric.of_ranks(Ragged.of([row]), k)
    assert sign(metric) * better.item() >= -1e-12


@with_formula("of_ranks")
def test_finding_all_is_better_than_finding_nothing(metric):
    best, none = (metric.of_ranks(Ragged.of([row]), 5).item() for row in ([1, 2], [UNRANKED, UNRANKED]))
    assert sign(metric) * (best - none) > 0 or metric.better == "neither"


@with_formula("of_ranks")
def test_a_scorer_that_tells_nothing_apart_finds_nothing(metric):
    """Ties count against the model, from tiles and from lists."""
    queries, constant = queries_of([[1], [3, 11], []]), Table(torch.zeros(3, N_ITEMS))
    nothing = metric.of_ranks(Ragged.of([[UNRANKED], [UNRANKED] * 2, []]), 5)
    for scorer in (constant, ListsOnly(constant)):
        report = evaluate(scorer, queries, [metric.example(5)])
        assert report.values[metric.example(5)].tolist() == pytest.approx(nothing.tolist(), nan_ok=True)
        assert report.scores[0].n == 2


@with_formula("of_rivals")
@given(row=ranks_of_a_query.filter(len), rivals=st.integers(14, 30), data=st.data())
def test_with_rivals_a_relevant_item_nearer_to_the_top_never_worsens_a_metric(metric, row, rivals, data):
    count = torch.tensor([rivals])
    before = metric.of_rivals(Ragged.of([row]), count)
    after = metric.of_rivals(Ragged.of([improved(row, data.draw)]), count)
    assert in_bounds(metric, torch.cat([before, after]))
    assert sign(metric) * (after - before).item() >= -1e-12
    both = metric.of_rivals(Ragged.of([row, []]), torch.cat([count, count]))
    assert both.tolist() == pytest.approx([before.item(), math.nan], nan_ok=True)


@with_formula("of_lists")
@given(rows=lists_of_items, data=st.data())
def test_values_of_lists_follow_their_queries_and_their_mean_is_in_bounds(metric, rows, data):
    lists, counts, vectors = torch.tensor(rows), FACTS.item_counts.clone(), FACTS.item_vectors.clone()
    values = metric.of_lists(lists, FACTS)
    assert values.shape == (len(rows),)
    if not values.isnan().all():
        assert in_bounds(metric, torch.tensor([mean(values)]))
    order = data.draw(st.permutations(range(len(rows))))
    assert metric.of_lists(lists[order], FACTS).tolist() == pytest.approx(values[order].tolist(), nan_ok=True)
    assert lists.tolist() == rows
    assert FACTS.item_counts.equal(counts)  # what is measured is not written to
    assert FACTS.item_vectors.equal(vectors)


@with_formula("of_labels")
@given(rows=labelled_scores, raised=st.integers(1, 4), data=st.data())
def test_a_click_scored_higher_never_worsens_a_metric(metric, rows, raised, data):
    scores, labels = (torch.tensor([float(row[part]) for row in rows]) for part in (0, 1))
    clicks = labels.nonzero().flatten().tolist()
    after = scores.clone()
    after[data.draw(st.sampled_from(clicks))] += raised
    before, better = (mean(metric.of_labels(each, labels)) for each in (scores, after))
    assert in_bounds(metric, torch.tensor([before, better]))
    assert sign(metric) * (better - before) >= -1e-9
    order = data.draw(st.permutations(range(len(rows))))
    assert mean(metric.of_labels(scores[order], labels[order])) == pytest.approx(before)


@every
def test_a_metric_goes_through_reports_and_comparisons(metric):
    """Its name is all that a caller needs: report, paired difference, verdict and tuning ask the metric."""
    table = torch.rand(8, N_ITEMS, generator=torch.Generator().manual_seed(1))
    queries = queries_of([[1 + i, 2 + i] for i in range(8)])
    if metric.of_ranks is None and metric.of_lists is None and metric.of_rivals is None:
        items, labels = torch.ones((8, 1), dtype=torch.int64), (torch.arange(8) % 2).float()[:, None]
        queries = queries_of([[]] * 8, candidates=items, labels=labels)
    name = metric.example(5)
    first, second = (evaluate(Table(scores), queries, [name], facts=FACTS) for scores in (table, -table))
    assert in_bounds(metric, torch.tensor([first.value(name), second.value(name)]))
    row = compare(first, second).row(name)
    assert row.difference == pytest.approx(second.value(name) - first.value(name), abs=1e-6)
    assert np.isfinite(row.p)


@every
@pytest.mark.parametrize("difference", [0.1, -0.1])
def test_the_verdict_follows_the_metrics_direction(metric, difference):
    row = Comparison(metric.example(), "b", "a", difference, difference, difference, 0.001, 0.001, 9, "toy")
    more = "higher" if difference > 0 else "lower"
    said = (
        {"higher": "better", "lower": "worse"} if metric.better == "higher" else {"lower": "better", "higher": "worse"}
    )
    assert outcome(row) == (more if metric.better == "neither" else said[more])


@every
def test_settings_are_picked_by_metrics_of_which_more_is_better(metric):
    if metric.better == "higher" and not metric.needs:
        assert check_metric(metric.example()) == metric.example()
    else:
        with pytest.raises(InputError, match=r"cannot be tuned on; use one of .*ndcg@10.*auc"):
            check_metric(metric.example())
