"""What queries bring that rules ask for: ``request.NAME`` of an expression."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl
import torch

from suisen.data.batch import Contexts
from suisen.data.encode import pieces
from suisen.recommending.attributes import separators
from suisen.recommending.queries import RawQueries, per_query
from suisen.recommending.rules.bound import BoundRules
from suisen.recommending.store import Store

Asked = list[dict[str, Any]]
"""Of each query: name → value, None where it brings none; empty where no rule asks."""


def asked_of(rules: BoundRules, store: Store, queries: RawQueries) -> tuple[Asked, RawQueries]:
    """What each query brings, and the queries without what only rules read.

    A value is looked for in the query's context, then among its user features, then in the user table.
    """
    if not rules.request:
        return [], queries
    known = None if queries.users is None else torch.from_numpy(store.users.dense(queries.users))
    stored = {} if known is None else _of_users(rules, store, known)
    parts = [per_query(part) for part in (queries.context, queries.user_features)]
    asked = []
    for place in range(len(queries)):
        brought = [part[place] for part in parts if part is not None]
        rows = [row for row in brought if isinstance(row, Mapping)]
        asked.append({name: _first(name, rows, stored, place) for name in rules.request})
    return asked, _without(queries, only_for_rules(rules, store))


def only_for_rules(rules: BoundRules, store: Store) -> frozenset[str]:
    """Names in a query's context that rules read and no model does."""
    return rules.request - {column.name for column in store.encoders["context"].columns}


def asked_of_contexts(rules: BoundRules, store: Store, contexts: Contexts) -> Asked:
    """The same of contexts, as evaluation has them: from the user table, and of context features those that are
    categorical.
    """
    if not rules.request:
        return []
    values = _of_users(rules, store, contexts.user)
    columns = [column for column in store.encoders["context"].columns if column.kind == "categorical"]
    for number, column in enumerate(columns):
        if column.name in rules.request:
            codes = contexts.context_features.categorical[:, number].tolist()
            values[column.name] = [column.vocabulary[code - 1] if code else None for code in codes]
    names = sorted(rules.request)
    return [{name: values[name][row] if name in values else None for name in names} for row in range(len(contexts))]


def _of_users(rules: BoundRules, store: Store, users: torch.Tensor) -> dict[str, list[Any]]:
    """Name → what the user table holds of (B,) dense users, under the names that rules ask for."""
    between, found = separators(store, "user"), {}
    for name in rules.request & set(store.user_frame.columns):
        column = store.user_frame[name].gather(users.numpy())
        if name in between and column.dtype == pl.String:
            column = pieces(column, between[name])
        found[name] = column.to_list()
    return found


def _first(name: str, rows: list[Mapping[str, Any]], stored: Mapping[str, list[Any]], place: int) -> Any:
    """The first value that is there."""
    for row in rows:
        if row.get(name) is not None:
            return row[name]
    return stored[name][place] if name in stored else None


def _without(queries: RawQueries, names: frozenset[str]) -> RawQueries:
    """The queries without these names in their contexts; a context of nothing else is none."""
    contexts = per_query(queries.context)
    if contexts is None or not any(isinstance(row, Mapping) and names & row.keys() for row in contexts):
        return queries
    rest = [
        {name: value for name, value in row.items() if name not in names} or None if isinstance(row, Mapping) else row
        for row in contexts
    ]
    given = rest if any(row is not None for row in rest) else None
    return replace(queries, users=queries.named, context=given)  # a query of a context alone is one of nobody now
