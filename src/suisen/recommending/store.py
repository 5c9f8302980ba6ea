"""What recommending needs to know of the data once training is over: ids, features, histories, counts, titles."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Self

import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Contexts, Features, Schema
from suisen.data.dataset import Dataset
from suisen.data.encode import Encoder
from suisen.data.ids import IdMap
from suisen.data.ragged import Ragged
from suisen.display import brief
from suisen.models.contract import ItemTable

IDS_PER_CHUNK = 1_000_000
"""Ids whose text is joined at a time."""


@dataclass(frozen=True, eq=False)
class Store:
    """A Dataset without its events: what a bundle carries."""

    __repr__ = brief

    users: IdMap
    items: IdMap
    schema: Schema
    encoders: Mapping[str, Encoder]
    user_frame: pl.DataFrame
    """n_users rows of raw user features, row 0 empty."""
    item_frame: pl.DataFrame
    """n_items rows of raw item features and titles, row 0 empty."""
    trained_users: Tensor
    """(n_users,) bool."""
    trained_items: Tensor
    """(n_items,) bool."""
    item_counts: Tensor
    """(n_items,) int64 positive events in train."""
    histories: Ragged
    """n_users rows of dense items, oldest first."""
    history_times: Tensor
    """(values of ``histories``,) int64 microseconds."""
    has_time: bool

    @classmethod
    def of(cls, train: Dataset) -> "Store":
        """What ``train`` knows; guests' sessions stay behind, for nobody can ask for them by id."""
        n_users = train.schema.n_users
        offsets = train.histories.offsets[: n_users + 1]
        kept = int(offsets[-1])
        return cls(
            users=train.users,
            items=train.items,
            schema=train.schema,
            encoders=train.encoders,
            user_frame=train.frames["user"],
            item_frame=train.frames["item"],
            trained_users=train.trained_users,
            trained_items=train.trained_items,
            item_counts=train.item_counts,
            histories=Ragged(train.histories.values[:kept], offsets),
            history_times=train.history_times[:kept],
            has_time=train.has_time,
        )

    @cached_property
    def user_features(self) -> Features:
        """n_users rows, encoded."""
        return self.encoders["user"].encode(self.user_frame)

    @cached_property
    def featured_users(self) -> Tensor:
        """(n_users,) bool: users of whom some feature is known."""
        return saying(self.encoders["user"], self.user_features, self.user_frame)

    @cached_property
    def item_features(self) -> Features:
        """n_items rows, encoded."""
        return self.encoders["item"].encode(self.item_frame)

    @cached_property
    def item_table(self) -> ItemTable:
        """What networks are bound to."""
        return ItemTable(self.item_features, self.trained_items)

    @cached_property
    def popular(self) -> Tensor:
        """(m,) dense items of train, most positive events first; equal counts: lower id first."""
        return self.by_popularity(torch.arange(len(self.trained_items)))

    def by_popularity(self, items: Tensor) -> Tensor:
        """Those of (n,) rising dense items that train has, most positive events first; equal counts: lower id first."""
        items = items[self.trained_items[items]]
        return items[self.item_counts[items].argsort(descending=True, stable=True)]

    @cached_property
    def _titles(self) -> pl.Series:
        """(n_items,) texts; what ``title_list`` holds."""
        raw = self.items.raw_ids.cast(pl.String)
        names = self.encoders["item"].titles
        if names:
            raw = pl.select(pl.coalesce(self.item_frame[names[0]].slice(1).cast(pl.String), raw)).to_series()
        return pl.concat([pl.Series([""]), raw.alias("")])

    @property
    def title_list(self) -> list[str]:
        """n_items names for people: the first text column of the item table, else the raw id; "" for row 0."""
        return self._titles.to_list()

    def titles(self, items: Tensor) -> list[str]:
        """Names of (n,) dense items."""
        return self._titles[items.numpy()].to_list()

    def search(self, text: str, n: int) -> Tensor:
        """(at most n,) dense items that a person may mean: the one of this raw id, titles that begin with the text, and
        those that hold it, both by their events in train.  Capitals do not matter.

        Cost: one pass over all titles, about 0.1 µs each.
        """
        wanted, titles = text.lower(), self._titles.str.to_lowercase()
        holds, begins = titles.str.contains(wanted, literal=True), titles.str.starts_with(wanted)
        degree = torch.from_numpy((holds.cast(pl.Int8) + begins.cast(pl.Int8)).to_numpy().copy())  # (n_items,)
        degree[self.items.dense_one(text)] = 3
        degree[0] = 0
        found = degree.nonzero().squeeze(1)
        found = found[self.item_counts[found].argsort(descending=True, stable=True)]
        return found[degree[found].argsort(descending=True, stable=True)][:n]

    def ready(self) -> Self:
        """The same, with all that is made at its first use made now: a server's first request does not pay for it."""
        _ = (self.users.table, self.items.table, self.featured_users, self.popular, self._titles)
        return self

    def contexts(self, user: Tensor, time: int) -> Contexts:
        """Contexts of (B,) dense users with all that is stored of them; the time is the same for all."""
        rows = user.numel()
        times = self.histories.with_values(self.history_times).take(user)
        return Contexts(
            user=user,
            user_features=self.user_features.take(user),
            context_features=Features.missing(self.schema.context, rows),
            time=torch.full((rows,), time if self.has_time else 0, dtype=torch.int64),
            history=self.histories.take(user),
            history_time=times.values,
        )

    def fingerprint(self) -> str:
        """What two stores must share for their dense ids to mean the same: BLAKE2 of both id maps."""
        digest = blake2b(digest_size=16)
        for ids in (self.users, self.items):
            _feed(digest, ids.raw_ids)
        return f"{len(self.users)}-{len(self.items)}-{digest.hexdigest()}"


def _feed(digest: blake2b, raw_ids: pl.Series) -> None:
    """Type, lengths and bytes of the ids: no two different maps feed the same."""
    if raw_ids.dtype != pl.String:
        digest.update(b"int64" + raw_ids.cast(pl.Int64).to_numpy().tobytes())
        return
    digest.update(b"text" + raw_ids.str.len_bytes().cast(pl.Int64).to_numpy().tobytes())
    for part in raw_ids.to_frame("raw").iter_slices(IDS_PER_CHUNK):
        digest.update("".join(part["raw"].to_list()).encode("utf-8"))


def saying(encoder: Encoder, features: Features, frame: pl.DataFrame) -> Tensor:
    """(n,) bool: rows of which anything is known: a code of train's, or a number (its mean encodes to 0)."""
    out = (features.categorical > 0).any(1)
    for bag in features.multi:
        out |= bag.keep(bag.values > 0).lengths > 0
    for column in encoder.columns:
        if column.kind == "numeric" and column.name in frame.columns:
            values = frame[column.name]
            values = values.fill_nan(None) if values.dtype.is_float() else values
            out |= torch.from_numpy(values.is_not_null().to_numpy().copy())
    return out
