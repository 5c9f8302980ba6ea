"""Training speed: the trainer against the textbook loop on the same networks, data and law of negatives.

    python benchmarks/train_speed.py --data-dir ../shared/data

Both sides run in one process and alternate; each window lasts ``--seconds`` after its first steps.  Every window is a
line of results/train_speed.jsonl; docs/benchmarks.md has the medians.
"""

from __future__ import annotations

import contextlib
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import splits
import textbook
import torch
from common import append, median, parser, place, stamp

import suisen as su
from suisen.data.batch import Candidates
from suisen.data.dataset import Dataset
from suisen.data.sources import load
from suisen.data.splits import LeaveLast
from suisen.models.contract import ItemTable, Net
from suisen.recommending.scorers import NetScorer
from suisen.training.trainer import fit

FILE = "train_speed.jsonl"
WARM = 2
"""Steps before the clock starts."""


@dataclass(frozen=True)
class Case:
    """A network, its data, and the batch sizes that are tried on each side."""

    name: str
    model: Any
    clicks: bool
    ours: tuple[int, ...]
    textbook: tuple[int, ...]


CASES = (
    Case("MF", su.MF(), False, (256, 8192, 32768), (256, 1024, 4096)),
    Case(
        "Two-Tower",
        su.TwoTower(dim=32, hidden=(64,), history=0),
        False,
        (256, 1024, 4096, 16384, 65536),
        (256, 1024, 4096),
    ),
    Case("Two-Tower, defaults", su.TwoTower(), False, (256, 1024, 4096), (256, 1024, 4096)),
    Case("DeepFM", su.DeepFM(history=0, recent=0), True, (256, 4096, 16384), (256, 1024, 4096)),
    Case("DeepFM, defaults", su.DeepFM(), True, (256, 4096, 16384), (256, 1024, 4096)),
)
"""Clicks: ratings of 4 and 5 are label 1, the others 0; elsewhere every rating is a positive."""


class Enough(Exception):
    """Ends a window."""


class Clock:
    """Counts examples from the step ``WARM`` on and ends the window in time."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps, self.examples, self.started, self.took = seconds, 0, 0, 0.0, 0.0

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        pass

    def on_epoch(self, row: Any) -> None:
        pass

    def on_end(self, curve: Any) -> None:
        pass

    def on_batch(self, examples: int, loss: float) -> None:
        self.steps += 1
        now = time.perf_counter()
        if self.steps <= WARM:
            self.started = now
            return
        self.examples, self.took = self.examples + examples, now - self.started
        if self.took > self.seconds:
            raise Enough

    @property
    def rate(self) -> float:
        return self.examples / self.took


def ours(case: Case, train: Dataset, size: int, seconds: float) -> float:
    """Examples a second of the package's trainer, as a user runs it (clipping and checks of the loss included)."""
    clock = Clock(seconds)
    with contextlib.suppress(Enough):
        fit(replace(case.model, batch_size=size, epochs=1000), train, options=su.RunOptions(callbacks=(clock,)))
    return clock.rate


def theirs(
    case: Case, train: Dataset, examples: textbook.Examples, size: tuple[int, int], how: tuple[bool, float]
) -> float:
    """Examples a second of the textbook loop: batch and workers; plain layers or ours, and the length of the window."""
    plain, seconds = how
    clock = Clock(seconds)
    net = built(case.model, train)
    try:
        while True:
            for count in textbook.steps(net, examples, train, size, case.model.learning_rate, plain):
                clock.on_batch(count, 0.0)
    except Enough:
        return clock.rate


def built(model: Any, train: Dataset) -> Net:
    """The network as the trainer builds it."""
    torch.manual_seed(0)
    net: Net = model.build(train.schema)
    net.bind(ItemTable(train.item_features, train.trained_items))
    net.prepare(train)
    return net


def examples_of(case: Case, train: Dataset) -> textbook.Examples:
    """The textbook's data set of a case."""
    drawn = case.model.negatives if case.name == "MF" else 0
    return textbook.Examples(train, drawn, getattr(case.model, "history", 0), features=case.name != "MF")


def throughput(case: Case, train: Dataset, options: Namespace) -> None:
    """Windows of every batch size, both sides in turn."""
    examples = examples_of(case, train)
    sides: list[tuple[str, int, int, Callable[[], float]]] = [
        ("ours", size, 0, partial(ours, case, train, size, options.seconds)) for size in case.ours
    ]
    for size in case.textbook:
        for n in (0, 2):
            run = partial(theirs, case, train, examples, (size, n), (True, options.seconds))
            sides.append(("textbook", size, n, run))
        run = partial(theirs, case, train, examples, (size, 0), (False, options.seconds))
        sides.append(("textbook with our layers", size, 0, run))
    facts = {"case": case.name, "model": type(case.model).__name__, "params": plain(case.model), **run_facts(options)}
    for number in range(options.rounds):
        for side, size, workers, run in sides if number % 2 == 0 else sides[::-1]:
            rate = run()
            found = {"what": "throughput", "round": number, "side": side, "batch_size": size, "workers": workers}
            append(FILE, {**found, "samples_per_second": round(rate, 1), "seconds": options.seconds, **facts})
            print(f"{case.name}: {side}, batch {size}, {workers} workers: {rate:,.0f} samples/s", flush=True)


# -- seconds to the same validation score -----------------------------------------------------------------------------


def to_score(case: Case, data: Dataset, options: Namespace) -> None:
    """Both sides with the same hyper-parameters at batch 1,024; only training is timed."""
    train, validate = held_out(case, data)
    model = replace(case.model, batch_size=1024, epochs=options.epochs)
    facts = {"case": case.name, "params": plain(model), "data": f"ML-1M, {train!r}", **run_facts(options)}
    curves = {"ours": score_of_ours(model, train, validate), "textbook": score_of_theirs(case, model, train, validate)}
    for side, curve in curves.items():
        append(FILE, {"what": "to_score", "side": side, "curve": curve, **facts})
    target = 0.98 * min(max(score for _, score in curve) for curve in curves.values())
    first = {side: next(seconds for seconds, score in curve if score >= target) for side, curve in curves.items()}
    ratio = first["textbook"] / first["ours"]
    print(f"{case.name}: score {target:.4f} after {first}, ratio {ratio:.1f}", flush=True)


def score_of_ours(model: Any, train: Dataset, validate: Callable[[Net], float]) -> list[tuple[float, float]]:
    """(seconds of training so far, score) an epoch."""
    _, curves = fit(model, train, validate, su.RunOptions(patience=1000))
    rows = curves[0].rows
    seconds = np.cumsum([row.seconds for row in rows])
    return [(round(float(s), 3), round(row.metric or 0.0, 5)) for s, row in zip(seconds, rows, strict=True)]


def score_of_theirs(
    case: Case, model: Any, train: Dataset, validate: Callable[[Net], float]
) -> list[tuple[float, float]]:
    """The same of the textbook loop, in one process (the quicker way where the data are few)."""
    net, examples, spent, curve = built(model, train), examples_of(case, train), 0.0, []
    optimised: Iterator[int]
    for _ in range(model.epochs):
        started = time.perf_counter()
        optimised = textbook.steps(net, examples, train, (model.batch_size, 0), model.learning_rate)
        for _count in optimised:
            pass
        spent += time.perf_counter() - started
        net.eval()
        with torch.no_grad():
            curve.append((round(spent, 3), round(validate(net), 5)))
    return curve


def held_out(case: Case, data: Dataset) -> tuple[Dataset, Callable[[Net], float]]:
    """Train and a score: the AUC of a tenth of the clicks, or NDCG@10 of each user's last event."""
    if not case.clicks:
        split = LeaveLast(test=1, valid=0).split(data)
        allowed = split.train.trained_items
        return split.train, lambda net: su.evaluate(NetScorer(net, allowed), split.test, ["ndcg@10"]).value("ndcg@10")
    asked = torch.rand(len(data.events), generator=torch.Generator().manual_seed(0)) < 0.1
    rows = asked.nonzero().squeeze(1)
    label = data.events.label
    assert label is not None
    contexts, items = data.contexts(rows, case.model.history), Candidates(data.events.item[rows, None])
    return data.keep(~asked), lambda net: auc(net.score(contexts, items)[:, 0].numpy(), label[rows].numpy())


def auc(scores: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """Area under the ROC curve by ranks; ties count one half."""
    values, place_of, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (counts.cumsum() - (counts - 1) / 2)[place_of]
    positives = int((labels > 0).sum())
    negatives = len(values[place_of]) - positives
    return float((rank[labels > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


# -- SASRec -----------------------------------------------------------------------------------------------------------


def tokens(options: Namespace) -> None:
    """Whole epochs with and without batching by length; a token is a position with a next item, padding is none."""
    train = splits.sasrec(options.data_dir).train
    train = train.keep(train.user % options.every == 0)
    model = su.SASRec(epochs=1)
    real = int((train.histories.lengths.clamp(max=model.length + 1) - 1).clamp(min=0).sum())
    facts = {"case": "SASRec", "model": "SASRec", "params": plain(model), "tokens": real, **run_facts(options)}
    for number in range(min(options.rounds, 2)):
        for by_length in (True, False) if number % 2 == 0 else (False, True):
            _, curves = fit(replace(model, batch_by_length=by_length, groups=1), train)
            rate = real / curves[0].rows[0].seconds
            side = "by length" if by_length else "any lengths"
            append(
                FILE, {"what": "tokens", "round": number, "side": side, "tokens_per_second": round(rate, 1), **facts}
            )
            print(f"SASRec, batches of {side}: {rate:,.0f} real tokens/s", flush=True)


# -- all of it --------------------------------------------------------------------------------------------------------


def plain(model: Any) -> dict[str, Any]:
    return asdict(model)


def run_facts(options: Namespace) -> dict[str, Any]:
    return {"threads": options.threads, "run": options.run, **stamp()}


def every_tenth_user(data: Dataset) -> Dataset:
    """A tenth of the users, with ids and tables of the whole."""
    return data.keep(data.user % 10 == 1)


def main() -> int:
    """Measures what is asked for."""
    made = parser(__doc__ or "")
    made.add_argument("--only", nargs="+", default=[*[case.name for case in CASES], "SASRec"])
    made.add_argument("--seconds", type=float, default=2.5, help="length of a window")
    made.add_argument("--every", type=int, default=1, help="SASRec reads every so many-th user")
    made.add_argument("--epochs", type=int, default=20, help="epochs of the race to the same score")
    options = made.parse_args()
    options.run = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    torch.set_num_threads(options.threads)
    place(options.data_dir, "ml-1m.zip")
    plain_data = Dataset.of(load("ml-1m", options.data_dir))
    clicks = Dataset.of(load("ml-1m", options.data_dir, positive_from=4))
    for case in CASES:
        if case.name not in options.only:
            continue
        data = clicks if case.clicks else plain_data
        throughput(case, data, options)
        if "defaults" not in case.name:
            to_score(case, every_tenth_user(data), options)
    if "SASRec" in options.only:
        tokens(options)
    summary(options.run)
    return 0


def summary(run: str) -> None:
    """The medians of this run."""
    from common import RESULTS, records

    lines = [line for line in records(RESULTS / FILE) if line["run"] == run and line["what"] == "throughput"]
    for case in dict.fromkeys(line["case"] for line in lines):
        mine = [line for line in lines if line["case"] == case]
        best = {side: max(medians(mine, side).values()) for side in ("ours", "textbook")}
        print(f"{case}: {best['ours'] / best['textbook']:.1f}x at each side's best", flush=True)


def medians(lines: list[dict[str, Any]], side: str) -> dict[tuple[int, int], float]:
    """(batch size, workers) → median samples/s of one side."""
    keys = dict.fromkeys((line["batch_size"], line["workers"]) for line in lines if line["side"] == side)
    return {
        key: median(
            line["samples_per_second"]
            for line in lines
            if line["side"] == side and (line["batch_size"], line["workers"]) == key
        )
        for key in keys
    }


if __name__ == "__main__":
    sys.exit(main())
