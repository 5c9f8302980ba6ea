"""Sums by unit in one pass over events that need not fit into memory.

Events stream through Polars in batches, in any order (keeping theirs costs more than half as much again), and are added
to arrays with one place per unit, so that what is held is the units and not the events.  Sums of numbers with a
fraction depend on their order in the last digits: they are held, 12 bytes each, until all are known, and added from the
least to the greatest of each unit, so that the same events give the same sums however the file is sorted.  What is no
sum (visits, SQL) is grouped a part of the units at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from suisen.experiments.families import SINCE, TIME, UNIT, Tally

ROW, HASH = "__row", "__hash"
Array = npt.NDArray[Any]
EVENTS_PER_CHUNK = 20_000_000
"""Events that are grouped in one piece."""


@dataclass
class Tallied:
    """What a pass found."""

    sums: dict[str, Array]
    """(places,) of each tally: counts as UInt32, sums of values as Float64."""
    counts: dict[str, int]
    """Over all events."""
    events: int = 0
    first: int | None = None
    """The earliest moment."""
    last: int | None = None
    """The latest moment that counts."""
    hashes: list[Array] = field(default_factory=list)
    """Of every event, where they were asked for."""


class Places(NamedTuple):
    """Where an event's share goes."""

    at: pl.Expr
    """Int64, from 0."""
    size: int


def rows_of(who: pl.DataFrame) -> pl.DataFrame:
    """UNIT, SINCE and ROW, the place in ``who``."""
    return who.select(UNIT, SINCE, pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW))


def tallied(
    events: pl.LazyFrame,
    places: Places,
    tallies: Sequence[Tally],
    counts: Mapping[str, pl.Expr] | None = None,
    *,
    key: Sequence[str] | None = None,
    now: int | None = None,
) -> Tallied:
    """One pass: ``tallies`` by place, and how many events ``counts`` hold for.

    ``key``: events are hashed by it (``hash_of``); ``now``: from when on no event is the last (microseconds).
    """
    counted = {name: expr.fill_null(value=False).alias(name) for name, expr in (counts or {}).items()}
    masks, mask_of = _shared([each.taken for each in tallies])
    values = list(dict.fromkeys(each.value for each in tallies if each.value))
    wanted = [places.at.alias(ROW), pl.col(TIME), *masks, *counted.values()]
    wanted += [pl.col(name).cast(pl.Float64).fill_null(0.0).alias(f"__value_{name}") for name in values]
    if key is not None:
        wanted.append(hash_of(events, key))
    found = Tallied(
        {each.name: np.zeros(places.size, np.float64 if each.value else np.uint32) for each in tallies},
        dict.fromkeys(counted, 0),
    )
    values_of: dict[str, list[tuple[Array, Array]]] = {each.name: [] for each in tallies if each.value}
    masked = [(each, mask_of[i]) for i, each in enumerate(tallies)]
    for batch in events.select(wanted).collect_batches(maintain_order=False, engine="streaming"):
        _add(found, batch, masked, values_of)
        _span(found, batch[TIME], now)
    for name, parts in values_of.items():
        _add_in_order(found.sums[name], parts)
    for each in tallies:
        if each.once:
            np.minimum(found.sums[each.name], 1, out=found.sums[each.name])
    return found


def _shared(masks: Sequence[pl.Expr]) -> tuple[list[pl.Expr], list[str]]:
    """The different ones among the masks, named, and each one's name."""
    kept: list[pl.Expr] = []
    names = []
    for mask in masks:
        place = next((i for i, other in enumerate(kept) if other.meta.eq(mask)), len(kept))
        if place == len(kept):
            kept.append(mask)
        names.append(f"__taken_{place}")
    return [mask.fill_null(value=False).alias(f"__taken_{i}") for i, mask in enumerate(kept)], names


def _add(
    found: Tallied,
    batch: pl.DataFrame,
    tallies: Sequence[tuple[Tally, str]],
    values_of: Mapping[str, list[tuple[Array, Array]]],
) -> None:
    """Counts are added; places and values of what has to be in order go to ``values_of``."""
    if not batch.height:
        return
    found.events += batch.height
    for name in found.counts:
        found.counts[name] += int(batch[name].sum())
    if HASH in batch.columns:
        found.hashes.append(batch[HASH].drop_nulls().to_numpy())
    row = batch[ROW].to_numpy()
    masks = {name: batch[name].to_numpy() for name in dict.fromkeys(name for _, name in tallies)}
    places = {name: row[mask] for name, mask in masks.items()}
    for each, name in tallies:
        if not each.value:
            np.add.at(found.sums[each.name], places[name], np.uint32(1))
            continue
        values = batch[f"__value_{each.value}"].to_numpy()[masks[name]]
        some = values != 0
        values_of[each.name].append((places[name][some].astype(_narrow(found.sums[each.name])), values[some]))


def _span(found: Tallied, times: pl.Series, now: int | None) -> None:
    """The batch's earliest and latest moment are added."""
    first, last = times.min(), times.max()
    if isinstance(last, int) and now is not None and last >= now:
        last = times.filter(times < now).max()
    if isinstance(first, int):
        found.first = first if found.first is None else min(found.first, first)
    if isinstance(last, int):
        found.last = last if found.last is None else max(found.last, last)


def _narrow(sums: Array) -> type[np.unsignedinteger[Any]]:
    return np.uint32 if sums.size <= 2**32 else np.uint64


def _add_in_order(sums: Array, parts: list[tuple[Array, Array]]) -> None:
    """Adds values to their places, each place's from the least to the greatest; ``parts`` is emptied."""
    if not parts:
        return
    at, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    parts.clear()
    order = np.lexsort((values, at))
    np.add.at(sums, at[order], values[order])


def grouped(events: pl.LazyFrame, places: Places, made: Sequence[pl.Expr], total: int) -> dict[str, Array]:
    """Aggregates that are no sums, (places,) Float64 and 0 without events, a part of the places at a time.

    ``total``: how many events there are.  Raises ``TypeError`` for an aggregate that is a list.
    """
    out = {each.meta.output_name(): np.zeros(places.size) for each in made}
    parts = max(1, -(-total // EVENTS_PER_CHUNK))
    bounds = np.linspace(0, places.size, parts + 1).astype(np.int64).tolist()
    placed = events.with_columns(places.at.alias(ROW))
    for low, high in pairwise(bounds):
        part = placed.filter((pl.col(ROW) >= low) & (pl.col(ROW) < high)) if parts > 1 else placed
        table = part.group_by(ROW).agg(made).collect(engine="streaming")
        at = table[ROW].to_numpy()
        for name, values in out.items():
            if isinstance(table.schema[name], pl.List):
                raise TypeError(name)
            values[at] = table[name].fill_null(0.0).to_numpy()
    return out


# -- events that repeat another ---------------------------------------------------------------------------------------


def hash_of(events: pl.LazyFrame, key: Sequence[str] = ()) -> pl.Expr:
    """A number that is equal for events that are equal in ``key``, whose last column is an id; null without an id.

    Without a key, in every column that is no list or struct, as it only finds candidates.
    """
    if key:
        return pl.when(pl.col(key[-1]).is_not_null()).then(pl.struct(*key).hash()).alias(HASH)
    return pl.struct(*_plain(events), TIME).hash().alias(HASH)


def _plain(events: pl.LazyFrame) -> list[str]:
    schema = events.collect_schema()
    return [name for name, dtype in schema.items() if not dtype.is_nested() and not name.startswith("__")]


def repeated(hashes: Sequence[Array]) -> Array:
    """The numbers that are there more than once."""
    if not hashes:
        return np.empty(0, np.uint64)
    whole = np.concatenate(hashes)
    whole.sort()
    return np.unique(whole[1:][whole[1:] == whole[:-1]])


def without_repeats(events: pl.LazyFrame, candidates: Array, key: Sequence[str] = ()) -> tuple[pl.LazyFrame, int]:
    """The events, each once, and how many were left out.  Only those with a hash among the candidates are held.

    Of events with an equal ``key`` (without one: equal in every column) the earliest stays.
    """
    if not candidates.size:
        return events, 0
    marked, some = events.with_columns(hash_of(events, key)), pl.LazyFrame({HASH: candidates})
    held = marked.join(some, on=HASH, how="semi").collect(engine="streaming")
    if key:
        held = held.sort(TIME, *_plain(events))  # so that the file's order decides nothing
    once = held.unique(subset=list(key) or None, keep="first" if key else "any", maintain_order=bool(key))
    left = held.height - once.height
    if not left:
        return events, 0
    return pl.concat([marked.join(some, on=HASH, how="anti"), once.lazy()]).drop(HASH), left


def once(events: pl.LazyFrame, key: Sequence[str] = ()) -> pl.LazyFrame:
    """The events, each once; their hashes are held while they are compared."""
    batches = events.select(hash_of(events, key)).collect_batches(maintain_order=False, engine="streaming")
    return without_repeats(events, repeated([batch[HASH].drop_nulls().to_numpy() for batch in batches]), key)[0]
