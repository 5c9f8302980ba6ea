"""Draws of negatives: never a known positive, distributed as stated, reproducible."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from scipy.stats import chisquare

import suisen.data.negatives as module
from suisen.data.dataset import Dataset
from suisen.data.negatives import KnownPairs, Sampler
from tests.helpers import logs, make_data


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def skewed():
    """Item i (raw, 1 … 6) is taken i times, each time by somebody else."""
    user = [f"u{n}" for n in range(21)]
    item = [i for i in range(1, 7) for _ in range(i)]
    return make_data(user=user, item=item)


def greedy(knows: int = 19, items: int = 20):
    """User "all" took everything, "most" all but the last ones, "one" a single item."""
    most = [("most", i) for i in range(knows)]
    events = [("all", i) for i in range(items)] + most + [("one", 0)]
    return make_data(user=[u for u, _ in events], item=[i for _, i in events])


def p_value(drawn: torch.Tensor, share: torch.Tensor) -> float:
    """Of a chi-square test of draws of items 1 … n against their shares."""
    observed = torch.bincount(drawn.flatten(), minlength=len(share) + 1)[1:].double()
    return float(chisquare(observed.numpy(), (share.double() / share.sum() * observed.sum()).numpy()).pvalue)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_draws_follow_the_stated_law(power):
    data = skewed()
    sampler = Sampler.of(data, power, exclude_known=False)
    share = data.item_counts[1:].double() ** power
    drawn = sampler.draw((20_000,), seeded())
    assert p_value(drawn, share) > 0.001
    assert p_value(drawn, share * torch.linspace(1.0, 1.4, 6)) < 1e-6  # the test can fail
    torch.testing.assert_close(sampler.log_q[1:].exp().double(), share / share.sum(), rtol=1e-5, atol=0)
    assert sampler.log_q[0] == -torch.inf


def test_items_that_were_only_refused_are_drawn_like_those_taken_once():
    data = make_data(user=["a", "b", "c", "d"], item=[1, 1, 2, 3], label=[1, 1, 1, 0])
    sampler = Sampler.of(data, 1.0)
    torch.testing.assert_close(sampler.log_q[1:].exp(), torch.tensor([0.5, 0.25, 0.25]))
    assert set(sampler.draw((200,), seeded()).tolist()) == {1, 2, 3}


def test_items_without_events_are_never_drawn():
    data = make_data(user=["a", "b"], item=[1, 2], items={"item": [1, 2, 3], "x": ["p", "q", "r"]})
    sampler = Sampler.of(data)
    assert sampler.items.tolist() == [1, 2]
    assert sampler.log_q[3] == -torch.inf
    assert set(sampler.draw((100,), seeded()).tolist()) == {1, 2}


@pytest.mark.parametrize("table_bytes", [module.MAX_TABLE_BYTES, 0])
@given(log=logs())
def test_known_pairs_are_the_positives_of_users(table_bytes, log):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_TABLE_BYTES", table_bytes)
        data = Dataset.of(log)
        known = KnownPairs(data)
    wanted = {
        (u, i) for u, i, p in zip(data.user.tolist(), data.events.item.tolist(), data.positive.tolist()) if p and u
    }
    users, items = torch.arange(data.schema.n_users), torch.arange(data.schema.n_items)
    found = known.contains(users[:, None], items)
    assert {tuple(pair) for pair in found.nonzero().tolist()} == wanted


def test_no_draw_is_a_known_positive():
    data = greedy()
    sampler, known = Sampler.of(data), KnownPairs(data)
    most, one = data.users.dense(["most", "one"])
    users = torch.tensor([most, one] * 500)
    drawn = sampler.draw_for(users, 4, seeded())
    assert drawn.shape == (1000, 4)
    assert not known.contains(users[:, None], drawn).any()
    assert set(drawn[users == most].flatten().tolist()) == set(data.items.dense([19]))  # the only one left


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("cells", [module.CELLS_PER_CHUNK, 7])
def test_what_nearly_all_know_is_drawn_by_the_same_law(power, cells, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROUNDS", 0)  # everything that hits goes the exact way
    monkeypatch.setattr(module, "CELLS_PER_CHUNK", cells)
    items = [i for i in range(1, 7) for _ in range(i)]
    data = make_data(user=[*(f"u{n}" for n in range(21)), "me", "me"], item=[*items, 1, 2])
    sampler = Sampler.of(data, power)
    me = torch.from_numpy(data.users.dense(["me"])).expand(4000)
    drawn = sampler.draw_for(me, 3, seeded())
    share = data.item_counts[1:].double() ** power
    share[:2] = 0
    assert not torch.isin(drawn, torch.tensor([0, 1, 2])).any()
    assert p_value(drawn - 2, share[2:]) > 0.001


def test_who_knows_everything_still_gets_draws():
    data = greedy()
    everything = torch.from_numpy(data.users.dense(["all"])).expand(50)
    drawn = Sampler.of(data).draw_for(everything, 2, seeded())
    assert (drawn > 0).all()
    assert len(set(drawn.flatten().tolist())) > 5


def test_guests_exclude_nothing():
    data = make_data(user=[None, None, "a"], item=[1, 2, 3], session=["s", "t", "r"])
    drawn = Sampler.of(data).draw_for(torch.zeros(300, dtype=torch.int64), 1, seeded())
    assert set(drawn.flatten().tolist()) == {1, 2, 3}


def test_the_same_generator_draws_the_same():
    data = greedy()
    users = data.user
    one, other = (Sampler.of(data, 0.5).draw_for(users, 3, seeded(4)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, Sampler.of(data, 0.5).draw_for(users, 3, seeded(5)))
