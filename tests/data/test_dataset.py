import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.dataset import Dataset
from suisen.errors import InputError
from tests.helpers import in_order, logs, make_data, raw_items


def test_ids_go_by_the_place_in_the_source_and_row_0_is_unknown():
    data = make_data(user=["b", "a", "b"], item=[30, 10, 20], time=[3, 2, 1], row=[2, 1, 0])
    assert data.users.raw_ids.to_list() == ["b", "a"]
    assert data.items.raw_ids.to_list() == [20, 10, 30]
    assert (data.schema.n_users, data.schema.n_items) == (3, 4)
    assert data.events.offsets.tolist() == [0, 0, 2, 3]
    assert raw_items(data, data.events.item) == [20, 30, 10]
    assert data.users.dense(["zzz", "a"]).tolist() == [0, 2]


@given(logs())
def test_events_are_sorted_by_visitor_time_and_place(log):
    data = Dataset.of(log)
    for user in {e["user"] for e in log.events.to_dicts()}:
        dense = data.users.dense_one(user)
        mine = slice(*data.events.offsets[dense : dense + 2].tolist())
        expected = [e for e in in_order(log) if e["user"] == user]
        assert raw_items(data, data.events.item[mine]) == [e["item"] for e in expected]
        assert data.events.time[mine].tolist() == [e.get("time", 0) for e in expected]
    assert data.log.events.height == log.events.height


@given(logs())
def test_of_is_the_same_on_its_own_log(log):
    once = Dataset.of(log)
    twice = Dataset.of(once.log)
    assert twice.items.raw_ids.to_list() == once.items.raw_ids.to_list()
    assert torch.equal(twice.events.item, once.events.item)


@given(logs(), st.integers(0, 8))
def test_history_before_is_the_double_loop(log, most):
    data = Dataset.of(log)
    events = data.log.events.to_dicts()
    rows = torch.arange(len(events)).flip(0)
    histories, times = data.history_before(rows, most)
    for row, history in zip(rows.tolist(), histories.tolist()):
        event = events[row]
        earlier = [
            e
            for e in in_order(log)
            if e["user"] == event["user"]
            and e.get("label", 1) == 1
            and ((e["time"], e["row"]) < (event["time"], event["row"]) if data.has_time else e["row"] != event["row"])
        ]
        assert raw_items(data, history) == [e["item"] for e in earlier][max(0, len(earlier) - most) :]
    assert times.numel() == histories.values.numel()


@given(logs(times=True))
def test_history_times_stand_beside_their_items(log):
    data = Dataset.of(log)
    when = {(e["user"], e["item"], e["time"]) for e in log.events.to_dicts()}
    rows = torch.arange(len(data.events))
    contexts = data.contexts(rows, history=50)
    owner = contexts.user[contexts.history.rows()]
    found = zip(data.users.raw(owner.numpy()), raw_items(data, contexts.history.values), contexts.history_time.tolist())
    assert set(found) <= when
    assert (contexts.history_time <= contexts.time[contexts.history.rows()]).all()


def test_contexts_without_history_cost_none():
    data = make_data(user=["a", "a"], item=[1, 2], time=[1, 2])
    contexts = data.contexts(torch.tensor([1, 0]))
    assert contexts.history.tolist() == [[], []]
    assert contexts.time.tolist() == [2, 1]


def test_guests_are_sessions_behind_the_users():
    data = make_data(
        user=[None, "a", None, None], item=[1, 1, 2, 3], time=[1, 2, 3, 4], session=["s9", "x", "s1", "s9"]
    )
    assert data.schema.n_users == 2
    assert data.events.visitor.tolist() == [1, 2, 3, 3]
    assert data.user.tolist() == [1, 0, 0, 0]
    assert raw_items(data, data.histories.take(torch.tensor([3])).values) == [1, 3]
    assert "2 guest sessions" in repr(data)


def test_a_log_of_guests_alone():
    data = make_data(user=[None, None], item=[1, 2], time=[1, 2], session=[5, 5])
    assert data.schema.n_users == 1
    assert data.histories.tolist() == [[], [1, 2]]


@pytest.mark.parametrize("columns", [{}, {"session": ["s", None]}])
def test_events_of_nobody_are_refused(columns):
    with pytest.raises(InputError, match="1 events name neither a user nor a session; name the session column"):
        make_data(user=["a", None], item=[1, 2], **columns)


def test_labels_keep_negatives_out_of_histories_and_counts():
    data = make_data(user=["a"] * 3, item=[1, 2, 1], time=[1, 2, 3], label=[1, 0, 1])
    assert data.positive.tolist() == [True, False, True]
    assert data.histories.tolist() == [[], [1, 1]]
    assert data.item_counts.tolist() == [0, 2, 0]
    assert data.trained_items.tolist() == [False, True, True]


def test_weights_are_carried():
    data = make_data(user=["a", "a"], item=[1, 2], weight=[0.5, 2.0])
    assert data.events.weight.tolist() == [0.5, 2.0]
    assert data.events.label is None


def test_catalogue_items_without_events_are_kept_and_untrained():
    data = make_data(
        user=["a"],
        item=[1],
        users={"user": ["z"], "age": [3.5]},
        items={"item": [7, 1], "genre": ["x", "y"]},
    )
    assert data.items.raw_ids.to_list() == [1, 7]
    assert data.trained_items.tolist() == [False, True, False]
    assert data.trained_users.tolist() == [False, True, False]


def test_statistics_come_from_rows_with_events_alone():
    users = {"user": ["a", "b", "c"], "age": [10.0, 20.0, 1000.0]}
    items = {"item": [1, 2], "genre": ["x|y", "only here|x"]}
    data = make_data(user=["a", "b"], item=[1, 1], users=users, items=items)
    age = data.encoders["user"].columns[0]
    assert age.mean == 15.0
    assert data.user_features.numeric[0] == 0
    assert data.user_features.numeric[3].item() == pytest.approx((1000 - 15) / age.scale)
    assert data.encoders["item"].columns[0].vocabulary == ("x", "y")
    assert data.item_features.multi[0].tolist() == [[], [1, 2], [0, 1]]


def test_request_features_stand_beside_their_events():
    data = make_data(user=["b", "a", "b"], item=[1, 2, 3], time=[2, 1, 1], device=["tv", "web", "tv"])
    device = data.encoders["context"].columns[0]
    names = [device.vocabulary[int(code) - 1] for code in data.context_features.categorical[:, 0]]
    assert names == data.log.events["device"].to_list() == ["tv", "tv", "web"]
    assert data.log.context_columns == ["device"]


def test_declared_kinds_decide():
    data = make_data(user=["a", "b"], item=[1, 1], hour=[1, 2], kinds={"hour": "numeric"})
    assert data.schema.context[0].kind == "numeric"


def test_titles_are_the_first_text_column_else_the_raw_id():
    items = {"item": [1, 2, 3], "title": ["雨月物語", None, "Third"]}
    data = make_data(user=["a", "a"], item=[1, 2], items=items, kinds={"title": "text"})
    assert data.titles(torch.tensor([3, 1, 2])) == ["Third", "雨月物語", "2"]
    assert make_data(user=["a"], item=[5]).titles(np.array([1])) == ["5"]
    with pytest.raises(InputError, match="item id 0 at position 1"):
        data.titles(torch.tensor([1, 0]))
