"""Data whose answers are known, and questions about them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from suisen.data.batch import Candidates, Contexts
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.models.contract import CatalogueScorer, ItemTable, Net, Ranker
from tests.helpers import make_data

N = 24
"""Users and items of the checkerboard."""
EVEN_TWIN, EVEN_NEW, ODD_NEW = N, N + 2, N + 1
"""Raw ids of catalogue items without events; the first two have the same features."""


def _items() -> dict[str, list]:
    raw = range(N + 3)
    return {
        "item": list(raw),
        "colour": ["odd" if i % 2 else "even" for i in raw],
        "size": [1.0 + i % 2 for i in raw],
        "tags": [["o", "x"] if i % 2 else ["e"] for i in raw],
    }


def _users() -> dict[str, list]:
    raw = range(N + 1)  # the last one has no events
    return {"user": list(raw), "side": ["o" if u % 2 else "e" for u in raw]}


KINDS = {"colour": "categorical", "size": "numeric", "tags": "multi", "side": "categorical"}


@cache
def checkerboard(tables: bool = True, seed: int = 0) -> Dataset:
    """User u took the items of u's parity except u itself, in a random order: the only right top-1 is u."""
    user, item = np.indices((N, N))
    user, item = (part[((user + item) % 2 == 0) & (user != item)] for part in (user, item))
    time = np.random.default_rng(seed).permutation(len(user)) * 60_000_000
    columns = {"user": user.tolist(), "item": item.tolist(), "time": time.tolist()}
    return make_data(**columns, users=_users(), items=_items(), kinds=KINDS) if tables else make_data(**columns)


@cache
def shelves() -> Dataset:
    """Six users, each with its own three items, always taken in the same order: a set to learn by heart."""
    user = [u for u in range(6) for _ in range(3)]
    item = [3 * u + k for u in range(6) for k in range(3)]
    return make_data(user=user, item=item, time=[k for _ in range(6) for k in range(3)])


def dense_user(data: Dataset, raw) -> torch.Tensor:
    """Dense ids of raw users."""
    return torch.from_numpy(data.users.dense(list(raw)))


def dense_item(data: Dataset, raw) -> torch.Tensor:
    """Dense ids of raw items."""
    return torch.from_numpy(data.items.dense(list(raw)))


def asked(data: Dataset, users: torch.Tensor | None = None) -> Contexts:
    """A context for each user (dense ids; all who have events) after everything it did, with its whole history."""
    users = data.trained_users.nonzero().squeeze(1) if users is None else users
    return replace(
        Contexts.of_users(users, data.schema),
        user_features=data.user_features.take(users),
        history=data.histories.take(users),
        history_time=data.histories.with_values(data.history_times).take(users).values,
        time=torch.full_like(users, 10**12),
    )


def without_history(contexts: Contexts) -> Contexts:
    """The same people, of whom no item is known."""
    return replace(contexts, history=Ragged.empty(len(contexts)), history_time=torch.zeros(0, dtype=torch.int64))


def bound(net: Net, data: Dataset) -> Net:
    """The network with the item table of the data, as ``fit`` binds it."""
    net.bind(ItemTable(data.item_features, data.trained_items))
    return net


@torch.no_grad()
def all_scores(net: Net, contexts: Contexts) -> torch.Tensor:
    """(B, n_items), by the contract's own composition."""
    if isinstance(net, CatalogueScorer):
        return net.score_all(contexts)
    assert isinstance(net, Ranker)
    ids = torch.arange(len(net.items))
    return net.combine(net.context_state(contexts), net.item_state(ids)[None], None)


def everything(rows: int, n_items: int) -> Candidates:
    """All items as candidates, in each row."""
    return Candidates(torch.arange(n_items).expand(rows, -1))
