"""The loop of the textbooks: a Dataset that makes one example at a time, a DataLoader that stacks them, dense Adam.

It trains the same networks (architecture, first weights, loss) on the same examples, with negatives of the same law;
written as textbooks write them, with ``nn.Embedding``'s look-ups and autograd, or (``plain=False``) with the package's
own layers and losses, so that only the loop differs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from suisen.data.batch import Batch, Candidates, Contexts, Features
from suisen.data.dataset import Dataset
from suisen.data.negatives import Sampler
from suisen.data.ragged import Ragged, offsets_of
from suisen.data.views import has_negatives
from suisen.models import tables
from suisen.models.contrastive import info_nce
from suisen.models.deepfm import DeepFMNet
from suisen.models.layers import square_norm
from suisen.models.losses import logistic_pairs, of_rows
from suisen.models.mf import MFNet
from suisen.models.two_tower import TwoTowerNet


class Examples(TorchDataset[dict[str, Any]]):
    """One example an event, made when it is asked for.

    ``negatives`` items are drawn for it one by one, uniformly from those of train, until the user does not know them.
    """

    def __init__(self, train: Dataset, negatives: int = 0, history: int = 0, features: bool = True) -> None:
        self.user, self.item, self.label = train.user, train.events.item, train.events.label
        self.labelled = has_negatives(train)
        self.negatives, self.history, self.features = negatives, history, features
        self.categorical, self.numeric = train.user_features.categorical, train.user_features.numeric
        self.start = train.events.offsets[train.events.visitor]
        self.pool = train.trained_items.nonzero().squeeze(1).tolist()
        self.known: dict[int, set[int]] = {}
        for user, item in zip(self.user.tolist(), self.item.tolist(), strict=True):
            self.known.setdefault(user, set()).add(item)

    def __len__(self) -> int:
        return self.item.numel()

    def __getitem__(self, at: int) -> dict[str, Any]:
        user = self.user[at]
        row: dict[str, Any] = {"user": user, "item": self.item[at]}
        if self.features:
            row |= {"categorical": self.categorical[user], "numeric": self.numeric[user]}
        if self.labelled and self.label is not None:
            row["label"] = self.label[at]
        if self.negatives:
            row["negatives"] = torch.tensor(self._drawn(int(user)))
        if self.history:
            row["history"] = self.item[max(int(self.start[at]), at - self.history) : at]
        return row

    def _drawn(self, user: int) -> list[int]:
        known, drawn = self.known[user], []
        while len(drawn) < self.negatives:
            item = random.choice(self.pool)
            if item not in known:
                drawn.append(item)
        return drawn


def stacked(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The usual collation; histories of unequal length one behind the other."""
    histories = [row.pop("history") for row in rows] if "history" in rows[0] else None
    out = default_collate(rows)
    if histories is not None:
        out["history"] = torch.cat(histories)
        out["lengths"] = torch.tensor([len(history) for history in histories])
    return out


def batch_of(stack: dict[str, Tensor], log_q: Tensor | None) -> Batch:
    """What the networks read."""
    user, item = stack["user"], stack["item"]
    rows = user.numel()
    past = Ragged(stack["history"], offsets_of(stack["lengths"])) if "history" in stack else Ragged.empty(rows)
    features = Features(stack["categorical"], stack["numeric"]) if "numeric" in stack else Features.none(rows)
    contexts = Contexts(
        user, features, Features.none(rows), torch.zeros_like(user), past, torch.zeros_like(past.values)
    )
    return Batch(
        contexts,
        Candidates(item[:, None]),
        labels=stack["label"][:, None] if "label" in stack else None,
        negatives=stack.get("negatives"),
        log_q=None if log_q is None else log_q[item],
    )


@contextmanager
def torch_lookups() -> Iterator[None]:
    """Tables are read and their gradients made by torch's own embedding layers."""
    ours, tables._ours = tables._ours, lambda table: False
    try:
        yield
    finally:
        tables._ours = ours


def plain_loss(net: Any, batch: Batch) -> Tensor:
    """The loss of the network's ``forward`` without its short cuts: every pair, every row, every logit."""
    with torch_lookups():
        if isinstance(net, TwoTowerNet):
            ids = batch.taken
            logits = net.query_vectors(batch.contexts) @ net.vectors_of(ids).T / net.model.temperature
            return info_nce(logits, batch.log_q if net.model.log_q != "none" else None, ids)
        if isinstance(net, DeepFMNet):
            candidates, labels = batch.listed
            states = net.item_state(candidates.items.flatten()).view(*candidates.items.shape, -1)
            scores = net.combine(net.context_state(batch.contexts), states, None)
            return of_rows(scores, labels) + net.model.l2 / 2 * square_norm(net.tables())
        return _mf_loss(net, batch)


def _mf_loss(net: MFNet, batch: Batch) -> Tensor:
    if batch.negatives is None:
        raise TypeError("the textbook's factorisation wants drawn negatives")
    ids = torch.cat([batch.taken[:, None], batch.negatives], 1)
    p, q = net.user(batch.contexts.user), net.item(ids)
    scores = (p.unsqueeze(1) * q).sum(2) + net.bias[ids]
    penalty = net.model.l2 * (p.square().sum(1).mean() + q.square().sum(2).mean())
    return logistic_pairs(scores[:, :1], scores[:, 1:]) + penalty


def steps(
    net: Any, examples: Examples, train: Dataset, size: tuple[int, int], rate: float, plain: bool = True
) -> Iterator[int]:
    """Trains one epoch in batches and with workers of ``size``; yields the number of examples after each step."""
    in_batch = not examples.negatives and not examples.labelled
    log_q = Sampler.of(train, 1.0, False).log_q if in_batch else None
    loader = DataLoader(examples, size[0], shuffle=True, num_workers=size[1], collate_fn=stacked, drop_last=True)
    optimiser = torch.optim.Adam(net.parameters(), rate)
    net.train()
    for stack in loader:
        batch = batch_of(stack, log_q)
        optimiser.zero_grad()
        if plain:
            with torch_lookups():
                plain_loss(net, batch).backward()
        else:
            net(batch).backward()
        optimiser.step()
        yield stack["user"].numel()
