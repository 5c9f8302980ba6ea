"""A seeded world of any size whose true preferences are known: what a model should find can be computed.

Users have vectors z_u, tastes (groups) have centres c_g, items have vectors y_i around the centre of their taste.

    p(g | u)    = softmax_g(sharpness · z_u · c_g)
    p(i | g)    = softmax_i(sharpness · c_g · y_i − skew · ln(place of i in the order of popularity))
    p(i | u)    = Σ_g p(g | u) p(i | g)                     what a user takes, in truth: an inner product of G numbers
    session     one taste drawn from p(g | u); each event keeps it with probability ``coherence`` and draws anew else,
                so that sequences tell more than counts while p(i | u) stays what it is

Costs (users + items) · groups numbers and time proportional to the events; never users × items.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import special

from suisen.data.log import Col, Kind, Log
from suisen.errors import InputError

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
DAY = 86_400 * 10**6
"""Microseconds."""
START = 1_700_000_000 * 10**6
"""Microseconds: when the world begins (November 2023)."""
NUMBERS_PER_CHUNK = 1 << 22
"""Numbers held at a time where whole rows of p(i | u) are computed."""
KINDS: dict[str, Kind] = {
    "age": "numeric", "segment": "categorical", "title": "text", "price": "numeric", "category": "categorical",
    "tags": "multi",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class World:
    """A synthetic world: its size and its laws.  ``generate`` makes its log, the same one for the same numbers.

    Raises InputError for numbers outside their range.
    """

    users: int = 1_000
    items: int = 500
    dim: int = 16
    """Length of the latent vectors."""
    groups: int = 8
    """Number of tastes."""
    sharpness: float = 3.0
    """0: every user likes every item alike; the larger it is, the narrower are the tastes."""
    skew: float = 0.8
    """Zipf's exponent of popularity; 0: no item is more popular than its fit to tastes makes it."""
    sessions: float = 5.0
    """Mean number of sessions per user (at least 1)."""
    events: float = 4.0
    """Mean number of events per session (at least 1)."""
    coherence: float = 0.7
    """Share of a session's events that keep its taste."""
    feature_noise: float = 0.2
    """Share of the feature values that are drawn at random instead of from the latent vectors."""
    repeats: bool = True
    """Whether a user may take an item again; False drops repetitions, and p(i | u) then holds for first events."""
    days: int = 90
    """Length of the log in days."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("users", 1), ("items", 1), ("dim", 1), ("groups", 1), ("days", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} = {getattr(self, name)} must be at least {least}")
        for name in ("sessions", "events"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)} must be at least 1: it is a mean of counts from 1")
        for name in ("coherence", "feature_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} = {getattr(self, name)} must be between 0 and 1: it is a share")
        for name in ("sharpness", "skew"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} = {getattr(self, name)} must be at least 0")

    def generate(self) -> "Generated":
        """The log and the truth behind it.  Raw ids are the integers 1…users and 1…items."""
        rng = np.random.default_rng(self.seed)
        latent = _Latent.draw(self, rng)
        truth = latent.truth(self)
        notes = (f"synthetic world, seed {self.seed}: p(item | user) is known",)
        events = _events(self, truth, rng)
        log = Log(events, _user_table(self, latent, rng), _item_table(self, latent, rng), KINDS, notes)
        return Generated(log, truth, self)


@dataclass(frozen=True)
class Truth:
    """The true preferences; ids are the raw ones of the log (from 1)."""

    taste: Floats
    """(users, groups): p(g | u), rows sum to 1."""
    offer: Floats
    """(groups, items): p(i | g), rows sum to 1."""

    def probability(self, users: npt.ArrayLike, items: npt.ArrayLike) -> Floats:
        """p(i | u) of pairs: users (B,) with items (B,) or (B, C) → the shape of ``items``."""
        of_user = self.taste[np.asarray(users, dtype=np.int64) - 1]
        of_item = self.offer.T[np.asarray(items, dtype=np.int64) - 1]
        pattern = "bg,bcg->bc" if of_item.ndim == 3 else "bg,bg->b"
        product: Floats = np.einsum(pattern, of_user, of_item)
        return product

    def preference(self, users: npt.ArrayLike, items: npt.ArrayLike) -> Floats:
        """The logarithm of p(i | u), shaped like ``probability``: the score that orders items as this user does."""
        return np.log(self.probability(users, items))

    def best(self, users: npt.ArrayLike, k: int) -> Longs:
        """(B, min(k, items)) raw ids of each user's likeliest items, best first."""
        rows = self.taste[np.asarray(users, dtype=np.int64) - 1]
        most = min(k, self.offer.shape[1])
        step = max(1, NUMBERS_PER_CHUNK // self.offer.shape[1])
        blocks = [_best(rows[a : a + step] @ self.offer, most) for a in range(0, len(rows), step)]
        return np.concatenate(blocks) if blocks else np.zeros((0, most), dtype=np.int64)


@dataclass(frozen=True)
class Generated:
    """A world's log with the truth behind it."""

    log: Log
    truth: Truth
    world: World


@dataclass(frozen=True)
class _Latent:
    centres: Floats
    """(groups, dim), length 1."""
    user: Floats
    """(users, dim)."""
    item: Floats
    """(items, dim)."""
    group: Longs
    """(items,): the taste each item was made for."""
    place: Longs
    """(items,): place in the order of popularity, from 1."""

    @classmethod
    def draw(cls, world: World, rng: np.random.Generator) -> "_Latent":
        centres = rng.normal(size=(world.groups, world.dim))
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        spread = 0.5 / np.sqrt(world.dim)
        home, group = (rng.integers(world.groups, size=n) for n in (world.users, world.items))
        user = centres[home] + rng.normal(scale=spread, size=(world.users, world.dim))
        item = centres[group] + rng.normal(scale=spread, size=(world.items, world.dim))
        return cls(centres, user, item, group, rng.permutation(world.items) + 1)

    def truth(self, world: World) -> Truth:
        taste = special.softmax(world.sharpness * self.user @ self.centres.T, axis=-1)
        fit = world.sharpness * self.centres @ self.item.T - world.skew * np.log(self.place)
        return Truth(taste, special.softmax(fit, axis=-1))


def _best(scores: Floats, k: int) -> Longs:
    order = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k < scores.shape[1] else np.argsort(-scores, axis=1)
    inner = np.argsort(-np.take_along_axis(scores, order, axis=1), axis=1, kind="stable")
    best: Longs = np.take_along_axis(order, inner, axis=1).astype(np.int64) + 1
    return best


def _drawn(cumulative: Floats, rows: Longs, rng: np.random.Generator) -> Longs:
    """One draw for each row named, by the (R, n) cumulative shares of the rows: one sorted search over all."""
    n_rows, width = cumulative.shape
    line = (cumulative / cumulative[:, -1:] + np.arange(n_rows)[:, None]).ravel()
    at = np.searchsorted(line, rows + rng.random(rows.size), side="right")
    drawn: Longs = np.clip(at - rows * width, 0, width - 1)
    return drawn


def _events(world: World, truth: Truth, rng: np.random.Generator) -> pl.DataFrame:
    sessions = 1 + rng.poisson(world.sessions - 1, size=world.users)
    user = np.repeat(np.arange(world.users), sessions)  # of each session
    lengths = 1 + rng.poisson(world.events - 1, size=user.size)
    taste = np.cumsum(truth.taste, axis=1)
    begins = START + rng.integers(world.days * DAY, size=user.size)
    session = np.repeat(np.arange(user.size), lengths)  # of each event
    kept = rng.random(session.size) < world.coherence
    group = np.where(kept, _drawn(taste, user, rng)[session], _drawn(taste, user[session], rng))
    item = _drawn(np.cumsum(truth.offer, axis=1), group, rng)
    time = begins[session] + _within(rng.exponential(60e6, size=session.size).astype(np.int64) + 1, lengths)
    frame = pl.DataFrame(
        {Col.USER: user[session] + 1, Col.ITEM: item + 1, Col.TIME: time, Col.SESSION: session + 1},
        schema={str(name): pl.Int64 for name in (Col.USER, Col.ITEM, Col.TIME, Col.SESSION)},
    ).sort(Col.TIME, maintain_order=True)
    if not world.repeats:
        frame = frame.unique([Col.USER, Col.ITEM], keep="first", maintain_order=True)
    return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(Col.ROW))


def _within(gaps: Longs, lengths: Longs) -> Longs:
    """Running sums of the gaps that begin anew in each session."""
    total = np.cumsum(gaps)
    starts = np.cumsum(lengths) - lengths
    before = np.where(starts > 0, total[starts - 1], 0)
    within: Longs = total - np.repeat(before, lengths)
    return within


# -- features ---------------------------------------------------------------------------------------------------------


def _noisy(codes: Longs, size: int, noise: float, rng: np.random.Generator) -> Longs:
    """The codes with a share of them drawn at random."""
    return np.where(rng.random(codes.size) < noise, rng.integers(size, size=codes.size), codes)


def _number(signal: Floats, noise: float, rng: np.random.Generator) -> Floats:
    """Mean 0 and spread about 1: the signal, the louder the noise the less of it."""
    spread = float(signal.std())
    scaled = (signal - signal.mean()) / (spread if spread > 0 else 1.0)
    mixed: Floats = np.sqrt(1 - noise) * scaled + np.sqrt(noise) * rng.normal(size=signal.size)
    return mixed


def _words(prefix: str, codes: Longs) -> pl.Series:
    return pl.select(pl.format(prefix + "{}", pl.Series(codes))).to_series()


def _user_table(world: World, latent: _Latent, rng: np.random.Generator) -> pl.DataFrame:
    nearest = np.argmax(latent.user @ latent.centres.T, axis=1)
    segment = _noisy(nearest, world.groups, world.feature_noise, rng)
    age = np.clip(40 + 12 * _number(latent.user[:, 0], world.feature_noise, rng), 16, 90).round()
    ids = np.arange(1, world.users + 1)
    return pl.DataFrame({Col.USER: ids, "age": age.astype(np.int64), "segment": _words("segment-", segment)})


def _item_table(world: World, latent: _Latent, rng: np.random.Generator) -> pl.DataFrame:
    category = _noisy(latent.group, world.groups, world.feature_noise, rng)
    nearest = np.argsort(-(latent.item @ latent.centres.T), axis=1)[:, :2]
    tags = _noisy(nearest.ravel(), world.groups, world.feature_noise, rng)
    price = np.exp(3 + 0.5 * _number(latent.item[:, -1], world.feature_noise, rng)).round(2)
    ids = np.arange(1, world.items + 1)
    columns: dict[str, Any] = {
        Col.ITEM: ids,
        "title": pl.select(pl.format("Item {} of taste {}", pl.Series(ids), pl.Series(latent.group))).to_series(),
        "price": price,
        "category": _words("category-", category),
        "tags": _words("tag-", tags).reshape(nearest.shape).arr.to_list().list.unique(maintain_order=True),
    }
    return pl.DataFrame(columns)
