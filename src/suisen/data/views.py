"""Views: how train's events become batches.  A model names its view; the trainer only iterates.

* ``Pairs``: (context, item taken, negatives), or labelled pairs where the data carry labels.
* ``Hard``: Pairs with negatives that the network itself ranks high, looked up again each epoch.
* ``Sequences``: whole histories, batched by length; the model makes its own targets from them.
* ``Rows``: (context, C candidates, labels, weights): click logs (C = 1), lists of a retriever, sampled lists.

Batches are slices of arrays; every draw comes from the generator that is handed in, so that a run can be resumed
exactly: the same generator state yields the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from suisen.data.batch import Batch, Candidates, Contexts, Features
from suisen.data.dataset import Dataset, Lists
from suisen.data.negatives import Sampler
from suisen.data.ragged import Ragged, offsets_of, spans
from suisen.errors import InputError

MIN_BATCHES, MIN_BATCH_SIZE = 20, 32
SCORES_PER_CHUNK = 2**22
"""Scores held at a time where the network is asked for its best items: 16 MB."""


class View(Protocol):
    """An endless supply of epochs over a Dataset."""

    def open(self, train: Dataset) -> Epochs:
        """What is computed once for a Dataset: samplers, rows, orders."""


class Epochs(Protocol):
    """A view opened on a Dataset."""

    examples: int
    """Contexts in an epoch."""

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        """One epoch, every draw from ``rng``."""

    def refresh(self, net: Any) -> None:
        """Called before each epoch: hard negatives ask the network here."""

    def state_dict(self) -> dict[str, Tensor]:
        """What ``refresh`` made, for a checkpoint inside an epoch."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of ``state_dict``."""


def slices(order: Tensor, size: int) -> tuple[Tensor, ...]:
    """Slices of ``size``; a last slice of one joins its neighbour (batch norm has nothing to say of one row)."""
    count = order.numel()
    stops = list(range(size, count, size))
    if stops and count - stops[-1] == 1 and size > 1:
        stops.pop()
    return order.tensor_split(torch.tensor(stops)) if stops else (order,)


def batch_of(count: int, size: int) -> int:
    """``size``, or less where that would leave an epoch fewer than 20 batches of at least 32: few data need steps."""
    return min(size, max(MIN_BATCH_SIZE, -(-count // MIN_BATCHES)))


def shuffled_slices(count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """A permutation of 0…count − 1 in ``slices``."""
    yield from slices(torch.randperm(count, generator=rng), size)


def has_negatives(train: Dataset) -> bool:
    """Whether the events' labels tell anything: some are 0."""
    return bool((~train.positive).any())


class _Steady:
    """Epochs that never change between epochs."""

    def refresh(self, net: Any) -> None:
        """Nothing to refresh: the draws do not depend on the network."""

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing was made."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to put back."""


# -- Pairs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """One example a positive event of a known user: its context, its item, and ``negatives`` drawn for it.

    Where train has ``lists``, positives and negatives are those of the lists.  Where its events carry labels that say
    no, every event is an example with its label and there are no negatives.
    """

    batch_size: int = 8192
    negatives: int = 4
    """0: none are drawn, the batch's own items serve (in-batch)."""
    shared: bool = False
    """Draw one set for the whole batch, (N,), in place of (B, N)."""
    power: float = 0.0
    """Negatives ~ (events of the item) ^ power."""
    exclude_known: bool = True
    """Draw again what the user took in train (for shared negatives the loss must mask instead)."""
    history: int = 0
    """Most items of history that a context carries; 0: models that do not read it are not made to pay for it."""
    guests: bool = False
    """Whether events without a user are examples too."""
    features: bool = True
    """False: contexts carry nothing but the user, for models that read nothing else (``history`` must be 0)."""
    labels: bool = True
    """False: events labelled 0 are left out, for losses of positives and drawn negatives alone (BPR, in-batch)."""

    def open(self, train: Dataset) -> _PairEpochs | _ListPairEpochs:
        """The kind that fits the Dataset."""
        return _PairEpochs(self, train) if train.lists is None else _ListPairEpochs(self, train, train.lists)


class _PairEpochs(_Steady):
    def __init__(self, view: Pairs, train: Dataset) -> None:
        labelled = view.labels and has_negatives(train)
        wanted = torch.ones_like(train.positive) if labelled else train.positive
        if not view.guests:
            wanted = wanted & (train.user > 0)
        self.view, self.train, self.labelled = view, train, labelled
        self.rows = wanted.nonzero().squeeze(1)
        if not self.rows.numel():
            raise InputError("train has no event of a known user to learn from; use a model that reads histories")
        self.examples = self.rows.numel()
        self.sampler = Sampler.of(train, view.power, view.exclude_known and not view.shared)
        self.popularity = Sampler.of(train, 1.0, False).log_q if not view.negatives else None

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        for chosen in shuffled_slices(self.rows.numel(), batch_of(self.rows.numel(), self.view.batch_size), rng):
            yield self._batch(self.rows[chosen], rng)

    def _batch(self, rows: Tensor, rng: torch.Generator) -> Batch:
        train, view = self.train, self.view
        contexts = train.contexts(rows, view.history) if view.features else Contexts.of_users(train.user[rows])
        item = train.events.item[rows]
        weight = train.events.weight
        batch = Batch(contexts, Candidates(item[:, None]), weights=None if weight is None else weight[rows, None])
        if self.labelled:
            return replace(batch, labels=train.events.label[rows, None])  # type: ignore[index]
        if not view.negatives:
            return replace(batch, log_q=self.popularity[item])  # type: ignore[index]
        if view.shared:
            negatives = self.sampler.draw((view.negatives,), rng)
        else:
            negatives = self.sampler.draw_for(contexts.user, view.negatives, rng)
        return replace(batch, negatives=negatives, negatives_log_q=self.sampler.log_q[negatives])


class _ListPairEpochs(_Steady):
    """One example a taken item of a list that also holds one that was not taken."""

    def __init__(self, view: Pairs, train: Dataset, lists: Lists) -> None:
        counted = lists.weights > 0
        refused = counted & (lists.labels <= 0)
        wanted = counted & (lists.labels > 0) & refused.any(1, keepdim=True)
        if not view.guests:
            wanted &= lists.contexts.user[:, None] > 0
        self.view, self.lists, self.refused = view, lists, refused
        self.rows, self.columns = wanted.nonzero(as_tuple=True)
        if not self.rows.numel():
            raise InputError("no list of a known user holds both a taken and a refused item; give longer lists")
        self.examples = self.rows.numel()
        self.popularity = Sampler.of(train, 1.0, False).log_q

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        for chosen in shuffled_slices(self.rows.numel(), batch_of(self.rows.numel(), self.view.batch_size), rng):
            yield self._batch(self.rows[chosen], self.columns[chosen], rng)

    def _batch(self, rows: Tensor, columns: Tensor, rng: torch.Generator) -> Batch:
        items, refused = self.lists.candidates.items[rows], self.refused[rows]
        contexts = self.lists.contexts.take(rows).recent(self.view.history)
        taken = items.gather(1, columns[:, None])
        batch = Batch(contexts, Candidates(taken), weights=self.lists.weights[rows].gather(1, columns[:, None]))
        if not self.view.negatives:
            return replace(batch, log_q=self.popularity[taken[:, 0]])
        if self.view.shared:
            pool = items[refused]
            negatives = pool[torch.randint(pool.numel(), (self.view.negatives,), generator=rng)]
            share = torch.bincount(pool, minlength=self.popularity.numel()) / pool.numel()
            return replace(batch, negatives=negatives, negatives_log_q=share[negatives].log())
        drawn = refused.float().multinomial(self.view.negatives, replacement=True, generator=rng)
        log_q = -refused.sum(1, keepdim=True).log()
        return replace(batch, negatives=items.gather(1, drawn), negatives_log_q=log_q.expand_as(drawn))


# -- Hard -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hard:
    """``Pairs`` with hard negatives beside them (ANCE, Xiong et al. 2021, section 4).

    Each row gets ``count`` of the ``pool`` items that the network ranks highest for the row's user at the start of the
    epoch and that the user has not taken.  Guests, and users who have taken nearly everything, get draws of the plain
    sampler instead.

    Cost: one exact search for every user in each epoch, ``SCORES_PER_CHUNK`` scores at a time, never users × items.
    Memory: 8 · ``pool`` bytes per user.
    """

    pairs: Pairs
    count: int = 1
    pool: int = 100

    def open(self, train: Dataset) -> _HardEpochs:
        """The pairs, and a table of nobody's hard items yet."""
        return _HardEpochs(self, train)


class _HardEpochs:
    def __init__(self, view: Hard, train: Dataset) -> None:
        self.view, self.train = view, train
        self.pairs = view.pairs.open(train)
        self.examples = self.pairs.examples
        self.sampler = Sampler.of(train)
        self.best = torch.zeros((train.schema.n_users, min(view.pool, train.schema.n_items)), dtype=torch.int64)

    def refresh(self, net: Any) -> None:
        """Each user's best items by what it knows now; 0 where there are fewer than ``pool``."""
        self.pairs.refresh(net)
        vectors = net.item_vectors()
        barred = ~self.train.trained_items
        barred[0] = True
        users = self.train.trained_users.nonzero().squeeze(1)
        for some in users.split(max(1, SCORES_PER_CHUNK // len(barred))):  # type: ignore[no-untyped-call]
            contexts = self._contexts(some)
            taken = self.train.histories.take(some)
            scores = (net.query_vectors(contexts.to(vectors.device)) @ vectors.T).float().cpu()
            scores[:, barred] = -torch.inf
            scores[taken.rows(), taken.values] = -torch.inf
            score, item = scores.topk(self.best.shape[1], 1)
            self.best[some] = torch.where(score > -torch.inf, item, 0)

    def _contexts(self, users: Tensor) -> Contexts:
        """(B,) users after everything they did."""
        train, most = self.train, self.view.pairs.history
        times = train.histories.with_values(train.history_times).take(users).last(most)
        return replace(
            Contexts.of_users(users, train.schema),
            user_features=train.user_features.take(users),
            history=train.histories.take(users).last(most),
            history_time=times.values,
        )

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        for batch in self.pairs.batches(rng):
            user, count = batch.contexts.user, self.view.count
            column = torch.randint(self.best.shape[1], (len(batch), count), generator=rng)
            hard = self.best[user[:, None], column]
            if bool((hard == 0).any()):
                hard = torch.where(hard == 0, self.sampler.draw_for(user, count, rng), hard)
            yield replace(batch, hard=hard)

    def state_dict(self) -> dict[str, Tensor]:
        """The table: a checkpoint inside an epoch asks no network."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts the table back."""
        self.best = state["best"]


# -- Sequences --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequences:
    """One example a visitor: the last ``length`` items it took, guests included.  Batches hold sequences of like length
    (a shuffle, then a stable sort inside chunks of ``chunk`` batches), so that little is computed on padding.
    """

    length: int
    """Most items of a sequence; a causal model of L positions wants L + 1 (inputs and their next items)."""
    batch_size: int = 128
    least: int = 2
    """Visitors with fewer items are left out: there is nothing to predict."""
    by_length: bool = True
    """False: batches of any lengths, for comparison."""
    chunk: int = 16
    windows: bool = False
    """What lies before the last ``length`` items becomes examples too, each with one item of the next window at its
    end: every step from an item to the next is seen once."""

    def open(self, train: Dataset) -> _SequenceEpochs:
        """Sequences, once."""
        return _SequenceEpochs(self, train)


class _SequenceEpochs(_Steady):
    def __init__(self, view: Sequences, train: Dataset) -> None:
        self.view, self.train = view, train
        places, self.visitors = _windows(train.histories, view.length, view.windows)
        self.items = places.with_values(train.histories.values[places.values])
        self.times = train.history_times[places.values]
        self.rows = (self.items.lengths >= view.least).nonzero().squeeze(1)
        if not self.rows.numel():
            raise InputError(f"no visitor has {view.least} events in train: there is no next item to learn from")
        self.examples = self.rows.numel()

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        size = self.view.batch_size
        wide = size * (self.view.chunk if self.view.by_length else 1)
        parts: list[Tensor] = []
        for chunk in shuffled_slices(self.rows.numel(), wide, rng):
            rows = self.rows[chunk]
            if self.view.by_length:
                rows = rows[self.items.lengths[rows].argsort(stable=True)]
                parts.extend(slices(rows, size))
            else:
                parts.append(rows)
        for at in torch.randperm(len(parts), generator=rng).tolist():
            yield Batch(self._contexts(parts[at]))

    def _contexts(self, rows: Tensor) -> Contexts:
        train, visitors = self.train, self.visitors[rows]
        user = torch.where(visitors < train.schema.n_users, visitors, 0)
        times = self.items.with_values(self.times).take(rows).values
        return Contexts(
            user,
            train.user_features.take(user),
            Features.missing(train.schema.context, rows.numel()),
            torch.zeros(rows.numel(), dtype=torch.int64),
            self.items.take(rows),
            times,
        )


def _windows(histories: Ragged, length: int, all_of_them: bool) -> tuple[Ragged, Tensor]:
    """Places in ``histories.values`` of the windows that end each row, or of all its windows, and (n,) their rows."""
    step = max(1, length - 1)
    more = -(-(histories.lengths - length).clamp(min=0) // step) if all_of_them else torch.zeros_like(histories.lengths)
    row = torch.repeat_interleave(torch.arange(len(histories)), more + 1)
    number = torch.arange(row.numel()) - (more + 1).cumsum(0)[row] + more[row] + 1  # 0: the last of its row
    ends = histories.offsets[row + 1] - number * step
    starts = torch.maximum(ends - length, histories.offsets[row])
    return Ragged(spans(starts, ends - starts), offsets_of(ends - starts)), row


# -- Rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """One example a context with C candidates and their labels.

    Where train has ``lists``, those; where its events carry labels that say no, the events themselves (C = 1); else
    each positive event with ``negatives`` drawn for it (C = 1 + negatives).
    """

    batch_size: int = 2048
    """Contexts in a batch; its rows are C times as many."""
    negatives: int = 4
    power: float = 0.0
    history: int = 0
    """Most items of history that a context carries."""
    guests: bool = True
    """Whether what has no known user is an example too; models of user ids alone have nothing to learn from it."""

    def open(self, train: Dataset) -> _ListEpochs | _LabelEpochs | _SampledEpochs:
        """The kind that fits the Dataset."""
        if train.lists is not None:
            return _ListEpochs(self, train.lists)
        if has_negatives(train):
            return _LabelEpochs(self, train)
        return _SampledEpochs(self, train)


def _of_whom(view: Rows, rows: Tensor, user: Tensor) -> Tensor:
    """The rows that are examples; ``user`` stands beside them.  Raises InputError where none is of a known user."""
    if view.guests:
        return rows
    rows = rows[user > 0]
    if not rows.numel():
        raise InputError("train has no event of a known user to learn from; use a model that reads histories")
    return rows


class _ListEpochs(_Steady):
    def __init__(self, view: Rows, lists: Lists) -> None:
        self.view, self.lists = view, lists
        self.rows = _of_whom(view, torch.arange(len(lists)), lists.contexts.user)
        self.examples = self.rows.numel()

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        lists = self.lists
        for chosen in shuffled_slices(self.examples, batch_of(self.examples, self.view.batch_size), rng):
            rows, pair = self.rows[chosen], lists.candidates.pair
            candidates = Candidates(lists.candidates.items[rows], None if pair is None else pair[rows])
            contexts = lists.contexts.take(rows).recent(self.view.history)
            yield Batch(contexts, candidates, lists.labels[rows], lists.weights[rows])


class _LabelEpochs(_Steady):
    def __init__(self, view: Rows, train: Dataset) -> None:
        self.view, self.train = view, train
        self.rows = _of_whom(view, torch.arange(len(train.events)), train.user)
        self.examples = self.rows.numel()

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        events = self.train.events
        for chosen in shuffled_slices(self.examples, batch_of(self.examples, self.view.batch_size), rng):
            rows = self.rows[chosen]
            yield Batch(
                self.train.contexts(rows, self.view.history),
                Candidates(events.item[rows, None]),
                events.label[rows, None],  # type: ignore[index]
                None if events.weight is None else events.weight[rows, None],
            )


class _SampledEpochs(_Steady):
    def __init__(self, view: Rows, train: Dataset) -> None:
        self.view, self.train = view, train
        rows = train.positive.nonzero().squeeze(1)
        self.rows = _of_whom(view, rows, train.user[rows])
        self.examples = self.rows.numel()
        self.sampler = Sampler.of(train, view.power)

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        view, events = self.view, self.train.events
        for chosen in shuffled_slices(self.rows.numel(), batch_of(self.rows.numel(), view.batch_size), rng):
            rows = self.rows[chosen]
            contexts = self.train.contexts(rows, view.history)
            drawn = self.sampler.draw_for(contexts.user, view.negatives, rng)
            items = torch.cat([events.item[rows, None], drawn], 1)
            labels = torch.zeros(items.shape)
            labels[:, 0] = 1
            weight = None if events.weight is None else events.weight[rows, None].expand(items.shape)
            yield Batch(contexts, Candidates(items), labels, weight)


# -- Whole ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """One empty batch an epoch: the network holds the data and does a whole sweep (alternating least squares)."""

    def open(self, train: Dataset) -> _WholeEpochs:
        """Nothing to open."""
        return _WholeEpochs(train)


class _WholeEpochs(_Steady):
    def __init__(self, train: Dataset) -> None:
        self.examples = len(train.events)
        self.none = train.contexts(torch.zeros(0, dtype=torch.int64))

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        yield Batch(self.none)


__all__ = ["Epochs", "Hard", "Pairs", "Rows", "Sequences", "View", "Whole", "shuffled_slices", "slices"]
