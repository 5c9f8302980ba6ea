"""Tuning: which settings of a Recommender's models are best on valid.  Test is no argument, so it cannot be looked at.

The space stands in the annotations of the hyper-parameters (``Search``); Optuna's TPE sampler (Akiba et al. 2019)
draws from it.  A trial trains as ``Recommender.fit`` does, stopping early on the validation metric; each epoch's value
goes to the pruner, which gives up a trial whose best so far is below the median of the finished ones at the same epoch.
Every draw has a seed of its own, so that a tuning that was killed and goes on finds what an uninterrupted one finds.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from suisen.data.batch import Queries
from suisen.data.dataset import Dataset
from suisen.data.durations import MICRO, duration
from suisen.display import silent
from suisen.errors import InputError, SuisenError, missing_extra, unknown
from suisen.evaluation import evaluate
from suisen.evaluation.metrics import METRICS, check_metric, parse
from suisen.evaluation.protocols import fingerprint
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.space import Knob, space_of, start_of, with_values
from suisen.pipeline.two_stage import INNER, First, first_stage, second_stage
from suisen.recommending.sources import models_of, names_of
from suisen.training.options import Callback, Curve, EpochRow, RunOptions

Stage = Literal["retriever", "ranker", "both"]
STAGES = {"retriever": ("retriever",), "ranker": ("ranker",), "both": ("retriever", "ranker")}
"""What each word tunes."""
STUDY = "suisen"
PHASE = 10_000
"""Steps of the pruner between the first epochs of two phases."""


@dataclass(frozen=True)
class TuneSettings:
    """How tuning goes."""

    metric: str = ""
    """What is to be as large as can be on valid, like ndcg@10; default: ndcg@10, for labelled clicks auc."""
    trials: int = 20
    """Trials in all; a tuning that goes on counts those it has."""
    stage: Stage | None = None
    """What is tuned where two models are named: retriever (alone), ranker (behind the retriever) or both; default:
    ranker."""
    time_limit: str | None = None
    """No longer than this in one go, like 45m or 8h; the trial under way is given up."""
    startup: int = 6
    """Trials that are drawn at random, and never pruned, before the others learn from them; the first one has the
    settings given."""
    prune: bool = True
    """Give up a trial whose validation metric is below the median of the others at the same epoch."""
    prune_after: int = 3
    """Epochs before which nothing is given up."""
    fixed: tuple[str, ...] = ()
    """Parameters that keep their value, like retriever.dim; on a command line those that are given do so anyway."""

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("startup", 1), ("prune_after", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} = {getattr(self, name)} must be at least {least}")
        if self.stage is not None and self.stage not in STAGES:
            raise unknown("stage", self.stage, STAGES)
        if self.metric:
            check_metric(self.metric)
        _ = self.seconds

    @property
    def seconds(self) -> float:
        """The time limit."""
        return math.inf if self.time_limit is None else duration("time_limit", self.time_limit) / MICRO


class Trial(NamedTuple):
    """What became of one draw."""

    number: int
    """From 1."""
    state: Literal["done", "pruned", "failed", "given up"]
    """given up: interrupted or out of time; it counts for nothing and is drawn again."""
    value: float | None
    """The metric on valid; of a pruned trial the best that an epoch reached, which is the pruner's metric."""
    settings: dict[str, Any]
    """Name, like ``retriever.dim``, → value."""
    epochs: int
    """Of the stage that is tuned."""
    seconds: float
    note: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Tuned:
    """What tuning found."""

    metric: str
    trials: tuple[Trial, ...]
    recommender: Recommender
    """With the best settings, not fitted; with the first ones where no trial was finished."""
    best: Trial | None

    @property
    def finished(self) -> int:
        """Trials that count."""
        return sum(trial.state != "given up" for trial in self.trials)


def need_optuna() -> Any:
    """The library, silent.  Raises MissingExtra where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise missing_extra("optuna", "tune") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def searched(recommender: Recommender, settings: TuneSettings) -> tuple[Stage, list[Knob]]:
    """What is tuned: the stage that is named, or the last one, and its parameters.

    Raises InputError where that model is not named or has nothing to search.
    """
    stage: Stage = settings.stage or ("retriever" if recommender.ranker is None else "ranker")
    models = _models(recommender)
    sections = [section for section in models if section.partition(".")[0] in STAGES[stage]]
    return stage, space_of(models, sections, settings.fixed)


def metric_for(recommender: Recommender, settings: TuneSettings, valid: Queries | None) -> str:
    """What is measured on valid.  Raises InputError where it cannot be, and where there is no valid part."""
    if valid is None:
        raise InputError("valid = None, and settings are picked on it, never on test; split with a validation part")
    clicks = valid.labels is not None
    metric = check_metric(settings.metric or ("auc" if clicks else "ndcg@10"))
    if clicks and parse(metric).metric.of_labels is None:
        known = ", ".join(each.name for each in METRICS.values() if each.tunable and each.of_labels is not None)
        raise InputError(f"metric = {metric!r} ranks, and the queries are labelled clicks; use {known}")
    both = recommender.retriever is not None and recommender.ranker is not None and settings.stage != "retriever"
    listed = both or len(models_of(recommender.retriever)) > 1
    if listed and valid.candidates is None and parse(metric).k is None:
        who = "two stages" if both else "several sources"
        raise InputError(f"metric = {metric!r} needs the whole ranking, and {who} give lists; write mrr@10")
    return metric


def _models(recommender: Recommender) -> dict[str, Any]:
    """Section → model, or None; of several sources a section each."""
    sources = models_of(recommender.retriever)
    first: dict[str, Any] = {"retriever": recommender.retriever}
    if len(sources) > 1:
        first = {f"retriever.{name}": model for name, model in zip(names_of(sources), sources, strict=True)}
    return {**first, "ranker": recommender.ranker}


@silent()  # trials are shown by callbacks
def tune(
    recommender: Recommender,
    train: Dataset,
    valid: Queries | None,
    settings: TuneSettings | None = None,
    *,
    options: RunOptions | None = None,
    store: Path | None = None,
    watch: Callable[[Tuned], None] | None = None,
) -> Tuned:
    """Tries settings of ``recommender``'s models, trained on train and measured on valid.

    ``recommender`` is not fitted and not changed; its settings are the first trial.  ``store``: a file that keeps the
    trials; where it exists, tuning goes on with it.  ``watch`` is called whenever a trial has ended, which is then the
    last of ``Tuned.trials``.  Raises InputError for what does not fit together, for a store of another tuning, and
    where the first trial is refused; MissingExtra without Optuna.
    """
    need_optuna()
    settings, options = settings or TuneSettings(), options or RunOptions(seed=recommender.seed)
    stage, knobs = searched(recommender, settings)
    metric = metric_for(recommender, settings, valid)
    if valid is None:
        raise TypeError("valid was checked above")
    options = replace(options, checkpoint=None, resume=False, stop_on=options.stop_on or metric)
    study = _Study(_Task(recommender, train, recommender.posed(valid), settings, options, stage, metric), knobs, store)
    deadline, found = time.monotonic() + settings.seconds, study.found
    while found.finished < settings.trials and time.monotonic() < deadline:
        study.try_one(deadline)
        found = study.found
        if watch is not None:
            watch(found)
    return found


# -- what a trial does -------------------------------------------------------------------------------------------------


@dataclass
class _Task:
    """All that is the same for every trial."""

    recommender: Recommender
    train: Dataset
    valid: Queries
    settings: TuneSettings
    options: RunOptions
    stage: Stage
    metric: str
    first: First | None = None
    """Where the ranker alone is tuned: the first stage, made once."""

    def with_settings(self, values: dict[str, Any]) -> Recommender:
        """A Recommender that is not fitted."""
        models = _models(self.recommender)
        *sources, ranker = (with_values(model, section, values) for section, model in models.items())
        return self.recommender.with_models(tuple(sources) if len(sources) > 1 else sources[0], ranker)

    def measure(self, values: dict[str, Any], callbacks: Sequence[Callback]) -> float:
        """The metric on valid of a model trained with these values."""
        options = replace(self.options, callbacks=tuple(callbacks))
        mine = self.with_settings(values)
        if self.stage == "ranker" and mine.retriever is not None:
            return self._behind_the_first(mine, options)
        if self.stage == "retriever":
            mine = mine.with_models(mine.retriever, None)
        return self._value(mine.fit(self.train, self.valid, options).scorer())

    def _behind_the_first(self, mine: Recommender, options: RunOptions) -> float:
        """The ranker behind a first stage that all trials share: the one that made the lists."""
        recipe = mine.recipe(options)
        if self.first is None:
            self.first = first_stage(recipe, self.train, self.valid)
        ranker, _, _ = second_stage(recipe, self.first, self.train, self.valid)
        return self._value(self.first.engine.with_ranker(ranker))

    def _value(self, scorer: Any) -> float:
        return float(evaluate(scorer, self.valid, [self.metric]).value(self.metric))


class _OutOfTime(Exception):
    """The time limit came while a trial was under way."""


class _Reporter:
    """A training callback that hands each epoch of the stage that is tuned to the pruner."""

    def __init__(self, trial: Any, stage: str, deadline: float) -> None:
        self.trial, self.stage, self.deadline = trial, stage, deadline
        self.phase, self.epochs, self.mine = 0, 0, False

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        """A phase starts; other stages' epochs are not comparable."""
        own = stage.partition("-phase")[0]
        several = self.stage == "retriever" and own.startswith("retriever-") and INNER not in own
        self.mine = own == self.stage or several
        self.phase += self.mine

    def on_batch(self, examples: int, loss: float) -> None:
        """Raises _OutOfTime."""
        if time.monotonic() > self.deadline:
            raise _OutOfTime

    def on_epoch(self, row: EpochRow) -> None:
        """Raises TrialPruned where the pruner says so."""
        if not self.mine or row.metric is None:
            return
        self.epochs += 1
        self.trial.report(row.metric, (self.phase - 1) * PHASE + row.epoch)
        if self.trial.should_prune():
            raise need_optuna().TrialPruned

    def on_end(self, curve: Curve) -> None:
        """The phase is done."""


# -- the study ---------------------------------------------------------------------------------------------------------


class _Study:
    """Optuna's study: where trials are drawn, told and kept."""

    def __init__(self, task: _Task, knobs: list[Knob], store: Path | None) -> None:
        self.task, self.knobs, self.optuna = task, knobs, need_optuna()
        how, prune = task.settings, self.optuna.pruners
        journal = self.optuna.storages.journal
        self.study = self.optuna.create_study(
            storage=None if store is None else journal.JournalStorage(journal.JournalFileBackend(str(store))),
            study_name=STUDY,
            direction="maximize",
            load_if_exists=True,
            pruner=prune.MedianPruner(how.startup, how.prune_after) if how.prune else prune.NopPruner(),
        )
        self._check_same(store)
        states = self.optuna.trial.TrialState
        for left in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):  # a process that was killed
            self.study.tell(left.number, state=states.FAIL)

    def _check_same(self, store: Path | None) -> None:
        """Raises InputError where the store's trials are answers to another question."""
        task, known = self.task, self.study.user_attrs
        facts = {
            "metric": task.metric,
            "stage": task.stage,
            "seed": task.options.seed,
            "stop_on": task.options.stop_on,
            "search space": {knob.name: str(knob.search) for knob in self.knobs},
            "settings": {section: repr(model) for section, model in _models(task.recommender).items()},
            "pair features": list(task.recommender.pair_features),
            "data": f"{len(task.train.events)} events, valid {fingerprint(task.valid)}",
        }
        for name, value in facts.items():
            if name not in known:
                self.study.set_user_attr(name, value)
            elif known[name] != value:
                raise InputError(f"{store} holds a tuning with another {name}; tune into another folder")

    @property
    def found(self) -> Tuned:
        """What is known by now: of several best trials the first."""
        ended = [each for each in self.study.get_trials(deepcopy=False) if each.state.is_finished()]
        trials = tuple(_trial_of(each, self.knobs) for each in ended)
        done = [trial for trial in trials if trial.state == "done"]
        best = max(done, key=lambda trial: -math.inf if trial.value is None else trial.value, default=None)
        made = self.task.with_settings({} if best is None else best.settings)
        return Tuned(self.task.metric, trials, made, best)

    def try_one(self, deadline: float) -> None:
        """Draws, trains, measures and keeps."""
        first, trial = self.found.finished == 0, self._draw()
        reporter = _Reporter(trial, STAGES[self.task.stage][-1], deadline)
        states, started = self.optuna.trial.TrialState, time.monotonic()
        state, value, note = states.FAIL, None, ""
        try:
            values = {knob.name: knob.value(trial.params[knob.name]) for knob in self.knobs}
            value = self.task.measure(values, (*self.task.options.callbacks, reporter))
            state = states.COMPLETE
        except self.optuna.TrialPruned:
            state = states.PRUNED
        except _OutOfTime:
            pass
        except (SuisenError, MemoryError, torch.OutOfMemoryError) as error:
            if first and isinstance(error, InputError):
                raise
            state, note = states.PRUNED, " ".join(str(error).split()) or type(error).__name__
        finally:
            facts = {"epochs": reporter.epochs, "seconds": time.monotonic() - started, "note": note}
            for name, fact in facts.items():
                trial.set_user_attr(name, fact)
            self.study.tell(trial, value, state=state)

    def _draw(self) -> Any:
        """The next trial: the settings given, then what the sampler draws with a seed of this draw's own."""
        at, states = self.found.finished, self.optuna.trial.TrialState
        start = start_of(_models(self.task.recommender), self.knobs)
        if at == 0 and not self.study.get_trials(deepcopy=False, states=(states.WAITING,)):
            self.study.enqueue_trial(start)
        digest = blake2b(f"{self.task.options.seed}/tune/{at}".encode(), digest_size=4).digest()
        seed, startup = int.from_bytes(digest, "big"), self.task.settings.startup
        self.study.sampler = self.optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed)
        return self.study.ask({knob.name: knob.distribution() for knob in self.knobs})


def _trial_of(frozen: Any, knobs: Sequence[Knob]) -> Trial:
    """Optuna's record as ours."""
    note = str(frozen.user_attrs.get("note", ""))
    word: dict[str, Any] = {"COMPLETE": "done", "PRUNED": "failed" if note else "pruned"}
    best = max(frozen.intermediate_values.values(), default=None)
    return Trial(
        number=frozen.number + 1,
        state=word.get(frozen.state.name, "given up"),
        value=frozen.value if frozen.state.name == "COMPLETE" else best,
        settings={knob.name: knob.value(frozen.params[knob.name]) for knob in knobs if knob.name in frozen.params},
        epochs=int(frozen.user_attrs.get("epochs", 0)),
        seconds=float(frozen.user_attrs.get("seconds", 0.0)),
        note=note,
    )


__all__ = ["STAGES", "Trial", "TuneSettings", "Tuned", "metric_for", "need_optuna", "searched", "tune"]
