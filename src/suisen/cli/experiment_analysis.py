"""``suisen experiment analyze | report``: from files to a run folder with the verdict in four forms."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from suisen import experiments
from suisen.cli.experiment_plan import frozen_beside, texts_of
from suisen.cli.tables import broken, read_table, same_ids
from suisen.errors import InputError, MissingExtra
from suisen.experiments.frozen import Frozen
from suisen.experiments.looks import looks_path, read_looks, remember
from suisen.experiments.plan import Plan, load
from suisen.experiments.record import About, Record
from suisen.experiments.standing import Taken
from suisen.files import write_text
from suisen.pages.experiment import write_report
from suisen.runs import folder as place

PLAN, RESULT, MARKDOWN, TABLE, PAGE = "plan.toml", "result.json", "result.md", "estimates.csv", "report.html"
USUAL: dict[str, Any] = {"moments": 12, "resamples": 2000, "seed": 0, "duplicates": "auto"}
"""Earlier moments of the cumulative plot, draws of the resampling tests and their seed, which rows are one event."""


@click.command(short_help="Exposures and events to a verdict, in a run folder.")
@click.argument("plan_file", metavar="PLAN")
@click.option("--exposures", required=True, metavar="FILE", help="Who saw which arm, when; and columns of segments.")
@click.option("--events", required=True, metavar="FILE", help="What they did: unit, time, type, value, …")
@click.option("--pre", metavar="FILE", help="Events before the experiment, where --events does not hold them.")
@click.option("--out", metavar="DIR", help="Run folder [default: runs/<date>-<name of the plan>].")
@click.option("--overwrite", is_flag=True, help="Replace an older analysis in that folder.")
@click.option("--cluster", metavar="COLUMN", help="Of the exposures: what holds units that are not independent.")
@click.option("--aa", is_flag=True, help="A/A: the arms are alike; says whether they look it.")
@click.option(
    "--duplicates", type=click.Choice(["auto", "drop", "keep"]), default=USUAL["duplicates"],
    help="One event are: auto, rows with an equal id (columns.event_id); drop, else equal rows; keep, none.",
)  # fmt: skip
@click.option("--keep-duplicates", is_flag=True, help="The same as --duplicates keep.")
@click.option("--now", metavar="TIME", help="Moment of this look, from which on nothing counts; else the latest event.")
@click.option("--moments", type=click.IntRange(0), default=USUAL["moments"], help="Of the cumulative plot.")
@click.option("--resamples", type=click.IntRange(99), default=USUAL["resamples"], help="Of resampling tests.")
@click.option("--seed", type=int, default=USUAL["seed"], help="Of resampling tests.")
@click.option("--json", "as_json", is_flag=True, help="The result as plain data instead of text.")
def analyze(**given: Any) -> None:
    """Do what the plan says, correct, and give a verdict: printed, and in a folder as JSON, Markdown, CSV and HTML.

    \b
    suisen experiment analyze ranker.toml --exposures exposures.csv --events events.parquet --out runs/ranker

    Where the plan was frozen (suisen experiment plan --freeze), the page says what was changed since.  Every look is
    kept beside the plan, in PLAN's .looks.json, and the next one spends only what it left; the same data again are the
    same look.  Files are .csv, .csv.gz, .tsv, .parquet, .jsonl or .arrow; their columns are named in the plan, under
    [columns].
    """  # noqa: D301 - \b keeps the lines for click
    path = Path(given["plan_file"])
    plan = load(path)
    safe = "".join(char if char.isalnum() or char in "-_" else "-" for char in plan.name)
    folder = Path(given["out"]) if given["out"] else place.default_folder(safe)
    place.check_folder(folder, given["overwrite"], mark=RESULT, resumes=False)
    taken = looks_path(path)
    record = analysed(plan, frozen_beside(path), given, command_of(given, folder), read_looks(taken, plan))
    remember(taken, record.result)  # before anybody reads it
    save(folder, record, path)
    if given["as_json"]:
        click.echo((folder / RESULT).read_text(encoding="utf-8"), nl=False)
        return
    click.echo(record.result.text())
    written = [name for name in (PAGE, MARKDOWN, TABLE, RESULT) if (folder / name).exists()]
    click.echo(f"wrote {folder / written[0]}, {', '.join(written[1:])}")


def analysed(
    plan: Plan, frozen: Frozen | None, given: dict[str, Any], command: str, looks: Sequence[Taken] | None = None
) -> Record:
    """The analysis of the files that are named, after the looks that were taken."""
    names = [name for name in ("exposures", "events", "pre") if given.get(name)]
    texts = texts_of(plan) + ([given["cluster"]] if given.get("cluster") else [])
    frames = same_ids(plan.unit, {name: read_table(name, given[name], texts) for name in names})
    chosen = {**USUAL, **given}
    options = experiments.AnalysisOptions(
        duplicates="keep" if given.get("keep_duplicates") else chosen["duplicates"], cluster=given.get("cluster") or "",
        resamples=chosen["resamples"], seed=chosen["seed"], cumulative=chosen["moments"], now=given.get("now") or "",
    )  # fmt: skip
    with broken("events", given["events"]):
        result = experiments.analyze(
            frames["exposures"], frames["events"], plan, pre=frames.get("pre"), frozen=frozen, looks=looks,
            mode="A/A" if given.get("aa") else "A/B", options=options,
        )  # fmt: skip
    when = place.now()[:19].replace("T", " ") + " UTC"
    frozen_at = "" if frozen is None else frozen.frozen_at
    files = {name: str(given[name]) for name in names}
    return Record(result, About(when=when, command=command, frozen_at=frozen_at, files=files))


def save(folder: Path, record: Record, plan_file: Path) -> None:
    """The folder's files; the JSON, which marks it as an analysis, comes first."""
    text = plan_file.read_text(encoding="utf-8-sig")
    place.new_folder(folder, mark=RESULT)
    record.save(folder / RESULT)
    write_text(folder / PLAN, text)
    write_text(folder / MARKDOWN, record.result.markdown())
    record.result.frame().write_csv(folder / TABLE)
    try:
        write_report(folder / PAGE, record)
    except MissingExtra as error:
        click.echo(f"{PAGE} was not written: {error}", err=True)


def command_of(given: dict[str, Any], folder: Path) -> str:
    """The command line that repeats the analysis."""
    words = ["suisen", "experiment", "analyze", given["plan_file"]]
    for name in ("exposures", "events", "pre", "cluster", "now"):
        if given.get(name):
            words += [f"--{name}", given[name]]
    for name in ("aa", "keep_duplicates"):
        if given.get(name):
            words.append(f"--{name.replace('_', '-')}")
    for name, usual in USUAL.items():
        if given.get(name, usual) != usual:
            words += [f"--{name}", str(given[name])]
    return shlex.join([*words, "--out", str(folder), "--overwrite"])


@click.command(short_help="The HTML page again, from a run folder.")
@click.argument("folder", metavar="DIR")
@click.option("--out", metavar="FILE", help="Where to write the page [default: DIR/report.html].")
def report(folder: str, out: str | None) -> None:
    """Write the page of an analysis again, from the result.json in its folder; print the verdict.

    \b
    suisen experiment report runs/ranker
    """  # noqa: D301 - \b keeps the lines for click
    if not Path(folder).is_dir():
        raise InputError(f"{Path(folder)} is no folder; give what suisen experiment analyze wrote with --out")
    record = Record.load(Path(folder, RESULT))
    page = Path(out or Path(folder, PAGE))
    write_report(page, record)
    click.echo(record.result.verdict)
    click.echo(f"wrote {page}")
