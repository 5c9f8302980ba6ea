"""Evaluation speed: full ranking of ML-1M beside RecBole's evaluator, and a catalogue of a million items.

    python benchmarks/eval_speed.py --data-dir ../shared/data

Both sides rank the same 6,040 × 3,706 scores of the same vectors, leave-last-out, seen items excluded, and report the
same five metrics; their values are compared before the times are.  Lines go to results/eval_speed.jsonl.
"""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from common import Peer, append, environment, median, parser, peak_rss, place, stamp
from torch import Tensor, nn

import suisen as su
from suisen.data.batch import Contexts, Features, Queries
from suisen.data.dataset import Dataset, Split
from suisen.data.ragged import Ragged
from suisen.data.sources import load
from suisen.data.splits import LeaveLast
from suisen.models.contract import ItemTable, Retriever
from suisen.recommending.scorers import NetScorer

FILE = "eval_speed.jsonl"
BATCHES = (0, 2**20, 2**22, 2**24)
"""eval_batch_size of RecBole, in scores; 0: its default."""
NEEDS = ("ray[tune]", "scikit-learn", "pyyaml", "colorlog", "colorama", "tqdm", "tensorboard", "tabulate", "texttable")
RECBOLE = (
    ["torch==2.13.0", "numpy<2", "pandas<2.3", "scipy<1.12", "pyarrow<20", "psutil", *NEEDS],
    ["--no-deps", "recbole==1.2.1", "thop"],
)
NAMES = {"recall": "recall", "mrr": "mrr", "ndcg": "ndcg", "hr": "hit", "precision": "precision"}
"""Our metrics and RecBole's."""


class Given(Retriever):
    """Vectors as they are given."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        super().__init__()
        self.users, self.vectors = users, items
        nothing = Features.none(len(items))
        self.bind(ItemTable(nothing, torch.arange(len(items)) > 0))

    def query_vectors(self, contexts: Contexts) -> Tensor:
        return self.users[contexts.user]

    def item_vectors(self) -> Tensor:
        return self.vectors


def ml_1m(folder: Path) -> Split:
    """Leave last out; the catalogue is the 3,706 rated films."""
    log = load("ml-1m", place(folder, "ml-1m.zip"))
    rated = log.events.select(pl.col("item").unique(maintain_order=True))
    return LeaveLast(test=1, valid=1).split(Dataset.of(replace(log, items=rated, users=None)))


def atomic(folder: Path, split: Split) -> None:
    """The same events as RecBole reads them; the place in our order stands for the time, so that no two are equal."""
    data = split.train
    queries, valid = split.test, split.valid
    assert valid is not None
    parts = [
        (data.user, data.events.item, torch.arange(len(data.events))),
        (valid.contexts.user, valid.truth.values, torch.arange(len(valid)) + 10_000_000),
        (queries.contexts.user, queries.truth.values, torch.arange(len(queries)) + 20_000_000),
    ]
    user, item, time_ = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    frame = pl.DataFrame({"user_id:token": user, "item_id:token": item, "timestamp:float": time_})
    (folder / "ml").mkdir()
    frame.write_csv(folder / "ml" / "ml.inter", separator="\t")


def reset_peak() -> None:
    """Lets the peak start anew."""
    Path("/proc/self/clear_refs").write_text("5")


def beside_recbole(options: Namespace) -> None:
    """Interleaved evaluations of the same vectors."""
    split = ml_1m(options.data_dir)
    rng = torch.Generator().manual_seed(0)
    schema = split.train.schema
    users, items = (torch.randn((n, options.dim), generator=rng) for n in (schema.n_users, schema.n_items))
    net = Given(users, items)
    scorer_of = lambda: NetScorer(net, torch.arange(schema.n_items) > 0)  # noqa: E731
    facts = {"users": schema.n_users - 1, "items": schema.n_items - 1, "dim": options.dim, "threads": options.threads}
    facts |= {"run": time.strftime("%Y%m%dT%H%M%S", time.gmtime()), **stamp()}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        atomic(folder, split)
        np.save(folder / "users.npy", users.numpy())
        np.save(folder / "items.npy", items.numpy())
        script = Path(__file__).with_name("peer_recbole.py")
        peer = Peer(environment("recbole", *RECBOLE), script, home, str(options.dim), str(options.threads), cwd=home)
        for topk in ([10], [100]):
            metrics = [f"{name}@{k}" for name in NAMES for k in topk]
            compare(Comparison(scorer_of, split, metrics, topk, peer, facts), options.rounds)
        peer.close()


class Comparison:
    """One setting of k, both sides."""

    def __init__(
        self, scorer: Any, split: Split, metrics: list[str], topk: list[int], peer: Peer, facts: dict[str, Any]
    ) -> None:
        self.scorer, self.split, self.metrics = scorer, split, metrics
        self.topk, self.peer, self.facts = topk, peer, {"what": "beside recbole", "k": topk[-1], **facts}

    def ours(self) -> dict[str, Any]:
        reset_peak()
        started = time.perf_counter()
        report = su.evaluate(self.scorer(), self.split.test, self.metrics)
        values = {metric: report.value(metric) for metric in self.metrics}
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "resident_bytes": peak_rss(), "metrics": values}

    def note(self, side: str, number: int, found: dict[str, Any]) -> float:
        kept = {
            "seconds": round(found["seconds"], 4),
            "resident_bytes": found["resident_bytes"],
            "batch": found.get("batch"),
        }
        append(FILE, {"side": side, "round": number, **kept, "metrics": found["metrics"], **self.facts})
        return float(found["seconds"])


def compare(it: Comparison, rounds: int) -> None:
    """Rounds of both; the values are compared first."""
    mine, theirs = it.ours(), it.peer.ask(topk=it.topk, batch=0)  # the first of each only warms up
    for ours, name in NAMES.items():
        for k in it.topk:
            a, b = mine["metrics"][f"{ours}@{k}"], theirs["metrics"][f"{name}@{k}"]
            if abs(a - b) > 2e-4:
                raise SystemExit(f"{ours}@{k}: ours {a:.5f}, RecBole's {b:.5f}: not the same task")
    seconds: dict[Any, list[float]] = {}
    for number in range(rounds):
        seconds.setdefault("ours", []).append(it.note("ours", number, it.ours()))
        for batch in BATCHES:
            found = it.peer.ask(topk=it.topk, batch=batch)
            seconds.setdefault(batch, []).append(it.note("recbole", number, found))
    mid = {key: median(values) for key, values in seconds.items()}
    best = min(BATCHES, key=lambda batch: mid[batch])
    print(
        f"k = {it.topk[-1]}: ours {mid['ours']:.3f} s; RecBole {mid[0]:.2f} s at its default "
        f"({mid[0] / mid['ours']:.1f}x), "
        f"{mid[best]:.2f} s at its best batch {best} ({mid[best] / mid['ours']:.1f}x; target 10x)",
        flush=True,
    )


def million(options: Namespace) -> None:
    """100,000 users × 1,000,000 items in one process of its own; what counts is the whole process's peak."""
    rng = torch.Generator().manual_seed(0)
    n, m = options.users, 1_000_000
    users = torch.randn((n + 1, 128), generator=rng)
    items = torch.randn((m + 1, 128), generator=rng)
    net = Given(nn.Parameter(users, requires_grad=False), nn.Parameter(items, requires_grad=False))
    ids = torch.arange(1, n + 1)
    truth = Ragged(torch.randint(1, m + 1, (n,), generator=rng), torch.arange(n + 1))
    seen = Ragged(torch.randint(1, m + 1, (n * 20,), generator=rng), torch.arange(n + 1) * 20)
    queries = Queries(Contexts.of_users(ids), truth, seen, protocol="random vectors")
    queries = queries.take(torch.arange(min(n, options.asked)))
    started = time.perf_counter()
    report = su.evaluate(NetScorer(net, torch.arange(m + 1) > 0), queries, ["ndcg@10", "hr@100"])
    seconds = time.perf_counter() - started
    record = {
        "what": "million",
        "users": n,
        "asked": len(queries),
        "items": m,
        "dim": 128,
        "seconds": round(seconds, 1),
    }
    record |= {"peak_rss_bytes": peak_rss(), "peak_scores_bytes": report.peak_bytes, "threads": options.threads}
    append(FILE, {**record, "hr@100": report.value("hr@100"), **stamp()})
    print(
        f"{len(queries):,} of {n:,} users × {m:,} items: {seconds:.0f} s, "
        f"{peak_rss() / 2**30:.2f} GiB resident at most (limit 2)"
    )


def main() -> int:
    """``--only million`` is its own process, so that nothing else is resident."""
    made = parser(__doc__ or "")
    made.add_argument("--dim", type=int, default=64)
    made.add_argument("--users", type=int, default=100_000, help="users of the million-item catalogue")
    made.add_argument("--asked", type=int, default=100_000, help="how many of them are evaluated")
    made.add_argument("--only", choices=("recbole", "million"))
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    if options.only != "million":
        beside_recbole(options)
    if options.only == "million":
        million(options)
    elif options.only is None:
        import subprocess

        words = ["--only", "million", "--users", str(options.users), "--threads", str(options.threads)]
        words += ["--asked", str(options.asked)]
        subprocess.run([sys.executable, __file__, *words], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
