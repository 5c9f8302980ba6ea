"""The Recommender: the one object with the verbs.  ``fit``, ``recommend``, ``similar_items``, ``funnel``, ``save``."""

import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

import polars as pl
from torch import Tensor

from suisen.arguments import check_ids, choice, listed, shown, whole
from suisen.data.batch import Candidates, Contexts, Queries
from suisen.data.candidates import with_seen
from suisen.data.dataset import Dataset
from suisen.data.ids import RawId
from suisen.data.ragged import Ragged
from suisen.data.read import ReadOptions, read_frame
from suisen.display import Shown, Table, notes_of, seconds, tell, watched
from suisen.errors import InputError
from suisen.evaluation import Facts
from suisen.models.contract import Model, unused_weights, vanished_vectors
from suisen.parameters import keywords_of
from suisen.pipeline.folding import fold_in
from suisen.pipeline.funnel import Funnel, funnel
from suisen.pipeline.slips import (
    check_fit,
    check_model,
    check_pair_features,
    check_queries,
    check_sources,
    checked_quotas,
    path_of,
)
from suisen.pipeline.two_stage import INNER, RankerLists, Recipe, train_stages
from suisen.recommending import answering, bundle, explaining
from suisen.recommending.answering import Answers
from suisen.recommending.engine import Engine, Filters
from suisen.recommending.explaining import Stage
from suisen.recommending.pairs.declared import words_of
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.rules.bound import BoundRules
from suisen.recommending.rules.declared import Rules
from suisen.recommending.rules.ruling import tally, unmet_lines
from suisen.recommending.sources import Source, Sourced, check_quotas, models_of, names_of, stages_of
from suisen.recommending.standin import StandIn
from suisen.recommending.store import Store
from suisen.recommending.system import System, name_of_both
from suisen.retrieval import Exact, IndexSettings, create_index, measured_recall
from suisen.training.options import Curve, RunOptions
from suisen.training.progress import with_progress

USERS_PER_CHUNK = 8192
"""Users of ``recommend_all`` whose frame is held at a time."""
USERS_OF_RECALL = 256
"""Users whose query vectors measure the recall of an index."""


@dataclass(frozen=True)
class Recommendation(RecommendOptions, RawQueries):
    """The arguments of ``recommend``: the queries, and how their lists are made."""

    _: KW_ONLY
    titles: bool = False
    """Add a column ``title`` from the item table."""

    def __post_init__(self) -> None:
        RawQueries.__post_init__(self)
        RecommendOptions.__post_init__(self)


class Recommender(Shown):
    """A retriever or several, a ranker, or both, over one Dataset.

    ``retriever``: a model or a list of models, the *sources*, whose candidates are merged; without a ranker they stand
    in the order of reciprocal-rank fusion (``suisen.recommending.sources``).  ``candidates``: items per list that the
    first stage hands to the ranker.  ``quotas``: source, like ``ease``, → candidates that it gives before the sources
    take turns; without quotas all take turns.  ``index``: how nearest neighbours are found
    (default: exactly).  ``lists``: how the lists that a ranker learns on are made.
    ``exclude_seen``: False where people take things again: what a user took before is a candidate like any other, when
    the models learn, when they are measured and (unless a request says otherwise) when they answer.  ``pair_features``:
    what a ranker behind a retriever reads of pairs beside the retrieval's score and rank: ``"all"``, names like
    ``covisit_5``, and names with a - in front to leave out (docs/two-stage.md lists them).  Raises InputError where no
    model is given.

    >>> Recommender(None)
    Traceback (most recent call last):
    suisen.errors.InputError: a Recommender needs a retriever, a ranker or both
    """

    def __init__(  # noqa: PLR0913 - all that a Recommender is, each by its name
        self,
        retriever: Model | Sequence[Model] | None = None,
        ranker: Model | None = None,
        *,
        candidates: int = 500,
        quotas: Mapping[str, int] | None = None,
        index: IndexSettings | None = None,
        seed: int = 0,
        lists: RankerLists | None = None,
        exclude_seen: bool = True,
        pair_features: Sequence[str] | str = (),
    ) -> None:
        if retriever is None and ranker is None:
            raise InputError("a Recommender needs a retriever, a ranker or both")
        retriever = check_sources(retriever)
        check_model("ranker", ranker, ranks=retriever is not None)
        candidates, seed = whole("candidates", candidates, 1), whole("seed", seed)
        self.quotas = checked_quotas(quotas, names_of(models_of(retriever)), candidates)
        if not isinstance(lists, RankerLists | None):
            raise InputError(f"lists = {shown(lists)} are no settings; give RankerLists(share=0.2)")
        if index is not None:
            create_index(index)  # refused now, not after training
        self.retriever: Sourced = retriever
        """The model of the first stage; of several sources a tuple."""
        self.ranker = ranker
        self.candidates, self.index_settings, self.seed = candidates, index, seed
        self.lists, self.exclude_seen = lists or RankerLists(), exclude_seen
        self.rules = Rules()
        """See ``with_rules``."""
        self.pair_features = words_of(pair_features)
        check_pair_features(self.pair_features, retriever, ranker)
        self.curves: dict[str, list[Curve]] = {}
        """By stage: what training went through; empty where the Recommender was loaded."""
        self._system: System | None = None

    # -- learning ---------------------------------------------------------------------------------------------------

    def fit(
        self,
        train: Dataset,
        valid: Queries | None = None,
        options: RunOptions | None = None,
        *,
        verbose: bool | None = None,
    ) -> Self:
        """Learns from train; ``valid`` tells each stage when to stop.  Returns itself.

        ``verbose``: whether progress is shown; None: to a person at a terminal or in a notebook, and to nobody else.
        """
        check_fit(train, valid, options)
        check_quotas(self.quotas, names_of(models_of(self.retriever)), self.candidates, len(train.items) - 1)
        return self._learn(self.recipe(options), train, None if valid is None else self.posed(valid), verbose)

    def refit(self, data: Dataset, options: RunOptions | None = None) -> Self:
        """A new Recommender: the same models, learnt anew on ``data`` for the epochs that ``fit`` found.

        ``data``: all events, once the models are measured, or newer ones.  Nothing is held out and nothing stops early,
        so the figures are those of the Recommender that was fitted.  ``options.max_seconds`` does not count.  Raises
        InputError where the epochs are not known.
        """
        check_fit(data, None, options)
        found = self.system.epochs
        if not found:
            raise InputError("nothing says for how many epochs the models were trained; call fit(train, valid) again")
        options = replace(options or RunOptions(seed=self.seed), max_seconds=None)
        made = self.with_models(self.retriever, self.ranker)
        made._learn(replace(self.recipe(options), epochs=found, blend=self._blend), data, None)
        note = f"refitted on all {len(data.events):,} events{_spelt(found)}"
        made._system = replace(made.system, notes=(*made.system.notes, note), refitted=note)
        return made

    def _learn(self, recipe: Recipe, train: Dataset, valid: Queries | None, verbose: bool | None = None) -> Self:
        started, shows = time.monotonic(), watched() if verbose is None else verbose
        BoundRules(self.rules, Store.of(train))  # what does not fit is refused now, not after training
        recipe = replace(recipe, options=with_progress(recipe.options)) if shows else recipe
        stages = train_stages(recipe, train, valid)
        store = Store.of(train)
        models, nets = (self.retriever, self.ranker), (stages.retrievers, stages.ranker)
        index = self.index_settings or Exact()
        engine = Engine.of(models, nets, train.trained_items, self.candidates, index, self.quotas, stages.pairs)
        self.curves = stages.curves
        notes = (*stages.notes, *unused_weights((*models_of(self.retriever), self.ranker), train))
        notes += tuple(note for net in stages.retrievers for note in vanished_vectors(net, train))
        system = System(self.retriever, self.ranker, store, engine, self.seed, _index_recall(engine, store), notes)
        epochs = {stage: [curve.best_epoch for curve in phases] for stage, phases in stages.curves.items()}
        known: dict[str, Any] = {
            "exclude_seen": self.exclude_seen,
            "epochs": epochs,
            "lists": asdict(self.lists),
            "rules": self.rules,
        }
        self._system = replace(system, **known)
        if shows:
            took = f"{self.name}: learnt from {len(train.events):,} events in {seconds(time.monotonic() - started)}"
            tell([took, *notes_of(stages.notes)], always=True)
        return self

    @keywords_of(ReadOptions)
    def partial_fit(self, events: Any, options: ReadOptions) -> Self:
        """A new Recommender that knows more users, items and events, without training; this one stays as it is.

        ``events``: a table or a path, with ``ReadOptions`` as keywords, as ``Dataset.from_frame`` takes.  Histories and
        what was seen follow for every model.  New users are answered by models that read histories; new items by those
        that know them by features (``item_features=``), by IALS and ItemKNN.  What could not be taken in stands in
        ``system.notes``.  Raises InputError for events without the times that train has.
        """
        made = copy(self)
        made._system = fold_in(self.system, read_frame(events, options), self.index_settings)
        return made

    @property
    def _blend(self) -> float | None:
        """Weight of the retrieval score in a stand-in's; None where there is none."""
        ranker = self.engine.ranker
        return float(ranker.blend) or None if isinstance(ranker, StandIn) else None

    def with_models(self, retriever: Sourced, ranker: Model | None) -> Self:
        """A Recommender of these models with the same settings, not fitted."""
        return type(self)(
            retriever,
            ranker,
            candidates=self.candidates,
            quotas=self.quotas,
            index=self.index_settings,
            seed=self.seed,
            lists=self.lists,
            exclude_seen=self.exclude_seen,
            pair_features=self.pair_features if retriever is not None and ranker is not None else (),
        ).with_rules(self.rules)

    def with_rules(self, rules: Any) -> Self:
        """The same Recommender, fitted or not, under rules of the last stage: what holds for every list that it makes.

        ``rules``: a .toml or .json file, or a mapping like it (``docs/rules.md``); None: none.  They are kept in the
        bundle.  This one stays as it is.  Raises InputError naming the rule that does not fit the data.
        """
        made = copy(self)
        made.rules = Rules.of(rules)
        if made._system is not None:
            made._system = replace(made._system, rules=made.rules)
            _ = made._system.bound_rules
        return made

    def recipe(self, options: RunOptions | None = None) -> Recipe:
        """What ``fit`` trains, and how."""
        history = getattr(self.ranker.view, "history", 0) if self.ranker is not None else 0
        lists = replace(self.lists, candidates=self.candidates, history=history, exclude_seen=self.exclude_seen)
        options = options or RunOptions(seed=self.seed)
        recipe = Recipe(self.retriever, self.ranker, self.candidates, lists, options, self.index_settings, self.quotas)
        return replace(recipe, pair_features=self.pair_features)

    @classmethod
    def of(cls, system: System) -> Self:
        """A Recommender around a system that is trained already."""
        settings = [getattr(source.index, "settings", None) for source in system.engine.sources]
        made = cls(
            system.retriever,
            system.ranker,
            candidates=system.engine.candidates,
            quotas={} if system.engine.union is None else system.engine.union.quotas,
            index=next((each for each in settings if each is not None), None),
            seed=system.seed,
            lists=RankerLists(**system.lists),
            exclude_seen=system.exclude_seen,
            pair_features=() if system.engine.pairs is None else system.engine.pairs.names,
        ).with_rules(system.rules)
        made._system = system
        return made

    @property
    def system(self) -> System:
        """What answers: models, store and engine.  Raises InputError before ``fit``."""
        if self._system is None:
            raise InputError("the Recommender is not fitted; call fit(train) or load a bundle")
        return self._system

    @property
    def store(self) -> Store:
        """Ids, features, histories, counts and titles."""
        return self.system.store

    @property
    def engine(self) -> Engine:
        """The stages, ready to run in dense ids."""
        return self.system.engine

    @property
    def name(self) -> str:
        """The models' names, like ``ease + deepfm``."""
        return name_of_both(self.retriever, self.ranker)

    # -- recommending -----------------------------------------------------------------------------------------------

    @keywords_of(Recommendation)
    def recommend(self, wanted: Recommendation) -> pl.DataFrame:
        """The best ``k`` items for each query, as a frame of user_id, item_id, score, rank (from 1).

        Queries are users (``users=["u1", "u2"]``), histories (``history=["sku9"]`` or one list per query), features
        (``user_features={"age": 24}``), or several of these; queries without a user are numbered from 0 in user_id.
        Each gets exactly min(k, allowed) items; rules that a list does not meet are warned of.  Raises UnsupportedQuery
        for a query that the model cannot answer, unless ``unknown`` says otherwise, and InputError for what cannot be
        understood.
        """
        histories = [item for row in wanted.histories or () for item in row or ()]
        asked = {"users": wanted.users, "history": histories, "exclude": wanted.exclude, "among": wanted.among}
        for name, ids in asked.items():
            check_ids(name, ids)
        answers = self.answer(wanted, wanted)
        say_unknown(self.store, wanted)
        say_unmet(tally(answers.unmet), len(answers.by))
        frame = answering.to_frame(self.system, wanted, answers)
        return frame.with_columns(answering.titles_of(self.system, answers)) if wanted.titles else frame

    def answer(self, queries: RawQueries, options: RecommendOptions) -> Answers:
        """What ``recommend`` returns as a frame, in dense ids, with what answered each query."""
        return answering.answer(self.system, queries, options)

    @keywords_of(RecommendOptions)
    def recommend_all(self, options: RecommendOptions) -> Iterator[pl.DataFrame]:
        """Frames like ``recommend``'s for every user that train knows, some thousands at a time."""
        known = self.store.users.raw(self.store.trained_users.nonzero().squeeze(1).numpy())
        unmet: Counter[tuple[str, str]] = Counter()
        asked = 0
        for users in known.to_frame().iter_slices(USERS_PER_CHUNK):
            queries = RawQueries(users.to_series().to_list())
            answers = self.answer(queries, options)
            unmet += tally(answers.unmet)
            asked += len(queries)
            yield answering.to_frame(self.system, queries, answers)
        say_unmet(unmet, asked)

    def similar_items(self, items: Sequence[RawId], k: int = 10) -> pl.DataFrame:
        """For each item the ``k`` most alike ones: item_id, similar_id, score, rank.

        Raises InputError for an item that is not known, UnsupportedQuery for one that the model cannot place.
        """
        given = listed("items", items) or ()
        check_ids("items", given)
        return answering.similar_frame(self.system, given, RecommendOptions(k).k)

    def explain(self, item: RawId, user: RawId | None = None, *, stage: Stage = "last", **query: Any) -> pl.DataFrame:
        """What makes up the score of an item for a user, or for ``history=``, ``user_features=``, ``context=``.

        EASE, ItemKNN and IALS: item_id, title, contribution of each item of the history.  FM and DeepFM: field, with
        (the other field of a pair, else null), contribution; DeepFM also says by how much its deep net's output falls
        where a field is left out (with = "deep net"), and in a row of its own what that leaves of it.  The rows add up
        to the score.  ``stage``: of two stages the last, or "retriever".  Raises UnsupportedQuery for other models.
        """
        for name, one in (("item", item), ("user", user)):
            check_ids(name, [one])
        if user is not None or not query:
            query["users"] = [user]
        queries = RawQueries(**query)
        return explaining.explain(self.system, queries, item, stage)

    def vectors(self, of: Literal["items", "users"] = "items") -> pl.DataFrame:
        """The first stage's vectors as a frame of item_id or user_id and vector: every item that may be recommended, or
        every user of train with the history stored of them.  Raises UnsupportedQuery for models without vectors.
        """
        return explaining.vectors(self.system, choice("of", of, ("items", "users")))

    # -- measuring: what suisen.evaluation needs ---------------------------------------------------------------------

    def scorer(self) -> Any:
        """What to hand to ``evaluate``: tiles of the whole catalogue for one model, lists for several."""
        return self.engine if self.engine.listed else self.engine.first

    def score(self, contexts: Contexts, candidates: Candidates) -> Tensor:
        """(B, C) scores of given candidates, dense ids."""
        return self.engine.score(contexts, candidates)

    def rank(self, contexts: Contexts, k: int, exclude: Ragged) -> tuple[Tensor, Tensor]:
        """(B, k) dense ids and scores."""
        return self.engine.lists(contexts, k, Filters(exclude))

    def facts(self, vectors: bool = True) -> Facts:
        """What metrics beyond accuracy need; diversity compares items as the first stage does."""
        if not vectors:
            return Facts(self.store.item_counts)
        alike = self.engine.likeness
        return Facts(self.store.item_counts, alike.facts, alike.said)

    def posed(self, queries: Queries) -> Queries:
        """The queries as they are answered here: where ``exclude_seen`` is False, seen items are candidates."""
        return queries if self.exclude_seen else with_seen(queries)

    def check_queries(self, queries: Queries) -> None:
        """Raises InputError for queries in other dense ids than the Recommender's, as far as they show it."""
        check_queries("queries", queries)
        schema, contexts = self.store.schema, queries.contexts
        given = queries.candidates if queries.candidates is not None else queries.truth.values
        items = [queries.truth.values, queries.seen.values, contexts.history.values, given]
        for what, parts, size in (("user", [contexts.user], schema.n_users), ("item", items, schema.n_items)):
            largest = max((int(part.max()) for part in parts if part.numel()), default=0)
            if largest >= size:
                raise InputError(
                    f"the queries ask for dense {what} {largest} and the Recommender knows 1 to {size - 1}; "
                    "give queries of the split that it was trained on"
                )
        if queries.asked is not None:
            theirs = queries.asked.train.items.raw_ids
            if not self.store.items.raw_ids.head(len(theirs)).equals(theirs):
                why = f" (it was {self.system.refitted}; a run keeps what it measured in RUN/measured)"
                raise InputError(
                    f"the queries are in the ids of another train part than the Recommender's"
                    f"{why if self.system.refitted else ''}; give queries of the split that it was trained on"
                )

    def funnel(self, queries: Queries, k: int = 10, seed: int = 0) -> Funnel:
        """What each stage keeps of what the users went on to take; see ``suisen.pipeline.funnel``."""
        self.check_queries(queries)
        return funnel(self.engine, self.posed(queries), k, seed, self.system)

    # -- keeping ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, **facts: Any) -> Path:
        """Writes a bundle; ``facts`` (metrics, run) go into its manifest.  See ``suisen.recommending.bundle``."""
        return bundle.save(self.system, path_of("folder", folder), **facts)

    @classmethod
    def load(cls, folder: str | Path, trusted_keys: str | Path | None = None) -> Self:
        """The Recommender saved in a bundle or in a run folder.  Raises BundleError naming a damaged file.

        ``trusted_keys``: a public key's file or a folder of them, of which one must have signed the bundle.
        """
        keys = None if trusted_keys is None else path_of("trusted_keys", trusted_keys)
        return cls.of(bundle.load(path_of("folder", folder), keys))

    def _parts(self) -> list[str | Table]:
        models = {**stages_of(self.retriever), **({} if self.ranker is None else {"ranker": self.ranker})}
        rows = [[stage, _spelt_model(model), *_learnt(self.curves, stage)] for stage, model in models.items()]
        table = Table(("stage", "model", "epochs", "best on valid", "seconds"), rows)
        system = self._system
        if system is None:
            return ["Recommender, not fitted yet: call fit(train)", table]
        size = f"{len(system.store.users) - 1:,} users, {len(system.store.items) - 1:,} items"
        return [f"Recommender of {self.name}: {size}", table, *notes_of(system.notes)]

    def __repr__(self) -> str:
        sources = list(self.retriever) if isinstance(self.retriever, tuple) else self.retriever
        parts = [repr(part) for part in (sources, self.ranker) if part is not None]
        return f"Recommender({', '.join(parts)}, candidates={self.candidates})"


def say_unknown(store: Store, queries: RawQueries) -> None:
    """Warns of items of the histories that train does not know: they count for nothing."""
    given = list(dict.fromkeys(item for row in queries.histories or () if row is not None for item in row))
    lost = [item for item, dense in zip(given, store.items.dense(given).tolist(), strict=True) if dense == 0]
    if lost:
        named = ", ".join(map(repr, lost[:5])) + (f" and {len(lost) - 5:,} more" if len(lost) > 5 else "")
        warnings.warn(f"history: items that train does not know are passed over: {named}", stacklevel=4)


def say_unmet(unmet: Counter[tuple[str, str]], lists: int) -> None:
    """Warns of rules that some of so many lists do not meet."""
    for line in unmet_lines(unmet, lists):
        warnings.warn(line, stacklevel=4)


def _spelt(epochs: Mapping[str, Sequence[int]]) -> str:
    """The epochs of the last networks in words, a + between phases; "" where none has any."""
    found = [(stage, each) for stage, each in epochs.items() if each and INNER not in stage]
    last = sorted(found, key=lambda one: one[0] == "ranker")
    said = ", ".join(f"{stage} {' + '.join(map(str, each))}" for stage, each in last)
    return f" with the epochs found ({said})" if said else ""


def _spelt_model(model: Model) -> str:
    """The model with those hyper-parameters that are not its defaults."""
    kind: Any = type(model)
    try:
        usual = kind()
        given = [field.name for field in fields(kind) if getattr(usual, field.name) != getattr(model, field.name)]
    except TypeError:  # a model of the caller's own
        return repr(model)
    return f"{kind.__name__}({', '.join(f'{name}={getattr(model, name)!r}' for name in given)})"


def _learnt(curves: Mapping[str, Sequence[Curve]], stage: str) -> tuple[str, str, str]:
    """Epochs, best validation metric and seconds of a stage's phases; – where there is none."""
    phases = [curve for curve in curves.get(stage, ()) if curve.rows]
    if not phases:
        return "–", "–", "–"
    best = phases[-1].best_metric
    spent = sum(row.seconds + row.validation_seconds for curve in phases for row in curve.rows)
    epochs = " + ".join(str(len(curve.rows)) for curve in phases)
    return epochs, "–" if best is None else f"{best:.4f}", f"{spent:.2f}"


def _index_recall(engine: Engine, store: Store) -> float | None:
    """Share of the exact nearest that the index finds for some of train's users, of several indexes the least; None
    without an index.
    """
    found = [_recall_of(source, engine.candidates, store) for source in engine.sources if source.index is not None]
    return min(found, default=None)


def _recall_of(source: Source, candidates: int, store: Store) -> float:
    some = store.trained_users.nonzero().squeeze(1)[:USERS_OF_RECALL]
    vectors = source.scorer.prepare(store.contexts(some, 0))  # query vectors: only a retriever has an index
    index: Any = source.index
    k = min(candidates, store.schema.n_items - 1)
    return measured_recall(index, index.vectors, vectors.float().cpu().numpy(), k)


__all__ = ["Answers", "Recommendation", "Recommender"]
