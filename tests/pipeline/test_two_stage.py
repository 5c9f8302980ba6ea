"""Two stages without a leak: what is held out, what a list holds, and what it would cost to cheat."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given

from suisen.data.batch import Candidates
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.data.splits import LeaveLast
from suisen.data.synthetic import World
from suisen.errors import InputError
from suisen.evaluation import compare, evaluate
from suisen.models import EASE, FM, MF, Popularity, SASRec
from suisen.models.contract import CatalogueScorer
from suisen.pipeline import two_stage
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.two_stage import RankerLists, first_takes, held_out, make_lists
from suisen.recommending.engine import Engine, Filters, recommendable
from suisen.recommending.sources import PAIR, pair_features
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.fitted import RANKERS, fitted, small_split
from tests.helpers import logs, make_data

OPTIONS = RankerLists(share=0.3, candidates=20, learnt=8, history=5)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def by_visitor(data):
    """visitor → its positive events, in order."""
    out: dict[int, list[int]] = {}
    for row in data.positive.nonzero().squeeze(1).tolist():
        out.setdefault(int(data.events.visitor[row]), []).append(row)
    return out


# -- what is held out --------------------------------------------------------------------------------------------------


@given(logs(times=True))
def test_the_last_positives_of_each_visitor_are_held_out(log):
    data = Dataset.of(log)
    (asked,) = held_out(data, replace(OPTIONS, share=0.4), seed=0)
    expected = set()
    for rows in by_visitor(data).values():
        number = min(-(-len(rows) * 4 // 10), len(rows) - 1)
        expected |= set(rows[len(rows) - number :])
    assert set(asked.nonzero().squeeze(1).tolist()) == expected


@given(logs(times=False))
def test_without_an_order_every_positive_is_held_out_once(log):
    data = Dataset.of(log)
    masks = list(held_out(data, OPTIONS, seed=3))
    assert len(masks) == two_stage.FOLDS
    counts = torch.stack(masks).sum(0)
    for rows in by_visitor(data).values():
        assert counts[rows].tolist() == ([1] * len(rows) if len(rows) > 1 else [0])
    assert not counts[~data.positive].any()
    again = list(held_out(data, OPTIONS, seed=3))
    assert all(torch.equal(a, b) for a, b in zip(masks, again, strict=True))


@given(logs())
def test_only_what_is_new_to_the_visitor_is_asked_about(log):
    data = Dataset.of(log)
    expected = set()
    for rows in by_visitor(data).values():
        items = data.events.item[rows].tolist()
        for place, row in enumerate(rows):
            others = items[:place] if data.has_time else items[:place] + items[place + 1 :]
            if items[place] not in others:
                expected.add(row)
    assert set(first_takes(data).nonzero().squeeze(1).tolist()) == expected


# -- what a list holds -------------------------------------------------------------------------------------------------


def inner_engine(train, model=None, n=20):
    model = model or EASE(l2=20.0)
    (asked,) = held_out(train, OPTIONS, seed=0)
    inner = train.keep(~asked)
    net, _ = fit(model, inner, None, RunOptions())
    return Engine(net, None, recommendable(model, inner.trained_items), n), asked & first_takes(train)


def one_by_one(engine, train, asked):
    """(row, list, its scores) of each event whose item is retrieved; and how many are not."""
    out, missed = [], 0
    for row in asked.nonzero().squeeze(1):
        contexts = train.contexts(row[None], history=10**6)
        ids, scores = engine.retrieve(contexts, 20, Filters(contexts.history))
        if (ids == train.events.item[row]).any():
            out.append((int(row), ids[0], scores[0]))
        else:
            missed += 1
    return out, missed


@pytest.mark.parametrize("at_once", [7, 1024])
def test_lists_are_those_of_the_engine(monkeypatch, at_once):
    monkeypatch.setattr(two_stage, "QUERIES_PER_CHUNK", at_once)
    train = small_split().train
    engine, asked = inner_engine(train)
    lists, missed = make_lists(engine, train, asked, OPTIONS, rng())
    expected, lost = one_by_one(engine, train, asked)
    assert missed == lost > 0
    assert len(lists) == len(expected) > 50
    assert lists.candidates.items.shape == lists.weights.shape == (len(lists), 8)
    history = train.histories.tolist()
    for at, (row, ids, scores) in enumerate(expected):
        items = lists.candidates.items[at]
        taken, visitor = int(train.events.item[row]), int(train.events.visitor[row])
        assert int(items[0]) == taken
        assert lists.labels[at].tolist() == [1.0] + [0.0] * 7
        real = items[items > 0].tolist()
        assert len(real) == len(set(real))
        assert set(real) <= set(ids.tolist())
        place = int(train.positives_before[row] - train.histories.offsets[visitor])
        before, after = set(history[visitor][:place]), set(history[visitor][place + 1 :])
        assert not before & set(real)
        weights = [1.0] + [float(i > 0 and i not in after) for i in items[1:].tolist()]
        assert lists.weights[at].tolist() == weights
        pair = pair_features(scores[None], ids[None] > 0)[0]
        for item, mine in zip(items.tolist(), lists.candidates.pair[at], strict=True):
            if item:
                torch.testing.assert_close(mine, pair[(ids == item).nonzero()[0, 0]], rtol=1e-4, atol=1e-4)
        past = [int(i) for i in history[visitor][:place]][-5:]
        assert lists.contexts.history.take(torch.tensor([at])).values.tolist() == past
    assert (lists.contexts.time == train.events.time[[row for row, *_ in expected]]).all()


def test_later_takes_weigh_nothing_and_padding_neither():
    data = make_data(user=list("aaaaa") + list("bbcc"), item=[1, 2, 3, 4, 5, 1, 2, 4, 5], time=list(range(9)))

    class Toy(CatalogueScorer):
        """The lower the id, the better."""

        def score_all(self, contexts):
            return -torch.arange(data.schema.n_items).float().expand(len(contexts), -1)

    net = Toy()
    net.bind(Recommender(Popularity()).fit(data).store.item_table)
    engine = Engine(net, None, data.trained_items, 10)
    asked = torch.tensor([False, True, False, False, False, False, False, False, False])
    lists, missed = make_lists(engine, data, asked, replace(OPTIONS, candidates=10), rng())
    assert missed == 0
    items = lists.candidates.items[0].tolist()  # of everything but what a took before: 2 is asked, 3, 4, 5 come later
    assert items[0] == 2
    assert sorted(items) == [0, 2, 3, 4, 5]
    assert lists.weights[0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert items[-1] == 0  # what is excluded leaves a gap at the end
    none, missed = make_lists(engine, data, asked & ~asked, OPTIONS, rng())
    assert none is None
    assert missed == 0


def test_what_is_not_retrieved_is_counted_and_left_out():
    train = small_split().train
    engine, asked = inner_engine(train)
    lists, missed = make_lists(engine, train, asked, replace(OPTIONS, candidates=1), rng())
    assert lists.candidates.items.shape == (len(lists), 1)
    assert len(lists) + missed == int(asked.sum())
    assert missed > len(lists) > 0
    thin, lost = make_lists(engine, train, asked, replace(OPTIONS, most_questions=10), rng())
    assert len(thin) + lost == 10


def test_the_negatives_are_drawn_from_the_whole_list():
    train = small_split().train
    engine, asked = inner_engine(train)
    ranks = []
    for seed in range(10):
        lists, _ = make_lists(engine, train, asked, OPTIONS, rng(seed))
        ranks.append(lists.candidates.pair[:, 1:, 1][lists.candidates.items[:, 1:] > 0])
    mean = float(torch.exp2(-8 * torch.cat(ranks)).mean())
    assert mean == pytest.approx(10.5, abs=0.5)  # 1 … 20


def test_lists_serve_as_they_train():
    """The scores that the ranker learns on are those that the engine computes for the same contexts."""
    rec, train = fitted("ease + fm"), small_split().train
    engine = rec.engine
    rows = first_takes(train).nonzero().squeeze(1)[::3]
    asked = torch.zeros(len(train.events), dtype=torch.bool)
    asked[rows] = True
    lists, _ = make_lists(engine, train, asked, RankerLists(candidates=30, learnt=30, history=50), rng())
    trained = engine.ranker.score(lists.contexts, lists.candidates).detach()
    contexts = train.contexts(rows, history=10**6)
    ids, scores = engine.lists(contexts, 30, Filters(contexts.history))
    kept = (ids == train.events.item[rows, None]).any(1).nonzero().squeeze(1)
    assert len(kept) == len(lists) > 30
    for at, row in enumerate(kept.tolist()):
        served = dict(zip(ids[row].tolist(), scores[row].tolist()))
        for item, score in zip(lists.candidates.items[at].tolist(), trained[at].tolist()):
            if item:
                assert score == pytest.approx(served[item], abs=1e-4)


def test_given_candidates_are_scored_as_listed():
    engine = fitted("two-tower + deepfm").engine
    contexts = small_split().test.contexts.take(torch.arange(9))
    ids, scores = engine.lists(contexts, 30, Filters(Ragged.empty(9)))
    shuffled = torch.stack([row[torch.randperm(30, generator=rng(i))] for i, row in enumerate(ids)])
    again = engine.score(contexts, Candidates(shuffled))
    order = again.argsort(1, descending=True)
    torch.testing.assert_close(again.gather(1, order), scores, rtol=1e-4, atol=1e-5)
    some = engine.score(contexts, Candidates(torch.cat([shuffled[:, :4], torch.zeros(9, 2).long()], 1)))
    assert (some[:, 4:] == -torch.inf).all()
    assert some[:, :4].isfinite().all()


# -- the recipe --------------------------------------------------------------------------------------------------------


def spied(monkeypatch):
    """Every call of ``fit``: (model, train, epochs per phase, stage)."""
    calls = []

    def spy(model, train, validate=None, options=None, schema=None, epochs_per_phase=None):
        calls.append((model, train, epochs_per_phase, options.stage, validate is not None))
        return fit(model, train, validate, options, schema, epochs_per_phase)

    monkeypatch.setattr(two_stage, "fit", spy)
    return calls


def test_the_inner_retriever_never_sees_what_is_asked(monkeypatch):
    calls, split = spied(monkeypatch), small_split()
    retriever, ranker = MF(dim=4, epochs=4, batch_size=256), RANKERS["fm"]
    rec = Recommender(retriever, ranker, candidates=30).fit(split.train, split.valid)
    inner, second, last = calls
    (asked,) = held_out(split.train, RankerLists(), seed=0)
    assert [call[0] for call in calls] == [retriever, ranker, retriever]
    assert [call[3] for call in calls] == ["retriever-inner1", "ranker", "retriever"]
    assert [call[4] for call in calls] == [True, True, False]
    assert len(inner[1].events) == len(split.train.events) - int(asked.sum())
    pairs = set(zip(inner[1].events.visitor.tolist(), inner[1].events.time.tolist()))
    gone = zip(split.train.events.visitor[asked].tolist(), split.train.events.time[asked].tolist())
    assert not pairs & set(gone)
    assert last[1] is split.train
    assert last[2] == [rec.curves["retriever-inner1"][0].best_epoch]
    assert len(rec.curves["retriever"][0].rows) == last[2][0]
    assert second[1].lists is not None
    assert "lists of a retriever that had not seen their events" in rec.system.notes[0]


def test_without_an_order_there_are_folds(monkeypatch):
    calls = spied(monkeypatch)
    world = World(users=40, items=30, dim=4, groups=3, sessions=3, events=4, repeats=False, seed=3)
    log = world.generate().log
    data = Dataset.of(replace(log, events=log.events.drop("time", "session")))
    rec = Recommender(EASE(l2=5.0), RANKERS["fm"], candidates=20).fit(data)
    assert [call[3] for call in calls] == [*(f"retriever-inner{i}" for i in (1, 2, 3, 4)), "ranker", "retriever"]
    held = [len(data.events) - len(call[1].events) for call in calls[:4]]
    lists = calls[4][1].lists
    missed = int(rec.system.notes[0].split("; ")[1].split()[0].replace(",", ""))
    alone = int((data.histories.lengths == 1).sum())
    assert len(lists) + missed == sum(held) == len(data.events) - alone


def test_a_ranker_alone_and_a_retriever_alone(monkeypatch):
    calls, split = spied(monkeypatch), small_split()
    Recommender(ranker=RANKERS["fm"]).fit(split.train, split.valid)
    Recommender(SASRec(dim=4, epochs=1, blocks=1, heads=1)).fit(split.train, split.valid)
    assert [(call[3], call[4]) for call in calls] == [("ranker", True), ("retriever", True)]


def test_a_ranker_must_be_one_and_lists_must_not_be_empty():
    train = small_split().train
    with pytest.raises(InputError, match="EASENet scores the whole catalogue only; rankers are mlp, neumf, fm"):
        Recommender(ranker=EASE()).fit(train)
    with pytest.raises(InputError, match="ranker = EASE scores the whole catalogue only; rankers are mlp, neumf, fm"):
        Recommender(Popularity(), ranker=EASE()).fit(train)
    hopeless = make_data(user=[1, 1, 2, 2, 3, 3], item=[1, 2, 3, 4, 5, 6], time=list(range(6)))
    with pytest.raises(InputError, match="the retriever found none of 3 held-out items; raise candidates"):
        Recommender(EASE(), FM(), candidates=2).fit(hopeless)


# -- what cheating costs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ways():
    """NDCG@10 on test of the same retriever with rankers that learnt in different ways."""
    world = World(users=1200, items=300, groups=8, sessions=7, events=4, repeats=False, seed=1)
    split = Dataset.of(world.generate().log).split(LeaveLast(test=1, valid=0))
    train, model, ranker = split.train, EASE(l2=1.0), FM(dim=8, epochs=6, batch_size=512)
    options = RankerLists(candidates=100, history=ranker.history)
    schema, allowed = replace(train.schema, pair=PAIR), recommendable(model, train.trained_items)
    (asked,) = held_out(train, options, seed=0)
    nets = {name: fit(model, part, None, RunOptions())[0] for name, part in
            (("unseen", train.keep(~asked)), ("seen", train))}  # fmt: skip
    reports = {}
    for name, net in nets.items():
        engine = Engine(net, None, allowed & net.items.trained, 100)
        lists, _ = make_lists(engine, train, asked & first_takes(train), options, rng())
        second, _ = fit(ranker, replace(train, lists=lists), None, RunOptions(), schema)
        served = Engine(nets["seen"], second, allowed, 100)
        reports[name] = evaluate(served, split.test, ["ndcg@10"], name=name)
    blind = ranker.build(schema)
    for number, weights in enumerate(blind.parameters()):
        weights.detach().normal_(generator=rng(number))
    blind.bind(nets["seen"].items)
    reports["random"] = evaluate(Engine(nets["seen"], blind.eval(), allowed, 100), split.test, ["ndcg@10"])
    return reports


def test_lists_of_a_retriever_that_has_seen_the_events_cost_accuracy(ways):
    (row,) = compare(ways["seen"], ways["unseen"]).rows
    assert row.low > 0


def test_a_ranker_of_random_weights_loses(ways):
    (row,) = compare(ways["random"], ways["unseen"]).rows
    assert row.low > 0.03
