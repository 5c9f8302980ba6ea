"""``suisen evaluate`` and ``suisen compare``."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from suisen.cli.options import echo_json, note, with_settings
from suisen.data.dataset import Split
from suisen.errors import InputError
from suisen.evaluation import compare as paired
from suisen.pipeline import Recommender
from suisen.pipeline import evaluate as measure
from suisen.recommending.bundle import read_manifest
from suisen.recommending.place import find
from suisen.recommending.store import Store
from suisen.runs import config
from suisen.runs import folder as place
from suisen.runs.earlier import report_of
from suisen.runs.run import metrics_for


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


PART = click.option("--part", type=click.Choice(["test", "valid"]), default="test", help="Of the split.")


@with_settings("data", "split", short_help="Measure a run or bundle again.")
@click.argument("target", metavar="RUN_OR_BUNDLE")
@click.option("--metrics", metavar="NAMES", help="Like ndcg@10,recall@100,coverage@10; default: those of the run.")
@PART
@click.option("--exclude-seen/--no-exclude-seen", default=None, help="Other than the run: leave seen items out, or in.")
@click.option("--repeats", is_flag=True, help="An older word for --no-exclude-seen.")
@click.option("--json", "as_json", is_flag=True, help="Plain data, with each query's own value, instead of a table.")
def evaluate(**given: Any) -> None:
    """Measure a trained run or bundle, with intervals and the protocol that belongs to the numbers.

    \b
    suisen evaluate runs/a --metrics ndcg@10,ndcg@100,coverage@10,novelty@10
    suisen evaluate runs/a/bundle --events my.csv --user uid --item sku --time ts --split.test 1

    A run folder knows its data and its split, a bundle remembers them where a run wrote it; other files of the same
    events may be named with the data options.  Another train part than the
    bundle was trained on is refused.
    """  # noqa: D301 - \b keeps the lines for click
    target = Path(given["target"])
    resolved = _config_of(target, given)
    recommender = _measured(target)
    split = resolved.cut(resolved.data())
    queries = split.test if given["part"] == "test" else split.valid
    if queries is None or not len(queries):
        raise InputError(f"part = {given['part']!r}: the split holds nothing out for it; name another --part")
    _check(recommender, split)
    names = metrics_for(queries, _words(given["metrics"]) or resolved.run.metrics)
    wish = {} if given["exclude_seen"] is None else {"exclude_seen": given["exclude_seen"]}
    report = measure(recommender, queries, names, repeats=given["repeats"], **wish)
    click.echo(report.to_json() if given["as_json"] else str(report))


def _measured(target: Path) -> Recommender:
    """The models of a run that know nothing of its test part.  Raises InputError for those that were refitted."""
    kept = target / place.MEASURED
    recommender = Recommender.load(kept if place.is_run(target) and kept.is_dir() else target)
    if recommender.system.refitted:
        said = f"{target} was {recommender.system.refitted}: it has seen what test asks for"
        raise InputError(f"{said}; name its run folder, which keeps the measured models, or train with --no-final")
    return recommender


def _config_of(target: Path, given: dict[str, Any]) -> config.Config:
    """Settings of the run or of the bundle's manifest, flags over them."""
    flags = config.flags_of(given)
    if place.is_run(target):
        file = config.read_file(target / place.CONFIG)
    else:
        file = read_manifest(find(target))["run"].get("config", {})
    if not file.get("data") and not flags.get("data"):
        raise InputError(f"{target} does not say which data it was trained on; give --data or --events, and --split")
    resolved = config.resolve(config.merged(file, flags, note), models=False)
    return replace(resolved, run=replace(resolved.run, exclude_seen=True))  # the recommender says what it leaves out


def _check(recommender: Recommender, split: Split) -> None:
    """Raises InputError for another train part than that which the recommender learnt from."""
    ours, theirs = Store.of(split.train), recommender.store
    same = ours.fingerprint() == theirs.fingerprint() and ours.item_counts.equal(theirs.item_counts)
    if not (same and ours.histories.values.equal(theirs.histories.values)):
        raise InputError(
            "the train part of these data is not what the bundle was trained on: ids would mean something else, or "
            "test would hold what training has seen; give the data and the split it was trained on"
        )


@click.command(short_help="Paired differences between runs.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN…")
@click.option("--metrics", metavar="NAMES", help="Like ndcg@10,hr@10; default: all that the runs share.")
@PART
@click.option("--json", "as_json", is_flag=True, help="Plain data instead of a table.")
def compare(runs: tuple[str, ...], metrics: str | None, part: str, as_json: bool) -> None:
    """Paired differences of runs on the same test queries; the first run is the baseline.

    \b
    suisen compare runs/a runs/b runs/c --metrics ndcg@10

    Each row says how much a run is better than the baseline, with a 95 % interval over the queries and a p-value
    corrected for all rows (Holm).  Runs on other data, another split or another protocol are refused.
    """  # noqa: D301 - \b keeps the lines for click
    if len(runs) < 2:
        raise InputError("compare needs two runs or more; the first is the baseline")
    reports = [report_of(Path(run), part) for run in runs]
    found = paired(reports[0], *reports[1:], metrics=_words(metrics) or None)
    if as_json:
        echo_json([row._asdict() for row in found.rows])
    else:
        click.echo(str(found))
