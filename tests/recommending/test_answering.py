"""Answers as frames: what is padded, what is numbered, what is refused."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from suisen.errors import InputError
from suisen.recommending.answering import Answers, similar, similar_frame, to_frame
from suisen.recommending.queries import RawQueries
from tests.fitted import fitted


@pytest.fixture(scope="module")
def system():
    return fitted("mf").system


def test_likeness_is_padded_with_nobody(system):
    known = system.engine.allowed.nonzero().squeeze(1)
    ids, scores = similar(system, known[:3], 500)
    assert ids.shape == scores.shape == (3, 500)
    kept = len(known) - 1
    assert (ids[:, :kept] > 0).all()
    assert not ids[:, kept:].any()
    assert (scores[:, kept:] == -torch.inf).all()
    raw = system.store.items.raw(known[:1].numpy()).to_list()
    frame = similar_frame(system, raw, 500)
    assert frame["similar_id"].n_unique() == frame.height == kept


def test_queries_without_a_user_are_numbered_and_never_taken_for_one(system):
    answers = Answers(torch.tensor([[1, 2], [3, 0]]), torch.tensor([[2.0, 1.0], [1.0, -torch.inf]]), ["model", "model"])
    frame = to_frame(system, RawQueries(users=[None, "u0003"]), answers)
    assert frame["user_id"].to_list() == ["0", "0", "u0003"]
    assert frame["rank"].to_list() == [1, 2, 1]
    with pytest.raises(InputError, match="query 0 names no user, and user '0' is asked for too"):
        to_frame(system, RawQueries(users=[None, "0"]), answers)


def test_users_keep_the_type_of_their_ids():
    answers = Answers(torch.tensor([[1], [2]]), torch.tensor([[2.0], [1.0]]), ["model", "model"])
    of = fitted("mf", "int").system
    assert to_frame(of, RawQueries(users=[3, None]), answers)["user_id"].to_list() == [3, 1]
    assert to_frame(of, RawQueries(users=[3, "new"]), answers)["user_id"].to_list() == ["3", "new"]


def test_answers_are_not_assigned_to():
    answers = Answers(torch.tensor([[1]]), torch.tensor([[2.0]]), ["model"])
    with pytest.raises(FrozenInstanceError):
        answers.by = []
