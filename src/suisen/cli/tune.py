"""``suisen tune``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from suisen.cli.options import only, raw_of, with_settings
from suisen.display import text_table
from suisen.errors import InputError
from suisen.files import write_text
from suisen.pipeline import tuning
from suisen.runs import config as configs
from suisen.runs import folder as place
from suisen.runs.config import Config, resolve
from suisen.runs.settings import spelt, values_of
from suisen.training.options import Curve, EpochRow

SHOWN = 30
"""Most trials in the table."""
WHILE_RESUMING = ("resume", "quiet", "tune__trials", "tune__time_limit")
"""What may be said beside --resume."""


@with_settings(*configs.SECTIONS, "tune", short_help="Search the settings that are best on validation.")
@click.option("--config", "config_file", metavar="FILE", help="TOML file of a run; its settings are the first trial.")
@click.option("--out", metavar="DIR", help="Folder of the tuning. [default: runs/<date>-tune-<models>]")
@click.option("--overwrite", is_flag=True, help="Replace the tuning that --out holds.")
@click.option("--resume", metavar="DIR", help="Go on with a tuning; --trials and --time-limit may be said anew.")
@click.option("--epochs", type=int, metavar="INT", help="Most epochs of every model that has epochs.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, no table.")
def tune(**given: Any) -> None:
    """Search the settings of a retriever, a ranker or both that are best on validation, never on test.

    \b
    suisen tune --events my.csv --user uid --item sku --time ts --retriever sasrec --metric ndcg@10 --trials 20
    suisen tune --data ml-100k --retriever ease --ranker deepfm --stage both --time-limit 1h --out runs/t
    suisen tune --resume runs/t --trials 40       goes on, after a kill too
    suisen train --config runs/t/best.toml        trains and measures what was found

    What is searched stands beside each hyper-parameter (docs/models.md).  A setting that is given as a flag keeps its
    value; what a file says is the first trial.  Trials whose validation metric falls behind are pruned.  The folder
    holds best.toml, trials.json and the journal of the study.
    """  # noqa: D301 - \b keeps the lines for click
    tuning.need_optuna()
    job = _resumed(given) if given["resume"] else _fresh(given)
    try:
        _run(job, given)
    except KeyboardInterrupt:
        click.echo(f"stopped; go on with: suisen tune --resume {job.folder}", err=True)
        raise


@dataclass(frozen=True)
class Job:
    """A tuning and where it is kept."""

    config: Config
    """Settings of the run: the first trial."""
    settings: tuning.TuneSettings
    folder: Path
    resume: bool


def _fresh(given: dict[str, Any]) -> Job:
    config = resolve(configs.with_epochs(raw_of(given, given["config_file"]), given["epochs"], given))
    settings = configs.tuning_of(configs.flags_of(given).get("tune", {}))
    folder = Path(given["out"]) if given["out"] else place.default_folder(f"tune-{config.models}")
    said = configs.flags_of(given)
    flags = [name for section in ("retriever", "ranker") for name in configs.keys_of(section, said.get(section, {}))]
    return Job(config, replace(settings, fixed=(*settings.fixed, *flags)), folder, False)


def _resumed(given: dict[str, Any]) -> Job:
    """The tuning's own settings."""
    only(given, WHILE_RESUMING, "--resume: a tuning goes on with its own settings")
    folder = Path(given["resume"])
    if not (folder / place.TUNING).is_file():
        raise InputError(f"resume = {folder} holds no tuning ({place.TUNING} is missing); start it with --out {folder}")
    tables = configs.read_file(folder / place.TUNING, more=("tune",))
    kept = {**tables.pop("tune", {}), **configs.flags_of(given).get("tune", {})}
    return Job(resolve(tables), configs.tuning_of(kept), folder, True)


def _run(job: Job, given: dict[str, Any]) -> None:
    config, folder = job.config, job.folder
    config.check()
    recommender = config.recommender()
    tuning.searched(recommender, job.settings)
    if not job.resume:
        place.check_folder(folder, given["overwrite"], place.TUNING)
    torch.set_num_threads(config.run.threads)
    split = config.cut(config.data())
    train, valid, notes = split.train, split.valid, split.notes
    del split  # with its test part: from here on nobody can look at it
    tuning.metric_for(recommender, job.settings, valid)
    if not job.resume:
        tables = {**config.tables(), "tune": values_of(job.settings, configs.settings_in("tune"))}  # all of --resume
        text = configs.written(tables, f"suisen tune --resume {folder.name} goes on")
        write_text(place.new_folder(folder, place.TUNING) / place.TUNING, text)
    watch = _Watch(job, quiet=given["quiet"])
    with watch.bar:
        options = replace(config.run, callbacks=(watch,))
        journal = folder / place.JOURNAL
        found = tuning.tune(recommender, train, valid, job.settings, options=options, store=journal, watch=watch)
    if found.best is None:
        raise InputError(f"no trial was finished; give more time: suisen tune --resume {folder} --time-limit …")
    _keep(job, found)
    if given["quiet"]:
        click.echo(str(folder / place.BEST))
        return
    for note in notes:
        click.echo(f"note: {note}")
    _say(found, found.best, folder / place.BEST)


def _keep(job: Job, found: tuning.Tuned) -> None:
    """trials.json and, where there is a best trial, best.toml."""
    place.write_json(job.folder / place.TRIALS, [each._asdict() for each in found.trials])
    if found.best is not None:
        write_text(job.folder / place.BEST, _best(job.config, found, found.best))


def _best(config: Config, found: tuning.Tuned, best: tuning.Trial) -> str:
    """A file for ``suisen train --config``."""
    said = f"{found.metric} {_number(best.value)} on valid: trial {best.number} of {found.finished} of suisen tune"
    run = replace(config.run, stop_on=config.run.stop_on or found.metric)
    tuned = replace(config, run=run, retriever=found.recommender.retriever, ranker=found.recommender.ranker)
    return tuned.toml(f"{said}\nsuisen train --config THIS_FILE trains and measures it")


def _say(found: tuning.Tuned, best: tuning.Trial, path: Path) -> None:
    names = list(best.settings)
    short = [name.partition(".")[2] for name in names]
    heads = short if len(set(short)) == len(short) else names
    order = sorted(found.trials, key=lambda each: (each.state != "done", -(each.value or 0.0), each.number))
    rows = [
        [str(each.number), each.state, _number(each.value), str(each.epochs), f"{each.seconds:.1f}"]
        + [spelt(each.settings[name]) if name in each.settings else "–" for name in names]
        for each in order[:SHOWN]
    ]
    click.echo(text_table(("trial", "", found.metric, "epochs", "seconds", *heads), rows))
    if len(order) > SHOWN:
        click.echo(f"{len(order) - SHOWN} more in {path.parent / place.TRIALS}")
    for each in order:
        if each.note:
            click.echo(f"note: trial {each.number} failed: {each.note}")
    click.echo(f"\nbest: trial {best.number} with {found.metric} {_number(best.value)} on valid")
    click.echo(f"next: suisen train --config {path}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


class _Watch:
    """Keeps the files up to date and says how far the tuning is: a bar on a terminal, elsewhere one line per trial.

    It is a training callback too, for the epochs.
    """

    def __init__(self, job: Job, quiet: bool) -> None:
        console = Console(stderr=True)
        self.job, self.lines = job, not (quiet or console.is_terminal)
        self.stage, self.number, self.best = "", 1, ""
        columns = (TextColumn("{task.description}", markup=False), BarColumn(20), TimeElapsedColumn())
        self.bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self.task = self.bar.add_task("tuning", total=job.settings.trials)

    def __call__(self, found: tuning.Tuned) -> None:
        """A trial has ended."""
        _keep(self.job, found)
        trial, best = found.trials[-1], found.best
        self.number = trial.number + 1
        self.best = "" if best is None else f", best {best.value:.4f} (trial {best.number})"
        self.bar.update(self.task, completed=found.finished)
        if self.lines:
            told = ", ".join(f"{name} {spelt(value)}" for name, value in trial.settings.items())
            spent = f"{trial.epochs} epochs, {trial.seconds:.1f} s"
            state = f"trial {trial.number}: {trial.state}, {_number(trial.value)}{self.best}"
            click.echo(f"{state}; {told}; {spent}", err=True)

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        """A phase starts."""
        self.stage = stage

    def on_batch(self, examples: int, loss: float) -> None:
        """Batches are too many to tell."""

    def on_end(self, curve: Curve) -> None:
        """The phase is done."""

    def on_epoch(self, row: EpochRow) -> None:
        """An epoch is done."""
        metric = "" if row.metric is None else f", metric {row.metric:.4f}"
        said = f"trial {self.number}: {self.stage} epoch {row.epoch}{metric}{self.best}"
        self.bar.update(self.task, description=said)
