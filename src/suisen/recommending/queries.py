"""Queries: from the caller's ids to contexts and filters in dense ones, and which of them a model can answer."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from suisen.arguments import choice, is_table, listed, real, shown, whole
from suisen.checkpoint import checkpoint
from suisen.data.batch import Contexts, Features, joined
from suisen.data.durations import instant
from suisen.data.ids import DenseIds, RawId
from suisen.data.ragged import Ragged, concat, offsets_of, side_by_side
from suisen.errors import InputError, UnsupportedQuery, unknown
from suisen.recommending.attributes import items_where
from suisen.recommending.diversity import By
from suisen.recommending.engine import Filters, Open
from suisen.recommending.rules.declared import Rules
from suisen.recommending.store import Store, saying
from suisen.recommending.users import RecentEvents

UnknownPolicy = Literal["error", "popular", "skip"]
POLICIES: tuple[UnknownPolicy, ...] = ("error", "popular", "skip")
WAYS: tuple[By, ...] = ("mmr", "dpp")
MAX_ITEMS = 10_000
"""Most items per list: beyond it a recommendation is an export of the catalogue."""
CELLS_PER_CHUNK = 2**20
"""Places of popular lists that are looked at together."""


@dataclass(frozen=True)
class RecommendOptions:
    """How each list of a recommendation is made, whoever it is for."""

    k: int = 10
    """Items per list; fewer come only where fewer are allowed."""
    _: KW_ONLY
    exclude: Sequence[RawId] = ()
    """Items that no list may hold; ids that are not known are ignored."""
    among: Sequence[RawId] | None = None
    """Only these items, where given."""
    where: Mapping[str, Any] | None = None
    """Only items with these attributes, all of them: column of the item table → a value, a list of values (any of
    them), or a pair (least, most) of numbers or dates, None for an open end.  An item of several values has each."""
    exclude_seen: bool | None = None
    """Leave out what the history holds; False for things that people take again.  None: as the Recommender was made,
    which leaves it out unless it was told otherwise."""
    unknown: UnknownPolicy = "error"
    """What a query gets that the model cannot answer: an error, the popular list, or no rows."""
    diversity: float = 0.0
    """0: by score alone; towards 1: lists of unlike items."""
    diversity_by: By = "mmr"
    """How unlike items are chosen: mmr (maximal marginal relevance) compares each with the nearest one that is chosen
    already, dpp (a determinantal point process) with all of them."""
    precise: bool = True
    """Whether stages are computed as when they were evaluated; False: by the bundle's plan, where it has one, whose
    agreement with that was measured when it was saved.  A server's default is False."""
    at: Any = None
    """Time of the query: ISO 8601 text, a date, a datetime (UTC where they name no zone), or microseconds since 1970
    UTC, which all become the last.  What stored histories and events since hold from then on is left out, as if it had
    not happened yet.  None: now, and nothing is left out."""
    rules: Any = None
    """Rules of the last stage for these lists: a .toml or .json file, a mapping like it, or ``Rules``; an empty one: no
    rules.  None: those that the Recommender has."""

    def __post_init__(self) -> None:
        if type(self.k) is not int or not 1 <= self.k <= MAX_ITEMS:  # each test saves a server its time
            _settle(self, k=whole("k", self.k, 1, MAX_ITEMS))
        if type(self.diversity) is not float:
            _settle(self, diversity=real("diversity", self.diversity, "from 0 to 1"))
        if type(self.exclude) is not tuple:
            _settle(self, exclude=listed("exclude", self.exclude) or ())
        if self.among is not None:
            _settle(self, among=listed("among", self.among))
        if self.at is not None:
            _settle(self, at=instant("at", self.at))
        if self.rules is not None:
            _settle(self, rules=Rules.of(self.rules))
        if not 0 <= self.diversity <= 1:
            raise InputError(f"diversity = {self.diversity!r} must be from 0 to 1")
        choice("unknown", self.unknown, POLICIES)
        choice("diversity_by", self.diversity_by, WAYS)
        if self.where is not None and not isinstance(self.where, Mapping):
            raise InputError(f"where = {shown(self.where)} must be column → value, like where={{'genre': 'Drama'}}")


def _settle(record: object, **values: Any) -> None:
    """Fields of a frozen dataclass as they were meant; called while it is made."""
    for name, value in values.items():
        object.__setattr__(record, name, value)


@dataclass(frozen=True)
class RawQueries:
    """B queries in the caller's own ids: users, sessions, histories, features, or several of these, B entries each.

    Where an entry is given it takes the place of what is stored of the user; None, and no features, leave that alone.
    Raises InputError where nothing is given, and where the parts differ in length.
    """

    users: Sequence[RawId | None] | None = None
    """One id per query; None for a query without a user."""
    _: KW_ONLY
    history: Sequence[Any] | None = None
    """Items of one query, or one list of items per query, oldest first."""
    user_features: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None
    """Names and values of one query, or of each."""
    context: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None
    """Context features of one query, or of each."""
    sessions: Sequence[RawId | None] | None = None
    """One session per query, whose events count beside the user's; None for a query without."""

    def __post_init__(self) -> None:
        for name, part, meant in (
            ("users", self.users, listed),
            ("sessions", self.sessions, listed),
            ("history", self.history, _histories),
            ("user_features", self.user_features, _rows),
            ("context", self.context, _rows),
        ):
            if part is not None:
                _settle(self, **{name: meant(name, part)})
        sizes = {name: len(part) for name, part in self._parts().items() if part is not None}
        if not sizes:
            raise InputError("nobody is asked for; give users, history or user_features")
        if len(set(sizes.values())) > 1:
            raise InputError(f"the queries differ in number: {sizes}; give one entry per query in each")

    def __len__(self) -> int:
        return next(len(part) for part in self._parts().values() if part is not None)

    def _parts(self) -> dict[str, Sequence[Any] | None]:
        return {
            "users": self.users,
            "history": self.histories,
            "user_features": per_query(self.user_features),
            "context": per_query(self.context),
            "sessions": self.sessions,
        }

    @property
    def named(self) -> Sequence[RawId | None]:
        """(B,) users."""
        return [None] * len(self) if self.users is None else self.users

    @property
    def bring_their_own(self) -> list[bool]:
        """(B,) which queries bring a history, user features or context features."""
        parts = [part for part in (self.histories, *map(per_query, (self.user_features, self.context))) if part]
        return (
            [any(part[place] is not None for part in parts) for place in range(len(self))]
            if parts
            else [False] * len(self)
        )

    def take(self, places: Sequence[int]) -> "RawQueries":
        """The queries named, in that order."""
        parts = {name: part if part is None else [part[at] for at in places] for name, part in self._parts().items()}
        return RawQueries(**parts)

    @property
    def histories(self) -> Sequence[Sequence[RawId] | None] | None:
        """One list of items per query, or None for a stored history; None where no query brings one."""
        if self.history is None or any(entry is None or _is_list(entry) for entry in self.history):
            return self.history
        return [self.history]


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes))


PLAIN = frozenset({list, tuple, str, int, type(None)})
"""Types of the entries of a history that are what they seem."""


def _histories(name: str, given: Any) -> Any:
    """A history, or one per query, as lists, whatever held them."""
    entries = listed(name, given, ordered=True)
    if PLAIN.issuperset(map(type, entries)):
        return entries
    return [listed(name, entry, ordered=True) if _is_list(entry) else entry for entry in entries]


def _rows(name: str, given: Any) -> Any:
    """Features of one query, or of each."""
    if isinstance(given, Mapping):
        return given
    if is_table(given) or isinstance(given, str | bytes):
        raise InputError(f"{name} = {shown(given)} must be names with values, or one such mapping per query")
    return listed(name, given, ordered=True)


def per_query(
    values: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None,
) -> Sequence[Mapping[str, Any] | None] | None:
    """One mapping per query; a bare mapping is that of a single query."""
    return [values] if values is not None and isinstance(values, Mapping) else values


@dataclass(frozen=True)
class DenseQueries:
    """B queries in dense ids."""

    contexts: Contexts
    seen: Ragged
    """B rows: what the histories hold."""
    known: Tensor
    """(B,) bool: a user whom train has events of."""
    featured: Tensor
    """(B,) bool: some user feature is known."""

    def __len__(self) -> int:
        return len(self.contexts)


def dense_queries(
    store: Store,
    queries: RawQueries,
    at: int | None,
    recent: RecentEvents | None = None,
    dense: DenseIds | None = None,
) -> DenseQueries:
    """The queries in dense ids, with all that is known of their users; what they bring takes the place of that.

    ``at`` is the time of the queries, as in ``RecommendOptions``; ``recent`` is what happened since the store was made;
    ``dense`` are the users' (B,) dense ids where they are known already.  Raises InputError for features that do not
    exist.
    """
    size = len(queries)
    if dense is None:
        dense = np.zeros(size, dtype=np.int64) if queries.users is None else store.users.dense(queries.users)
    user = torch.from_numpy(dense)
    contexts = store.contexts(user, time.time_ns() // 1000 if at is None else at)
    if recent is not None:
        contexts = recent.followed(contexts, queries.named, queries.sessions)
    if at is not None and store.has_time:
        contexts = _before(contexts, at)
    if queries.histories is not None:
        contexts = _with_histories(store, contexts, queries.histories)
    featured = store.featured_users[user]
    given_features, given_context = per_query(queries.user_features), per_query(queries.context)
    if given_features is not None:
        given = _encoded(store, "user", given_features)
        contexts = replace(contexts, user_features=_merged(contexts.user_features, given))
        featured = torch.where(given.rows, given.known, featured)
    if given_context is not None:
        contexts = replace(contexts, context_features=_encoded(store, "context", given_context).features)
    known = store.trained_users[user]
    contexts = replace(contexts, user=torch.where(known, user, 0))
    return DenseQueries(contexts, contexts.history, known, featured)


def _before(contexts: Contexts, at: int) -> Contexts:
    """The contexts with only those items in their histories that came before ``at``."""
    earlier = contexts.history_time < at
    return replace(contexts, history=contexts.history.keep(earlier), history_time=contexts.history_time[earlier])


def _with_histories(store: Store, contexts: Contexts, histories: Sequence[Sequence[RawId] | None]) -> Contexts:
    """The contexts with the histories that the queries bring; None keeps the stored one.

    Unknown items of a history are passed over.  Their times are not known: all stand at the query's.
    """
    for row in histories:
        listed("history", row)
    rows = [() if row is None else row for row in histories]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    dense = torch.from_numpy(store.items.dense([item for row in rows for item in row]))
    given = Ragged(dense, offsets_of(lengths)).keep(dense > 0)
    times = given.with_values(torch.repeat_interleave(contexts.time, given.lengths))
    stored = torch.tensor([row is None for row in histories], dtype=torch.bool)
    if bool(stored.any()):
        chosen = torch.arange(len(contexts)) + stored.long() * len(contexts)
        stored_times = contexts.history.with_values(contexts.history_time)
        given = concat([given, contexts.history]).take(chosen)
        times = concat([times, stored_times]).take(chosen)
    return replace(contexts, history=given, history_time=times.values)


@dataclass(frozen=True)
class _Given:
    """Features as a caller gave them, encoded."""

    features: Features
    """B rows."""
    rows: Tensor
    """(B,) bool: where there were any."""
    known: Tensor
    """(B,) bool: where one of them says something."""


def _encoded(store: Store, owner: str, values: Sequence[Mapping[str, Any] | None]) -> _Given:
    """Rows that give the same features, of the same types, are encoded together."""
    encoder = store.encoders[owner]
    alike: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(values):
        if row is not None and not isinstance(row, Mapping):
            raise InputError(f"{owner} features = {row!r} must be names with values, like {{'age': 24}}")
        alike.setdefault(tuple((name, _kind(value)) for name, value in (row or {}).items()), []).append(place)
    names = [column.name for column in encoder.columns]
    parts, marks = [Features.missing(encoder.schema, 0)], []
    for shape, places in alike.items():
        for name, _ in shape:
            if name not in names:
                raise unknown(f"{owner} feature", name, names)
        columns = {name: [(values[place] or {})[name] for place in places] for name, _ in shape}
        frame = pl.DataFrame(columns, strict=False) if columns else pl.DataFrame(height=len(places))
        parts.append(encoder.encode(frame))
        marks.append(saying(encoder, parts[-1], frame))
    order = torch.tensor([place for places in alike.values() for place in places], dtype=torch.int64).argsort()
    known = torch.cat(marks)[order] if marks else torch.zeros(0, dtype=torch.bool)
    return _Given(joined(parts).take(order), torch.tensor([bool(row) for row in values], dtype=torch.bool), known)


def _kind(value: object) -> object:
    """What must agree for values to stand in one column."""
    return (list, *{type(part) for part in value}) if isinstance(value, (list, tuple)) else type(value)


def _merged(stored: Features, given: _Given) -> Features:
    """Each row's given features, the stored ones where it gives none."""
    both: Features = joined([stored, given.features])
    return both.take(torch.arange(len(stored)) + given.rows.long() * len(stored))


def answerable(queries: DenseQueries, abilities: frozenset[str]) -> Tensor:
    """(B,) bool: which queries a model with these abilities can answer, by the user's own vector, history or features.

    A model that folds histories in and cannot meet new users has nothing to go by where the history is empty, even of a
    user it knows.
    """
    able = queries.known.clone()
    if "history" in abilities:
        past = queries.contexts.history.lengths > 0
        able = able | past if "new users" in abilities else past
    if "new users" in abilities:
        able |= queries.featured if "features" in abilities else torch.ones_like(able)
    return able


def refusal(raw: RawQueries, queries: DenseQueries, at: int, model: str, abilities: frozenset[str]) -> UnsupportedQuery:
    """The error for the query at position ``at``, which the model cannot answer: what the model lacks, what helps."""
    user = None if raw.users is None else raw.users[at]
    name = "an anonymous query" if user is None else f"user {user!r}"
    brought = None if raw.histories is None else raw.histories[at]
    if brought and "history" in abilities and not int(queries.contexts.history.lengths[at]):
        why = f"brings a history of which train knows no item ({', '.join(map(repr, brought[:3]))})"
    elif bool(queries.known[at]):
        why = f"has no history and {model} goes by histories alone (it lacks 'new users'); give a history"
    elif int(queries.contexts.history.lengths[at]) > 0 and "history" not in abilities:
        why = f"is unknown to train and {model} lacks 'history'; use EASE, IALS, SASRec or TwoTower"
    elif bool(queries.featured[at]):
        why = f"is unknown to train and {model} lacks 'new users'; use TwoTower, or give a history"
    else:
        why = f"is unknown to train and brings neither a history nor features that {model} reads"
    return UnsupportedQuery(f"{name} {why}; or pass unknown='popular' or unknown='skip'")


def filters_of(store: Store, options: RecommendOptions, queries: DenseQueries) -> Filters:
    """What each list may not hold, and the only items it may.

    What all lists exclude is added to each row, or, where that would be longer than the catalogue, taken out of it.
    """
    rows, n_items = len(queries), store.schema.n_items
    seen = Ragged.empty(rows) if options.exclude_seen is False else queries.seen
    barred = known_items(store, options.exclude)
    among = _only(store, options)
    if barred.numel() * rows > n_items:
        among = torch.arange(1, n_items) if among is None else among
        among = among[~torch.isin(among, barred)]
    elif barred.numel():
        seen = side_by_side(seen, Ragged(barred.repeat(rows), torch.arange(rows + 1) * barred.numel()))
    return Filters(seen, among)


def _only(store: Store, options: RecommendOptions) -> Tensor | None:
    """(m,) the only dense items that a list may hold, rising; None: the whole catalogue."""
    among = None if options.among is None else known_items(store, options.among)
    if not options.where:
        return among
    fits = items_where(store, options.where)
    return fits if among is None else among[torch.isin(among, fits)]


def known_items(store: Store, raw: Sequence[RawId]) -> Tensor:
    """(m,) the dense ids of the items that the store knows, rising, each once."""
    items = torch.from_numpy(np.unique(store.items.dense(list(raw))))
    return items[items > 0]


def popular_lists(store: Store, filters: Filters, k: int, open_: Open | None = None) -> tuple[Tensor, Tensor]:
    """(B, k) the most popular items that the filters allow and lists may hold, and their counts as scores."""
    only = filters.among
    if only is not None:
        order = store.by_popularity(only if open_ is None else only[open_.mask[only]])
    else:
        order = store.popular if open_ is None or open_.popular is None else open_.popular
    longest = int(filters.exclude.lengths.max()) if filters.exclude.values.numel() else 0
    head = order[: k + longest]
    if not longest:  # one list for all
        lists = F.pad(head, (0, k - len(head)))
        counts = torch.where(lists > 0, store.item_counts[lists].float(), -torch.inf)
        return lists.expand(len(filters.exclude), -1), counts.expand(len(filters.exclude), -1)
    chunk = max(1, CELLS_PER_CHUNK // max(1, head.numel()))
    ids = [torch.zeros((0, k), dtype=torch.int64)]
    for rows in torch.arange(len(filters.exclude)).split(chunk):  # type: ignore[no-untyped-call]
        checkpoint()
        gone = filters.exclude.take(rows).holds(head.expand(len(rows), -1))
        best = gone.long().argsort(dim=1, stable=True)[:, :k]
        found = torch.where(gone.gather(1, best), 0, head[best])
        ids.append(F.pad(found, (0, k - found.shape[1])))
    lists = torch.cat(ids)
    return lists, torch.where(lists > 0, store.item_counts[lists].float(), -torch.inf)
