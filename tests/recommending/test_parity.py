"""The parity fixture is computed without index and states, and notices when either is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from suisen.data.batch import Candidates
from suisen.errors import BundleError
from suisen.pipeline.recommender import Recommender
from suisen.recommending import bundle, parity
from suisen.retrieval import Exact, create_index
from tests.fitted import EVERY, fitted


@pytest.fixture(params=EVERY)
def loaded(request, tmp_path):
    """A Recommender that a test may spoil, and its fixture."""
    place = fitted(request.param).save(tmp_path / "b")
    return Recommender.load(place), bundle.fixture(place)


def spoil_indexes(engine):
    """Gives every index the vectors of other items; how many there are."""
    indexed = [source for source in engine.sources if source.index is not None]
    for source in indexed:
        vectors = source.index.vectors[::-1].copy()
        source.index = create_index(Exact())
        source.index.build(vectors)
    return len(indexed)


def test_it_passes_after_loading(loaded):
    rec, fixture = loaded
    parity.check(rec.system, fixture)
    kinds = [("history" in row, row.get("user") is None) for row in fixture]
    assert kinds.count((False, False)) == 6
    assert kinds.count((False, True)) == 1  # nobody at all gets the popular list
    assert kinds.count((True, True)) == ("history" in rec.system.abilities)
    assert all(len(row["items"]) == 10 for row in fixture)
    assert {row["tolerance"] for row in fixture} == {parity.TOLERANCE}
    assert {row["least_found"] for row in fixture} == {1.0}
    json.dumps(fixture)


def test_it_does_not_depend_on_the_hour(loaded, monkeypatch):
    rec, fixture = loaded
    monkeypatch.setattr("time.time_ns", lambda: 4 * 10**18)
    parity.check(rec.system, fixture)
    again = parity.make(rec.system)
    assert [row["items"] for row in again] == [row["items"] for row in fixture]


def test_it_is_made_by_brute_force(loaded, monkeypatch):
    """What is expected stays the same whatever happens to the index, the states and the lists."""
    rec, fixture = loaded
    engine = rec.engine
    if engine.states is not None:
        engine.states = torch.randn(engine.states.shape)
    spoil_indexes(engine)
    expected = [parity._expected(rec.system, row, row["at"]) for row in fixture]
    assert [row["items"] for row in expected] == [row["items"] for row in fixture]
    for one, two in zip(expected, fixture, strict=True):
        assert one["scores"] == pytest.approx(two["scores"], abs=1e-5)


def test_a_wrong_index_is_noticed(loaded):
    rec, fixture = loaded
    if not spoil_indexes(rec.engine):
        assert rec.name.startswith(("ease", "fm", "deepfm"))
        return
    with pytest.raises(BundleError, match=r"parity: user 'u\d+': .*save it again"):
        parity.check(rec.system, fixture)


@pytest.mark.parametrize("how", ["shuffled", "shifted"])
def test_wrong_states_are_noticed(loaded, how):
    rec, fixture = loaded
    states = rec.engine.states if rec.engine.states is not None else rec.engine.first.items if rec.ranker else None
    if states is None:
        assert rec.ranker is None
        return
    spoilt = states.flip(0) if how == "shuffled" else states + 0.2
    if rec.engine.states is not None:
        rec.engine.states = spoilt
    else:
        rec.engine.first.items = spoilt
    with pytest.raises(BundleError, match=r"parity: user 'u\d+': .*save it again"):
        parity.check(rec.system, fixture)


def test_a_wrong_filter_is_noticed(loaded):
    rec, fixture = loaded
    barred = rec.store.items.dense([fixture[0]["items"][0]])
    mask = rec.engine.open.mask.clone()
    mask[barred] = False
    rec.engine.open = replace(rec.engine.open, mask=mask, size=int(mask.sum()))
    with pytest.raises(BundleError, match=r"parity: user 'u\d+': (it gets \[.*expected \[|scores differ)"):
        parity.check(rec.system, [{**fixture[0], "least_found": 1.0}])


def test_ties_may_fall_either_way(loaded):
    rec, fixture = loaded
    row = {**fixture[0], "items": [*fixture[0]["items"][:-1], "its twin"]}
    row["scores"] = [*row["scores"][:-1], row["scores"][-1]]
    parity.check(rec.system, [row])
    far = {**row, "scores": [score + 5 for score in row["scores"]]}
    with pytest.raises(BundleError, match="parity: user"):
        parity.check(rec.system, [far])


def test_an_approximate_index_is_allowed_what_it_missed_when_saved(monkeypatch):
    rec = fitted("two-tower + deepfm")
    answer = parity._answer

    def forgetful(recommender, row, precise):
        items, scores = answer(recommender, row, precise)
        return ["a stranger", *items[1:]], [9.0, *(score + 0.01 for score in scores[1:])]

    monkeypatch.setattr(parity, "_answer", forgetful)
    fixture = parity.make(rec.system)
    assert {row["least_found"] for row in fixture} == {0.7}
    assert all(0.005 < row["tolerance"] < 0.05 for row in fixture)
    parity.check(rec.system, fixture)


def test_expected_scores_are_the_networks():
    rec = fitted("ease")
    (row,) = [row for row in parity.make(rec.system) if row.get("history")]
    dense = torch.from_numpy(rec.store.items.dense(row["items"]))
    from suisen.recommending.queries import RawQueries, dense_queries

    contexts = dense_queries(rec.store, RawQueries(history=[row["history"]]), row["at"]).contexts
    scores = rec.engine.first.net.score(contexts, Candidates(dense[None]))[0].tolist()
    assert row["scores"] == pytest.approx(scores, abs=1e-6)


def test_the_share_that_is_found_is_of_what_was_expected():
    row = {"items": ["a", "b"], "scores": [3.0, 1.0]}
    assert parity._compare(row, ["a", "b"], [3.0, 1.0]) == (1.0, 0.0)
    assert parity._compare(row, ["c", "b"], [9.0, 1.0]) == (0.5, 0.0)
    alone = {"items": ["a"], "scores": [3.0]}
    assert parity._compare(alone, ["c"], [9.0]) == (0.0, 0.0)
    assert parity._compare({"items": [], "scores": []}, [], []) == (1.0, 0.0)
