import torch

from suisen.data.batch import Batch, Candidates, Contexts, Features, Field, Queries, Schema
from suisen.data.ragged import Ragged

SCHEMA = Schema(
    n_users=3,
    n_items=4,
    user=(Field("age", "numeric"), Field("city", "categorical", 3), Field("likes", "multi", 5)),
    context=(Field("device", "categorical", 2),),
)


def contexts() -> Contexts:
    return Contexts(
        user=torch.tensor([1, 2]),
        user_features=Features(torch.tensor([[1], [2]]), torch.tensor([[0.5], [1.5]]), (Ragged.of([[1, 2], [3]]),)),
        context_features=Features(torch.tensor([[1], [0]]), torch.empty((2, 0))),
        time=torch.tensor([10, 20]),
        history=Ragged.of([[1], [2, 3]]),
        history_time=torch.tensor([9, 18, 19]),
    )


def test_taking_contexts_takes_every_part():
    taken = contexts().take(torch.tensor([1, 0, 1]))
    assert len(taken) == 3
    assert taken.user.tolist() == [2, 1, 2]
    assert taken.user_features.numeric.squeeze(1).tolist() == [1.5, 0.5, 1.5]
    assert taken.user_features.multi[0].tolist() == [[3], [1, 2], [3]]
    assert taken.context_features.categorical.squeeze(1).tolist() == [0, 1, 0]
    assert taken.time.tolist() == [20, 10, 20]
    assert taken.history.tolist() == [[2, 3], [1], [2, 3]]
    assert taken.history_time.tolist() == [18, 19, 9, 18, 19]


def test_contexts_of_users_know_nothing_else():
    plain = Contexts.of_users(torch.tensor([2, 0]))
    assert plain.user_features.categorical.shape == (2, 0)
    full = Contexts.of_users(torch.tensor([2, 0]), SCHEMA)
    assert full.user_features.categorical.tolist() == [[0], [0]]
    assert full.user_features.numeric.tolist() == [[0.0], [0.0]]
    assert full.user_features.multi[0].tolist() == [[], []]
    assert full.context_features.categorical.tolist() == [[0], [0]]
    assert full.history.tolist() == [[], []]


def test_features_without_a_column_have_rows():
    assert len(Features.none(4)) == 4


def test_to_moves_every_tensor_and_keeps_the_rest():
    batch = Batch(contexts(), Candidates(torch.tensor([[1], [2]])), labels=torch.ones(2, 1))
    meta = batch.to(torch.device("meta"))
    assert len(meta) == 2
    assert meta.contexts.history.values.device.type == "meta"
    assert meta.contexts.user_features.multi[0].offsets.device.type == "meta"
    assert meta.candidates.items.device.type == meta.labels.device.type == "meta"
    assert meta.negatives is None
    assert batch.labels.device.type == "cpu"


def test_taking_queries_takes_every_part():
    queries = Queries(
        contexts(),
        truth=Ragged.of([[1], [2]]),
        seen=Ragged.of([[1], [2, 3]]),
        candidates=torch.tensor([[1, 2], [2, 0]]),
        labels=torch.tensor([[1.0], [0.0]]),
        protocol="p",
    )
    taken = queries.take(torch.tensor([1]))
    assert len(taken) == 1
    assert (taken.truth.tolist(), taken.seen.tolist()) == ([[2]], [[2, 3]])
    assert (taken.candidates.tolist(), taken.labels.tolist(), taken.protocol) == ([[2, 0]], [[0.0]], "p")
    bare = Queries(contexts(), queries.truth, queries.seen).take(torch.tensor([0]))
    assert bare.candidates is None
    assert bare.labels is None
