"""The features of the pair: made of train once, computed for lists by one function in training and in serving.

No feature sees the event that it is asked about, nor what the visitor did after it: histories end before it, counts are
of what came strictly before its time, and what is learnt from events (co-visits) is learnt from those that are not held
out, as the retriever behind the lists is (``suisen.pipeline.two_stage``).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from suisen.data.batch import Contexts
from suisen.data.dataset import Dataset
from suisen.display import brief
from suisen.errors import BundleError
from suisen.files import replacing
from suisen.recommending.manifest import PAIRS
from suisen.recommending.pairs.catalogue import Columns
from suisen.recommending.pairs.covisits import CoVisits
from suisen.recommending.pairs.declared import chosen
from suisen.recommending.pairs.moments import NAMES, Moments
from suisen.recommending.store import Store

PAST = 500
"""Newest items of a history that are read."""
SESSION = 30 * 60 * 1_000_000
"""Most microseconds from one event to the next within a session."""


@dataclass(frozen=True, eq=False)
class PairTables:
    """What features of pairs are made of."""

    __repr__ = brief

    names: tuple[str, ...]
    """The features, in their order."""
    columns: Columns
    visits: CoVisits | None
    moments: Moments | None
    """None: no feature reads them."""

    @classmethod
    def made(cls, words: tuple[str, ...], train: Dataset, past: Dataset | None = None) -> Self | None:
        """The features that ``words`` choose (see ``declared``), of ``train``; None where they choose none.

        ``past``: the events that count before a moment, where ``train`` is the part that is not held out: a count
        strictly before a question's time knows what was known then.
        """
        names = chosen(words, train.schema.item, train.has_time)
        if not names:
            return None
        columns = Columns.of(names, train.schema.item, train.item_features, train.frames["item"])
        visits = CoVisits.of(train) if _spans(names) else None
        return cls(names, columns, visits, Moments.of(past or train) if _dated(names) else None)

    def of(self, contexts: Contexts, ids: Tensor) -> Tensor:
        """(B, C, p) float32: features of each context with each of its (B, C) candidates; 0 beside padding."""
        if not ids.numel():
            return torch.zeros((*ids.shape, len(self.names)))
        recent = contexts.recent(PAST)
        found = self.columns.features(recent.history, ids)
        if self.visits is not None:
            spans = _spans(self.names)
            each = self.visits.features(recent.history, ids, list(spans.values()))
            found |= dict(zip(spans, each, strict=True))
        if self.moments is not None:
            found |= self.moments.features(contexts.time, ids, self.names)
        if "history_length" in self.names:
            found["history_length"] = _log(contexts.history.lengths)
        if "session_position" in self.names:
            found["session_position"] = _log(in_session(recent))
        out = torch.stack([found[name].expand(ids.shape) for name in self.names], 2)
        return torch.where((ids > 0).unsqueeze(2), out, 0.0)

    def grown(self, store: Store) -> Self:
        """The same for a store with more items behind the known ones; what was learnt from events stays train's."""
        n, schema = store.schema.n_items, store.schema
        columns = Columns.of(self.names, schema.item, store.item_features, store.item_frame)
        visits = None if self.visits is None else self.visits.grown(n)
        moments = None if self.moments is None else self.moments.grown(n)
        return replace(self, columns=columns, visits=visits, moments=moments)

    # -- on disk -------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes ``pairs.safetensors``: what was learnt from events."""
        arrays: dict[str, Tensor] = {}
        if self.visits is not None:
            arrays |= {"offsets": self.visits.offsets, "items": self.visits.items, "weights": self.visits.weights}
        if self.moments is not None:
            arrays |= {"times": self.moments.times, "keys": self.moments.keys}
        with replacing(folder / PAIRS) as path:
            save_file({name: array.contiguous() for name, array in arrays.items()}, path)

    @classmethod
    def load(cls, folder: Path, names: tuple[str, ...], store: Store) -> Self:
        """What ``save`` wrote, memory-mapped.  Raises BundleError for names and arrays that do not fit the store."""
        path, n = folder / PAIRS, store.schema.n_items
        arrays = load_file(path)
        columns = Columns.of(names, store.schema.item, store.item_features, store.item_frame)
        visits = CoVisits(arrays["offsets"], arrays["items"], arrays["weights"]) if _spans(names) else None
        moments = Moments(n, arrays["times"], arrays["keys"]) if _dated(names) else None
        flaw = (
            "" if chosen(names, store.schema.item, store.has_time) == names else f"{list(names)} are not its features"
        )
        flaw = flaw or ("" if visits is None else visits.flaw(n)) or ("" if moments is None else moments.flaw())
        if flaw:
            raise BundleError(f"{path} does not fit the bundle ({flaw}); save the bundle again")
        return cls(names, columns, visits, moments)


def _spans(names: Iterable[str]) -> dict[str, int]:
    """Of those names that are features of co-visits: how many items of the history they read."""
    return {name: int(name.removeprefix("covisit_")) for name in names if name.startswith("covisit_")}


def _dated(names: Iterable[str]) -> bool:
    """Whether some feature counts what came before a moment."""
    return any(name in NAMES for name in names)


def in_session(contexts: Contexts) -> Tensor:
    """(B,) int64: how many newest items of each history have at most 30 minutes to the next one, or to the request."""
    history, times = contexts.history, contexts.history_time
    if not times.numel():
        return torch.zeros(len(contexts), dtype=torch.int64)
    following = torch.cat([times[1:], times[-1:]])
    some = history.lengths > 0
    following[history.offsets[1:][some] - 1] = contexts.time[some]
    breaks = torch.where(following - times > SESSION, history.places(), -1)
    last = torch.full((len(contexts),), -1).scatter_reduce(0, history.rows(), breaks, "amax")
    return history.lengths - 1 - last


def _log(counts: Tensor) -> Tensor:
    """(B, 1) float32."""
    return (torch.log2(1.0 + counts) / 8)[:, None]


__all__ = ["PairTables", "in_session"]
