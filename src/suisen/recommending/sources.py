"""Several ways to find candidates, and the union of what they find.

Each source makes its own list; the union takes from the lists by turns, the first of every source, then the second of
every source, and drops repeats, until it has as many different items as were asked for.  A source with a *quota* gives
its first so many items before the turns begin.  The union is ordered by reciprocal-rank fusion (Cormack et al. 2009,
section 3): an item that S sources have at the ranks r₁ … r_S gets Σ 1 / (60 + r_s), a source that does not have it adds
nothing.  Here the sum is multiplied by 61 / S, so that 1 is an item which every source puts first.

A source that cannot answer a context (one without "history", asked for a stranger) is left out of it; its items only
fill up what the others leave empty.

Cost of n candidates from S sources: S searches for n items, then sorts of S·n numbers per context.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from suisen.data.batch import Candidates, Contexts
from suisen.data.ragged import Ragged
from suisen.errors import InputError, unknown
from suisen.models import MODELS
from suisen.models.contract import Model, Net
from suisen.recommending.pairs.covisits import standardised
from suisen.recommending.scorers import NetScorer
from suisen.retrieval import Excluded, Index, search_among
from suisen.retrieval.select import top_of

PAIR = ("retrieval_score", "retrieval_rank")
"""Features of a (context, candidate) pair that a ranker is given: see ``pair_features``."""
OF_EACH = ("score", "rank", "missing")
"""The same of each of several sources, and whether it does not have the item."""
K = 60
"""k of reciprocal-rank fusion: Cormack et al. found it good and the choice not critical."""
DIGITS = 12
"""Of a fused score: sums of the same parts in another order are equal."""
APART = 2.0**-22
"""By so much equal fused scores are parted, the earlier turn first: float32 just tells them from each other."""
Lists = tuple[Tensor, Tensor]
"""(B, n) dense ids, 0 = none, and (B, n) scores, descending, -inf beside none."""


def pair_features(scores: Tensor, known: Tensor) -> Tensor:
    """(B, C, 2) of (B, C) retrieval scores in descending order: standardised in its list, and −log₂ of its rank.

    The one function that makes them, for training and for serving.  ``known`` (B, C) is False on padding.
    """
    standard = standardised(scores, known)
    rank = torch.arange(1, scores.shape[1] + 1, dtype=torch.float32, device=scores.device)
    return torch.stack([standard.float(), (-torch.log2(rank) / 8).expand_as(standard)], 2)


def pair_names(sources: Sequence[str]) -> tuple[str, ...]:
    """Names of the pair features: ``PAIR`` of the order of the candidates, and, of several sources, those of each.

    >>> pair_names(["ease"])
    ('retrieval_score', 'retrieval_rank')
    >>> pair_names(["ease", "mf"])[2:]
    ('ease_score', 'ease_rank', 'ease_missing', 'mf_score', 'mf_rank', 'mf_missing')
    """
    each = sources if len(sources) > 1 else ()
    return (*PAIR, *(f"{name}_{what}" for name in each for what in OF_EACH))


# -- which models -----------------------------------------------------------------------------------------------------

Sourced = Model | tuple[Model, ...] | None
"""The models of a first stage: one, several, or none."""


def models_of(retriever: Sourced) -> tuple[Model, ...]:
    """The models of a first stage, in order."""
    if retriever is None:
        return ()
    return retriever if isinstance(retriever, tuple) else (retriever,)


def names_of(models: Sequence[Model]) -> list[str]:
    """A name for each source: its model's, with a number from the second of the same class on."""
    known = {cls: name for name, cls in MODELS.items()}
    return numbered([known.get(type(model), type(model).__name__.lower()) for model in models])


def numbered(names: Sequence[str]) -> list[str]:
    """The names, those that stood before with a number.

    >>> numbered(["ease", "mf", "ease"])
    ['ease', 'mf', 'ease-2']
    """
    counts = [names[: at + 1].count(name) for at, name in enumerate(names)]
    return [name if count == 1 else f"{name}-{count}" for name, count in zip(names, counts, strict=True)]


def stages_of(retriever: Sourced) -> dict[str, Model]:
    """Name of its stage → model: ``retriever`` of one, ``retriever-ease``, … of several."""
    models = models_of(retriever)
    if len(models) == 1:
        return {"retriever": models[0]}
    return {f"retriever-{name}": model for name, model in zip(names_of(models), models, strict=True)}


def check_quotas(quotas: Mapping[str, int], sources: Sequence[str], candidates: int, items: int | None = None) -> None:
    """Raises InputError for quotas that cannot be kept.  ``items``: of the catalogue, where it is known."""
    if quotas and len(sources) < 2:
        raise InputError(f"quotas = {dict(quotas)} share out the candidates of several sources; give two or more")
    for name, quota in quotas.items():
        if name not in sources:
            raise unknown("quotas: source", name, sources)
        if items is not None and quota > items:
            raise InputError(f"quotas: {name} = {quota:,} is above the catalogue's {items:,} items; lower it")
    total = sum(quotas.values())
    if total > candidates:
        raise InputError(f"quotas: {total:,} in all are above candidates = {candidates:,}; raise that, or lower one")


# -- one source -------------------------------------------------------------------------------------------------------


class Source:
    """One way to find candidates: a network, what it may recommend, and the index over its item vectors, if any."""

    def __init__(
        self, name: str, net: Net, allowed: Tensor, index: Index | None, abilities: frozenset[str] = frozenset()
    ) -> None:
        """``allowed``: (n_items,) bool.  ``abilities``: those of its model; see ``able``."""
        self.name, self.net, self.index, self.abilities = name, net, index, abilities
        self.scorer = NetScorer(net, allowed)
        self.allowed = allowed
        self.n_allowed = int(allowed.sum())

    def able(self, contexts: Contexts) -> Tensor:
        """(B,) bool: whether it has something to go by."""
        if "new users" in self.abilities:
            return torch.ones(len(contexts), dtype=torch.bool)
        return contexts.history.lengths > 0 if "history" in self.abilities else contexts.user > 0

    @torch.no_grad()
    def search(self, state: Tensor, n: int, exclude: Ragged, open_: tuple[Tensor, int], among: Tensor | None) -> Lists:
        """(B, n) of the best from what ``scorer.prepare`` made of the contexts.  n is cut to what there is.

        ``open_``: (n_items,) bool, the items that lists may hold, all of which the source may recommend, and their
        number; ``among``: (m,) rising dense items of them, the only ones.
        """
        mask, size = open_
        n = min(n, size if among is None else among.numel())
        if self.index is None:
            scores = self.scorer.open_scores(state, exclude)  # (B, n_items)
            if size < self.n_allowed:
                scores.masked_fill_(~mask, -torch.inf)
            if among is not None:
                outside = torch.ones_like(mask)
                outside[among] = False
                scores.masked_fill_(outside, -torch.inf)
            return top_of(scores, n)
        queries = state.float().cpu().numpy()
        barred = Excluded(exclude.values.numpy() - 1, exclude.offsets.numpy())
        if among is not None:
            found, products = search_among(self.index, queries, n, barred, among.numpy() - 1)
        else:
            narrowed = None if size == len(mask) - 1 else mask[1:].numpy()
            found, products = self.index.search(queries, n, barred, narrowed)
        return torch.from_numpy(found) + 1, torch.from_numpy(products)


# -- the union --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Found:
    """Candidates of B contexts, in the order of the first stage."""

    ids: Tensor
    """(B, n) dense ids, 0 = none."""
    scores: Tensor
    """(B, n) float32, descending, -inf beside none: the only source's, or the fused ones."""
    ranks: Tensor | None = None
    """(B, n, S) int64 ranks from 1 in the lists of S sources, 0 where a source does not have the item; None of one."""
    each: Tensor | None = None
    """(B, n, 3·S) float32 features of each source, ``OF_EACH``; None of one."""

    def take(self, rows: Tensor) -> "Found":
        """The candidates of some of the contexts."""
        ranks, each = (None if part is None else part[rows] for part in (self.ranks, self.each))
        return Found(self.ids[rows], self.scores[rows], ranks, each)

    @cached_property
    def pair(self) -> Tensor:
        """(B, n, p) float32 pair features, named by ``pair_names``."""
        own = pair_features(self.scores, self.ids > 0)
        return own if self.each is None else torch.cat([own, self.each], 2)


def by_turns(widths: Sequence[int], quotas: Sequence[int]) -> Tensor:
    """(W,) the columns of S lists side by side in the order in which they are taken; ``widths`` are theirs.

    >>> by_turns([2, 3], [0, 0]).tolist(), by_turns([2, 3], [0, 2]).tolist()
    ([0, 2, 1, 3, 4], [2, 3, 0, 1, 4])
    """
    later = len(widths) * (max(widths, default=0) + 1)
    places = [torch.arange(width) for width in widths]
    turns = [place * len(widths) + at for at, place in enumerate(places)]
    kept = [turn + later * (place >= quota) for turn, place, quota in zip(turns, places, quotas, strict=True)]
    return torch.cat(kept).argsort()


def chosen(lists: Sequence[Tensor], n: int, quotas: Sequence[int], reserve: Sequence[Tensor] = ()) -> Tensor:
    """(B, n) different ids of S lists (B, m_s) in the order in which they were taken, 0 behind them; ``reserve``: lists
    from which what is still missing is taken.
    """
    ids = torch.cat(list(lists), 1)[:, by_turns([each.shape[1] for each in lists], quotas)]
    ids = torch.cat([ids, *reserve], 1)  # (B, W)
    width = ids.shape[1]
    alike, column = ids.sort(dim=1, stable=True)  # of equal ids the earliest comes first
    first = alike > 0
    first[:, 1:] &= alike[:, 1:] != alike[:, :-1]
    taken = torch.where(first, column, width).sort(dim=1).values[:, :n]
    taken = F.pad(taken, (0, n - taken.shape[1]), value=width)
    return F.pad(ids, (0, 1)).gather(1, taken)


def merged(lists: Sequence[Lists], n: int, quotas: Sequence[int], reserve: Sequence[Tensor] = ()) -> Found:
    """The union of S lists, n items of each of B contexts where there are as many."""
    ids = chosen([each for each, _ in lists], n, quotas, reserve)
    rising, back = ids.sort(dim=1)
    ranks, features = [], []
    for mine, scores in lists:
        where = _places(mine.contiguous(), rising, back)
        ranks.append(_scattered(torch.arange(1, mine.shape[1] + 1).expand_as(mine), where, n))
        features.append(_of_each(pair_features(scores, mine > 0), mine > 0, where, n))
    return fused(ids, torch.stack(ranks, 2), torch.cat(features, 2))[0]


def _places(mine: Tensor, rising: Tensor, back: Tensor) -> Tensor:
    """(B, m) the columns of n candidates in which the ids of a list stand; n for those that are none of them.

    ``rising``: (B, n) the candidates sorted; ``back``: (B, n) their columns.
    """
    n = rising.shape[1]
    if not n:
        return torch.zeros_like(mine)
    place = torch.searchsorted(rising, mine).clamp(max=n - 1)
    held = (mine > 0) & (rising.gather(1, place) == mine)
    return torch.where(held, back.gather(1, place), n)


def _scattered(values: Tensor, where: Tensor, n: int) -> Tensor:
    """(B, n): each of (B, m) values in its column, 0 elsewhere; column n is nowhere."""
    return values.new_zeros((len(values), n + 1)).scatter_(1, where, values)[:, :n]


def _of_each(pair: Tensor, known: Tensor, where: Tensor, n: int) -> Tensor:
    """(B, n, 3) the features ``OF_EACH`` of n candidates from (B, m, 2) those of a source's list.

    What the source does not have stands where the next of its list would: a score as low as its last one's.
    """
    out = pair.new_zeros((len(pair), n + 1, 3))
    lowest = torch.where(known, pair[..., 0], 0.0)
    out[..., 0] = lowest.amin(1, keepdim=True) if pair.shape[1] else 0.0
    out[..., 1] = -torch.log2(torch.tensor(n + 1.0)) / 8
    out[..., 2] = 1.0
    own = torch.cat([pair, torch.zeros_like(pair[..., :1])], 2)
    out.scatter_(1, where[:, :, None].expand(-1, -1, 3), own)
    return out[:, :n]


def fused(ids: Tensor, ranks: Tensor, each: Tensor) -> tuple[Found, Tensor]:
    """(B, n) candidates in the order of reciprocal-rank fusion, and (B, n) where each of them stood.

    ``ids``: 0 = none; ``ranks``: (B, n, S); ``each``: (B, n, 3·S).  Equal sums: as given.
    """
    sums = torch.where(ranks > 0, 1.0 / (K + ranks.double()), 0.0).sum(2) * ((K + 1) / max(ranks.shape[2], 1))
    sums = torch.where(ids > 0, sums.round(decimals=DIGITS), -torch.inf)
    scores, order = sums.sort(dim=1, descending=True, stable=True)
    steps = APART * torch.arange(ids.shape[1], dtype=torch.float64)
    scores = ((scores + steps).cummin(1).values - steps).float() if ids.shape[1] else scores.float()
    ids, ranks = ids.gather(1, order), ranks.gather(1, order[:, :, None].expand_as(ranks))
    each = each.gather(1, order[:, :, None].expand_as(each))
    return Found(ids, scores, ranks, each), order


class Union:
    """Several sources as one first stage."""

    def __init__(self, sources: Sequence[Source], quotas: Mapping[str, int] | None = None) -> None:
        """``quotas``: name of a source → items that it gives before the turns begin."""
        self.sources, self.quotas = tuple(sources), dict(quotas or {})
        self.allowed = torch.stack([source.allowed for source in sources]).any(0)
        self._quotas = [self.quotas.get(source.name, 0) for source in sources]

    def find(self, contexts: Contexts, n: int, exclude: Ragged, mask: Tensor, among: Tensor | None = None) -> Found:
        """N candidates of B contexts: exactly min(n, what ``mask`` and ``among`` leave and ``exclude`` does not bar).

        ``mask``: (n_items,) bool, the items that lists may hold; ``among``: (m,) rising dense items of it, the only
        ones.
        """

        def lists(at: int, rows: Tensor) -> Lists:
            source = self.sources[at]
            open_ = mask & source.allowed
            mine = among if among is None else among[open_[among]]
            return _rows_of(source, contexts, rows, n, exclude, open_, mine)

        n = min(n, int(mask.sum()) if among is None else among.numel())
        return self.merged(contexts, n, lists)

    def lists(self, contexts: Contexts, n: int, exclude: Ragged, mask: Tensor) -> list[Lists]:
        """What each source finds by itself, n items of each of B contexts; nothing where it has nothing to go by."""
        able = self._able(contexts)
        rows = [able[:, at].nonzero().squeeze(1) for at in range(len(self.sources))]
        pairs = zip(self.sources, rows, strict=True)
        return [_rows_of(source, contexts, some, n, exclude, mask & source.allowed, None) for source, some in pairs]

    def chosen(self, lists: Sequence[Tensor], n: int) -> Tensor:
        """(B, n) the items that the union takes from lists of each source, in the order in which it takes them."""
        return chosen(lists, n, self._quotas)

    def merged(self, contexts: Contexts, n: int, lists: Callable[[int, Tensor], Lists]) -> Found:
        """The union of what ``lists`` gives: of a source, by number, the lists of the contexts that rows name, empty
        ones of the others.
        """
        able = self._able(contexts)  # (B, S)
        asked = [able[:, at].nonzero().squeeze(1) for at in range(len(self.sources))]
        found = [lists(at, rows) for at, rows in enumerate(asked)]
        union = merged(found, n, self._quotas)
        if bool(able.all()) or bool((union.ids > 0).all()):
            return union
        others = [(~able[:, at]).nonzero().squeeze(1) for at in range(len(self.sources))]
        return merged(found, n, self._quotas, [lists(at, rows)[0] for at, rows in enumerate(others)])

    def given(self, contexts: Contexts, items: Tensor, mask: Tensor) -> tuple[Found, Tensor]:
        """(B, C) given items, ranked among themselves, and (B, C) where each of them stood; what ``mask`` does not
        hold comes last, as 0.
        """
        able = self._able(contexts)
        items = torch.where(mask[items], items, 0)
        ranks, features = [], []
        for at, source in enumerate(self.sources):
            scores = source.scorer.score(contexts, Candidates(items))  # (B, C)
            scores = torch.where(able[:, at, None] & (items > 0), scores, -torch.inf)
            scores, order = scores.sort(dim=1, descending=True, stable=True)
            known = scores > -torch.inf
            where = torch.where(known, order, items.shape[1])
            places = torch.arange(1, items.shape[1] + 1).expand_as(items)
            ranks.append(_scattered(places, where, items.shape[1]))
            features.append(_of_each(pair_features(scores, known), known, where, items.shape[1]))
        return fused(items, torch.stack(ranks, 2), torch.cat(features, 2))

    def _able(self, contexts: Contexts) -> Tensor:
        """(B, S) bool: which sources are asked; all of them where none has anything to go by."""
        able = torch.stack([source.able(contexts) for source in self.sources], 1)
        return able | ~able.any(1, keepdim=True)


def nothing(rows: int) -> Lists:
    """``rows`` empty lists."""
    return torch.zeros((rows, 0), dtype=torch.int64), torch.zeros((rows, 0))


def _rows_of(
    source: Source, contexts: Contexts, rows: Tensor, n: int, exclude: Ragged, mask: Tensor, among: Tensor | None
) -> Lists:
    """(B, m) lists of a source, empty ones of the contexts that ``rows`` does not name."""
    if not rows.numel():
        return nothing(len(contexts))
    whole = rows.numel() == len(contexts)
    some, barred = (contexts, exclude) if whole else (contexts.take(rows), exclude.take(rows))
    ids, scores = source.search(source.scorer.prepare(some), n, barred, (mask, int(mask.sum())), among)
    if whole:
        return ids, scores
    out = ids.new_zeros((len(contexts), ids.shape[1])), scores.new_full((len(contexts), ids.shape[1]), -torch.inf)
    out[0][rows], out[1][rows] = ids, scores
    return out
