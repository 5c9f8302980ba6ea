"""Plans are measured before they are trusted, kept with the bundle, and refused where they are damaged."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.data.synthetic import World
from suisen.errors import BundleError
from suisen.models import EASE, IALS, DeepFM, GRU4Rec
from suisen.pipeline.recommender import Recommender
from suisen.recommending import bundle, parity, planning
from suisen.recommending.answering import answer
from suisen.recommending.engine import Engine
from suisen.recommending.kernels import PRECISE, cells, partitioned, paths_here
from suisen.recommending.plan import LONG, SHORT, Plan
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.store import Store
from tests.fitted import fitted, small_split
from tests.helpers import make_data

pytestmark = pytest.mark.skipif(paths_here() == ("plain",), reason="this machine compiles no kernel")

RANKED = ["two-tower + deepfm", "ease + fm", "ease + sasrec"]
"""Systems whose rankers compile."""


def trained(name: str = "two-tower + deepfm"):
    return fitted(name).system


@pytest.fixture(scope="module")
def large():
    """A trained System of 600 items and 200 candidates."""
    data = Dataset.of(World(users=400, items=600, seed=5).generate().log)
    rec = Recommender(IALS(dim=16, epochs=3), DeepFM(dim=8, hidden=(32, 16), epochs=2), candidates=200, seed=0)
    return rec.fit(data).system


# -- what it is measured by --------------------------------------------------------------------------------------------


def test_the_last_item_of_each_history_is_held_back():
    store = Store.of(small_split().train)
    found = planning.held_back(store, frozenset(), 1000, 0)
    assert len(found.truth) == len(found) == len(found.seen)
    assert found.truth.lengths.tolist() == [1] * len(found)
    assert sorted(found.contexts.user.tolist()) == (store.histories.lengths > 1).nonzero().squeeze(1).tolist()
    times = found.contexts.history.with_values(found.contexts.history_time)
    stored_times = store.histories.with_values(store.history_times)
    for row, user in enumerate(found.contexts.user.tolist()):
        of = torch.tensor([user])
        whole = store.histories.take(of).values.tolist()
        assert found.contexts.history.take(torch.tensor([row])).values.tolist() == whole[:-1]
        assert times.take(torch.tensor([row])).values.tolist() == stored_times.take(of).values.tolist()[:-1]
        assert int(found.truth.values[row]) == whole[-1]
        kept = [item for item in whole[:-1] if item != whole[-1]]
        assert found.seen.take(torch.tensor([row])).values.tolist() == kept  # the truth may be recommended again
    fewer = planning.held_back(store, frozenset(), 7, 0)
    assert fewer.contexts.user.tolist() == found.contexts.user[:7].tolist()
    assert planning.held_back(store, frozenset(), 7, 1).contexts.user.tolist() != fewer.contexts.user.tolist()


def test_guests_alone_are_made_up_of_what_is_taken_often():
    sessions = [session for session in range(30) for _ in range(4)]
    items = [min(session % 7, place) for session in range(30) for place in range(1, 5)]
    data = make_data(user=[None] * 120, session=sessions, item=items, time=list(range(120)))
    rec = Recommender(GRU4Rec(dim=8, epochs=1, batch_size=16), seed=1).fit(data)
    assert not int(rec.store.histories.lengths.sum())
    found = planning.held_back(rec.store, rec.system.abilities, 50, 0)
    assert len(found.truth) == 50
    assert not found.contexts.user.any()
    assert found.contexts.history.lengths.tolist() == [3] * 50
    assert (found.contexts.history.values > 0).all()
    counts = rec.store.item_counts.double()
    drawn = torch.bincount(found.contexts.history.values, minlength=len(counts)).double()
    assert float(torch.corrcoef(torch.stack([counts, drawn]))[0, 1]) > 0.8
    plan = planning.make(rec.system)
    assert isinstance(plan, Plan)
    assert plan.agreement.identical >= planning.IDENTICAL


def test_agreement_by_hand():
    lists = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 0], [1, 2, 3]])
    precise = torch.tensor([[1, 2, 3], [4, 6, 9], [7, 8, 0], [3, 2, 1]])
    found = planning.agreement(lists, precise, torch.tensor([2, 6, 9, 3]))
    assert found.identical == 2 / 4
    assert found.overlap == pytest.approx((1 + 2 / 3 + 1 + 1) / 4)
    assert found.ndcg == pytest.approx((1 / math.log2(3) + 1 / math.log2(4) + 0 + 1 / math.log2(4)) / 4)
    assert found.precise_ndcg == pytest.approx((1 / math.log2(3) + 1 / math.log2(3) + 0 + 1) / 4)
    assert found.queries == 4


def test_the_figures_of_a_plan_are_those_of_its_lists(monkeypatch):
    monkeypatch.setattr(planning, "CONTEXTS_PER_CHUNK", 7)
    system = trained()
    plan = planning.make(system)
    queries = planning.held_back(system.store, system.abilities, planning.JUDGED + planning.FITTED, system.seed)
    judged = queries.take(torch.arange(len(queries) // 4, len(queries)))
    fast = plan.lists(plan.prepare(judged.contexts), 10, judged.seen)[0].tolist()
    precise = [
        system.engine.lists(
            judged.contexts.take(torch.tensor([row])), 10, planning.Filters(judged.seen.take(torch.tensor([row])))
        )[0][0].tolist()
        for row in range(len(fast))
    ]
    same = sum(one == two for one, two in zip(fast, precise, strict=True))
    assert plan.agreement.identical == pytest.approx(same / len(fast))
    assert plan.agreement.queries == len(fast)
    gains = [
        1 / math.log2(row.index(true) + 2) if true in row else 0
        for row, true in zip(fast, judged.truth.values.tolist(), strict=True)
    ]
    assert plan.agreement.ndcg == pytest.approx(sum(gains) / len(gains))


# -- which speed -------------------------------------------------------------------------------------------------------


def spoiling(monkeypatch, bad):
    """Lists of a plan that ``bad`` names lose their first item; those of others are as precise as can be."""
    lists = Plan.lists

    def told(self, states, k, exclude, among=None, open_=None):
        speeds, spoilt = (self.speed, self.long_speed), bad(self)
        self.speed = self.long_speed = PRECISE
        ids, scores = lists(self, states, k, exclude, among, open_)
        self.speed, self.long_speed = speeds
        return (ids.roll(1, 1), scores) if spoilt else (ids, scores)

    monkeypatch.setattr(Plan, "lists", told)


def test_a_speed_that_disagrees_is_passed_over(monkeypatch):
    with monkeypatch.context() as patch:
        spoiling(patch, lambda plan: False)
        assert planning.make(trained()).speed == planning.LADDER[0]
    with monkeypatch.context() as patch:
        spoiling(patch, lambda plan: plan.speed.cut > 0)
        assert planning.make(trained()).speed == next(speed for speed in planning.LADDER if not speed.cut)
    with monkeypatch.context() as patch:
        spoiling(patch, lambda plan: plan.speed.quantised)
        assert planning.make(trained()).speed == PRECISE


def test_long_lists_have_a_speed_of_their_own(monkeypatch, tmp_path):
    lists, long = Plan.lists, planning.LADDER[3]

    def told(self, states, k, exclude, among=None, open_=None):
        chosen = self.speed_of(k)
        speeds, self.speed, self.long_speed = (self.speed, self.long_speed), PRECISE, PRECISE
        ids, scores = lists(self, states, k, exclude, among, open_)
        self.speed, self.long_speed = speeds
        return (ids, scores) if k <= SHORT or chosen == long else (ids.roll(1, 1), scores)

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "lists", told)
        plan = bundle.load(bundle.save(trained(), tmp_path / "b")).engine.plan
    assert (plan.speed, plan.long_speed) == (planning.LADDER[0], long)
    assert [plan.speed_of(k) for k in (1, SHORT, SHORT + 1, LONG, LONG + 1)] == [
        *[plan.speed] * 2,
        *[long] * 2,
        PRECISE,
    ]
    assert plan.describe()["long_identical"] >= planning.IDENTICAL


def test_a_plan_that_never_agrees_is_switched_off_and_says_so(monkeypatch, tmp_path):
    spoiling(monkeypatch, lambda plan: True)
    place = bundle.save(trained(), tmp_path / "b")
    loaded = bundle.load(place)
    assert loaded.engine.plan is None
    assert loaded.engine.on_torch == "0.0% of 45 lists are identical in float32, 99.0% are asked for"
    assert not (place / "plan").exists()
    parity.check(loaded, bundle.fixture(place))


def test_how_many_must_be_identical_is_the_callers(monkeypatch, tmp_path):
    spoiling(monkeypatch, lambda plan: True)
    plan = bundle.load(bundle.save(trained(), tmp_path / "b", identical=0.0)).engine.plan
    assert plan.speed == planning.LADDER[0]
    assert plan.agreement.identical < 0.5


# -- on disk -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ials", "two-tower", *RANKED])
def test_a_plan_comes_back(name, tmp_path):
    system = trained(name)
    place = bundle.save(system, tmp_path / "b")
    before, after = planning.make(system), bundle.load(place).engine.plan
    assert isinstance(after, Plan)
    assert system.engine.plan is None
    told = json.loads((place / "manifest.json").read_text())["plan"]
    assert {"format": planning.FORMAT, **after.describe()} == {"format": planning.FORMAT, **before.describe()} == told
    elsewhere = planning.load({**told, "measured_on": "elsewhere"}, place / "plan", system.engine).describe()
    assert (elsewhere["path"], elsewhere["measured_on"]) == (told["path"], "elsewhere")
    contexts = Store.of(small_split().train).contexts(torch.arange(20), 10**16)
    for k, among in ((10, None), (50, None), (5, torch.arange(20, 60))):
        lists = [plan.lists(plan.prepare(contexts), k, contexts.history, among) for plan in (before, after)]
        assert torch.equal(lists[0][0], lists[1][0])
        assert torch.equal(lists[0][1], lists[1][1])


def test_tables_are_mapped_on_cache_lines(tmp_path):
    place = bundle.save(trained(), tmp_path / "b")
    plan = bundle.load(place).engine.plan
    for array in (plan.table.tiles, plan.ranks.rows, plan.ranks.records):
        assert array.ctypes.data % 64 == 0
        assert not array.flags.owndata


@pytest.mark.parametrize("file", ["plan/candidates/tiles.npy", "plan/ranker/rows.npy"])
def test_a_damaged_table_is_named(file, tmp_path):
    place = bundle.save(trained(), tmp_path / "b")
    whole = (place / file).read_bytes()
    (place / file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=rf"{file} is damaged"):
        bundle.load(place)
    (place / file).unlink()
    with pytest.raises(BundleError, match=rf"{file} is missing"):
        bundle.load(place)


def test_a_table_of_another_system_is_refused(tmp_path):
    place = bundle.save(trained(), tmp_path / "b")
    manifest = json.loads((place / "manifest.json").read_text())
    engine = trained().engine
    (place / "plan/ranker/rows.npy").write_bytes((place / "index/vectors.npy").read_bytes())
    with pytest.raises(BundleError, match=r"rows\.npy holds"):
        planning.load(manifest["plan"], place / "plan", engine)


def test_why_there_is_no_plan_is_kept(tmp_path):
    system = trained("ease")
    place = bundle.save(system, tmp_path / "b")
    why = "its first stage has no vectors, or an approximate index, and no compiled ranker stands behind it"
    assert json.loads((place / "manifest.json").read_text())["plan"] == {"torch": why}
    loaded = bundle.load(place)
    assert (loaded.engine.plan, loaded.engine.on_torch) == (None, why)
    assert planning.load(None, place, loaded.engine) == "the bundle is older than plans; save it again"
    for other in ({"candidates": "compiled"}, {"format": planning.FORMAT + 1}):
        why = "its plan was made by another version; save the bundle again"
        assert planning.load(other, place, loaded.engine) == why
    assert system.engine.on_torch == "a plan is made when a bundle is saved; load that"


def test_a_machine_without_compiled_code_says_so(monkeypatch, tmp_path):
    place = bundle.save(trained(), tmp_path / "b")
    monkeypatch.setattr(planning, "paths_here", lambda: ("plain",))
    loaded = bundle.load(place)
    assert loaded.engine.plan is None
    assert loaded.engine.on_torch == planning.NO_PATH
    parity.check(loaded, bundle.fixture(place))
    one, two = (answer(loaded, RawQueries(["u0003"]), RecommendOptions(precise=precise)) for precise in (True, False))
    assert torch.equal(one.items, two.items)
    assert planning.make(loaded) == planning.NO_PATH


def test_a_large_catalogue_is_read_in_part_where_that_agrees(large, monkeypatch, tmp_path):
    engine, recalls = large.engine, []
    system = replace(large, ranker=None, engine=Engine(engine.retriever, None, engine.allowed, 10, engine.index))

    def parts(vectors, queries, k, recall):
        recalls.append((k, recall))
        return partitioned(vectors, queries, k, recall - 0.1, least=0)

    monkeypatch.setattr(planning, "partitioned", parts)
    monkeypatch.setattr(cells, "MOST_READ", 1.0)
    with monkeypatch.context() as patch:
        spoiling(patch, lambda plan: plan.table.cells is not None)
        whole = planning.make(system)
    assert recalls == [(10, recall) for recall in planning.RECALLS]
    assert (whole.table.cells, whole.describe()["read"]) == (None, 1.0)
    part = planning.make(system, identical=0.0)
    plan = bundle.load(bundle.save(system, tmp_path / "b", identical=0.0)).engine.plan
    assert 0 < part.describe()["read"] < 1
    assert plan.describe() == part.describe()
    contexts = system.store.contexts(torch.arange(1, 40), 10**16)
    left = int(system.engine.allowed.sum()) - contexts.history.unique().lengths
    for k in (5, 600):
        (ids, scores), (one, two) = (of.lists(of.prepare(contexts), k, contexts.history) for of in (plan, part))
        assert torch.equal(ids, one)
        assert torch.equal(scores, two)
        assert (ids > 0).sum(1).tolist() == left.clamp(max=k).tolist()  # where cells hold too few, all are read


@pytest.mark.parametrize("users", [1, 3])
def test_too_few_histories_are_no_measure(users):
    data = make_data(user=[u for u in range(users) for _ in range(3)], item=[k for _ in range(users) for k in range(3)])
    rec = Recommender(EASE(), seed=1).fit(data)
    assert planning.make(rec.system) == "train has too few histories to measure a plan by"


# -- queries and the fixture ------------------------------------------------------------------------------------------


def test_a_request_chooses(tmp_path):
    system = bundle.load(bundle.save(trained(), tmp_path / "b"))
    asked = []
    lists = system.engine.plan.lists
    system.engine.plan.lists = lambda *given: asked.append(given) or lists(*given)
    queries = RawQueries(["u0003", "nobody", "u0007"])
    precise = answer(system, queries, RecommendOptions(k=5, unknown="popular"))
    assert not asked
    fast = answer(system, queries, RecommendOptions(k=5, unknown="popular", precise=False))
    assert len(asked) == 1
    assert fast.by == precise.by
    assert torch.equal(fast.items, precise.items)
    answer(system, queries, RecommendOptions(k=5, unknown="popular", precise=False, diversity=0.5))
    assert len(asked) == 1


@pytest.mark.parametrize("name", RANKED)
def test_the_fixture_is_replayed_by_the_plan_too(name, tmp_path):
    place = bundle.save(trained(name), tmp_path / "b")
    system, fixture = bundle.load(place), bundle.fixture(place)
    parity.check(system, fixture)
    assert all(row["fast"]["least_found"] <= 1 - parity.MARGIN + 1e-9 for row in fixture)
    lists = system.engine.plan.lists

    def wrong(states, k, exclude: Ragged, among=None, open_=None):
        ids, scores = lists(states, k, exclude, among, open_)
        return torch.where(ids > 0, ids % 70 + 1, 0), scores

    system.engine.plan.lists = wrong
    with pytest.raises(BundleError, match=r"parity: user .*: by the plan it gets"):
        parity.check(system, fixture)
    system.engine.plan.lists = lambda *given: (lists(*given)[0], lists(*given)[1] + 1)
    with pytest.raises(BundleError, match=r"parity: user .*: by the plan scores differ"):
        parity.check(system, fixture)


def test_a_cut_leaves_the_lists_of_a_trained_ranker_as_they_are(large):
    plan = planning.make(large, identical=0.95)
    assert isinstance(plan, Plan)
    assert 0 < plan.speed.cut < large.engine.candidates
    assert plan.agreement.overlap > 0.98
