"""Views: how the events of train become batches.  A model names its view; the trainer only iterates.

* ``Pairs``: (context, item taken, negatives), or labelled pairs where the data carry labels.
* ``Hard``: Pairs with negatives that the network itself ranks high, looked up again in each epoch.
* ``Sequences``: whole histories; the model makes its own targets from them.
* ``Rows``: (context, C candidates, labels, weights): click logs (C = 1), lists of a retriever, sampled lists.
* ``Whole``: one empty batch per epoch, for networks that hold the data themselves.

Batches are slices of arrays; every draw comes from the generator that is handed in, so that a run can be resumed
exactly: the same generator state yields the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from suisen.data.batch import Batch, Candidates, Contexts
from suisen.data.dataset import Dataset, Lists
from suisen.data.negatives import Sampler
from suisen.data.ragged import Ragged, offsets_of, spans
from suisen.errors import InputError

MIN_BATCHES = 20
"""Fewest batches of an epoch, where that leaves batches of ``MIN_BATCH_SIZE``: few data need steps, too."""
MIN_BATCH_SIZE = 32
SCORES_PER_CHUNK = 2**22
"""Scores held at a time where the network is asked for its best items: 16 MB."""


class View(Protocol):
    """How a Dataset is made into batches: a frozen dataclass of options that a model returns from ``view``."""

    def open(self, train: Dataset) -> Epochs:
        """The view over a Dataset: rows, orders and samplers are computed once, here.

        Raises InputError where ``train`` has no example.
        """


class Epochs(Protocol):
    """A view opened on a Dataset: as many epochs as the trainer asks for.

    ``refresh`` and the states do nothing unless a view's examples depend on the network.
    """

    examples: int
    """Examples per epoch."""

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        """The batches of one epoch, every draw from ``rng``."""

    def refresh(self, net: Any) -> None:
        """Called before each epoch with the network in eval mode, for views whose examples depend on it."""
        return

    def state_dict(self) -> dict[str, Tensor]:
        """What ``refresh`` computed, so that a checkpoint inside an epoch needs no second ``refresh``."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts the result of ``state_dict`` back."""
        return


def slices(order: Tensor, size: int) -> tuple[Tensor, ...]:
    """``order`` (n,) cut into slices of ``size``; a last slice of one joins its neighbour, for batch norm cannot
    normalise one row.
    """
    count = order.numel()
    stops = list(range(size, count, size))
    if stops and count - stops[-1] == 1 and size > 1:
        stops.pop()
    return order.tensor_split(torch.tensor(stops)) if stops else (order,)


def batch_of(count: int, size: int) -> int:
    """The batch size for ``count`` examples: ``size``, or less where an epoch would have fewer than 20 batches, but
    then at least 32.
    """
    return min(size, max(MIN_BATCH_SIZE, -(-count // MIN_BATCHES)))


def shuffled_slices(count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """A permutation of 0 … count − 1, cut into ``slices``."""
    yield from slices(torch.randperm(count, generator=rng), size)


def has_negatives(train: Dataset) -> bool:
    """Whether some events are labelled 0: the data themselves say what was refused."""
    return bool((~train.positive).any())


class _Shuffled(Epochs):
    """Epochs over ``rows`` (examples,), in an order drawn anew each time; a subclass makes a batch of some of them."""

    NONE = "train has no event of a known user to learn from; use a model that reads histories"
    """Said where there is no example."""

    def __init__(self, view: Pairs | Rows, rows: Tensor) -> None:
        if not rows.numel():
            raise InputError(self.NONE)
        self.view = view
        self.rows = rows
        self.examples = rows.numel()

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        size = batch_of(self.examples, self.view.batch_size)
        for chosen in shuffled_slices(self.examples, size, rng):
            yield self._batch(self.rows[chosen], rng)

    def _batch(self, rows: Tensor, rng: torch.Generator) -> Batch:
        raise NotImplementedError


def _with_history(train: Dataset, user: Tensor, history: Ragged, times: Tensor) -> Contexts:
    """Contexts of users (B,), 0 for guests, with their features and the histories given."""
    features = train.user_features.take(user)
    known = Contexts.of_users(user, train.schema)
    return replace(known, user_features=features, history=history, history_time=times)


# -- Pairs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """One example per positive event of a known user: its context, its item, and ``negatives`` drawn for it.

    Where train has ``lists``, positives and negatives come from the lists.  Where some of its events are labelled 0,
    every event is an example with its label, and no negatives are drawn.
    """

    batch_size: int = 8192
    """Most positives per batch; fewer where an epoch would have fewer than 20 batches."""
    negatives: int = 4
    """Items drawn per positive; 0: none, the other items of the batch serve (in-batch)."""
    shared: bool = False
    """True: one set of ``negatives`` is drawn for the whole batch, (N,), in place of (B, N)."""
    power: float = 0.0
    """Negatives are drawn ~ (events of the item) ^ power."""
    exclude_known: bool = True
    """Whether negatives that the user took in train are drawn again (shared ones must be masked by the loss)."""
    history: int = 0
    """Most items of history per context; 0: none, and contexts are made faster."""
    guests: bool = False
    """Whether events without a user are examples too."""
    features: bool = True
    """False: contexts carry nothing but the user, for models that read nothing else (``history`` must be 0)."""
    labels: bool = True
    """False: events labelled 0 are left out, for losses of positives and drawn negatives alone (BPR, in-batch)."""

    def open(self, train: Dataset) -> _PairEpochs | _ListPairEpochs:
        """Pairs of the lists where the Dataset has lists, else of its events."""
        return _PairEpochs(self, train) if train.lists is None else _ListPairEpochs(self, train, train.lists)


class _PairEpochs(_Shuffled):
    def __init__(self, view: Pairs, train: Dataset) -> None:
        self.labelled = view.labels and has_negatives(train)
        wanted = torch.ones_like(train.positive) if self.labelled else train.positive
        if not view.guests:
            wanted = wanted & (train.user > 0)
        super().__init__(view, wanted.nonzero().squeeze(1))
        self.view: Pairs = view
        self.train = train
        self.sampler = Sampler.of(train, view.power, view.exclude_known and not view.shared)
        self.popularity = None if view.negatives else Sampler.of(train, 1.0, False).log_q

    def _batch(self, rows: Tensor, rng: torch.Generator) -> Batch:
        train, view = self.train, self.view
        contexts = train.contexts(rows, view.history) if view.features else Contexts.of_users(train.user[rows])
        item = train.events.item[rows]  # (B,)
        weight = train.events.weight
        batch = Batch(contexts, Candidates(item[:, None]), weights=None if weight is None else weight[rows, None])
        if self.labelled:
            return replace(batch, labels=train.events.label[rows, None])  # type: ignore[index]
        if self.popularity is not None:
            return replace(batch, log_q=self.popularity[item])
        if view.shared:
            negatives = self.sampler.draw((view.negatives,), rng)  # (N,)
        else:
            negatives = self.sampler.draw_for(contexts.user, view.negatives, rng)  # (B, N)
        return replace(batch, negatives=negatives, negatives_log_q=self.sampler.log_q[negatives])


class _ListPairEpochs(_Shuffled):
    """One example per taken item of a list that also holds an item that was not taken."""

    NONE = "no list of a known user holds both a taken and a refused item; give longer lists"

    def __init__(self, view: Pairs, train: Dataset, lists: Lists) -> None:
        counted = lists.weights > 0  # (lists, C)
        self.refused = counted & (lists.labels <= 0)
        wanted = counted & (lists.labels > 0) & self.refused.any(1, keepdim=True)
        if not view.guests:
            wanted &= lists.contexts.user[:, None] > 0
        super().__init__(view, wanted.flatten().nonzero().squeeze(1))  # of cells: list · C + column
        self.view: Pairs = view
        self.lists = lists
        self.popularity = Sampler.of(train, 1.0, False).log_q

    def _batch(self, rows: Tensor, rng: torch.Generator) -> Batch:
        wide = self.refused.shape[1]
        column = (rows % wide)[:, None]  # (B, 1)
        rows = torch.div(rows, wide, rounding_mode="floor")  # (B,)
        items, refused = self.lists.candidates.items[rows], self.refused[rows]  # (B, C) both
        contexts = self.lists.contexts.take(rows).recent(self.view.history)
        taken = items.gather(1, column)
        batch = Batch(contexts, Candidates(taken), weights=self.lists.weights[rows].gather(1, column))
        if not self.view.negatives:
            return replace(batch, log_q=self.popularity[taken[:, 0]])
        if self.view.shared:
            pool = items[refused]
            negatives = pool[torch.randint(pool.numel(), (self.view.negatives,), generator=rng)]  # (N,)
            share = torch.bincount(pool, minlength=self.popularity.numel()) / pool.numel()
            return replace(batch, negatives=negatives, negatives_log_q=share[negatives].log())
        drawn = refused.float().multinomial(self.view.negatives, replacement=True, generator=rng)  # (B, N) columns
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
    """The positives, their contexts and their other negatives."""
    count: int = 1
    """Hard negatives per row."""
    pool: int = 100
    """Best items of a user that they are drawn from."""

    def open(self, train: Dataset) -> _HardEpochs:
        """The pairs; ``refresh`` fills the table of hard items."""
        return _HardEpochs(self, train)


class _HardEpochs(Epochs):
    def __init__(self, view: Hard, train: Dataset) -> None:
        self.view = view
        self.train = train
        self.pairs = view.pairs.open(train)
        self.examples = self.pairs.examples
        self.sampler = Sampler.of(train)
        self.best = torch.zeros((train.schema.n_users, min(view.pool, train.schema.n_items)), dtype=torch.int64)

    def refresh(self, net: Any) -> None:
        """Looks up each user's best items, (n_users, pool); 0 where the user has fewer."""
        self.pairs.refresh(net)
        vectors = net.item_vectors()
        barred = ~self.train.trained_items
        barred[0] = True
        users = self.train.trained_users.nonzero().squeeze(1)
        for chunk in users.split(max(1, SCORES_PER_CHUNK // len(barred))):  # type: ignore[no-untyped-call]
            taken = self.train.histories.take(chunk)
            queries = net.query_vectors(self._contexts(chunk).to(vectors.device))
            scores = (queries @ vectors.T).float().cpu()  # (users of the chunk, n_items)
            scores[:, barred] = -torch.inf
            scores[taken.rows(), taken.values] = -torch.inf
            score, item = scores.topk(self.best.shape[1], 1)
            self.best[chunk] = torch.where(score > -torch.inf, item, 0)

    def _contexts(self, users: Tensor) -> Contexts:
        """Contexts of (B,) users after everything they did in train."""
        train, most = self.train, self.view.pairs.history
        times = train.histories.with_values(train.history_times).take(users).last(most)
        return _with_history(train, users, train.histories.take(users).last(most), times.values)

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        for batch in self.pairs.batches(rng):
            user, count = batch.contexts.user, self.view.count
            column = torch.randint(self.best.shape[1], (len(batch), count), generator=rng)
            hard = self.best[user[:, None], column]
            if bool((hard == 0).any()):
                hard = torch.where(hard == 0, self.sampler.draw_for(user, count, rng), hard)
            yield replace(batch, hard=hard)

    def state_dict(self) -> dict[str, Tensor]:
        """The table of hard items."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts the table back."""
        self.best = state["best"]


# -- Sequences --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequences:
    """One example per visitor (a user, or a guest's session): the last ``length`` items taken, oldest first, with the
    weights of their events where train has such.

    With ``by_length`` batches hold sequences of like length, so that little is computed on padding: the visitors are
    shuffled, and sorted by length within chunks of ``chunk`` batches.
    """

    length: int
    """Most items of a sequence; a causal model of L positions wants L + 1 (inputs and their next items)."""
    batch_size: int = 128
    """Sequences per batch."""
    least: int = 2
    """Visitors with fewer items are left out: there is nothing to predict."""
    by_length: bool = True
    """False: a batch holds sequences of any lengths."""
    chunk: int = 16
    """Batches per sorted chunk: the fewer, the more random the batches; the more, the less padding."""
    windows: bool = False
    """Items before the last ``length`` become examples too, in windows that share one item with the next: every step
    from an item to the next is seen once."""

    def open(self, train: Dataset) -> _SequenceEpochs:
        """The sequences of ``train``, cut once."""
        return _SequenceEpochs(self, train)


class _SequenceEpochs(Epochs):
    def __init__(self, view: Sequences, train: Dataset) -> None:
        self.view = view
        self.train = train
        places, self.visitors = _windows(train.histories, view.length, view.windows)
        weight = train.events.weight
        weights = None if weight is None else weight[train.positive][places.values]
        self.items = replace(places, values=train.histories.values[places.values], weights=weights)
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
        visitors = self.visitors[rows]
        user = torch.where(visitors < self.train.schema.n_users, visitors, 0)  # guests are numbered behind the users
        times = self.items.with_values(self.times).take(rows).values
        return _with_history(self.train, user, self.items.take(rows), times)


def _windows(histories: Ragged, length: int, every: bool) -> tuple[Ragged, Tensor]:
    """The last window of each row, or with ``every`` all windows: n rows of places in ``histories.values``, and (n,)
    the row that each window is of.
    """
    step = max(1, length - 1)  # neighbours share an item: the last of one is the first of the next
    more = torch.zeros_like(histories.lengths)  # windows before the last one
    if every:
        more = -(-(histories.lengths - length).clamp(min=0) // step)
    row = torch.repeat_interleave(torch.arange(len(histories)), more + 1)
    number = torch.arange(row.numel()) - (more + 1).cumsum(0)[row] + more[row] + 1  # 0: the last of its row
    ends = histories.offsets[row + 1] - number * step
    starts = torch.maximum(ends - length, histories.offsets[row])
    return Ragged(spans(starts, ends - starts), offsets_of(ends - starts)), row


# -- Rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """One example per context, with C candidates and their labels.

    Where train has ``lists``, the examples are its lists; where some of its events are labelled 0, its events (C = 1);
    else each positive event with ``negatives`` drawn for it (C = 1 + negatives).
    """

    batch_size: int = 2048
    """Most contexts per batch (C times as many pairs); fewer where an epoch would have fewer than 20 batches."""
    negatives: int = 4
    """Items drawn per positive event where train has neither lists nor labels."""
    power: float = 0.0
    """Negatives are drawn ~ (events of the item) ^ power."""
    history: int = 0
    """Most items of history per context."""
    guests: bool = True
    """Whether events without a known user are examples too; models of user ids alone have nothing to learn from it."""

    def open(self, train: Dataset) -> _ListEpochs | _LabelEpochs | _SampledEpochs:
        """Lists where the Dataset has them, else its labelled events, else its positives with drawn negatives."""
        if train.lists is not None:
            return _ListEpochs(self, train.lists)
        return _LabelEpochs(self, train) if has_negatives(train) else _SampledEpochs(self, train)


class _RowEpochs(_Shuffled):
    def __init__(self, view: Rows, rows: Tensor, user: Tensor) -> None:
        super().__init__(view, rows if view.guests else rows[user > 0])
        self.view: Rows = view


class _ListEpochs(_RowEpochs):
    def __init__(self, view: Rows, lists: Lists) -> None:
        super().__init__(view, torch.arange(len(lists)), lists.contexts.user)
        self.lists = lists

    def _batch(self, rows: Tensor, rng: torch.Generator) -> Batch:
        lists = self.lists
        contexts = lists.contexts.take(rows).recent(self.view.history)
        return Batch(contexts, lists.candidates.take(rows), lists.labels[rows], lists.weights[rows])


class _LabelEpochs(_RowEpochs):
    def __init__(self, view: Rows, train: Dataset) -> None:
        super().__init__(view, torch.arange(len(train.events)), train.user)
        self.train = train

    def _batch(self, rows: Tensor, rng: torch.Generator) -> Batch:
        events = self.train.events
        return Batch(
            self.train.contexts(rows, self.view.history),
            Candidates(events.item[rows, None]),
            events.label[rows, None],  # type: ignore[index]
            None if events.weight is None else events.weight[rows, None],
        )


class _SampledEpochs(_RowEpochs):
    def __init__(self, view: Rows, train: Dataset) -> None:
        rows = train.positive.nonzero().squeeze(1)
        super().__init__(view, rows, train.user[rows])
        self.train = train
        self.sampler = Sampler.of(train, view.power)

    def _batch(self, rows: Tensor, rng: torch.Generator) -> Batch:
        events = self.train.events
        contexts = self.train.contexts(rows, self.view.history)
        drawn = self.sampler.draw_for(contexts.user, self.view.negatives, rng)  # (B, N)
        items = torch.cat([events.item[rows, None], drawn], 1)  # (B, 1 + N)
        labels = torch.zeros(items.shape)
        labels[:, 0] = 1
        weight = None if events.weight is None else events.weight[rows, None].expand(items.shape)
        return Batch(contexts, Candidates(items), labels, weight)


# -- Whole ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """One empty batch per epoch: the network holds the data and does a whole sweep (alternating least squares)."""

    def open(self, train: Dataset) -> _WholeEpochs:
        """Epochs of one batch each; their examples are the events."""
        return _WholeEpochs(train)


class _WholeEpochs(Epochs):
    def __init__(self, train: Dataset) -> None:
        self.examples = len(train.events)
        self.empty = train.contexts(torch.zeros(0, dtype=torch.int64))

    def batches(self, rng: torch.Generator) -> Iterator[Batch]:
        yield Batch(self.empty)


__all__ = ["Epochs", "Hard", "Pairs", "Rows", "Sequences", "View", "Whole", "shuffled_slices", "slices"]
