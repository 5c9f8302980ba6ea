"""Views: every example once an epoch, negatives that are none of the user's, histories strictly before."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suisen.data import views
from suisen.data.batch import Candidates
from suisen.data.dataset import Dataset, Lists
from suisen.data.views import Hard, Pairs, Rows, Sequences, Whole, batch_of, shuffled_slices, slices
from suisen.errors import InputError
from tests.helpers import in_order, logs, make_data, make_log, raw_items


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def epoch(view, data, seed: int = 0) -> list:
    return list(view.open(data).batches(seeded(seed)))


def pairs_of(batches, data) -> Counter:
    """(raw user, raw item, label) of all first candidates."""
    names = [None, *data.users.raw_ids.to_list()]
    found: Counter = Counter()
    for batch in batches:
        labels = torch.ones(len(batch)) if batch.labels is None else batch.labels[:, 0]
        items = raw_items(data, batch.taken.tolist())
        found.update(zip([names[u] for u in batch.contexts.user.tolist()], items, labels.tolist()))
    return found


def community(users: int = 12, labels: bool = False):
    """Users of histories of unequal lengths; with labels every third event is refused."""
    user = [u for u in range(users) for _ in range(2 + u % 5)]
    item = [(3 * u + 2 * k) % 17 for u in range(users) for k in range(2 + u % 5)]
    columns = {"user": user, "item": item, "time": [10 * n for n in range(len(user))]}
    return make_data(**columns, **({"label": [int(n % 3 > 0) for n in range(len(user))]} if labels else {}))


# -- slices ----------------------------------------------------------------------------------------------------------


@given(count=st.integers(0, 40), size=st.integers(1, 12))
def test_slices_hold_everything_once(count, size):
    parts = slices(torch.arange(count), size)
    assert torch.equal(torch.cat(parts), torch.arange(count))
    if size > 1 and count > 1:
        assert all(2 <= len(part) <= size + 1 for part in parts)
    assert all(len(part) == size for part in parts[:-1])
    assert size > 1 or len(parts) == max(1, count)
    shuffled = torch.cat(list(shuffled_slices(count, size, seeded())))
    assert sorted(shuffled.tolist()) == list(range(count))


@pytest.mark.parametrize(
    ("count", "size", "wanted"),
    [(10_000, 512, 500), (641, 512, 33), (640, 512, 32), (100, 64, 32), (100, 8, 8), (20_000, 512, 512)],
)
def test_an_epoch_has_twenty_batches_where_they_are_not_too_small(count, size, wanted):
    assert batch_of(count, size) == wanted
    user, item = [n // 20 for n in range(1000)], [n % 20 for n in range(1000)]
    for view in (Pairs(batch_size=1000, negatives=0), Rows(batch_size=1000, negatives=1)):
        assert [len(batch) for batch in epoch(view, make_data(user=user, item=item))] == [50] * 20


# -- pairs -----------------------------------------------------------------------------------------------------------


@given(log=logs(), size=st.integers(1, 7), seed=st.integers(0, 5))
def test_pairs_hold_every_event_once(log, size, seed):
    data = Dataset.of(log)
    refused = any(event.get("label", 1) == 0 for event in in_order(log))
    view = Pairs(batch_size=size, negatives=1)
    wanted = Counter((e["user"], e["item"], float(e.get("label", 1))) for e in in_order(log))
    batches = epoch(view, data, seed)
    assert pairs_of(batches, data) == wanted
    assert view.open(data).examples == wanted.total()
    assert all((batch.negatives is None) == refused for batch in batches)
    assert all((batch.labels is not None) == refused for batch in batches)


def test_labels_can_be_left_aside():
    data = community(labels=True)
    batches = epoch(Pairs(batch_size=8, negatives=2, labels=False), data)
    assert all(batch.labels is None for batch in batches)
    assert sum(map(len, batches)) == int(data.positive.sum())


def test_negatives_are_none_of_the_users_own():
    data = community()
    own = {(u, i) for u, i in zip(data.user.tolist(), data.events.item.tolist())}
    for batch in epoch(Pairs(batch_size=8, negatives=3), data):
        assert batch.negatives.shape == (len(batch), 3)
        for user, row in zip(batch.contexts.user.tolist(), batch.negatives.tolist()):
            assert not {(user, item) for item in row} & own
        assert batch.negatives_log_q.shape == (len(batch), 3)


def test_shared_negatives_serve_the_whole_batch():
    data = community()
    view = Pairs(batch_size=8, negatives=30, shared=True, power=1.0)
    log_q = (data.item_counts / data.item_counts.sum()).log()
    for batch in epoch(view, data):
        assert batch.negatives.shape == (30,)
        torch.testing.assert_close(batch.negatives_log_q, log_q[batch.negatives])


def test_in_batch_pairs_know_how_often_they_come():
    data = community()
    log_q = (data.item_counts / data.item_counts.sum()).log()
    for batch in epoch(Pairs(batch_size=8, negatives=0), data):
        assert batch.negatives is None
        torch.testing.assert_close(batch.log_q, log_q[batch.taken])


def test_guests_are_examples_where_asked_for():
    data = make_data(user=["a", "a", None, None], item=[1, 2, 3, 1], session=["r", "r", "s", "s"], time=[1, 2, 3, 4])
    known, everybody = (epoch(Pairs(negatives=0, guests=guests), data) for guests in (False, True))
    assert sum(map(len, known)) == 2
    assert sum(map(len, everybody)) == 4


def test_nobody_to_learn_from_is_said():
    data = make_data(user=[None, None], item=[1, 2], session=["s", "t"])
    with pytest.raises(InputError, match="no event of a known user to learn from; use a model that reads histories"):
        Pairs().open(data)


def test_weights_travel_with_their_events():
    data = make_data(user=["a", "b", "c"], item=[1, 2, 3], weight=[0.5, 2.0, 3.0])
    (batch,) = epoch(Pairs(negatives=1), data)
    assert dict(zip(batch.taken.tolist(), batch.weights[:, 0].tolist())) == {1: 0.5, 2: 2.0, 3: 3.0}
    (rows,) = epoch(Rows(negatives=2), data)
    assert rows.weights.shape == rows.labels.shape == (3, 3)
    assert torch.equal(rows.weights, rows.weights[:, :1].expand(-1, 3))


@pytest.mark.parametrize("view", [Pairs(batch_size=5, negatives=0, history=3), Rows(batch_size=5, history=3)])
@given(log=logs(times=True, labels=False))
def test_histories_are_strictly_before(view, log):
    data = Dataset.of(log)
    by_user: dict = {}
    wanted = Counter()
    for event in in_order(log):
        past = by_user.setdefault(event["user"], [])
        wanted[(event["user"], event["item"], tuple(past[-3:]))] += 1
        past.append(event["item"])
    names = [None, *data.users.raw_ids.to_list()]
    found: Counter = Counter()
    for batch in epoch(view, data):
        past = [tuple(raw_items(data, row)) for row in batch.contexts.history.tolist()]
        users = [names[u] for u in batch.contexts.user.tolist()]
        found.update(zip(users, raw_items(data, batch.taken.tolist()), past))
        assert (batch.contexts.history_time <= batch.contexts.time[batch.contexts.history.rows()]).all()
    assert found == wanted


def featured() -> Dataset:
    """Six users with a feature that is their own, who took four items each; one of them is refused."""
    user = [u for u in range(6) for _ in range(4)]
    columns = {"user": user, "item": [(u + 3 * k) % 9 for k in range(4) for u in range(6)], "time": list(range(24))}
    table = {"user": list(range(6)), "side": [f"s{u}" for u in range(6)]}
    return make_data(**columns, users=table, kinds={"side": "categorical"})


@pytest.mark.parametrize(
    "view",
    [Pairs(batch_size=7, history=3), Rows(batch_size=7, history=3), Sequences(5, 3), Hard(Pairs(history=3))],
    ids=lambda view: type(view).__name__,
)
def test_contexts_carry_their_users_features(view):
    data = featured()
    opened = view.open(data)
    if isinstance(view, Hard):
        net = Taste(data)
        opened.refresh(net)
        asked = net.asked
    else:
        asked = []
    for contexts in [*asked, *(batch.contexts for batch in opened.batches(seeded()))]:
        assert contexts.user_features.categorical.shape == (len(contexts), 1)
        assert torch.equal(contexts.user_features.categorical, data.user_features.take(contexts.user).categorical)
        assert contexts.history_time.shape == contexts.history.values.shape
        assert (contexts.history.values > 0).all()


def test_models_of_users_alone_are_given_users_alone():
    (batch,) = epoch(Pairs(negatives=0, features=False), featured())
    assert batch.contexts.user_features.categorical.shape == (24, 0)
    assert sorted(batch.contexts.user.tolist()) == sorted(featured().user.tolist())


def test_what_the_user_took_is_drawn_where_it_is_not_excluded():
    data = community()
    own = set(zip(data.user.tolist(), data.events.item.tolist()))

    def hits(view: Pairs) -> int:
        rows = [
            (user, item)
            for batch in epoch(view, data)
            for user, row in zip(batch.contexts.user.tolist(), batch.negatives.expand(len(batch), -1).tolist())
            for item in row
        ]
        return len(own & set(rows))

    assert hits(Pairs(batch_size=8, negatives=40, exclude_known=False)) > 10
    assert hits(Pairs(batch_size=8, negatives=40)) == 0
    assert Pairs(negatives=4, shared=True).open(data).sampler.known is None  # they serve all users at once


@pytest.mark.parametrize("view", [Pairs(negatives=30, power=1.0), Rows(negatives=30, power=1.0)])
def test_negatives_are_drawn_by_popularity_where_asked_for(view):
    user = [*range(40), 100, 101]
    data = make_data(user=user, item=[1] * 40 + [2, 3])
    batch = epoch(view, data)[0]
    drawn = batch.candidates.items[:, 1:] if batch.negatives is None else batch.negatives
    other = drawn[(batch.taken != 1)]
    assert float((other == 1).float().mean()) > 0.85  # 40 of the 41 events that the two did not have


# -- lists -----------------------------------------------------------------------------------------------------------


def with_lists(data: Dataset, guest: bool = False) -> Dataset:
    """Three lists: one taken of four with one that weighs nothing; two taken of two (nothing refused); one of three."""
    contexts = data.contexts(torch.tensor([0, 2, 5]), history=4)
    if guest:
        contexts = replace(contexts, user=contexts.user * torch.tensor([0, 1, 1]))
    items = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 0]])
    labels = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])
    weights = torch.tensor([[2.0, 1, 0, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    return replace(data, lists=Lists(contexts, Candidates(items, torch.rand(3, 4, 2)), labels, weights))


def test_pairs_of_lists_take_both_sides_from_the_list():
    data = with_lists(community())
    drawn: dict[int, set] = {}
    for seed in range(20):
        for batch in epoch(Pairs(batch_size=2, negatives=5, history=2), data, seed):
            assert (batch.contexts.history.lengths <= 2).all()
            for taken, row, log_q, weight in zip(
                batch.taken.tolist(), batch.negatives.tolist(), batch.negatives_log_q, batch.weights
            ):
                drawn.setdefault(taken, set()).update(row)
                assert torch.allclose(log_q, torch.tensor(0.5).log())
                assert weight == (2.0 if taken == 1 else 1.0)
    assert drawn == {1: {2, 4}, 9: {7, 8}}  # weight 0, padding and lists without a refusal take no part
    assert Pairs().open(data).examples == 2


def test_pairs_of_lists_leave_guests_out_unless_asked():
    data = with_lists(community(), guest=True)
    assert Pairs().open(data).examples == 1
    assert Pairs(guests=True).open(data).examples == 2
    (batch,) = epoch(Pairs(negatives=0), data)
    assert batch.negatives is None
    assert torch.equal(batch.log_q, (data.item_counts / data.item_counts.sum()).log()[batch.taken])


def test_lists_without_a_refusal_teach_no_pairs():
    data = with_lists(community())
    lists = replace(data.lists, labels=torch.ones(3, 4))
    with pytest.raises(InputError, match="both a taken and a refused item; give longer lists"):
        Pairs().open(replace(data, lists=lists))


def test_shared_negatives_of_lists_are_refusals_of_the_batch():
    data = with_lists(community())
    (batch,) = epoch(Pairs(negatives=200, shared=True), data)
    assert batch.negatives.shape == (200,)
    assert set(batch.negatives.tolist()) == {2, 4, 7, 8}
    torch.testing.assert_close(batch.negatives_log_q.exp(), torch.full((200,), 0.25))


# -- hard negatives --------------------------------------------------------------------------------------------------


class Taste:
    """A network that scores by fixed vectors, and keeps what it was asked."""

    def __init__(self, data: Dataset, seed: int = 0) -> None:
        self.users, self.vectors = (torch.randn(n, 3, generator=seeded(seed + n)) for n in
                                    (data.schema.n_users, data.schema.n_items))  # fmt: skip
        self.asked: list = []

    def item_vectors(self) -> torch.Tensor:
        return self.vectors

    def query_vectors(self, contexts) -> torch.Tensor:
        self.asked.append(contexts)
        return self.users[contexts.user]


def best_unknown(net: Taste, data: Dataset, user: int, pool: int) -> list[int]:
    """One user's best items by a loop over the catalogue."""
    own = set(data.events.item[(data.user == user) & data.positive].tolist())
    items = [i for i in range(1, data.schema.n_items) if i not in own and bool(data.trained_items[i])]
    return sorted(items, key=lambda i: -float(net.users[user] @ net.vectors[i]))[:pool]


@pytest.mark.parametrize("cells", [1, 50, 2**22])
@pytest.mark.parametrize("labels", [False, True])
def test_hard_negatives_are_the_networks_best_that_the_user_did_not_take(cells, labels, monkeypatch):
    monkeypatch.setattr(views, "SCORES_PER_CHUNK", cells)
    data, pairs = community(labels=labels), Pairs(batch_size=8, negatives=0, history=2, labels=False)
    net, opened = Taste(data), Hard(pairs, count=40, pool=3).open(data)
    opened.refresh(net)
    assert opened.examples == pairs.open(data).examples
    for batch in opened.batches(seeded()):
        assert batch.hard.shape == (len(batch), 40)
        for user, drawn in zip(batch.contexts.user.tolist(), batch.hard.tolist()):
            assert set(drawn) == set(best_unknown(net, data, user, 3))
    for contexts in net.asked:  # users after all they did
        past = [data.histories.take(contexts.user[i : i + 1]).tolist()[0][-2:] for i in range(len(contexts))]
        assert contexts.history.tolist() == past
    assert max(len(contexts) for contexts in net.asked) == (1 if cells == 1 else max(1, min(12, cells // 18)))


def test_hard_negatives_are_no_padding_and_their_pairs_are_refreshed_too():
    data = community()
    net, opened = Taste(data), Hard(Pairs(negatives=0), count=9, pool=99).open(data)
    asked: list = []
    opened.pairs.refresh = asked.append
    net.vectors[0] = 100 * net.users[1:].sum(0)  # row 0 would be everybody's best
    opened.refresh(net)
    assert asked == [net]
    known = data.histories.unique().lengths
    assert ((opened.best > 0).sum(1)[1:] == data.schema.n_items - 1 - known[1 : data.schema.n_users]).all()


def test_hard_negatives_change_when_the_network_does():
    data = community()
    opened = Hard(Pairs(batch_size=8, negatives=0), count=5, pool=3).open(data)
    drawn = []
    for seed in (0, 1):
        opened.refresh(Taste(data, seed))
        drawn.append([batch.hard for batch in opened.batches(seeded())])
    assert not all(torch.equal(a, b) for a, b in zip(*drawn))
    again = Hard(Pairs(batch_size=8, negatives=0), count=5, pool=3).open(data)
    again.load_state_dict(opened.state_dict())
    assert all(torch.equal(a, b.hard) for a, b in zip(drawn[1], again.batches(seeded())))


def test_guests_and_users_who_know_everything_get_other_draws():
    columns = {"user": ["a", "a", "a", None, None], "item": [1, 2, 3, 1, 4], "session": ["r", "r", "r", "s", "s"]}
    data = make_data(**columns, time=[1, 2, 3, 4, 5])
    opened = Hard(Pairs(negatives=0, guests=True), count=30, pool=9).open(data)
    opened.refresh(Taste(data))
    (batch,) = opened.batches(seeded())
    for user, drawn in zip(batch.contexts.user.tolist(), batch.hard.tolist()):
        assert set(drawn) == ({4} if user else {1, 2, 3, 4})


# -- rows ------------------------------------------------------------------------------------------------------------


def test_rows_of_lists_are_the_lists():
    data = with_lists(community(labels=True))  # lists go before labels
    batches = epoch(Rows(batch_size=2, history=1), data)
    assert [len(batch) for batch in batches] == [3]  # the last one joins its neighbour
    batch, lists = batches[0], data.lists
    order = [lists.candidates.items[:, 0].tolist().index(i) for i in batch.candidates.items[:, 0].tolist()]
    for got, whole in (
        (batch.candidates.items, lists.candidates.items), (batch.candidates.pair, lists.candidates.pair),
        (batch.labels, lists.labels), (batch.weights, lists.weights),
    ):  # fmt: skip
        assert torch.equal(got, whole[order])
    assert (batch.contexts.history.lengths <= 1).all()


@pytest.mark.parametrize("view", [Pairs(history=2), Rows(history=2)])
def test_histories_of_lists_are_cut_to_the_newest(view):
    data = with_lists(community())
    every = data.contexts(torch.arange(len(data.events)), history=9)
    long = every.take((every.history.lengths > 2).nonzero().squeeze(1)[:3])
    batches = epoch(view, replace(data, lists=replace(data.lists, contexts=long)))
    ends = {tuple(row[-2:]) for row in long.history.tolist()}
    assert {tuple(row) for batch in batches for row in batch.contexts.history.tolist()} <= ends
    assert all((batch.contexts.history.lengths == 2).all() for batch in batches)


def test_rows_of_a_click_log_are_its_events():
    data = community(labels=True)
    wanted = Counter(
        (u, i, float(label))
        for u, i, label in zip(data.user.tolist(), data.events.item.tolist(), data.events.label.tolist())
    )
    found: Counter = Counter()
    for batch in epoch(Rows(batch_size=7), data):
        assert batch.labels.shape == (len(batch), 1)
        found.update(zip(batch.contexts.user.tolist(), batch.taken.tolist(), batch.labels[:, 0].tolist()))
    assert found == wanted


def test_rows_of_a_click_log_carry_weights_and_histories():
    plain = community(labels=True)
    count = len(plain.events)
    columns = {"user": plain.user.tolist(), "item": plain.events.item.tolist(), "time": plain.events.time.tolist()}
    labels = [int(n % 3 > 0) for n in range(count)]
    data = make_data(**columns, label=labels, weight=[0.5 + n for n in range(count)])
    weighed = {}
    longest = 0
    for batch in epoch(Rows(batch_size=7, history=2), data):
        assert batch.weights.shape == (len(batch), 1)
        weighed.update(zip(zip(batch.contexts.user.tolist(), batch.taken.tolist()), batch.weights[:, 0].tolist()))
        longest = max(longest, int(batch.contexts.history.lengths.max()))
    assert sorted(weighed.values()) == sorted(data.events.weight.tolist())
    assert longest == 2


@pytest.mark.parametrize("label", [None, 1])
def test_rows_of_positives_alone_draw_their_own_refusals(label):
    plain = community()
    columns = {"user": plain.user.tolist(), "item": plain.events.item.tolist(), "time": plain.events.time.tolist()}
    data = plain if label is None else make_data(**columns, label=[1] * len(plain.events))
    own = set(zip(data.user.tolist(), data.events.item.tolist()))
    batches = epoch(Rows(batch_size=8, negatives=3), data)
    assert sum(map(len, batches)) == len(data.events)
    for batch in batches:
        assert batch.candidates.items.shape == (len(batch), 4)
        assert torch.equal(batch.labels, torch.tensor([1.0, 0, 0, 0]).expand(len(batch), -1))
        for user, row in zip(batch.contexts.user.tolist(), batch.candidates.items.tolist()):
            assert (user, row[0]) in own
            assert not {(user, item) for item in row[1:]} & own


@pytest.mark.parametrize("labels", [None, [1, 1, 0, 0]])
def test_rows_leave_guests_out_where_asked_to(labels):
    columns = {"user": ["a", "a", None, None], "item": [1, 2, 3, 1], "session": ["r", "r", "s", "s"]}
    data = make_data(**columns) if labels is None else make_data(**columns, label=labels)
    known, everybody = (epoch(Rows(guests=guests), data) for guests in (False, True))
    assert [batch.contexts.user.tolist() for batch in known] == [[1, 1]]
    assert sum(map(len, everybody)) == 4
    with pytest.raises(InputError, match="no event of a known user to learn from"):
        Rows(guests=False).open(data.keep(data.user == 0))


def test_no_example_is_said_whoever_is_asked_for():
    data = make_data(user=["a", "b"], item=[1, 2], label=[0, 0])
    with pytest.raises(InputError, match="no event of a known user to learn from"):
        Pairs(guests=True, labels=False).open(data)
    one = with_lists(community()).lists
    empty = Lists(
        one.contexts.take(torch.arange(0)), Candidates(one.candidates.items[:0]), one.labels[:0], one.weights[:0]
    )
    with pytest.raises(InputError, match="no event of a known user to learn from"):
        Rows().open(replace(data, lists=empty))


def test_rows_of_lists_leave_guests_out_where_asked_to():
    data = with_lists(community(), guest=True)
    whole = Rows().open(data)
    opened = Rows(guests=False).open(data)
    assert (opened.examples, whole.examples) == (2, 3)
    (batch,) = opened.batches(seeded())
    assert (batch.contexts.user > 0).all()


# -- sequences -------------------------------------------------------------------------------------------------------


def sequences_of(batches) -> Counter:
    found: Counter = Counter()
    for batch in batches:
        times = batch.contexts.history.with_values(batch.contexts.history_time).tolist()
        users = batch.contexts.user.tolist()
        found.update((u, *map(tuple, facts)) for u, *facts in zip(users, batch.contexts.history.tolist(), times))
    return found


@given(log=logs(), length=st.integers(2, 5), size=st.integers(1, 4))
def test_sequences_are_the_last_positives_of_each_visitor(log, length, size):
    data = Dataset.of(log)
    by_user: dict = {}
    for event in in_order(log):
        if event.get("label", 1):
            by_user.setdefault(event["user"], []).append((event["item"], event.get("time", 0)))
    wanted = Counter()
    for user, past in by_user.items():
        if len(past) > 1:
            items, times = zip(*past[-length:], strict=True)
            wanted[(int(data.users.dense([user])[0]), tuple(data.items.dense(list(items)).tolist()), times)] += 1
    views = [Sequences(length, size, by_length=by_length, chunk=2) for by_length in (True, False)]
    if not wanted:
        with pytest.raises(InputError, match="no visitor has 2 events in train: there is no next item to learn from"):
            views[0].open(data)
        return
    for view in views:
        assert sequences_of(epoch(view, data)) == wanted
        assert view.open(data).examples == wanted.total()


def test_batches_by_length_compute_on_less_padding():
    data = community(users=200)

    def padding(by_length: bool) -> int:
        batches = epoch(Sequences(6, 8, by_length=by_length, chunk=5), data)
        assert all(2 <= len(batch) <= 9 for batch in batches)
        return sum(len(b) * int(b.contexts.history.lengths.max()) - b.contexts.history.values.numel() for b in batches)

    assert padding(by_length=True) < padding(by_length=False) / 3


def test_no_batch_of_sequences_is_alone():
    data = community(users=9)
    for by_length in (True, False):
        for seed in range(5):
            sizes = sorted(len(batch) for batch in epoch(Sequences(6, 4, by_length=by_length, chunk=2), data, seed))
            assert sizes == [4, 5]


@given(length=st.integers(2, 5), sizes=st.lists(st.integers(1, 14), min_size=1, max_size=4))
def test_windows_show_every_step_once(length, sizes):
    user = [u for u, n in enumerate(sizes) for _ in range(n)]
    place = [k for n in sizes for k in range(n)]
    data = make_data(user=user, item=place, time=place)
    if max(sizes) < 2:
        return
    steps: Counter = Counter()
    ends = set()
    for user_id, _, times in sequences_of(epoch(Sequences(length, 3, windows=True, chunk=2), data)):
        assert 2 <= len(times) <= length
        steps.update((user_id, a, b) for a, b in pairwise(times))
        ends.add((user_id, times))
    dense = data.users.dense(list(range(len(sizes)))).tolist()
    wanted = {(u, k, k + 1) for u, n in zip(dense, sizes, strict=True) for k in range(n - 1)}
    assert steps == dict.fromkeys(wanted, 1)
    for u, n in zip(dense, sizes, strict=True):  # the newest window is the one that is read without windows
        assert n < 2 or (u, tuple(range(max(0, n - length), n))) in ends


def test_visitors_with_too_few_items_are_left_out():
    data = community()
    lengths = data.histories.lengths
    for least in (2, 4):
        batches = epoch(Sequences(9, 4, least=least), data)
        assert sum(map(len, batches)) == int((lengths >= least).sum())
        assert min(int(batch.contexts.history.lengths.min()) for batch in batches) >= least


def test_batches_by_length_come_in_any_order():
    batches = epoch(Sequences(6, 8, by_length=True, chunk=100), community(users=200))
    means = [float(batch.contexts.history.lengths.float().mean()) for batch in batches]
    assert means != sorted(means)


def test_windows_of_one_item_are_every_item():
    data = make_data(user=["a"] * 3, item=[1, 2, 3], time=[1, 2, 3])
    found = sequences_of(epoch(Sequences(1, least=1, windows=True), data))
    assert found == Counter({(1, (i,), (i,)): 1 for i in (1, 2, 3)})


def test_guests_are_sequences_too():
    data = make_data(user=["a", "a", None, None], item=[1, 2, 3, 1], session=["r", "r", "s", "s"], time=[1, 2, 3, 4])
    assert sequences_of(epoch(Sequences(5), data)) == Counter({(1, (1, 2), (1, 2)): 1, (0, (3, 1), (3, 4)): 1})


# -- all views -------------------------------------------------------------------------------------------------------

VIEWS = {
    "pairs": Pairs(batch_size=7, negatives=2, history=3),
    "popular": Pairs(batch_size=7, negatives=2, power=0.75),
    "shared": Pairs(batch_size=7, negatives=4, shared=True),
    "sequences": Sequences(4, 3),
    "rows": Rows(batch_size=7, negatives=2),
    "whole": Whole(),
}


def tensors(batch) -> list[torch.Tensor]:
    parts = [batch.contexts.user, batch.contexts.history.values, batch.negatives, batch.hard, batch.labels]
    if batch.candidates is not None:
        parts.append(batch.candidates.items)
    return [part for part in parts if part is not None]


@pytest.mark.parametrize("name", list(VIEWS))
def test_the_same_generator_yields_the_same_batches(name):
    data = community()
    opened = VIEWS[name].open(data)
    rng = seeded(1)
    first = [tensors(batch) for batch in opened.batches(rng)]
    second = [tensors(batch) for batch in opened.batches(rng)]
    again = [tensors(batch) for batch in opened.batches(seeded(1))]

    def same(a, b) -> bool:
        return len(a) == len(b) and all(
            x.shape == y.shape and torch.equal(x, y) for one, other in zip(a, b) for x, y in zip(one, other)
        )

    assert same(first, again)
    assert same(first, second) == (name == "whole")  # epochs differ
    opened.refresh(None)
    opened.load_state_dict(opened.state_dict())
    assert same(first, [tensors(batch) for batch in opened.batches(seeded(1))])


def test_the_whole_is_one_empty_batch():
    data = make_data(user=["a", "b"], item=[1, 2])
    (batch,) = epoch(Whole(), data)
    assert len(batch) == 0
    assert Whole().open(data).examples == 2


def test_a_model_that_asks_for_the_wrong_view_is_told():
    (batch,) = epoch(Whole(), Dataset.of(make_log(user=["a"], item=[1])))
    with pytest.raises(TypeError, match="a model of pairs asks for Pairs"):
        _ = batch.taken
    with pytest.raises(TypeError, match="a ranker asks for Rows"):
        _ = batch.listed


@given(log=logs(times=True), most=st.integers(0, 4))
def test_recent_histories_keep_their_times(log, most):
    data = Dataset.of(log)
    contexts = data.contexts(torch.arange(len(data.events)), history=10)
    short = contexts.recent(most)
    whole = contexts.history.with_values(contexts.history_time).tolist()
    assert short.history.tolist() == [row[-most:] if most else [] for row in contexts.history.tolist()]
    assert short.history.with_values(short.history_time).tolist() == [row[-most:] if most else [] for row in whole]
