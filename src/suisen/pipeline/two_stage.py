"""Training both stages without a leak: the ranker learns on lists of a retriever that has not seen the event.

Train's last positives of each visitor are held out (folds, where there is no order); the retriever is fitted on the
rest and makes a list for each of them; the ranker is fitted on those lists; the retriever is fitted again on all of
train, with the epochs found.  A ranker fitted on lists of a retriever that *had* seen the events would learn to trust
scores that are better than they will ever be again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from suisen.data.batch import Candidates, Contexts, Queries, joined
from suisen.data.dataset import Dataset, Lists
from suisen.data.ragged import Ragged, offsets_of, spans
from suisen.errors import InputError
from suisen.evaluation import evaluate
from suisen.evaluation.metrics import check_metric, parse
from suisen.models.contract import Model, Net, Ranker
from suisen.recommending.engine import Engine, Filters, recommendable
from suisen.recommending.pairs.declared import said_of
from suisen.recommending.pairs.tables import PairTables
from suisen.recommending.scorers import NetScorer
from suisen.recommending.sources import OF_EACH, PAIR, Sourced, stages_of
from suisen.recommending.standin import StandIn, as_ranker, stands_in
from suisen.retrieval import Exact, IndexSettings
from suisen.training.options import Curve, RunOptions
from suisen.training.trainer import Validate, fit

QUERIES_PER_CHUNK = 1024
"""Questions whose lists are made together: their histories are copied, the others' are not."""
FOLDS = 4
INNER = "-inner"
"""What the name of a stage ends with, beside a number, whose networks make the lists."""
WHOLE = 2**40
"""A history of this length is whole."""


@dataclass(frozen=True)
class RankerLists:
    """How lists to learn on are made."""

    share: float = 0.2
    """Of each visitor's positives, the last ones, that are held out."""
    most_questions: int = 50_000
    """Held-out events that get a list; more are thinned out at random."""
    candidates: int = 500
    """Length of a retrieved list."""
    learnt: int = 50
    """Candidates of each list that the ranker learns on: the taken item and a uniform draw from the others."""
    history: int = 50
    """Most items of history kept in the contexts."""
    exclude_seen: bool = True
    """Whether lists leave out what the visitor took before; follows from the Recommender's."""


@dataclass(frozen=True)
class Stages:
    """What training yields."""

    retrievers: tuple[Net, ...]
    """Networks of the sources, in order."""
    ranker: Ranker | None
    curves: dict[str, list[Curve]]
    notes: tuple[str, ...]
    pairs: PairTables | None = None
    """Of all of train: what makes the features of pairs that the ranker reads beside the retrieval's."""


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how."""

    retriever: Sourced
    ranker: Model | None
    candidates: int
    lists: RankerLists
    options: RunOptions
    index: IndexSettings | None = None
    quotas: Mapping[str, int] = field(default_factory=dict)
    """Source → candidates that it gives before the turns begin."""
    epochs: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Stage → epochs of each of its phases, where they were found before: what a refit trains, without validation."""
    blend: float | None = None
    """Weight of the retrieval score in a stand-in's, where it was picked before."""
    pair_features: tuple[str, ...] = ()
    """Which features of pairs the ranker reads beside the retrieval's: see ``suisen.recommending.pairs.declared``."""

    def epochs_of(self, stage: str) -> Sequence[int] | None:
        """Epochs of each phase of a stage; None where they are still to be found.

        An inner retriever that was not there before is trained for as long as the first one.
        """
        base, sign, _ = stage.partition(INNER)
        inner = self.epochs.get(f"{base}{INNER}1") if sign else None
        return self.epochs.get(stage, inner) or None

    @property
    def sources(self) -> dict[str, Model]:
        """Stage → model of each source."""
        return stages_of(self.retriever)


Second = tuple[Ranker, list[Curve], tuple[str, ...]]
"""A fitted ranker, its curves, and what is to be said of it."""


@dataclass(frozen=True)
class First:
    """The first stage and all that any number of second stages can learn from it."""

    engine: Engine
    """Of the retrievers that made the lists."""
    lists: Lists | None
    """Lists of events that no source had seen; None for a stand-in, which learns from none."""
    missed: int
    """Events without a list, for their item was not retrieved."""
    valid: list[tuple[Queries, Tensor, Tensor]] | None
    """What ``valid_lists`` made; None without valid."""
    curves: dict[str, list[Curve]]


# -- the questions ---------------------------------------------------------------------------------------------------


def held_out(train: Dataset, options: RankerLists, seed: int) -> Iterator[Tensor]:
    """(n,) bool masks of the events to ask about: one of each visitor's last positives, or folds without an order."""
    counts = train.histories.lengths
    number = (counts * options.share).ceil().long().clamp(max=(counts - 1).clamp(min=0))
    position = train.positives_before - train.histories.offsets[train.events.visitor]
    if train.has_order:
        yield train.positive & (position >= (counts - number)[train.events.visitor])
        return
    rng = torch.Generator().manual_seed(seed)
    fold = torch.randint(FOLDS, (len(train.events),), generator=rng)
    alone = counts[train.events.visitor] < 2  # somebody's only event stays in every part
    for number_of_fold in range(FOLDS):
        yield train.positive & (fold == number_of_fold) & ~alone


def first_takes(train: Dataset) -> Tensor:
    """(n,) bool: positives whose visitor did not take the item before; without an order: took it once.

    The others cannot be asked about: what the visitor knows is never in a list.
    """
    rows = train.positive.nonzero().squeeze(1)
    keys = train.events.visitor[rows] * train.schema.n_items + train.events.item[rows]
    _, pair, times = torch.unique(keys, return_inverse=True, return_counts=True)
    out = torch.zeros(len(train.events), dtype=torch.bool)
    if not train.has_order:
        out[rows[times[pair] == 1]] = True
        return out
    first = torch.full((times.numel(),), rows.numel()).scatter_reduce(0, pair, torch.arange(rows.numel()), "amin")
    out[rows[first]] = True
    return out


def make_lists(
    engine: Engine, train: Dataset, asked: Tensor, options: RankerLists, rng: torch.Generator
) -> tuple[Lists | None, int]:
    """Lists for the events that ``asked`` marks (thinned to ``most_questions``), and how many of these events have
    none, because the taken item was not retrieved: such a list is not what the ranker will meet.

    The context is what was known before the event.  Items that the visitor took before are excluded (unless
    ``exclude_seen`` is False), those it took later weigh nothing (they are no negatives), the taken item stands first
    and has label 1.
    """
    rows = asked.nonzero().squeeze(1)
    if rows.numel() > options.most_questions:
        rows = rows[torch.randperm(rows.numel(), generator=rng)[: options.most_questions]].sort().values
    made = (_lists_of(engine, train, some, options, rng) for some in rows.split(QUERIES_PER_CHUNK))  # type: ignore[no-untyped-call]
    parts = [part for part in made if part is not None]
    return (_joined(parts), rows.numel() - sum(map(len, parts))) if parts else (None, rows.numel())


def _lists_of(engine: Engine, train: Dataset, rows: Tensor, options: RankerLists, rng: torch.Generator) -> Lists | None:
    contexts = train.contexts(rows, history=WHOLE)
    barred = contexts.history if options.exclude_seen else Ragged.empty(rows.numel())
    listed = engine.find(contexts, options.candidates, Filters(barred))
    where = listed.ids == train.events.item[rows, None]
    found = where.any(1).nonzero().squeeze(1)
    if not found.numel():
        return None
    ids = listed.ids[found]
    keep = _draw(ids > 0, where[found], options.learnt, rng)
    pair = engine.pair(contexts.take(found), listed.take(found))
    ids, pair = ids.gather(1, keep), pair.gather(1, keep.unsqueeze(2).expand(-1, -1, pair.shape[2]))
    labels = torch.zeros(ids.shape)
    labels[:, 0] = 1.0
    weights = (ids > 0).float() * ~_no_negatives(train, rows[found], options.exclude_seen).holds(ids)
    event_weight = train.events.weight
    weights[:, 0] = 1.0 if event_weight is None else event_weight[rows[found]]
    return Lists(contexts.take(found).recent(options.history), Candidates(ids, pair), labels, weights)


def _no_negatives(train: Dataset, rows: Tensor, exclude_seen: bool) -> Ragged:
    """Items that each event's visitor takes then or later: not taking them now says nothing against them.

    What was taken before is a candidate like any other where it is not excluded.  Without times nothing tells before
    from after, and all that the visitor takes counts.
    """
    visitor = train.events.visitor[rows]
    if exclude_seen or not train.has_time:
        return train.histories.take(visitor)
    starts = train.positives_before[rows]
    lengths = train.histories.offsets[visitor + 1] - starts
    return Ragged(train.histories.values[spans(starts, lengths)], offsets_of(lengths))


def _draw(known: Tensor, where: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """(B, ≤ most) columns: the taken item, then a uniform draw of the others; padding comes last."""
    order = torch.rand(known.shape, generator=rng)
    order[~known] = 2.0
    order[where] = -1.0
    return order.topk(min(most, known.shape[1]), dim=1, largest=False).indices


def _joined(parts: list[Lists]) -> Lists:
    """Several lists as one; shorter ones are padded with items of weight 0."""
    width = max(part.labels.shape[1] for part in parts)

    def wide(part: Lists) -> Lists:
        missing = width - part.labels.shape[1]
        pair = None if part.candidates.pair is None else F.pad(part.candidates.pair, (0, 0, 0, missing))
        candidates = Candidates(F.pad(part.candidates.items, (0, missing)), pair)
        return Lists(part.contexts, candidates, F.pad(part.labels, (0, missing)), F.pad(part.weights, (0, missing)))

    out: Lists = joined([wide(part) for part in parts])
    return out


# -- validation ------------------------------------------------------------------------------------------------------


def stop_metric(options: RunOptions, valid: Queries) -> str:
    """The metric on valid that stops a stage early: that of the options, else NDCG@10, for labelled clicks AUC.

    Raises InputError for a metric that does not fit the queries.
    """
    clicks = valid.labels is not None
    metric = check_metric(options.stop_on or ("auc" if clicks else "ndcg@10"), "stop_on", "stop training")
    if clicks and parse(metric).metric.of_labels is None:
        raise InputError(f"stop_on = {metric!r} ranks, and valid holds labelled clicks; use auc")
    return metric


def retriever_validator(model: Model, train: Dataset, valid: Queries, metric: str) -> Validate:
    """The metric of a network over the whole catalogue."""
    allowed = recommendable(model, train.trained_items)
    return lambda net: evaluate(NetScorer(net, allowed), valid, [metric]).value(metric)


def valid_lists(engine: Engine, valid: Queries, candidates: int) -> list[tuple[Queries, Tensor, Tensor]]:
    """What ``engine`` retrieves for the valid queries, made once: queries, (B, C) ids and pair features, in parts."""
    parts = []
    for rows in torch.arange(len(valid)).split(QUERIES_PER_CHUNK):  # type: ignore[no-untyped-call]
        some = valid.take(rows)
        found = engine.find(some.contexts, candidates, Filters(some.seen))
        parts.append((some, found.ids, engine.pair(some.contexts, found)))
    return parts


@dataclass(frozen=True)
class _Listed:
    """A ranker on the lists of some queries, as ``evaluate`` asks for its scores."""

    net: Net
    pair: Tensor
    """(B, C, p) pair features of the lists."""

    def score(self, contexts: Contexts, candidates: Candidates) -> Tensor:
        """(B, C) scores of all B lists."""
        device = self.net.items.trained.device
        return self.net.score(contexts.to(device), Candidates(candidates.items, self.pair).to(device))

    def rank(self, contexts: Contexts, k: int, exclude: Ragged) -> tuple[Tensor, Tensor]:
        """Nobody asks: the candidates are given."""
        raise TypeError("these lists are scored, not made")


def list_validator(parts: list[tuple[Queries, Tensor, Tensor]], metric: str = "ndcg@10") -> Validate:
    """The metric of a ranker on valid lists; what was not retrieved stays missed."""

    def of_part(net: Net, queries: Queries, ids: Tensor, pair: Tensor) -> npt.NDArray[np.float32]:
        # no bound on the memory: the part is scored whole, so that scores stand beside their pair features
        report = evaluate(_Listed(net, pair), replace(queries, candidates=ids), [metric], memory_bytes=WHOLE)
        return report.values[metric]

    return lambda net: float(np.nanmean(np.concatenate([of_part(net, *part) for part in parts])))


# -- the recipe ------------------------------------------------------------------------------------------------------


def train_stages(recipe: Recipe, train: Dataset, valid: Queries | None) -> Stages:
    """Fits what the recipe names.  ``valid`` stops each stage early; without it all epochs are run."""
    _forget(recipe.options)
    if recipe.ranker is None:
        nets, of_stage = _fit_sources(recipe, train, valid)
        return Stages(nets, None, of_stage, ())
    if recipe.retriever is None:
        net, curves = _fit_stage(recipe, "ranker", train, valid)
        return Stages((), as_ranker(net), {"ranker": curves}, ())
    first = first_stage(recipe, train, valid)
    ranker, curves, note = second_stage(recipe, first, train, valid)
    if first.lists is None:
        nets = tuple(source.net for source in first.engine.sources)
        return Stages(nets, ranker, {**first.curves, "ranker": curves}, note)
    found = {stage: [curve.best_epoch for curve in first.curves[f"{stage}{INNER}1"]] for stage in recipe.sources}
    again, last = _fit_sources(recipe, train, valid, epochs=found)
    note = (*note, *said_of(recipe.pair_features, train.schema.item, train.has_time))
    pairs = PairTables.made(recipe.pair_features, train)
    return Stages(again, ranker, {**first.curves, "ranker": curves, **last}, note, pairs)


def _forget(options: RunOptions) -> None:
    """Old checkpoints of the stages go where a run begins anew: a later resume would take them for its own."""
    if options.checkpoint is None or options.resume:
        return
    for stage in ("retriever", "ranker"):
        for path in options.checkpoint.rglob(f"{stage}*.safetensors"):
            path.unlink()


def _fit_sources(
    recipe: Recipe,
    train: Dataset,
    valid: Queries | None,
    inner: str = "",
    epochs: Mapping[str, Sequence[int]] | None = None,
) -> tuple[tuple[Net, ...], dict[str, list[Curve]]]:
    """Fits each source, one after the other, as a stage of its own, whose name ends with ``inner``."""
    nets: list[Net] = []
    curves: dict[str, list[Curve]] = {}
    for base in recipe.sources:
        stage = f"{base}{inner}"
        net, curves[stage] = _fit_stage(recipe, stage, train, valid, (epochs or {}).get(base))
        nets.append(net)
    return tuple(nets), curves


def _fit_stage(
    recipe: Recipe, stage: str, train: Dataset, valid: Queries | None, epochs: Sequence[int] | None = None
) -> tuple[Net, list[Curve]]:
    """Fits the model of a stage that learns from events: for the epochs that are known, else until valid says."""
    model = _needed(recipe.ranker) if stage == "ranker" else recipe.sources[stage.partition(INNER)[0]]
    epochs = epochs or recipe.epochs_of(stage)
    validate = None
    if valid is not None and not epochs:
        validate = retriever_validator(model, train, valid, stop_metric(recipe.options, valid))
    return fit(model, train, validate, recipe.options.for_stage(stage), epochs_per_phase=epochs)


def first_stage(recipe: Recipe, train: Dataset, valid: Queries | None) -> First:
    """Fits the sources, and makes the lists that second stages learn on.

    A retriever as the second stage learns from no list, so no event needs to be held out for it: the sources are fitted
    on all of train.  Raises InputError where no source finds anything of what was held out.
    """
    if stands_in(_needed(recipe.ranker)):
        nets, curves = _fit_sources(recipe, train, valid)
        engine = _retrieval(recipe, nets, train)
        lists = None if valid is None else valid_lists(engine, valid, recipe.candidates)
        return First(engine, None, 0, lists, curves)
    rng = torch.Generator().manual_seed(recipe.options.for_stage("lists").stage_seed)
    engines: list[Engine] = []
    of_stage: dict[str, list[Curve]] = {}
    fresh, parts, missed = first_takes(train), [], 0
    for i, asked in enumerate(held_out(train, recipe.lists, recipe.options.seed), start=1):
        inner = train.keep(~asked)
        nets, curves = _fit_sources(recipe, inner, valid, f"{INNER}{i}")
        of_stage |= curves
        engine = _retrieval(recipe, nets, inner, PairTables.made(recipe.pair_features, inner, past=train))
        made, lost = make_lists(engine, train, asked & fresh if recipe.lists.exclude_seen else asked, recipe.lists, rng)
        engines += [] if engines else [engine]
        parts += [] if made is None else [made]
        missed += lost
    if not parts:
        raise InputError(f"the retriever found none of {missed:,} held-out items; raise candidates, or hold out less")
    lists = None if valid is None else valid_lists(engines[0], valid, recipe.candidates)
    return First(engines[0], _joined(parts), missed, lists, of_stage)


def second_stage(recipe: Recipe, first: First, train: Dataset, valid: Queries | None) -> Second:
    """Fits the ranker behind a first stage: the network, its curves, and what is to be said of it.

    A stand-in is fitted like any retriever; the one number that joins both is picked on the valid lists.
    """
    metric = None if valid is None else stop_metric(recipe.options, valid)
    if first.lists is None:
        net, curves = _fit_stage(recipe, "ranker", train, valid)
        return _blended(as_ranker(net), first, curves, recipe.blend, metric)
    epochs, options = recipe.epochs_of("ranker"), recipe.options.for_stage("ranker")
    validate = None if first.valid is None or metric is None else list_validator(first.valid, metric)
    schema = replace(train.schema, pair=first.engine.pair_names)
    net, curves = fit(_needed(recipe.ranker), replace(train, lists=first.lists), validate, options, schema, epochs)
    asked = len(first.lists) + first.missed
    which = "a retriever that had not" if first.engine.union is None else "sources none of which had"
    note = (
        f"the ranker learnt on {len(first.lists):,} lists of {which} seen their events; "
        f"{first.missed:,} more events ({first.missed / asked:.0%}) were left out, for their item was not retrieved"
    )
    return as_ranker(net), curves, (note, *_found_by(first.engine, first.lists))


def _found_by(engine: Engine, lists: Lists) -> tuple[str, ...]:
    """Of several sources: in how many of the lists each had the taken item, which stands first."""
    pair = lists.candidates.pair
    if engine.union is None or pair is None:
        return ()
    of_sources = pair[:, 0, len(PAIR) :][:, : len(engine.sources) * len(OF_EACH)]
    held = of_sources[:, OF_EACH.index("missing") :: len(OF_EACH)] == 0  # (lists, S)
    alone = held & (held.sum(1, keepdim=True) == 1)
    counts = zip(engine.sources, held.sum(0).tolist(), alone.sum(0).tolist(), strict=True)
    said = "; ".join(f"{source.name} in {many:,}, alone in {own:,}" for source, many, own in counts)
    nothing = [source.name for source, many in zip(engine.sources, held.sum(0).tolist(), strict=True) if not many]
    more = [f"{name} found none of the items: leave it out" for name in nothing]
    return (f"the item of these {len(lists):,} lists was found by {said}", *more)


def _blended(ranker: Ranker, first: First, curves: list[Curve], blend: float | None, metric: str | None) -> Second:
    """A stand-in with its blend: ``blend``, else the best by ``metric`` on valid; 0 where there is neither."""
    if not isinstance(ranker, StandIn):
        return ranker.eval(), curves, ()
    if blend is not None:
        ranker.blend.fill_(blend)
    elif first.valid is not None and metric is not None:
        ranker.pick_blend(first.valid, list_validator(first.valid, metric))
    else:
        return ranker.eval(), curves, ()
    note = f"the ranker's score is blended with {float(ranker.blend):.3g} × the retrieval score, picked on valid"
    return ranker.eval(), curves, (note,)


def _retrieval(recipe: Recipe, nets: Sequence[Net], train: Dataset, pairs: PairTables | None = None) -> Engine:
    """An engine of the first stage alone, which learnt from ``train``."""
    models, index = (recipe.retriever, None), recipe.index or Exact()
    return Engine.of(models, (nets, None), train.trained_items, recipe.candidates, index, recipe.quotas, pairs)


def _needed(model: Model | None) -> Model:
    if model is None:
        raise TypeError("this stage has no model")
    return model
