"""Long computations of answers have checkpoints, and are broken off there."""

from __future__ import annotations

import pytest
import torch

from suisen.checkpoint import Interrupted, checkpoint, interruptible
from suisen.recommending import engine
from suisen.recommending.answering import answer
from suisen.recommending.diversity import mmr
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.serving.answering import Answering, Recommend
from suisen.serving.messages import Query
from tests.fitted import fitted

USERS = [f"u{one:04}" for one in range(60)]


class Counted:
    """Passes so many checkpoints."""

    def __init__(self, most=10**9) -> None:
        self.passed, self.most = 0, most

    def __call__(self):
        self.passed += 1
        if self.passed > self.most:
            raise Interrupted


def passed(call):
    counted = Counted()
    with interruptible(counted):
        call()
    for most in {0, counted.passed // 2, counted.passed - 1}:
        with interruptible(Counted(most)), pytest.raises(Interrupted):
            call()
    return counted.passed


def test_outside_of_a_block_nothing_is_checked():
    counted = Counted()
    with interruptible(counted):
        checkpoint()
    checkpoint()
    assert counted.passed == 1


def test_each_pick_of_diversity_is_a_checkpoint():
    vectors = torch.nn.functional.normalize(torch.randn(60, 4), dim=1)
    ids, scores = torch.arange(1, 51)[None], torch.rand(1, 50)
    assert passed(lambda: mmr(ids, scores, vectors, 20, 0.5)) == 20


@pytest.mark.parametrize("name", ["mf", "ease", "two-tower + deepfm"])
def test_each_chunk_of_queries_has_checkpoints(name, monkeypatch):
    system, options = fitted(name).system, RecommendOptions(3, unknown="popular")
    whole = passed(lambda: answer(system, RawQueries(USERS), options))
    monkeypatch.setattr(engine, "CONTEXTS_PER_CHUNK", 6)
    assert passed(lambda: answer(system, RawQueries(USERS), options)) >= whole + 9


def test_long_histories_are_summed_some_at_a_time(monkeypatch):
    system, options = fitted("ease").system, RecommendOptions(3, unknown="popular")
    asked = RawQueries(history=[["i001", "i002", "i003", "i004"]] * 12)
    expected = answer(system, asked, options)
    whole = passed(lambda: answer(system, asked, options))
    monkeypatch.setattr(engine, "HISTORY_PER_CHUNK", 8)
    assert passed(lambda: answer(system, asked, options)) >= whole + 5
    assert torch.equal(answer(system, asked, options).items, expected.items)


def test_no_failure_is_made_of_an_interruption():
    """The search for the query at fault would otherwise begin all over."""
    answering = Answering(fitted("mf").system)
    job = Recommend([Query(user_id=user) for user in USERS], RecommendOptions(3, unknown="popular"))
    with interruptible(Counted(0)), pytest.raises(Interrupted):
        answering.work([job])
