"""``suisen demo``: the whole path in one go on MovieLens-100K."""

import json
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from suisen.evaluation import Report
from suisen.pages.report import outcome
from suisen.pages.report import verdict as sentence
from suisen.recommending.standin import build_ranker
from suisen.runs import folder as place
from suisen.runs.config import Raw, resolve, with_epochs
from suisen.runs.keep import save
from suisen.runs.run import Run, against, execute, report_on
from suisen.runs.summary import summary
from suisen.training.progress import Progress

DATA = {"name": "ml-100k"}
RETRIEVER = {"name": "two-tower", "batch_size": 1024, "learning_rate": 0.001}
RANKER = {"name": "sasrec", "length": 50, "published": True}
RUN: dict[str, Any] = {
    "candidates": 500,
    "seed": 0,
    "final": False,
    "metrics": ["ndcg@10", "hr@10", "recall@100", "mrr@10"],
}
USER = "196"
K = 10
RANDOM = "random ranker"


@click.command(short_help="The whole path in one go on MovieLens-100K.")
@click.option("--out", default="runs/demo", metavar="DIR", help="Run folder; an older demo is replaced.")
@click.option("--data-dir", metavar="DIR", help="Folder or zip file of MovieLens-100K; else the cache, else fetched.")
@click.option("--epochs", type=int, metavar="INT", help="Most epochs of the models, for a quick look.")
@click.option("--port", type=int, default=0, help="Port that the demo serves on; 0: a free one.")
@click.option("--threads", type=int, default=0, help="Threads of torch; 0: one per core.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def demo(out: str, data_dir: str | None, epochs: int | None, port: int, threads: int, quiet: bool) -> None:
    """Fetch MovieLens-100K, train a retriever and a ranker, measure them against simpler ones, serve, ask, stop.

    \b
    suisen demo

    Prints the metric table (popularity, the retriever alone, both stages, and both with a ranker of random weights)
    with paired differences and a verdict, writes the bundle and the report into runs/demo, serves it on this machine
    and asks it over HTTP for ten titles.  Some minutes on two cores.  Afterwards: suisen recommend runs/demo --user 196
    """  # noqa: D301 - \b keeps the lines for click
    import suisen.serving  # noqa: F401 - says that the extra is missing before the minutes of training, not after

    started = time.perf_counter()
    data = {**DATA, "data_dir": data_dir} if data_dir else dict(DATA)
    options = {**RUN, "threads": threads}
    raw: Raw = {"data": data, "retriever": dict(RETRIEVER), "ranker": dict(RANKER), "run": options}
    config = resolve(with_epochs(raw, epochs, {}))
    folder = Path(out)
    run = execute(config, folder, callbacks=lambda: [] if quiet else [Progress()], overwrite=True)
    metrics = list(run.reports["test"].values)
    run.baselines.append(random_ranker(run, metrics))
    run.comparisons = against(run.reports["test"], run.baselines, metrics[0])
    save(run)
    click.echo(summary(run))
    click.echo(f"\nverdict: {verdict(run)}")
    _serve_and_ask(folder, port)
    click.echo(f"\nthe demo took {time.perf_counter() - started:.0f} s")
    click.echo(f"next: suisen recommend {folder} --user {USER}   or   suisen serve {folder}")


def random_ranker(run: Run, metrics: list[str]) -> Report:
    """The run's retriever with a ranker that has learnt nothing, on test."""
    rec = run.recommender
    if rec.ranker is None:
        raise TypeError("the demo has a ranker")
    with torch.random.fork_rng():
        torch.manual_seed(run.config.run.seed)
        net = build_ranker(rec.ranker, replace(rec.store.schema, pair=rec.engine.pair_names))
    net.bind(rec.store.item_table)
    net.eval()
    return report_on(rec, run.split.test, metrics, RANDOM, rec.engine.with_ranker(net))


def verdict(run: Run) -> str:
    """What the p-values say of the second stage, whatever they say."""
    rows = {} if run.comparisons is None else {row.baseline: row for row in run.comparisons.rows}
    said = [sentence(row) for name, row in rows.items() if name.endswith(" alone")]
    said += [sentence(rows["popularity"])] if "popularity" in rows else []
    if (random := rows.get(RANDOM)) is not None:
        learnt = "the ranker has learnt something" if outcome(random) == "better" else "the ranker has learnt nothing"
        said.append(f"Against random weights {learnt}: {sentence(random)}")
    return " ".join(said)


# -- over HTTP ---------------------------------------------------------------------------------------------------------


def _serve_and_ask(folder: Path, port: int) -> None:
    from suisen.serving.server import start_in_thread

    server = start_in_thread(folder / place.BUNDLE, port=port)
    try:
        click.echo(f"\nserving {folder} on {server.url}")
        answer, took = ask(f"{server.url}/v1/recommend", {"queries": [{"user_id": USER}], "k": K})
        click.echo(f"POST /v1/recommend for user {USER}: {took:.1f} ms over HTTP, {answer['took_ms']:.1f} ms inside")
        for item in answer["answers"][0]["items"]:
            click.echo(f"{item['rank']:4d}  {item['title']}")
    finally:
        server.stop()
    click.echo("server stopped")


def ask(url: str, message: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The answer to a message and the milliseconds until it was there; sent twice, the second time counts (warm)."""
    body = json.dumps(message).encode()
    took = 0.0
    said: dict[str, Any] = {}
    for _ in range(2):
        request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310 - our own server
        clock = time.perf_counter()
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            said = json.load(answer)
        took = (time.perf_counter() - clock) * 1000
    return said, took
