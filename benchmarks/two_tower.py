"""Two-Tower: its losses beside each other and temperature's effect; the warm and the cold row, which accuracy.py runs.

    python benchmarks/two_tower.py losses temperature plot --data gowalla ml-1m.zip --seeds 0

Appends a line a run to results/accuracy.jsonl; a run whose line is there, with the same settings and of the same
commit, is not run again.  Losses get the same number of epochs each; temperatures too, at most, and are compared on a
part of train alone; the warm and the cold row pick theirs on a part of train (``picked_on``) and train again on all.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gowalla
import torch
from accuracy_table import tower_runs
from common import (
    IMAGES,
    RESULTS,
    Lines,
    Outcome,
    append,
    commit,
    draw_picture,
    options_of,
    reached,
    records,
    told,
    training_parser,
)

import suisen as su
from suisen.data.batch import Queries
from suisen.data.dataset import Dataset, Split
from suisen.data.log import Col
from suisen.data.sources import load
from suisen.data.splits import ByRows, LeaveLast
from suisen.models.contract import Net
from suisen.pages.draw import Axis, Line, Panel
from suisen.recommending.scorers import NetScorer
from suisen.training.options import Curve
from suisen.training.trainer import fit

FILE = "accuracy.jsonl"
PICTURE = IMAGES / "two_tower_temperature.svg"
LOSSES: dict[str, dict[str, Any]] = {
    "in-batch": {"log_q": "none"},
    "in-batch + logQ": {},
    "in-batch + streaming logQ": {"log_q": "streaming"},
    "uniform": {"loss": "uniform"},
    "mixed": {"loss": "mixed", "log_q": "none"},
    "mixed + logQ": {"loss": "mixed"},
    "triplet": {"loss": "triplet"},
    "in-batch + logQ + hard": {"hard": 4},
}
TEMPERATURES = (0.03, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0)
EASE_GRID, IALS_GRID = (200.0, 500.0, 1000.0, 2000.0), ({}, {"dim": 192, "l2": 0.007, "unobserved": 0.3, "epochs": 12})
EPOCHS, PATIENCE = 6, 3
"""Of each loss (at most, of each temperature); and epochs without a better one after which training stops."""
COLD = {"history": 50, "hide_ids": 0.5}
"""What the cold row changes of the defaults: items without an id are what it is about."""


@dataclass(frozen=True)
class Data:
    """A split, the part of its train that picks, and what the model reads there."""

    load: Callable[[Path], Split]
    inner: Callable[[Dataset], Split]
    settings: dict[str, Any]
    metrics: tuple[str, ...]
    pick: str


def ml1m(folder: Path) -> Split:
    """Leave-one-out by time."""
    return LeaveLast(test=1, valid=0).split(Dataset.of(load("ml-1m", folder)))


DATA = {
    "gowalla": Data(gowalla.gowalla, gowalla.validation, {"history": 0}, ("recall@20", "ndcg@20"), "recall@20"),
    "ml-1m.zip": Data(
        ml1m,
        lambda train: LeaveLast(test=1, valid=0).split(train),
        {},
        ("recall@20", "ndcg@20", "recall@100", "ndcg@10"),
        "recall@100",
    ),
}


# -- one run ----------------------------------------------------------------------------------------------------------


def value(net: Net, allowed: torch.Tensor, queries: Queries, metric: str) -> float:
    """One metric of a network."""
    return su.evaluate(NetScorer(net, allowed), queries, [metric]).value(metric)


def searched(model: Any, inner: Split, allowed: torch.Tensor, pick: str, options: Namespace) -> tuple[Net, Curve]:
    """The network at its best epoch on the part that picks, and its curve there."""
    how = su.RunOptions(seed=options.seed, patience=PATIENCE, callbacks=(Lines(),))
    net, curves = fit(model, inner.train, lambda net: value(net, allowed, inner.test, pick), how)
    return net, curves[-1]


def done(what: str, variant: str, data: str, model: Any, options: Namespace) -> bool:
    """Whether the line of this run is in the results: the same settings of the same commit."""
    known = {
        "what": what, "variant": variant, "data": data, "seed": options.seed, "purpose": options.purpose,
        "commit": commit(), "config": json.loads(json.dumps({"model": type(model).__name__, **asdict(model)})),
    }  # fmt: skip
    return any(all(line.get(name) == value for name, value in known.items()) for line in records(RESULTS / FILE))


def keep(
    what: str,
    variant: str,
    data: str,
    out: Outcome,
    options: Namespace,
    floors: dict[str, float] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Appends the run's line."""
    name = "two-tower" if isinstance(out.model, su.TwoTower) else variant
    record = out.record(name, data, options.seed, floors or {}, options.purpose)
    append(FILE, record := {**record, "threads": options.threads, "what": what, "variant": variant, **more})
    print(told(f"{what}, {variant}", record), flush=True)
    return record


def refitted(model: Any, split: Split, epochs: int, options: Namespace) -> Net:
    """The network trained on all of train for so many epochs."""
    again = su.RunOptions(seed=options.seed, callbacks=(Lines(),))
    net, _ = fit(model, split.train, options=again, epochs_per_phase=[epochs])
    return net


# -- losses and temperature -------------------------------------------------------------------------------------------


def losses(options: Namespace) -> None:
    """Every loss on every data set, with the same number of epochs."""
    for name in options.data:
        data = DATA[name]
        split = data.load(options.data_dir)
        for variant in options.only:
            model = su.TwoTower(**{**data.settings, **LOSSES[variant], "epochs": options.epochs, **options.set})
            if done("losses", variant, name, model, options):
                continue
            started = time.perf_counter()
            net = refitted(model, split, model.epochs, options)
            report = su.evaluate(NetScorer(net, split.train.trained_items), split.test, data.metrics)
            said = "nothing: the same number of epochs for every loss"
            out = Outcome(report, model, model.epochs, said, started)
            keep("losses", variant, name, out, options)


def temperature(options: Namespace) -> None:
    """The metric that picks, at every temperature; test is not looked at."""
    for name in options.data:
        data = DATA[name]
        inner = data.inner(data.load(options.data_dir).train)
        for tau in TEMPERATURES:
            model = su.TwoTower(**{**data.settings, "temperature": tau, "epochs": options.epochs, **options.set})
            if done("temperature", f"{tau:g}", name, model, options):
                continue
            started = time.perf_counter()
            net, curve = searched(model, inner, inner.train.trained_items, data.pick, options)
            report = su.evaluate(NetScorer(net, inner.train.trained_items), inner.test, data.metrics)
            said = f"this part of train itself, {data.pick}"
            out = Outcome(report, model, curve.best_epoch, said, started)
            keep("temperature", f"{tau:g}", name, out, options)


def plot(options: Namespace) -> None:
    """Draws what the table holds of temperatures, the mean over seeds."""
    lines = [line for line in tower_runs(records(RESULTS / FILE)) if line["what"] == "temperature"]
    if not lines:
        raise SystemExit("no line of a temperature in the results; run: python benchmarks/two_tower.py temperature")
    marks = []
    data = dict.fromkeys(line["data"] for line in lines)
    for name, colour in zip(data, ("accent", "second", "bad", "muted"), strict=False):
        metric = DATA[name].pick
        mean: dict[float, list[float]] = {}
        for line in lines:
            if line["data"] == name:
                mean.setdefault(float(line["variant"]), []).append(line["metrics"][metric])
        taus = sorted(mean)
        values = [sum(mean[tau]) / len(mean[tau]) for tau in taus]
        marks.append(Line(taus, values, colour=colour, label=f"{name}, {metric}"))
    x = Axis(label="temperature", log=True, marks={tau: f"{tau:g}" for tau in TEMPERATURES})
    draw_picture(PICTURE, "Validation metric by temperature", [Panel(marks=marks, x=x, y=Axis(label="validation"))])


# -- the warm row -----------------------------------------------------------------------------------------------------


def warm(options: Namespace) -> bool:
    """Two-Tower against the better of iALS and EASE, each picked on the same part of the same train.

    Whether its floor is reached.
    """
    name = "ml-1m.zip"
    data = DATA[name]
    split = data.load(options.data_dir)
    inner, allowed = data.inner(split.train), split.train.trained_items
    best = max(rivals(split, inner, data, options), key=lambda record: record["metrics"][data.pick])
    floor = round(0.97 * best["metrics"][data.pick], 5)
    started = time.perf_counter()
    model = su.TwoTower(**{**data.settings, **options.set})
    _, curve = searched(model, inner, inner.train.trained_items, data.pick, options)
    net = refitted(model, split, epochs := curve.best_epoch, options)
    report = su.evaluate(NetScorer(net, allowed), split.test, data.metrics)
    out = Outcome(report, model, epochs, f"validation {data.pick}: each user's last of train; refit on all", started)
    return reached(keep("warm", "two-tower", name, out, options, {data.pick: floor}, against=best["model"]))


def rivals(split: Split, inner: Split, data: Data, options: Namespace) -> Iterator[dict[str, Any]]:
    """The records of iALS and EASE at their best setting of a small grid."""
    grids = {"ials": [su.IALS(**one) for one in IALS_GRID], "ease": [su.EASE(l2=l2) for l2 in EASE_GRID]}
    for variant, grid in grids.items():
        started, scores = time.perf_counter(), []
        for model in grid:
            net, _ = fit(model, inner.train, options=su.RunOptions(seed=options.seed))
            scores.append(value(net, inner.train.trained_items, inner.test, data.pick))
            print(f"  {model}: validation {data.pick} {scores[-1]:.4f}", flush=True)
        model = grid[scores.index(max(scores))]
        net, _ = fit(model, split.train, options=su.RunOptions(seed=options.seed))
        report = su.evaluate(NetScorer(net, split.train.trained_items), split.test, data.metrics)
        out = Outcome(report, model, None, f"validation {data.pick}: each user's last of train", started)
        yield keep("warm", variant, "ml-1m.zip", out, options)


# -- the cold row -----------------------------------------------------------------------------------------------------


def without(data: Dataset, seed: int) -> tuple[Split, torch.Tensor]:
    """A tenth of the items with events, drawn, all of whose events are test's; and their mask (in train's ids).

    A query is a user with his events of cold items as truth and all others as history.
    """
    items = data.trained_items.nonzero().squeeze(1)
    count = round(0.1 * len(items))
    drawn = items[torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))[:count]]
    mine = torch.isin(data.events.item, drawn)
    rows = data.log.events[Col.ROW].to_torch()[mine]
    split = ByRows(rows, rule=f"{count} cold items, drawn with seed {seed}, without an event in train").split(data)
    cold = torch.zeros(split.train.schema.n_items, dtype=torch.bool)
    cold[torch.from_numpy(split.train.items.dense(data.items.raw(drawn.numpy())))] = True
    return split, cold


def of_random(queries: Queries, among: int, k: int = 10) -> float:
    """The expected NDCG@k of a random order of ``among`` items: mean over queries, exact."""
    gain = 1 / torch.arange(2, k + 2, dtype=torch.float64).log2()
    relevant = queries.truth.lengths.clamp(max=among)
    found = relevant / among * gain[: min(k, among)].sum()
    return float((found / gain.cumsum(0)[relevant.clamp(max=k) - 1]).mean())


@torch.no_grad()
def ranks_among_all(net: Net, queries: Queries) -> torch.Tensor:
    """(truth values,) pessimistic ranks among all items, cold and warm, but those that the user has seen."""
    out = []
    for rows in torch.arange(len(queries)).split(256):  # type: ignore[no-untyped-call]
        some = queries.take(rows)
        scores = net.score_all(some.contexts)  # type: ignore[operator]
        at, items = some.truth.rows(), some.truth.values
        own = scores[at, items]
        scores[some.seen.rows(), some.seen.values] = -torch.inf
        scores[:, 0] = -torch.inf
        out.append((scores[at] >= own[:, None]).sum(1))
    return torch.cat(out)


def cold(options: Namespace) -> bool:
    """Ranked among cold items alone against chance, and among all items; whether its floor is reached."""
    data = Dataset.of(load("ml-1m", options.data_dir))
    split, mask = without(data, 0)
    inner, inner_mask = without(split.train, 1)
    started = time.perf_counter()
    model = su.TwoTower(**{**COLD, **options.set})
    _, curve = searched(model, inner, inner_mask, "ndcg@10", options)
    net = refitted(model, split, curve.best_epoch, options)
    report = su.evaluate(NetScorer(net, mask), split.test, ["ndcg@10", "recall@10"])
    report = replace(report, protocol=f"{report.protocol}; ranked among the cold items alone")
    said = "ndcg@10 on a tenth of train's items made cold, seed 1"
    out = Outcome(report, model, curve.best_epoch, said, started)
    chance, rank = of_random(split.test, int(mask.sum())), ranks_among_all(net, split.test).double()
    low, high = report["ndcg@10"].low, report["ndcg@10"].high
    more = {
        "random": {"ndcg@10": round(chance, 5)},
        "interval": {"ndcg@10": [round(low, 5), round(high, 5)]},
        "rank_among_all": {
            "mean": round(float(rank.mean()), 1),
            "median": float(rank.median()),
            "items": len(mask) - 1,
        },
    }
    floors = {"ndcg@10": round(1.5 * chance, 5)}
    record = keep("cold", "two-tower", "ml-1m.zip", out, options, floors, **more)
    times, items = record["metrics"]["ndcg@10"] / chance, len(mask) - 1
    print(f"cold: {times:.2f} times random's {chance:.4f}, interval [{low:.4f}, {high:.4f}]", flush=True)
    print(f"cold: among all {items:,} items mean rank {rank.mean():.0f}, median {rank.median():.0f}", flush=True)
    return reached(record) and low > chance


def main() -> int:
    """Runs what is asked for, a seed after the other."""
    parts = {"losses": losses, "temperature": temperature, "plot": plot}
    made = training_parser(__doc__ or "")
    made.add_argument("part", nargs="+", choices=list(parts))
    made.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    made.add_argument("--only", nargs="+", choices=list(LOSSES), default=list(LOSSES), help="of the losses")
    made.add_argument("--epochs", type=int, default=EPOCHS, help="of each loss; at most, of each temperature")
    options = options_of(made)
    torch.set_num_threads(options.threads)
    for part in options.part:
        for seed in options.seeds[: 1 if part == "plot" else None]:
            parts[part](Namespace(**{**vars(options), "seed": seed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
