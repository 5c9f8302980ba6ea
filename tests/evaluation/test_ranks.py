import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.evaluation import ranks as ranks_module
from suisen.evaluation.ranks import BLUR, UNRANKED, blurred, distinct, from_candidates, from_lists
from suisen.evaluation.tiles import Plan, Wanted, from_tiles
from tests.evaluation.toys import (
    ListsOnly,
    Table,
    candidate_pool,
    full_pool,
    queries_of,
    relevant,
    slow_ranks,
    worlds,
)

MIB = 2**20


def plain(ranks):
    return [[None if rank == UNRANKED else rank for rank in row] for row in ranks.tolist()]


@given(worlds(), st.integers(12, 3000))
@settings(max_examples=150, deadline=None)
def test_tiles_are_the_definition_whatever_their_size(world, budget):
    queries = world.queries()
    truth = distinct(queries.truth)
    ranking = from_tiles(world.scorer, queries, truth, queries.seen, Wanted(budget, rivals=True))
    rows = range(len(queries))
    pools = [full_pool(world, row) for row in rows]
    assert plain(ranking.ranks) == [slow_ranks(pools[row], world.truth[row]) for row in rows]
    assert ranking.rivals.tolist() == [sum(i not in world.truth[row] for i, _ in pools[row]) for row in rows]
    assert ranking.peak_bytes <= budget
    assert ranking.not_allowed == sum(not world.allowed[i] for row in world.truth for i in set(row) if i)


@given(worlds(), st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_lists_are_the_definition_and_a_tie_at_the_cut_is_a_miss(world, k):
    queries = world.queries()
    ranking = from_lists(ListsOnly(world.scorer), queries, distinct(queries.truth), queries.seen, k)
    assert ranking.peak_bytes == 0  # lists hold no table of scores
    for row, got in enumerate(plain(ranking.ranks)):
        pool = full_pool(world, row)
        best = sorted((score for _, score in pool), reverse=True)
        hidden = best[k] if len(best) > k else -torch.inf  # what scores like this may have equals that nobody sees
        seen = {i for i, score in pool if score > hidden}
        expected = [rank for rank in slow_ranks(pool, world.truth[row]) if rank is not None]
        count = len(seen & set(world.truth[row]))
        assert got == expected[:count] + [None] * (len(relevant(world.truth[row])) - count)


@given(worlds(), st.integers(44, 3000))
@settings(max_examples=150, deadline=None)
def test_candidates_are_the_definition(world, budget):
    queries = world.queries(candidates=True)
    ranking = from_candidates(world.scorer, queries, distinct(queries.truth), 3, budget)
    for row, got in enumerate(plain(ranking.ranks)):
        pool = candidate_pool(world, row)
        assert got == slow_ranks(pool, world.truth[row])
        assert ranking.rivals[row] == sum(item not in world.truth[row] for item, _ in pool)
        best = sorted((score for _, score in pool), reverse=True)[:3]
        assert [world.table[row][i] for i in ranking.lists[row].tolist() if i] == best


@given(worlds(), st.integers(1, 6), st.integers(12, 500))
@settings(max_examples=60, deadline=None)
def test_best_items_by_tiles_score_as_the_best_do(world, k, budget):
    queries = world.queries()
    ranking = from_tiles(world.scorer, queries, distinct(queries.truth), queries.seen, Wanted(budget, lists=k))
    for row, ids in enumerate(ranking.lists.tolist()):
        pool = dict(full_pool(world, row))
        chosen = [i for i in ids if i]
        assert set(chosen) <= set(pool)
        assert len(set(chosen)) == len(chosen) == min(k, len(pool))
        assert [pool[i] for i in chosen] == sorted(pool.values(), reverse=True)[:k]
        assert not any(ids[len(chosen) :])


def test_a_collapsed_model_finds_nothing_though_its_products_round_differently():
    torch.manual_seed(0)
    items, rows = 1003, 7
    table = torch.randn(rows, 64) @ torch.randn(1, 64).expand(items, 64).contiguous().T
    table += table.abs() * 2.0**-22 * torch.randint(-3, 4, table.shape)  # what another machine's kernels might do
    queries = queries_of([[1 + 140 * row, 1002] for row in range(rows)])
    for ranks in (
        from_tiles(Table(table), queries, queries.truth, queries.seen, Wanted(MIB)).ranks,
        from_lists(Table(table), queries, queries.truth, queries.seen, 100).ranks,
    ):
        assert int(ranks.values.min()) > 900
    given = torch.cat([queries.truth.padded(), torch.arange(2, 99).expand(rows, -1)], 1)
    own = queries_of([row[:1] for row in queries.truth.tolist()], candidates=given[:, [0, *range(2, 99)]])
    assert int(from_candidates(Table(table), own, own.truth, 0, MIB).ranks.values.min()) >= 97


def test_healthy_neighbours_are_not_blurred():
    table = torch.arange(50.0).expand(1, -1).clone()
    table[0, 10], table[0, 11] = 100.0, torch.nextafter(torch.tensor(100.0), torch.tensor(0.0))
    queries = queries_of([[10]])
    assert from_tiles(Table(table), queries, queries.truth, queries.seen, Wanted(MIB)).ranks.tolist() == [[1]]


def test_minus_infinity_is_not_recommended_and_stands_in_nobodys_way():
    table = torch.full((2, 6), -torch.inf)
    table[0, 3] = -5.0
    queries = queries_of([[3, 2], [4]])
    ranking = from_tiles(Table(table), queries, queries.truth, queries.seen, Wanted(MIB))
    assert plain(ranking.ranks) == [[1, None], [None]]
    given = queries_of([[3, 2], [4]], candidates=torch.tensor([[3, 2, 1], [4, 5, 1]]))
    assert plain(from_candidates(Table(table), given, given.truth, 0, MIB).ranks) == [[1, None], [None]]


def test_nan_is_refused():
    queries = queries_of([[3]])
    table = torch.full((1, 5), torch.nan)
    with pytest.raises(InputError, match="scores hold NaN"):
        from_tiles(Table(table), queries, queries.truth, queries.seen, Wanted(MIB))
    with pytest.raises(InputError, match="scores hold NaN"):
        from_lists(Table(table), queries, queries.truth, queries.seen, 2)
    given = queries_of([[3]], candidates=torch.tensor([[3, 1]]))
    with pytest.raises(InputError, match="scores hold NaN"):
        from_candidates(Table(table), given, given.truth, 0, MIB)


def test_nan_of_a_rival_counts_against_the_target():
    table = torch.tensor([[0.0, 1.0, torch.nan, 0.5]])
    queries = queries_of([[1]])
    assert from_tiles(Table(table), queries, queries.truth, queries.seen, Wanted(MIB)).ranks.tolist() == [[2]]


def test_items_beyond_the_catalogue_are_unknown():
    queries = queries_of([[2, 9]], seen=[[1, 40]])
    ranking = from_tiles(Table(torch.arange(4.0)[None]), queries, queries.truth, queries.seen, Wanted(MIB))
    assert plain(ranking.ranks) == [[2, None]]
    assert ranking.not_allowed == 1


class Broken(Table):
    """Gives the list that a test wrote down."""

    def __init__(self, ids, scores):
        super().__init__(torch.zeros(1, 9))
        self.answer = torch.tensor([ids]), torch.tensor([scores])

    def rank(self, contexts, k, exclude):
        return self.answer


@pytest.mark.parametrize(
    ("ids", "scores", "message"),
    [
        ([1, 2, 3], [1.0, 2.0, 0.0], "query 0, a list whose scores rise"),
        ([1, 0, 3], [3.0, 0.0, 0.0], "pads in the middle"),
        ([1, 2, 1], [3.0, 2.0, 1.0], "an item twice in one list"),
        ([1, 2, 7], [3.0, 2.0, 1.0], "asked to exclude; filter before the cut"),
        ([1, 2], [3.0, 2.0], r"give \(1, 3\), 0 pads"),
        ([1, 2, 3], [3.0, 2.0, float("nan")], "scores hold NaN"),
    ],
)
def test_a_list_that_breaks_the_contract_is_refused(ids, scores, message):
    queries = queries_of([[5]], seen=[[7]])
    with pytest.raises(InputError, match=message):
        from_lists(Broken(ids, scores), queries, queries.truth, queries.seen, 2)


def test_scores_of_another_shape_and_missing_candidates_are_refused():
    queries = queries_of([[1]], candidates=torch.tensor([[1, 2]]))
    scorer = Table(torch.zeros(1, 5))
    scorer.score = lambda contexts, candidates: torch.zeros(1, 3)
    with pytest.raises(InputError, match=r"score\(\) gave \(1, 3\) for candidates \(1, 2\)"):
        from_candidates(scorer, queries, queries.truth, 0, MIB)
    bare = queries_of([[1]])
    with pytest.raises(InputError, match="candidates = None"):
        from_candidates(scorer, bare, bare.truth, 0, MIB)


def test_a_copy_of_the_target_among_its_negatives_is_dropped():
    queries = queries_of([[1]], candidates=torch.tensor([[1, 2, 1, 3]]))
    scorer = Table(torch.tensor([[0.0, 5.0, 4.0, 3.0]]))
    assert from_candidates(scorer, queries, queries.truth, 0, MIB).ranks.tolist() == [[1]]


def test_the_table_that_tiles_are_cut_from_is_left_alone():
    table = torch.arange(12.0).view(2, 6)
    scorer = Table(table.clone())
    scorer.prepare = lambda contexts: scorer.table  # hands out its own memory
    queries = queries_of([[1], [2]], seen=[[3], [4]])
    from_tiles(scorer, queries, queries.truth, queries.seen, Wanted(MIB))
    assert torch.equal(scorer.table, table)


def test_double_precision_keeps_its_order():
    table = torch.tensor([[0.0, 1.0, 1.0 + 1e-12, 0.5]], dtype=torch.float64)
    scorer = Table(table)
    scorer.table = table
    queries = queries_of([[1], [2]])
    scorer.table = table.expand(2, -1)
    assert from_tiles(scorer, queries, queries.truth, queries.seen, Wanted(MIB)).ranks.tolist() == [[2], [1]]


def test_plan_keeps_to_the_budget_and_names_the_least():
    scorer = Table(torch.zeros(1, 5001))
    assert Plan.of(scorer, 9999, 10**6).bytes_per_score == 8  # a scorer that says nothing needs 4 bytes a score
    for budget in (12, 1000, 10**6, 10**9):
        plan = Plan.of(scorer, 9999, budget)
        assert plan.peak_bytes(plan.kept) <= budget
        assert plan.rows >= 1
        assert plan.width >= 1
    scorer.bytes_per_score = 400
    plan = Plan.of(scorer, 9999, 10**6)
    assert plan.peak_bytes(plan.kept) <= 10**6
    assert plan.bytes_per_score == 404
    with pytest.raises(InputError, match="memory = 10 bytes is too small"):
        Plan.of(scorer, 1, 10)


@given(st.lists(st.lists(st.integers(0, 4), max_size=6), max_size=4))
def test_distinct_counts_known_items_once_and_unknown_ones_each(rows):
    assert [sorted(row) for row in distinct(Ragged.of(rows)).tolist()] == [sorted(relevant(row)) for row in rows]


def test_a_crowd_is_a_hundredth_of_the_scores_and_at_least_two():
    target = torch.tensor([4.0, -4.0])
    for others, columns, crowded in ((2, 200, True), (2, 201, False), (1, 10, False), (3, 300, True), (2, 2, True)):
        floor = blurred(target, torch.tensor([others, others]), columns)
        assert (target - floor).tolist() == ([4 * BLUR] * 2 if crowded else [0, 0])


@pytest.mark.parametrize(
    ("near", "padding", "rank"),
    [(1, 0, 1), (2, 0, 3), (2, 298, 3)],  # one neighbour is no crowd, two of five are, and padding is no score
)
def test_candidates_within_rounding_tie_where_they_are_many(near, padding, rank):
    scores = torch.tensor([[0.0, 1.0, *[1.0 - 2.0**-20] * near, 0.5, 0.25]])
    candidates = torch.cat([torch.arange(1, scores.shape[1])[None], torch.zeros((1, padding), dtype=torch.int64)], 1)
    queries = queries_of([[1]], candidates=candidates)
    assert from_candidates(Table(scores), queries, queries.truth, 3, MIB).ranks.tolist() == [[rank]]


def test_an_item_of_a_list_that_is_not_to_be_recommended_is_not_found():
    class Barred:
        def rank(self, contexts, k, exclude):
            return torch.tensor([[2, 1, 0]]), torch.tensor([[0.5, -torch.inf, 0.0]])

    queries = queries_of([[1]])
    ranking = from_lists(Barred(), queries, queries.truth, queries.seen, 2)
    assert plain(ranking.ranks) == [[None]]
    assert ranking.lists.tolist() == [[2, 0]]


def test_candidates_say_what_they_held():
    queries = queries_of([[1]] * 5, candidates=torch.arange(1, 11).expand(5, -1))
    ranking = from_candidates(Table(torch.zeros(5, 12)), queries, queries.truth, 1, 1000)
    assert ranking.peak_bytes == 2 * 10 * 44  # two queries of ten candidates fit into 1,000 bytes


def test_a_refusal_names_the_query_whatever_the_chunk(monkeypatch):
    class Twice:
        def rank(self, contexts, k, exclude):
            ids = torch.tensor([[1, 2]]).repeat(len(contexts), 1)
            ids[contexts.user == 3] = 2
            return ids, torch.zeros(ids.shape)

    monkeypatch.setattr(ranks_module, "QUERIES_PER_CHUNK", 2)
    queries = queries_of([[1]] * 5)
    with pytest.raises(InputError, match="for query 3, an item twice in one list"):
        from_lists(Twice(), queries, queries.truth, queries.seen, 1)


def test_only_scores_within_rounding_of_a_target_make_a_crowd():
    """One score within the blur and ten just outside of it: the model tells its items apart."""
    table = torch.tensor([[0.0, 1.0, 1.0 - BLUR / 2, *[1.0 - 3 * BLUR] * 10, *[0.1] * 20]])
    queries = queries_of([[1]])
    for found in (
        from_tiles(Table(table), queries, queries.truth, queries.seen, Wanted(MIB)),
        from_lists(Table(table), queries, queries.truth, queries.seen, 20),
    ):
        assert found.ranks.tolist() == [[1]]
