"""Several folds: rolling splits in time, and a recommender measured on each of them."""

import math
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
from scipy.stats import t as student

from suisen.arguments import shown
from suisen.data.dataset import Dataset, Split, Splitter
from suisen.data.durations import duration, moment_text, spelt
from suisen.data.log import Col
from suisen.data.ordered import OrderedLog
from suisen.data.split_checks import need_time, settle, settle_counts
from suisen.data.splits import GlobalTime
from suisen.display import Shown, Table
from suisen.errors import InputError
from suisen.evaluation import Report
from suisen.evaluation.metrics import parse
from suisen.evaluation.report import LEVEL, interval, number
from suisen.training.options import RunOptions

HEAD = ("metric", "mean", "95 % interval", "each fold")


class Folds(Protocol):
    """A rule that cuts a log several times."""

    def splits(self, log: OrderedLog) -> Iterator[Split]:
        """One split per fold."""


@dataclass(frozen=True)
class Rolling:
    """Time splits one behind the other: each fold tests on a window and learns from all that lies before it.

    The windows have the same length, the last one ends with the log; events behind a window are not used in its fold.

    >>> Rolling(folds=4, test="30d")
    Rolling(folds=4, test='30d', valid=None)
    """

    folds: int = 3
    """How many windows."""
    test: str = "7d"
    """Length of a window: a duration such as "7d" or "12h"."""
    valid: str | None = None
    """Length of what is held out for validation before each window; None: nothing."""

    def __post_init__(self) -> None:
        settle_counts(self, folds=1)
        for name, value in (("test", self.test), ("valid", self.valid)):
            if value is not None or name == "test":
                settle(self, **{name: moment_text(f"Rolling: {name}", value)})
                if duration(f"Rolling: {name}", getattr(self, name)) == 0:
                    raise InputError(f"Rolling: {name} = {value!r} must be longer than nothing, like '7d'")

    def splits(self, log: OrderedLog) -> Iterator[Split]:
        """The folds, oldest first.  Raises InputError without times, and where a fold's train or test is empty."""
        need_time(log, "Rolling")
        length, end = duration("Rolling: test", self.test), int(log.events.time.max())
        for left in range(self.folds, 0, -1):
            begin = end - left * length
            which = f"Rolling: fold {self.folds - left + 1} of {self.folds}"
            if begin <= int(log.events.time.min()):
                raise InputError(f"{which}: nothing lies before {spelt(begin)}; take fewer or shorter folds")
            known = log.log.events.filter(pl.col(Col.TIME) < begin + length) if left > 1 else log.log.events
            try:
                split = GlobalTime(self.valid, spelt(begin)).split(OrderedLog.of(replace(log.log, events=known)))
            except InputError as error:
                raise InputError(f"{which}: {error}; take fewer or shorter folds") from None
            yield split


class FoldScore(NamedTuple):
    """One metric over folds; ``low``, ``high``: 95 % t interval of the mean within the metric's
    bounds, NaN where there is one fold.
    """

    metric: str
    value: float
    low: float
    high: float
    folds: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class CrossValidation(Shown):
    """A report per fold, and the means over folds; prints itself."""

    name: str
    reports: tuple[Report, ...]

    @property
    def scores(self) -> tuple[FoldScore, ...]:
        """Each metric's mean over the folds.

        The interval takes the folds for independent; they share events of train, so it is rather too narrow (Bengio and
        Grandvalet 2004).
        """
        return tuple(self[metric] for metric in self.reports[0].values)

    def __getitem__(self, metric: str) -> FoldScore:
        each = np.array([report.value(metric) for report in self.reports])
        mean, half = float(each.mean()), math.nan
        if len(each) > 1:
            half = float(student.ppf((1 + LEVEL) / 2, len(each) - 1) * each.std(ddof=1) / math.sqrt(len(each)))
        least, most = parse(metric).metric.bounds
        low, high = np.clip([mean - half, mean + half], least, most).tolist()
        return FoldScore(metric, mean, low, high, tuple(each.tolist()))

    def __len__(self) -> int:
        return len(self.reports)

    def _parts(self) -> list[str | Table]:
        each = [
            (s.metric, number(s.value), interval(s.low, s.high), " ".join(map(number, s.folds))) for s in self.scores
        ]
        said = [
            line
            for at, report in enumerate(self.reports, 1)
            for line in (f"fold {at}: {report.protocol}", *(f"fold {at}, note: {note}" for note in report.notes))
        ]
        return [f"{self.name}: {len(self)} folds", Table(HEAD, each), *said]

    def to_frame(self) -> pl.DataFrame:
        """One row per metric: model, metric, value, low, high, folds (a list of each fold's value)."""
        return pl.DataFrame([{"model": self.name, **s._asdict(), "folds": list(s.folds)} for s in self.scores])


def cross_validation(
    recommender: Any,
    data: Dataset,
    rule: Folds | Iterable[Splitter | Split],
    measure: Callable[[Any, Split], Report],
    options: RunOptions | None,
) -> CrossValidation:
    """Fits a fresh copy on each fold's train and measures it; see ``suisen.pipeline.cross_validate``."""
    if not isinstance(data, Dataset):
        raise InputError(f"data = {shown(data)}: a Dataset is cut into folds; give the one that split() was called on")
    if not callable(recommender) and not hasattr(recommender, "fit"):
        raise InputError(f"recommender = {shown(recommender)} cannot be fitted; give Recommender(EASE()), no model")
    reports = []
    for split in _splits(data, rule):
        fresh = recommender() if callable(recommender) else copy(recommender)
        if not hasattr(fresh, "fit"):
            made = "give Recommender(suisen.EASE()), or a function that makes one"
            raise InputError(f"recommender = {shown(recommender)} is no Recommender; {made}")
        reports.append(measure(fresh.fit(split.train, split.valid, options), split))
    if not reports:
        raise InputError("the rule gives no fold; give Rolling(folds=3) or a list of rules")
    return CrossValidation(reports[0].name, tuple(reports))


def _splits(data: Dataset, rule: Any) -> Iterator[Split]:
    if hasattr(rule, "splits"):
        yield from rule.splits(data)
        return
    if not isinstance(rule, Iterable):
        ways = "Rolling(folds=3), or a list like [Ratio(by='random', seed=s) for s in range(5)]"
        raise InputError(f"rule = {shown(rule)} is one split; give {ways}")
    for each in rule:
        yield each if isinstance(each, Split) else data.split(each)


__all__ = ["CrossValidation", "FoldScore", "Folds", "Rolling", "cross_validation"]
