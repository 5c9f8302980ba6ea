"""The *pessimistic rank* of every relevant item of every query: what all accuracy metrics are computed from.

Rank 1 is the best.  An item of equal score that is not relevant stands in front of the relevant one; relevant items
that tie stand one behind the other.  Hence a model that gives every item the same score finds nothing.  There are
three ways to these ranks: from tiles of the catalogue (``tiles.py``), from lists that a scorer made, and from given
candidates.

Scores within rounding of each other.  A float32 matrix product rounds differently in different columns, so a collapsed
model (every item has the same vector) would break its ties by luck.  Where at least 1 % of the scores beside a target
(and at least two) lie within 2⁻¹⁷ of it, relative to its own size, they are taken for ties.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from suisen.data.batch import Candidates, Queries
from suisen.data.ragged import Ragged, largest
from suisen.errors import InputError
from suisen.evaluation.contract import Scorer

UNRANKED = 2**62
"""The rank of what cannot be found: id 0, an item that may not be recommended or is not among the candidates."""
BLUR = 2.0**-17
"""Scores closer than this, relative to their size, may differ by rounding alone."""
MIN_CROWD_SHARE = 0.01
"""Share of the scores within the blur of a target from which on they count as ties."""
QUERIES_PER_CHUNK = 1024
NAN = "scores hold NaN; a diverged model cannot be ranked: lower its learning rate or clip gradients"


@dataclass(frozen=True)
class Ranking:
    """What the metrics are computed from."""

    ranks: Ragged
    """B rows: one rank per relevant item, rising; ``UNRANKED`` where it cannot be found."""
    rivals: Tensor | None = None
    """(B,) int64: how many candidates are not relevant; None where lists do not tell."""
    lists: Tensor | None = None
    """(B, k) int64 ids, 0 = none: the lists themselves, where a metric needs them (ties in arbitrary order)."""
    peak_bytes: int = 0
    """Most bytes of scores held at once."""
    not_allowed: int = 0
    """Relevant items that the model may not recommend."""


def distinct(truth: Ragged) -> Ragged:
    """Each query's relevant items as a set, rising: a known item counts once, each unknown one (0) for itself."""
    if len(truth) == 0 or int(truth.lengths.max()) <= 1:
        return truth
    size = 1 + largest(truth.values)
    keys = truth.keys(size).sort().values
    again = torch.zeros_like(keys, dtype=torch.bool)
    again[1:] = (keys[1:] == keys[:-1]) & (keys[1:] % size > 0)
    return Ragged.of_keys(keys[~again], size, len(truth))


def blurred(target: Tensor, others: Tensor, columns: int | Tensor) -> Tensor:
    """The score from which on an item counts as tied with ``target``: the target's own, or, where ``others`` (how many
    other scores lie within the blur) says that the model hardly tells its items apart, the lower end of the blur.
    """
    crowded = (others >= 2) & (others >= MIN_CROWD_SHARE * columns)
    return torch.where(crowded, target - target.abs() * BLUR, target)


def sort_rows(ranks: Tensor, rows: Tensor) -> Tensor:
    """(n,) ranks, rising inside each row; ``rows`` (n,) rises."""
    order = ranks.argsort()
    return ranks[order[rows[order].argsort(stable=True)]]


def from_lists(scorer: Scorer, queries: Queries, truth: Ragged, exclude: Ragged, k: int) -> Ranking:
    """Ranks up to k from ``scorer.rank``, which gives k + 1 items so that a tie at the cut is seen.

    An item whose score equals that of the last item of a full list may tie with any number of items behind it: it is
    not found.  Raises InputError where a list breaks the contract.
    """
    ranks, lists = [], []
    for part in torch.split(torch.arange(len(queries)), QUERIES_PER_CHUNK):
        out = exclude.take(part)
        ids, scores = (t.cpu() for t in scorer.rank(queries.contexts.take(part), k + 1, out))
        _check_lists(ids, scores, out, k + 1, int(part[0]))
        ids = ids.masked_fill(scores == -torch.inf, 0)
        found, _ = _ranks_in(ids, scores, truth.take(part), complete=False)
        ranks.append(found)
        lists.append(ids[:, :k])
    return Ranking(truth.with_values(torch.cat(ranks)), lists=torch.cat(lists))


def from_candidates(scorer: Scorer, queries: Queries, truth: Ragged, k: int, budget: int) -> Ranking:
    """Ranks among the candidates that the protocol gave.

    0 pads.  A second copy of a relevant item (156 users of the NCF split have the target among its own negatives)
    is dropped; other candidates that stand twice count twice, as the protocol drew them.
    """
    items = queries.candidates
    if items is None:
        raise InputError("queries.candidates = None; give candidates or rank the catalogue")
    cost = 44  # bytes per score: itself, ids, sorted scores and ids, places
    rows = max(1, min(QUERIES_PER_CHUNK, budget // (cost * max(1, items.shape[1]))))
    ranks, rivals, lists = [], [], []
    for part in torch.split(torch.arange(len(queries)), rows):
        own = truth.take(part)
        ids = _without_copies(items[part], own)
        scores = scorer.score(queries.contexts.take(part), Candidates(ids)).float().cpu()
        if scores.shape != ids.shape:
            shapes = f"{tuple(scores.shape)} for candidates {tuple(ids.shape)}"
            raise InputError(f"score() gave {shapes}; give one score each")
        no_nan(scores)
        scores = scores.masked_fill(ids == 0, -torch.inf)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        ids = ids.gather(1, order).masked_fill(scores == -torch.inf, 0)
        found, others = _ranks_in(ids, scores, own, complete=True)
        ranks.append(found)
        rivals.append(others)
        lists.append(ids[:, :k])
    peak = rows * items.shape[1] * cost
    return Ranking(truth.with_values(torch.cat(ranks)), torch.cat(rivals), torch.cat(lists), peak)


def _ranks_in(ids: Tensor, scores: Tensor, truth: Ragged, complete: bool) -> tuple[Tensor, Tensor]:
    """Ranks of the truth's values, rising inside each row, in (B, K) lists sorted by score; 0 pads at the end.

    ``complete``: nothing is hidden behind the end of a list.  Second: (B,) how many of the ids are not relevant.
    """
    place, hit = _places(ids, truth)
    valid = ids > 0
    # Rising (B, K), as searchsorted wants it; what pads comes last.
    negated = (-scores).masked_fill(~valid, torch.inf).contiguous()
    near = scores.abs() * BLUR
    within = torch.searchsorted(negated, near - scores, right=True) - torch.searchsorted(negated, -scores - near)
    # (B, K): from which score on an item of the list ties with the item at each place
    floor = blurred(scores, (within - 1).masked_fill(~valid, 0), valid.sum(1, keepdim=True))
    level = torch.searchsorted(negated, -floor, right=True)  # how many items score at least that
    strangers = (valid & ~hit).cumsum(1)  # (B, K): items that are not relevant up to each place
    ahead = strangers.gather(1, (level - 1).clamp(min=0))
    rank = hit.cumsum(1) + ahead
    if not complete:
        rank = rank.masked_fill(level == ids.shape[1], UNRANKED)  # it may tie with what the list hides
    ranks = torch.full((truth.values.numel(),), UNRANKED, dtype=torch.int64)
    ranks[place[hit]] = rank[hit]
    return sort_rows(ranks, truth.rows()), strangers[:, -1]


def _places(ids: Tensor, truth: Ragged) -> tuple[Tensor, Tensor]:
    """(B, K): where among the truth's values each id stands, and whether it stands there at all."""
    if truth.values.numel() == 0:
        return torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    size = 1 + max(largest(ids), largest(truth.values))
    keys, order = truth.keys(size).sort()
    wanted = torch.arange(len(truth))[:, None] * size + ids
    place = torch.searchsorted(keys, wanted).clamp(max=keys.numel() - 1)
    return order[place], (keys[place] == wanted) & (ids > 0)


def _without_copies(ids: Tensor, truth: Ragged) -> Tensor:
    """The ids with 0 in place of every copy of a relevant item but the first."""
    place, hit = _places(ids, truth)
    width = ids.shape[1]
    column = torch.arange(width).expand_as(ids)
    first = torch.full((truth.values.numel(),), width).scatter_reduce(0, place[hit], column[hit], "amin")
    copies = torch.zeros_like(hit)
    copies[hit] = column[hit] > first[place[hit]]
    return ids.masked_fill(copies, 0)


def _check_lists(ids: Tensor, scores: Tensor, exclude: Ragged, width: int, first: int) -> None:
    rows = len(exclude)
    if ids.shape != (rows, width) or scores.shape != (rows, width):
        shapes = f"ids {tuple(ids.shape)}, scores {tuple(scores.shape)}"
        raise InputError(f"rank() gave {shapes}; give ({rows}, {width}), 0 pads")
    valid = ids > 0
    no_nan(scores.masked_fill(~valid, 0))
    falling = ~(valid[:, 1:] & (~valid[:, :-1] | (scores[:, 1:] > scores[:, :-1])))
    _refuse(~falling, first, "a list whose scores rise or that pads in the middle; sort it, best first")
    ordered = ids.sort(1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)
    _refuse(twice, first, "an item twice in one list; give it once")
    _refuse(exclude.holds(ids) & valid, first, "an item that it was asked to exclude; filter before the cut")


def _refuse(bad: Tensor, first: int, what: str) -> None:
    if bool(bad.any()):
        raise InputError(f"rank() returned, for query {first + int(bad.any(1).int().argmax())}, {what}")


def no_nan(scores: Tensor) -> None:
    """Raises InputError where a score is NaN."""
    if bool(scores.isnan().any()):
        raise InputError(NAN)
