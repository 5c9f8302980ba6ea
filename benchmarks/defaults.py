"""Defaults that travel: every model without a setting on every data set that is there, one line a run.

    python benchmarks/defaults.py                                # all that has no record yet
    python benchmarks/defaults.py --model ials --data gowalla

Each row is what ``suisen train`` gives who names a model and nothing else: epochs are picked on validation (see
accuracy.py), never on test.  It must stand above popularity on the same queries, and reach 80 % of the tuned figure of
the same data where results/accuracy.jsonl holds one.  A model that refuses (EASE, where the memory is too small) says
why; what is said of vanished vectors is kept.  At most ``--queries`` of test's queries are asked, the same ones of all.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import accuracy
import torch
from accuracy_table import Record
from common import RESULTS, append, options_of, records, stamp, training_parser
from defaults_table import judged

import suisen as su
from suisen.data.dataset import Split
from suisen.data.splits import LeaveLast
from suisen.errors import InputError
from suisen.models import MODELS, RANKERS, model_of
from suisen.models.closed_form import ClosedForm
from suisen.models.contract import vanished_vectors
from suisen.recommending.engine import recommendable
from suisen.recommending.scorers import NetScorer

FILE = "defaults.jsonl"
FULL = ["recall@20", "ndcg@20", "hr@10", "ndcg@10"]
"""Metrics of data sets that rank the whole catalogue."""
METRIC = {"gowalla": "ndcg@20"}
"""What is judged, where it is not ndcg@10."""
SLOW = "s3rec-beauty", "gowalla"
"""Where rankers alone are left out: a deep net per pair of tens of thousands of users and items is no first stage."""


def small(folder: Path, seed: int) -> Split:
    """MovieLens-100K, each user's last two events held out."""
    home = folder / "ml-100k"
    data = su.load_data("ml-100k", data_dir=home if home.exists() else None)
    return data.split(LeaveLast(test=1, valid=1))


def shop(folder: Path, seed: int) -> Split:
    """A synthetic shop: 3,000 visitors, 2,000 goods, features of both; each user's last two events held out."""
    return su.Dataset.of(su.World(users=3_000, items=2_000, seed=7).generate().log).split(LeaveLast(test=1, valid=1))


OURS = {
    "ml-100k": accuracy.Data(small, picked_on="each user's last but one"),
    "shop": accuracy.Data(shop, picked_on="each user's last but one"),
}
accuracy.DATA |= OURS
DATA = [*OURS, "ncf-ml-1m", "s3rec-beauty", "gowalla"]
"""In the order in which they run: the small ones first."""


def asked(split: Split, most: int) -> Split:
    """The split with at most so many of test's queries, always the same."""
    some = torch.randperm(len(split.test), generator=torch.Generator().manual_seed(0))[:most].sort().values
    said = f"{split.test.protocol}; {len(some):,} of {len(split.test):,} queries"
    return replace(split, test=replace(split.test.take(some), protocol=said))


def wanted(options: Namespace) -> Iterator[tuple[str, str, int]]:
    """Model, data and seed of each run that is asked for and has no record yet; popularity first."""
    done = {(line["model"], line["data"], line["seed"]) for line in records(RESULTS / FILE)}
    for data in DATA:
        for model in MODELS:
            if options.model not in (None, model) or options.data not in (None, data):
                continue
            if model in RANKERS and data in SLOW:
                continue
            yield from ((model, data, seed) for seed in options.seeds if (model, data, seed) not in done)


@cache
def loaded(data: str, seed: int, folder: Path, most: int) -> Split | None:
    """The split with its queries; None, and a line that says so, where the data are not there."""
    try:
        return asked(accuracy.DATA[data].load(folder, seed), most)
    except (su.SuisenError, SystemExit) as error:
        print(f"{data} is left out: {error}", file=sys.stderr)
        return None


def run(name: str, data: str, seed: int, split: Split, options: Namespace) -> Record:
    """One record."""
    started = time.perf_counter()
    model, metric = model_of(name), METRIC.get(data, "ndcg@10")
    metrics = ["hr@10", "ndcg@10"] if split.test.candidates is not None else FULL
    row = accuracy.Row(model=name, data=data, pick=metric, epochs=() if isinstance(model, ClosedForm) else None)
    how = su.RunOptions(seed=seed, max_seconds=options.max_seconds)
    out: Record = {"model": name, "data": data, "seed": seed, "metric": metric, "protocol": split.test.protocol}
    try:
        net, epochs, picked = accuracy.trained(row, model, split, how, seed)
    except InputError as error:
        return {**out, "metrics": {}, "refused": str(error), **stamp()}
    scorer = NetScorer(net, recommendable(model, split.train.trained_items))
    report = su.evaluate(scorer, split.test, metrics)
    found = {score.metric: round(score.value, 5) for score in report.scores}
    out |= {"metrics": found, "protocol": report.protocol, "epochs": epochs, "picked_on": picked}
    out |= {"notes": list(vanished_vectors(net, split.train)), "threads": options.threads, **stamp()}
    return {**out, "seconds": round(time.perf_counter() - started, 1)}


def main() -> int:
    """Runs what is asked for and has no record; 1 where a verdict is bad."""
    made = training_parser(__doc__ or "")
    made.add_argument("--model", choices=MODELS, help="without it all of them")
    made.add_argument("--data", choices=DATA, help="without it all of them")
    made.add_argument("--queries", type=int, default=2_000, help="most queries of test that are asked")
    made.add_argument("--max-seconds", type=float, default=1_800, help="most seconds of training per phase")
    options = options_of(made)
    torch.set_num_threads(options.threads)
    for name, data, seed in wanted(options):
        split = loaded(data, seed, options.data_dir, options.queries)
        if split is None:
            continue
        record = run(name, data, seed, split, options)
        append(FILE, record)
        print(f"{name} on {data}, seed {seed}: {record.get('refused') or record['metrics']}", flush=True)
    lines = [
        line
        for line in judged(records(RESULTS / FILE), records(RESULTS / "accuracy.jsonl"))
        if options.data in (None, line["data"])
    ]
    lines = [line for line in lines if options.model in (None, line["model"])]
    for line in lines:
        print(f"{line['model']:12} {line['data']:14} {line['metric']} {line['ours']} popularity {line['popular']} "
              f"tuned {line['tuned']}: {line['verdict']}")  # fmt: skip
    return int(any("**" in line["verdict"] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
