"""``evaluate``: the report of a scorer on queries, under the protocol that they imply.

* **Clicks**: labels are given (C = 1): AUC and logloss of the scores.
* **Given candidates**: those are ranked.
* **Full ranking**: everything that the model may recommend, less ``queries.seen``; by tiles where the scorer has them,
  else by the lists it makes.  A relevant item that is also a seen one is therefore a miss for every model; the report
  says how many there are.  Where users take items again, ``exclude_seen=False`` ranks everything.

Ties count against the model everywhere but in the AUC of clicks, where they count one half.
"""

import hashlib
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from suisen.data.batch import Candidates, Queries
from suisen.data.candidates import with_seen
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.evaluation.contract import Scorer, TileScorer
from suisen.evaluation.metric import Facts, MetricAtK
from suisen.evaluation.metrics import METRICS, parse_all
from suisen.evaluation.ranks import Ranking, distinct, from_candidates, from_lists, no_nan
from suisen.evaluation.report import Report
from suisen.evaluation.tiles import Wanted, from_tiles

DEFAULT = ("ndcg@10", "hr@10", "recall@100", "mrr@10")
DEFAULT_CLICKS = ("auc", "logloss")
BUDGET = 512 * 2**20
CLICKS_PER_CHUNK = 2**14
AGAIN = "if people take things again, exclude_seen=False (--no-exclude-seen)"
"""The mend where what is asked for is excluded."""


@torch.no_grad()
def evaluate(
    scorer: Scorer,
    queries: Queries,
    metrics: Sequence[str] | None = None,
    *,
    name: str = "",
    facts: Facts | None = None,
    exclude_seen: bool = True,
    repeats: bool = False,
    memory_bytes: int = BUDGET,
) -> Report:
    """Measures a scorer on queries with known answers.

    ``metrics``: names such as ``ndcg@10`` (see ``suisen.evaluation.metrics``); by default what fits the queries.
    ``facts``: what novelty, popularity bias and diversity need of the items.  ``exclude_seen``: False leaves seen items
    in a full ranking, for things that people take again (``repeats=True`` is an older word for it).
    ``memory_bytes``: how many bytes of scores may be held at once.  Raises InputError for unknown
    metrics, scores that are NaN, and lists that break the contract.
    """
    started = time.perf_counter()
    if len(queries) == 0:
        raise InputError("queries hold no row; split with a larger test part")
    clicks = queries.labels is not None
    if metrics is None:
        metrics = DEFAULT_CLICKS if clicks else DEFAULT
    if repeats or not exclude_seen:
        queries = with_seen(queries)
    parsed = parse_all(metrics)
    if not parsed:
        raise InputError("metrics = []; name at least one, like ['ndcg@10']")
    if clicks:
        values, notes, peak_bytes = _clicks(scorer, queries, parsed)
    else:
        values, notes, peak_bytes = _ranked(scorer, queries, parsed, facts, memory_bytes)
    return Report(
        name=name or type(scorer).__name__,
        protocol="; ".join(part for part in (queries.protocol, protocol_of(queries)) if part),
        fingerprint=fingerprint(queries),
        values={str(each): per_query.numpy().astype(np.float32) for each, per_query in values.items()},
        notes=notes,
        seconds=time.perf_counter() - started,
        peak_bytes=peak_bytes,
    )


_Measured = tuple[dict[MetricAtK, Tensor], tuple[str, ...], int]
"""(B,) values per metric, notes, and most bytes of scores held at once."""


def _ranked(scorer: Scorer, queries: Queries, metrics: list[MetricAtK], facts: Facts | None, budget: int) -> _Measured:
    n_items = 0 if facts is None else facts.n_items
    if isinstance(scorer, TileScorer):
        n_items = scorer.n_items
    for each in metrics:
        each.check(facts, n_items)
    facts = Facts(torch.zeros(n_items)) if facts is None else facts.cpu()
    truth = distinct(queries.truth)
    ranking = _ranking(scorer, queries, truth, metrics, budget)
    values = {each: each.of_ranking(ranking, facts) for each in metrics}
    return values, counted(queries, ranking, metrics, facts), ranking.peak_bytes


def _ranking(scorer: Scorer, queries: Queries, truth: Ragged, metrics: list[MetricAtK], budget: int) -> Ranking:
    """Ranks by what the queries and the scorer allow: given candidates, else tiles, else lists."""
    longest = max((each.k or 0 for each in metrics if each.metric.of_lists is not None), default=0)
    if queries.candidates is not None:
        return from_candidates(scorer, queries, truth, longest, budget)
    if isinstance(scorer, TileScorer):
        rivals = any(each.metric.of_rivals is not None for each in metrics)
        return from_tiles(scorer, queries, truth, queries.seen, Wanted(budget, longest, rivals))
    whole = [str(each) for each in metrics if each.k is None]
    if whole:
        said = f"metric = {whole[0]!r} needs the whole ranking, and {type(scorer).__name__} gives lists"
        raise InputError(f"{said}; write a cut-off, like mrr@10")
    return from_lists(scorer, queries, truth, queries.seen, max(each.k or 0 for each in metrics))


def _clicks(scorer: Scorer, queries: Queries, metrics: list[MetricAtK]) -> _Measured:
    formulas = {}
    for each in metrics:
        if each.metric.of_labels is None:
            known = ", ".join(metric.name for metric in METRICS.values() if metric.of_labels is not None)
            raise InputError(f"metric = {str(each)!r} ranks, and these queries are labelled clicks: use {known}")
        formulas[each] = each.metric.of_labels
    labels, items = queries.labels, queries.candidates
    if labels is None or items is None or labels.shape != items.shape or items.shape[1] != 1:
        raise InputError("labelled queries need candidates and labels of shape (B, 1); give one item and label per row")
    parts = torch.split(torch.arange(len(queries)), CLICKS_PER_CHUNK)
    chunks = [scorer.score(queries.contexts.take(part), Candidates(items[part])).float().cpu() for part in parts]
    scores = torch.cat(chunks)[:, 0]  # (B,)
    no_nan(scores)
    values = {each: formula(scores, labels[:, 0]) for each, formula in formulas.items()}
    return values, (), min(len(queries), CLICKS_PER_CHUNK) * 4


def protocol_of(queries: Queries) -> str:
    """What is the same for every scorer: two reports that differ in it are not comparable."""
    if queries.labels is not None:
        return "labelled clicks, ties count one half"
    if queries.candidates is not None:
        return f"{queries.candidates.shape[1]:,} given candidates, ties count against the model"
    out = "nothing excluded" if queries.seen.values.numel() == 0 else "seen items excluded"
    return f"full ranking, {out}, ties count against the model"


def counted(queries: Queries, ranking: Ranking, metrics: list[MetricAtK], facts: Facts) -> tuple[str, ...]:
    """All that was counted on the way, in words."""
    relevant = ranking.ranks.values.numel()
    unknown = int((queries.truth.values == 0).sum())
    empty = int((ranking.ranks.lengths == 0).sum())
    repeated = queries.truth.values.numel() - relevant
    asked, seen = queries.truth.values.numel(), _never_offered(queries)
    share = f"{seen / max(1, asked):.0%} of what is asked for ({seen:,} of {asked:,} items)"
    comparing = [each.metric.name for each in metrics if "item_vectors" in each.metric.needs]
    notes = [
        (seen, f"{share} was taken before and is never offered: {AGAIN}"),
        (unknown, f"{unknown:,} of {relevant:,} relevant items are unknown to train: misses"),
        (ranking.not_allowed, f"{ranking.not_allowed:,} of {relevant:,} relevant items may not be recommended: misses"),
        (repeated, f"{repeated:,} relevant items were named twice in a query and count once"),
        (empty, f"{empty:,} queries have no relevant item and are left out of accuracy"),
        (len(comparing), f"{', '.join(dict.fromkeys(comparing))} compares {facts.vectors}"),
    ]
    return tuple(note for count, note in notes if count)


def _never_offered(queries: Queries) -> int:
    """Relevant items that a full ranking leaves out, for they are also seen ones."""
    if queries.candidates is not None:
        return 0
    return int((queries.truth.isin(queries.seen) & (queries.truth.values > 0)).sum())


def fingerprint(queries: Queries) -> str:
    """BLAKE2 of what makes queries the same: users, truth, seen items, candidates and labels."""
    digest = hashlib.blake2b(digest_size=16)
    parts = (queries.contexts.user, queries.contexts.time, queries.truth.values, queries.truth.offsets)
    for part in (*parts, queries.seen.values, queries.seen.offsets, queries.candidates, queries.labels):
        digest.update(b"-" if part is None else part.contiguous().numpy().tobytes() + str(tuple(part.shape)).encode())
    return digest.hexdigest()
