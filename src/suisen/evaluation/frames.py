"""``evaluate_frame``: the metrics of a plain table of recommendations, to measure the system that one has.

The table holds one row per recommended item, in the order of ``rank`` (1 is the best) or of ``score``; its ids are the
caller's own.  Metrics, intervals and the treatment of ties are those of ``evaluate``: the table that ``recommend_all``
gives has the numbers of the Recommender itself, as far as its lists reach (ties with an item that the table does not
hold cannot be seen).
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from suisen.data.batch import Candidates, Catalogue, Contexts, Queries
from suisen.data.candidates import with_seen
from suisen.data.clean import as_ids
from suisen.data.dataset import Split
from suisen.data.formats import raw_of_path
from suisen.data.ids import IdMap
from suisen.data.ordered import tensor_of
from suisen.data.ragged import Ragged, offsets_of
from suisen.data.raw import Raw, raw_of_frame
from suisen.errors import InputError
from suisen.evaluation.metric import Facts, MetricAtK
from suisen.evaluation.metrics import parse_all
from suisen.evaluation.protocols import counted, fingerprint, protocol_of
from suisen.evaluation.ranks import distinct, from_lists
from suisen.evaluation.report import Report

DEFAULT = ("ndcg@10", "hr@10", "recall@10", "mrr@10")
USER = ("user_id", "user", "userid", "uid")
ITEM = ("item_id", "item", "itemid", "sku")


def evaluate_frame(
    recommendations: Any,
    test: Any,
    metrics: Sequence[str] | None = None,
    *,
    name: str = "frame",
    user: str | None = None,
    item: str | None = None,
    exclude_seen: bool = True,
    repeats: bool = False,
) -> Report:
    """Measures a table of recommendations on queries with known answers; the report can be compared with others.

    ``recommendations``: a Polars, pandas or Arrow table, or the path of a file, with a user, an item, and a rank or a
    score.  ``test``: the test or valid queries of a split, or a table of user and item.  ``user``, ``item``: the names
    of these columns in both tables, where they are not ``user_id`` and ``item_id``.  ``exclude_seen``,
    ``repeats``: as in ``evaluate``.

    A user without recommendations counts as 0; equal scores, and equal ranks, count against the system.  What was left
    out or assumed stands in the report's notes.  Raises InputError for columns that are missing and values that are no
    rank.

    >>> recs = {"user_id": ["ann", "ann", "bob"], "item_id": [7, 9, 7], "rank": [1, 2, 1]}
    >>> evaluate_frame(recs, {"user_id": ["ann", "bob"], "item_id": [9, 8]}, ["hr@2"]).value("hr@2")
    0.5
    """
    started, notes = time.perf_counter(), list[str]()
    chosen = _parsed(DEFAULT if metrics is None else metrics)
    if isinstance(test, Split):
        raise InputError("test is a whole Split; give its part: split.test")
    if isinstance(test, Queries):
        asked = _of_queries(with_seen(test) if repeats or not exclude_seen else test)
    else:
        asked = _of_table(_table("test", test), user, item, notes)
    facts = Facts(torch.zeros(0)) if asked.train is None else Facts(asked.train.counts)
    for each in chosen:
        if each.metric.of_lists is not None and asked.train is None:
            raise InputError(f"metric = {str(each)!r} needs train's items; give the test queries of a split as test")
        each.check(facts, facts.n_items)
    rows = _in_order(_table("recommendations", recommendations), user, item, notes)
    values = _measured(rows, asked, chosen, facts, notes)
    protocol = "; ".join(part for part in (asked.queries.protocol, protocol_of(asked.queries)) if part)
    return Report(name, protocol, asked.fingerprint, values, tuple(notes), time.perf_counter() - started)


def _parsed(metrics: Sequence[str]) -> list[MetricAtK]:
    chosen = parse_all(metrics)
    if not chosen:
        raise InputError("metrics = []; name at least one, like ['ndcg@10']")
    for each in chosen:
        if each.k is None:
            raise InputError(f"metric = {str(each)!r}: a table holds lists, no whole ranking; write a cut-off")
    return chosen


# -- the test ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Test:
    """B queries, their users and items as text."""

    users: pl.Series
    """(B,); null: a guest."""
    items: pl.Series
    """Relevant items, query after query: the values of the queries' truth."""
    queries: Queries
    """Each a user of its own; ``seen`` holds train's dense items."""
    fingerprint: str
    train: Catalogue | None = None


def _of_queries(queries: Queries) -> _Test:
    asked = queries.asked
    if asked is None:
        raise InputError("these queries do not know the ids of their users; give those of a split, or a table")
    if queries.candidates is not None or queries.labels is not None:
        raise InputError(
            "a table holds lists, and these queries have given candidates; give queries without candidates"
        )
    own = replace(queries, contexts=Contexts.of_users(torch.arange(len(queries))), asked=None)
    users, items = _named(asked.users, asked.user), _named(asked.items, asked.truth.values)
    return _Test(users, items, own, fingerprint(queries), asked.train)


def _of_table(raw: Raw, user: str | None, item: str | None, notes: list[str]) -> _Test:
    """One query per user, in the order in which they first appear."""
    frame = pl.DataFrame([_ids(raw, "user", user), _ids(raw, "item", item)])
    unused = raw.frame.width - 2
    notes += [f"{raw.name}: every row counts as taken; {unused} more columns are not read"] if unused else []
    rows = frame.group_by("user", maintain_order=True).agg("item")
    users, items = rows["user"], rows["item"].explode()
    text = "\x1f".join([*users.to_list(), *items.to_list()])
    lengths = tensor_of(rows["item"].list.len().cast(pl.Int64))
    truth = Ragged(torch.ones(len(items)), offsets_of(lengths))
    contexts = Contexts.of_users(torch.arange(len(users)))
    queries = Queries(contexts, truth, Ragged.empty(len(users)), protocol="test given as a table")
    return _Test(users, items, queries, hashlib.blake2b(text.encode(), digest_size=16).hexdigest())


def _named(ids: IdMap, dense: Tensor) -> pl.Series:
    """Raw ids as text, null for 0."""
    first = pl.Series([None], dtype=pl.String)
    return pl.concat([first, ids.raw_ids.cast(pl.String).alias("")]).gather(dense.numpy())


# -- tables ------------------------------------------------------------------------------------------------------------


def _table(name: str, given: Any) -> Raw:
    raw = raw_of_path(given) if isinstance(given, str | Path) else raw_of_frame(name, given)
    if not raw.frame.height:
        raise InputError(f"{raw.name} has no rows; give at least one")
    return raw


def _ids(raw: Raw, role: str, given: str | None) -> pl.Series:
    """A column of ids as text, without gaps."""
    usual = USER if role == "user" else ITEM
    found = [name for name in raw.frame.columns if name.lower() in usual] if given is None else [given]
    if len(found) != 1 or found[0] not in raw.frame.columns:
        columns = ", ".join(raw.frame.columns)
        wanted = f"{role} = {given!r} is no column" if given else f"no one column is surely the {role}'s ({usual[0]})"
        raise InputError(f"{raw.name}: {wanted}; pass {role}= with the name of one of: {columns}")
    ids = as_ids(found[0], raw.frame[found[0]], raw.text).cast(pl.String).alias(role)
    if ids.null_count():
        at = raw.places[int(ids.is_null().arg_true()[0])]
        raise InputError(f"{raw.name}: {found[0]} is missing in {ids.null_count():,} rows, first at {raw.unit} {at}")
    return ids


def _numbers(raw: Raw, column: str) -> pl.Series | None:
    """A column of finite numbers; None where the table has none of that name."""
    found = [values for values in raw.frame if values.name.lower() == column]
    if not found:
        return None
    numbers = found[0].cast(pl.Float64, strict=False)
    bad = (~numbers.is_finite().fill_null(value=False)).arg_true()
    if bad.len():
        at = int(bad[0])
        said = f"{raw.name}: {column} = {found[0][at]!r} at {raw.unit} {raw.places[at]} is no number"
        raise InputError(f"{said} ({bad.len():,} such rows); give each row a {column}, or leave the column out")
    return numbers


def _in_order(raw: Raw, user: str | None, item: str | None, notes: list[str]) -> pl.DataFrame:
    """Columns user, item and place: 1 for a user's best; equal places are ties."""
    frame = pl.DataFrame([_ids(raw, "user", user), _ids(raw, "item", item)]).with_row_index("row")
    rank, score = _numbers(raw, "rank"), _numbers(raw, "score")
    order = frame["row"] if rank is None else rank
    if score is not None and (rank is None or _falls(frame["user"], rank, score)):
        order = -score  # equal scores are ties, whatever their ranks say
    elif score is not None:
        notes.append(f"{raw.name}: the scores rise along some lists, so rank gives the order")
    elif rank is None:
        notes.append(f"{raw.name} has neither rank nor score: each user's rows count in the order of the table")
    frame = frame.with_columns(order.alias("order")).sort("order", "row", maintain_order=True)
    once = frame.unique(["user", "item"], keep="first", maintain_order=True)
    if once.height < frame.height:
        notes.append(
            f"{raw.name}: {frame.height - once.height:,} rows repeat an item of the same list; the best counts"
        )
    return once.select("user", "item", place=pl.col("order").rank("dense").over("user").cast(pl.Int64))


def _falls(user: pl.Series, rank: pl.Series, score: pl.Series) -> bool:
    """Whether no list's scores rise along its ranks."""
    frame = pl.DataFrame({"user": user, "rank": rank, "score": score}).sort("rank", -pl.col("score"))
    return not frame.select((pl.col("score").diff() > 0).over("user").any()).item()


# -- measuring ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lists:
    """A scorer that has its lists already; a context's user is the number of its query."""

    items: Ragged
    places: Ragged

    def score(self, contexts: Contexts, candidates: Candidates) -> Tensor:
        """Never asked: candidates are refused before."""
        raise TypeError("a table of lists scores no candidates")

    def rank(self, contexts: Contexts, k: int, exclude: Ragged) -> tuple[Tensor, Tensor]:
        """(B, k) the lists that the table holds, and minus their places."""
        items, places = self.items.take(contexts.user), self.places.take(contexts.user)
        ids, scores = items.padded(), places.padded().neg().masked_fill(items.padded() == 0, -torch.inf)
        short = (0, k - ids.shape[1])
        return F.pad(ids, short), F.pad(scores, short, value=-torch.inf)


def _measured(
    rows: pl.DataFrame, asked: _Test, metrics: list[MetricAtK], facts: Facts, notes: list[str]
) -> dict[str, Any]:
    """(B,) values by metric.  Dense ids are train's where there is a train, others stand behind them."""
    known = [] if asked.train is None else [asked.train.items.raw_ids.cast(pl.String).alias("")]
    union = IdMap.of("item", pl.concat([*known, asked.items.alias(""), rows["item"].alias("")]))
    taken, k = asked.queries.truth, max(each.k or 0 for each in metrics)
    truth = distinct(Ragged(torch.from_numpy(union.dense(asked.items)), taken.offsets))
    items, places = _lists(rows, asked, union, notes)
    # the best k of each list and what ties with the last of them, so that no tie is cut
    ends = (places.offsets[:-1] + k).clamp(max=places.offsets[1:]) - 1
    first = places.values <= (places.values[ends][places.rows()] if len(places.values) else places.values)
    scorer = _Lists(items.keep(first), places.keep(first))
    longest = max(k, int(scorer.items.lengths.max()))
    ranking = from_lists(scorer, replace(asked.queries, truth=truth), truth, asked.queries.seen, longest)
    beyond = torch.zeros(0) if ranking.lists is None or asked.train is None else ranking.lists >= facts.n_items
    if ranking.lists is not None and len(beyond):
        ranking = replace(ranking, lists=ranking.lists.masked_fill(beyond.bool(), 0))
    notes += [note.removesuffix(": misses") for note in counted(asked.queries, ranking, metrics, facts)]
    most = int(items.lengths.max())
    notes += [
        said
        for count, said in (
            (most < k, f"the longest list holds {most:,} items: metrics at {k:,} count no further"),
            (beyond.sum(), f"{int(beyond.sum()):,} recommended items are unknown to train: no fact is known of them"),
        )
        if count
    ]
    return {str(each): each.of_ranking(ranking, facts).numpy().astype(np.float32) for each in metrics}


def _lists(rows: pl.DataFrame, asked: _Test, union: IdMap, notes: list[str]) -> tuple[Ragged, Ragged]:
    """B rows of dense items, best first, and of their places; nothing that the protocol excludes is among them."""
    count = len(asked.users)
    queries = asked.users.alias("user").to_frame().with_row_index("query").drop_nulls()
    mine = rows.join(queries, on="user", how="inner").sort("query", "place", maintain_order=True)
    query, place = (tensor_of(mine[name].cast(pl.Int64)) for name in ("query", "place"))
    lengths = torch.bincount(query, minlength=count)
    items = Ragged(torch.from_numpy(union.dense(mine["item"])), offsets_of(lengths))
    kept = ~items.isin(asked.queries.seen)
    guests, nobody, gone = asked.users.null_count(), int((lengths == 0).sum()), int((~kept).sum())
    strangers = rows["user"].n_unique() - mine["user"].n_unique()
    for number, said in (
        (nobody, f"{nobody:,} of {count:,} queries have no recommendations and count as 0"),
        (guests, f"{guests:,} queries are of guests, who have no user id"),
        (strangers, f"{strangers:,} users of the recommendations are not asked for in test"),
        (queries.height - queries["user"].n_unique(), "several queries of one user get the same list"),
        (gone, f"{gone:,} recommended items were taken before and are passed over"),
    ):
        if number:
            notes.append(said)
    return items.keep(kept), items.with_values(place.float()).keep(kept)
