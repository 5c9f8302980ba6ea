"""The engine: exactly k whatever is excluded, for every index; pair features; devices; two stages by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.batch import Candidates, Contexts, Features
from suisen.data.ragged import Ragged
from suisen.models.contract import ItemTable, Ranker, Retriever
from suisen.recommending.engine import CONTEXTS_PER_CHUNK, Engine, Filters, States, build_index
from suisen.recommending.sources import pair_features
from suisen.retrieval import HNSW, IVFPQ, IVFSQ8, Exact, Flat
from tests.fitted import fitted, small_split

INDEXES = [Exact(), Flat(), HNSW(m=8, ef_construction=40), IVFSQ8(lists=20, probe=2), IVFPQ(lists=20, probe=2)]


class Plain(Retriever):
    """Fixed vectors: user u asks with row u of a table."""

    def __init__(self, n_items: int, dim: int = 8) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(1)
        self.table = F.normalize(torch.randn(n_items, dim, generator=rng), dim=1)
        self.asking = torch.randn(50, dim, generator=rng)
        self.bind(items_of(n_items))

    def query_vectors(self, contexts):
        return self.asking[contexts.user]

    def item_vectors(self):
        return self.table


class Doubler(Ranker):
    """Ranks by the retrieval score, the worst first."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.bind(items_of(n_items))

    def context_state(self, contexts):
        return torch.zeros(len(contexts), 1)

    def item_state(self, ids):
        return ids[:, None].float()

    def combine(self, context, item, pair, weights=None):
        return -pair[..., 0] if pair is not None else -item[..., 0] + 0 * context


def items_of(n_items):
    trained = torch.ones(n_items, dtype=torch.bool)
    trained[0] = False
    return ItemTable(Features.none(n_items), trained)


def asking(*users):
    return Contexts.of_users(torch.tensor(users))


def engine_of(n_items, index=None, ranker=None, candidates=50):
    net = Plain(n_items)
    return Engine(net, ranker, net.items.trained, candidates, index and build_index(net, index))


@pytest.mark.parametrize("index", INDEXES, ids=lambda index: index.name)
@pytest.mark.parametrize("second", [False, True])
def test_the_nearest_may_all_be_excluded(index, second):
    """2,000 nearest of 3,000 items are barred: k of the others come, and they are the best of them."""
    n = 3001
    engine = engine_of(n, index, Doubler(n) if second else None)
    net = engine.retriever
    order = (net.asking[[3, 4]] @ net.table.T)[:, 1:].argsort(1, descending=True) + 1
    barred = Ragged(order[:, :2000].reshape(-1), torch.tensor([0, 2000, 4000]))
    for k in (1, 10, 60):
        ids, scores = engine.lists(asking(3, 4), k, Filters(barred))
        assert ids.shape == scores.shape == (2, k)
        for row, gone in zip(ids.tolist(), order[:, :2000].tolist()):
            assert len(set(row)) == k
            assert not {0, *gone} & set(row)
    if index.exact and not second:
        assert ids[0, :10].tolist() == order[0, 2000:2010].tolist()
    left = 3
    barred = Ragged(order[:, : n - 1 - left].reshape(-1), torch.arange(3) * (n - 1 - left))
    ids, scores = engine.lists(asking(3, 4), 10, Filters(barred))
    for row in range(2):
        assert set(ids[row, :left].tolist()) == set(order[row, -left:].tolist())
        assert ids[row, left:].tolist() == [0] * 7
        assert (scores[row, left:] == -torch.inf).all()


@pytest.mark.parametrize("index", INDEXES, ids=lambda index: index.name)
def test_among_with_every_index(index):
    engine = engine_of(3001, index)
    among = torch.arange(1, 3001, 700)
    ids, _ = engine.lists(asking(1, 2, 3), 9, Filters(Ragged.of([[701], [], [1, 1401]]), among))
    wanted = [{1, 1401, 2101, 2801}, {1, 701, 1401, 2101, 2801}, {701, 2101, 2801}]
    assert [set(row) - {0} for row in ids.tolist()] == wanted


def test_two_stages_by_hand():
    engine = engine_of(200, ranker=Doubler(200), candidates=20)
    net = engine.retriever
    best = (net.asking[[5]] @ net.table.T)[0, 1:].topk(20)
    ids, scores = engine.lists(asking(5), 6, Filters(Ragged.empty(1)))
    assert ids[0].tolist() == (best.indices.flip(0)[:6] + 1).tolist()
    assert scores[0].tolist() == sorted(scores[0].tolist(), reverse=True)
    ids, _ = engine.lists(asking(5), 30, Filters(Ragged.empty(1)))  # more than candidates: the list grows
    assert len(set(ids[0].tolist())) == 30
    ids, _ = engine.lists(asking(5), 250, Filters(Ragged.empty(1)))
    assert (ids[0, :199] > 0).all()
    assert not ids[0, 199:].any()
    same, _ = engine.rank(asking(5), 6, Ragged.empty(1))
    assert same.tolist() == engine.lists(asking(5), 6, Filters(Ragged.empty(1)))[0].tolist()


def test_what_is_not_allowed_never_comes():
    net = Plain(100)
    allowed = net.items.trained & (torch.arange(100) % 2 == 0)
    for index in (Exact(), Flat()):
        engine = Engine(net, None, allowed, 10, build_index(net, index))
        ids, _ = engine.lists(asking(1, 2), 99, Filters(Ragged.empty(2)))
        assert set(ids.flatten().tolist()) == set(range(0, 100, 2))
        scores = engine.score(asking(1), Candidates(torch.tensor([[1, 2, 3, 4, 0]])))
        assert (scores > -torch.inf).tolist() == [[False, True, False, True, False]]
    with pytest.raises(TypeError, match="needs a retriever, a ranker or both"):
        Engine(None, None, allowed, 10)


def test_a_built_index_is_taken_as_it_is():
    engine = engine_of(100, HNSW(m=8))
    again = Engine(engine.retriever, None, engine.allowed, 50, engine.index)
    assert again.index is engine.index
    assert fitted("ease").engine.index is None


@given(
    st.lists(st.lists(st.floats(-100, 100, width=32), min_size=5, max_size=5), min_size=1, max_size=4),
    st.integers(0, 5),
)
def test_pair_features_are_their_definition(rows, real):
    scores = torch.tensor(rows).sort(1, descending=True).values
    known = (torch.arange(5) < real).expand(len(rows), -1)
    out = pair_features(scores.where(known, -torch.inf), known)
    for row, found in zip(scores.double(), out):
        mine = row[:real]
        spread = float(mine.std(correction=0)) if real else 0.0
        for place in range(5):
            standard = float(mine[place] - mine.mean()) / max(spread, 1e-6) if place < real else 0.0
            tolerance = 1e-3 if spread > 1e-2 else 1e3  # next to no spread: rounding decides
            assert float(found[place, 0]) == pytest.approx(standard, abs=tolerance)
            assert float(found[place, 1]) == pytest.approx(-torch.log2(torch.tensor(place + 1.0)).item() / 8)


def test_what_compares_items_is_made_once():
    for name in ("ials", "two-tower", "fm"):
        engine = fitted(name).engine
        vectors = engine.likeness.vectors
        assert vectors.shape[0] == len(engine.allowed)
        lengths = vectors.norm(dim=1)[engine.allowed]
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-4, atol=1e-4)
        assert engine.likeness.vectors is vectors


def test_results_lie_on_the_cpu_and_filters_follow_their_rows():
    rec, contexts = fitted("ease + fm"), small_split().test.contexts
    ids, scores = rec.engine.lists(contexts, 5, Filters(contexts.history))
    assert ids.device.type == scores.device.type == "cpu"
    assert ids.dtype == torch.int64
    assert scores.dtype == torch.float32
    rows = torch.tensor([3, 1])
    some, _ = rec.engine.lists(contexts.take(rows), 5, Filters(contexts.history).take(rows))
    assert torch.equal(some, ids[rows])
    engine = fitted("ials").engine
    assert torch.equal(torch.from_numpy(engine.index.vectors.copy()), engine.retriever.item_vectors()[1:])


class Recorded:
    """A fast way that answers the number of its rows, and remembers what it was asked."""

    most = 20
    quick = True

    def __init__(self) -> None:
        self.asked: list = []

    def describe(self) -> dict:
        return {}

    def prepare(self, contexts):
        return States(contexts.user.float()[:, None].numpy(), None)

    def lists(self, states, k, exclude, among=None, open_=None):
        self.asked.append((states.queries[:, 0].tolist(), k, exclude.tolist(), among))
        found = torch.from_numpy(states.queries).long()
        return found.expand(-1, k), found.float().expand(-1, k)


def with_a_fast_way() -> Engine:
    allowed = torch.ones(30, dtype=torch.bool)
    allowed[0] = False
    engine = Engine(Plain(30), Doubler(30), allowed, 15)
    engine.plan = Recorded()
    return engine


def test_the_fast_way_is_asked_in_chunks_with_each_chunks_filters():
    engine = with_a_fast_way()
    rows = CONTEXTS_PER_CHUNK + 3
    contexts = Contexts.of_users(torch.arange(rows))
    exclude = Ragged.of([[row] for row in range(rows)])
    ids, scores = engine.fast_lists(contexts, 2, Filters(exclude, torch.tensor([5])))
    assert ids.tolist() == [[row, row] for row in range(rows)]
    assert torch.equal(scores, ids.float())
    sizes = [len(users) for users, *_ in engine.plan.asked]
    assert sizes == [CONTEXTS_PER_CHUNK, 3]
    for users, k, excluded, among in engine.plan.asked:
        assert (k, among.tolist()) == (2, [5])
        assert excluded == [[user] for user in users]
    none = engine.fast_lists(contexts.take(torch.zeros(0, dtype=torch.int64)), 2, Filters(Ragged.empty(0)))
    assert [part.shape for part in none] == [(0, 2), (0, 2)]


@pytest.mark.parametrize(("k", "diversity"), [(3, 0.5), (Recorded.most + 1, 0.0)])
def test_what_the_fast_way_does_not_take_is_computed_as_ever(k, diversity):
    engine = with_a_fast_way()
    contexts = Contexts.of_users(torch.arange(4))
    filters = Filters(Ragged.empty(4))
    for one, two in zip(
        engine.fast_lists(contexts, k, filters, diversity), engine.lists(contexts, k, filters, diversity), strict=True
    ):
        assert torch.equal(one, two)
    assert not engine.plan.asked
