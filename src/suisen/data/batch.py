"""What flows through the house: features, contexts, candidates, batches and queries, each a dataclass of arrays.

Training, evaluation and serving use the same types, so that offline and online cannot drift apart.
Ids are dense: 0 means unknown or padding, row i of every table is dense id i.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import polars as pl
import torch
from torch import Tensor

from suisen.data.ids import IdMap
from suisen.data.ragged import Ragged, concat
from suisen.display import Shown, Table, brief

FieldKind = Literal["categorical", "numeric", "multi"]


@dataclass(frozen=True)
class Field:
    """One feature column as the models see it."""

    name: str
    kind: FieldKind
    size: int = 0
    """Number of codes, 0 (missing, rare, unseen) included; 0 for a numeric field."""


@dataclass(frozen=True)
class Schema:
    """The sizes that a network is built from: all that it knows of the data before training."""

    n_users: int
    """Rows of the user table, row 0 included."""
    n_items: int
    """Rows of the item table, row 0 included."""
    user: tuple[Field, ...] = ()
    item: tuple[Field, ...] = ()
    context: tuple[Field, ...] = ()
    pair: tuple[str, ...] = ()
    """Names of the numeric features of a (context, candidate) pair."""


class _Movable:
    """A frozen dataclass of arrays: tensors, records of tensors, tuples of them."""

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return self._changed(lambda array: array.to(device))

    def _changed(self, change: Callable[[Any], Any]) -> Self:
        """A copy with the arrays changed."""
        record: Any = self
        parts = {field.name: getattr(self, field.name) for field in fields(record)}
        arrays = {name: change(part) for name, part in parts.items() if hasattr(part, "to")}
        bags = {name: tuple(map(change, part)) for name, part in parts.items() if isinstance(part, tuple)}
        changed: Self = replace(record, **arrays, **bags)
        return changed


class _Rows(_Movable):
    """Arrays of as many rows each."""

    def take(self, rows: Tensor) -> Self:
        """The rows named, in that order."""
        return self._changed(lambda array: array[rows] if isinstance(array, Tensor) else array.take(rows))


@dataclass(frozen=True)
class Features(_Rows):
    """Encoded features of n rows, the columns of each kind in the order of the schema."""

    __repr__ = brief

    categorical: Tensor
    """(n, number of categorical fields) int64 codes."""
    numeric: Tensor
    """(n, number of numeric fields) float32, standardised; 0 where missing."""
    multi: tuple[Ragged, ...] = ()
    """One Ragged of n rows of codes for each multi-valued field, weights beside them where given."""

    def __len__(self) -> int:
        return self.categorical.shape[0]

    @classmethod
    def none(cls, rows: int) -> Self:
        """``rows`` rows of no feature at all."""
        return cls(torch.empty((rows, 0), dtype=torch.int64), torch.empty((rows, 0)))

    @classmethod
    def missing(cls, schema: tuple[Field, ...], rows: int) -> Self:
        """``rows`` rows in which every feature is unknown."""
        kinds = [field.kind for field in schema]
        return cls(
            torch.zeros((rows, kinds.count("categorical")), dtype=torch.int64),
            torch.zeros((rows, kinds.count("numeric"))),
            tuple(Ragged.empty(rows) for _ in range(kinds.count("multi"))),
        )


@dataclass(frozen=True)
class Contexts(_Rows):
    """What is known when B recommendations are asked for."""

    __repr__ = brief

    user: Tensor
    """(B,) int64; 0 = unknown."""
    user_features: Features
    """B rows."""
    context_features: Features
    """B rows: features of the moment (device, shelf, …)."""
    time: Tensor
    """(B,) int64, microseconds since 1970 UTC; 0 where the data have no time."""
    history: Ragged
    """B rows of dense items, oldest first, all strictly before ``time``."""
    history_time: Tensor
    """(history values,) int64, beside ``history.values``."""

    def __len__(self) -> int:
        return self.user.numel()

    @classmethod
    def of_users(cls, user: Tensor, schema: Schema | None = None) -> Self:
        """Contexts of users (B,) of whom nothing else is known; all features are missing (none without a schema)."""
        rows = user.numel()
        user_features = Features.missing(schema.user, rows) if schema else Features.none(rows)
        context_features = Features.missing(schema.context, rows) if schema else Features.none(rows)
        time = torch.zeros(rows, dtype=torch.int64)
        return cls(user, user_features, context_features, time, Ragged.empty(rows), torch.zeros(0, dtype=torch.int64))

    def take(self, rows: Tensor) -> Self:
        """The contexts named, in that order."""
        times = self.history.with_values(self.history_time).take(rows)
        return replace(
            self,
            user=self.user[rows],
            user_features=self.user_features.take(rows),
            context_features=self.context_features.take(rows),
            time=self.time[rows],
            history=self.history.take(rows),
            history_time=times.values,
        )

    def recent(self, most: int) -> Self:
        """The same with at most the last ``most`` items of each history."""
        times = self.history.with_values(self.history_time).last(most)
        return replace(self, history=self.history.last(most), history_time=times.values)


@dataclass(frozen=True)
class Candidates(_Rows):
    """C items to be scored for each of B contexts."""

    __repr__ = brief

    items: Tensor
    """(B, C) int64; 0 pads and its score means nothing."""
    pair: Tensor | None = None
    """(B, C, p) float32: features of the pair in the order of ``Schema.pair``; None where p = 0."""


@dataclass(frozen=True)
class Batch(_Movable):
    """B examples of one step of training.  The view decides which parts are filled (see ``suisen.data.views``)."""

    __repr__ = brief

    contexts: Contexts
    candidates: Candidates | None = None
    """Pairs: (B, 1), the item taken.  Rows: (B, C).  Sequences: None, the history is the example."""
    labels: Tensor | None = None
    """(B, C) float32."""
    weights: Tensor | None = None
    """(B, C) float32; 0 pads."""
    negatives: Tensor | None = None
    """(B, N) of each row, or (N,) shared by all."""
    log_q: Tensor | None = None
    """(B,): log-probability with which the view yields each row's positive (for in-batch negatives)."""
    negatives_log_q: Tensor | None = None
    """Shape of ``negatives``: log-probability with which the sampler draws each."""
    hard: Tensor | None = None
    """(B, H) negatives of each row that the network itself ranks high."""

    def __len__(self) -> int:
        return len(self.contexts)

    @property
    def taken(self) -> Tensor:
        """(B,) the items taken, of a Pairs batch."""
        if self.candidates is None:
            raise TypeError("this view yields no candidates; a model of pairs asks for Pairs")
        return self.candidates.items[:, 0]

    @property
    def listed(self) -> tuple[Candidates, Tensor]:
        """Candidates and labels, both (B, C), of a Rows batch."""
        if self.candidates is None or self.labels is None:
            raise TypeError("this view yields no labelled candidates; a ranker asks for Rows")
        return self.candidates, self.labels


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The items of train, for those who measure a system that Suisen did not train."""

    items: IdMap
    counts: Tensor
    """(n_items,) positive events of each in train."""


@dataclass(frozen=True)
class Asked(_Rows):
    """Who asks B queries, and what each took, in the ids of the whole log: those too that train does not know."""

    user: Tensor
    """(B,) dense ids of ``users``; 0: a guest."""
    truth: Ragged
    """B rows of dense ids of ``items``, beside the truth of the queries."""
    users: IdMap
    items: IdMap
    train: Catalogue
    user_table: pl.DataFrame | None = None
    """The log's table of users, its first column their raw ids."""


@dataclass(frozen=True, repr=False)
class Queries(_Rows, Shown):
    """B contexts with what was taken in each: what valid and test are."""

    contexts: Contexts
    truth: Ragged
    """B rows of the dense items that were taken; 0 = an item that train does not know (a miss for every model)."""
    seen: Ragged
    """B rows of dense items that the protocol takes out of a full ranking."""
    candidates: Tensor | None = None
    """(B, C) given candidates (0 pads), the truth first where it belongs to them; None: rank the catalogue."""
    labels: Tensor | None = None
    """(B, 1) float32 for click logs, whose queries have one candidate each: AUC and logloss are measured."""
    protocol: str = ""
    """How these queries were made, in words: printed with each number."""
    asked: Asked | None = None
    """Who asks, in the log's own ids; None for queries that no split made."""

    def __len__(self) -> int:
        return len(self.contexts)

    def _parts(self) -> list[str | Table]:
        known, past = int((self.contexts.user > 0).sum()), self.contexts.history.lengths
        given = "the catalogue" if self.candidates is None else f"{self.candidates.shape[1]:,} candidates each"
        mean = float(past.float().mean()) if len(self) else 0.0
        return [
            f"Queries({len(self):,} over {given}; {self.protocol})",
            f"{known:,} of known users; {self.truth.values.numel():,} relevant items; {mean:.1f} items of history each",
        ]

    def __repr__(self) -> str:
        return str(self._parts()[0])


def joined(parts: Sequence[Any]) -> Any:
    """Records of one class as one, their rows one behind the other; tensors agree in all but the first dimension."""
    first = parts[0]
    if first is None or isinstance(first, str):
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Ragged):
        return concat(parts)
    if isinstance(first, tuple):
        return tuple(joined(column) for column in zip(*parts, strict=True))
    names = [part.name for part in fields(first)]
    return replace(first, **{name: joined([getattr(part, name) for part in parts]) for name in names})


__all__ = [
    "Asked",
    "Batch",
    "Candidates",
    "Catalogue",
    "Contexts",
    "Features",
    "Field",
    "FieldKind",
    "Queries",
    "Schema",
    "concat",
    "joined",
]
