"""``suisen train``."""

from pathlib import Path
from typing import Any

import click

from suisen.cli.options import only, raw_of, with_settings
from suisen.errors import InputError
from suisen.files import write_text
from suisen.runs import folder as place
from suisen.runs.config import SECTIONS, Config, read_file, resolve, with_epochs
from suisen.runs.earlier import said_of, stopped_by_time
from suisen.runs.keep import save
from suisen.runs.run import Run, execute
from suisen.runs.summary import summary
from suisen.training.callbacks import MLflow, TensorBoard
from suisen.training.options import Callback
from suisen.training.progress import Progress

WHILE_RESUMING = ("resume", "quiet", "tensorboard", "mlflow", "run__max_seconds")
"""What may be said beside --resume."""


FIRST = ("--events", "--user", "--item", "--time", "--item-features", "--data", "--retriever", "--ranker", "--epochs",
         "--out")  # fmt: skip
"""Options that a first run needs; the help shows them before the others."""


@with_settings(*SECTIONS, first=FIRST, short_help="Train and measure models, into a run folder.")
@click.option("--config", "config_file", metavar="FILE", help="TOML file with the same settings; flags win over it.")
@click.option("--out", metavar="DIR", help="Run folder. [default: runs/<date>-<models>]")
@click.option("--overwrite", is_flag=True, help="Replace the run that --out holds.")
@click.option("--resume", metavar="RUN", help="Go on with a stopped or killed run, with its own settings.")
@click.option("--epochs", type=int, metavar="INT", help="Most epochs of every model that has epochs.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, no tables.")
@click.option("--tensorboard", is_flag=True, help="Write the course to RUN/tensorboard (extra: tensorboard).")
@click.option("--mlflow", metavar="URI", help="Log the course to this MLflow server or store (extra: mlflow).")
def train(**given: Any) -> None:
    """Train a retriever, a ranker or both on an event log, measure them, and keep it all in a run folder.

    \b
    suisen train --events my.csv --user uid --item sku --time ts --retriever item-knn --out runs/a
    suisen train --data ml-100k --retriever ease --ranker deepfm --out runs/b
    suisen train --retriever sasrec --help        lists SASRec's own settings
    suisen train --config runs/a/config.toml      repeats a run: the same weights
    suisen train --resume runs/a                  goes on after a kill: the same weights
    suisen train --resume runs/a --max-seconds 600   goes on where the time limit stopped it

    A setting is a flag (--retriever.dim 32) or a line of a TOML file (dim = 32 under [retriever]); flags win.
    With two models the retriever proposes candidates and the ranker orders them.  Once measured, the models are learnt
    anew on all events, those of valid and test included, and that is what serves; --no-final keeps the measured ones.
    """  # noqa: D301 - \b keeps the lines for click
    config, folder = _resumed(given) if given["resume"] else _fresh(given)
    if config is None:
        return
    try:
        again = {"overwrite": given["overwrite"], "resume": bool(given["resume"])}
        run = execute(config, folder, callbacks=lambda: _callbacks(given, config, folder), **again)
        save(run)
    except KeyboardInterrupt:
        click.echo(f"stopped; go on with: suisen train --resume {folder}", err=True)
        raise
    if given["quiet"]:
        click.echo(str(folder))
        return
    click.echo(summary(run))
    click.echo(f"next: suisen recommend {folder} --user {_some_user(run)}   or   suisen serve {folder}")


def _fresh(given: dict[str, Any]) -> tuple[Config | None, Path]:
    config = resolve(with_epochs(raw_of(given, given["config_file"]), given["epochs"], given))
    return config, Path(given["out"]) if given["out"] else place.default_folder(config.models)


def _resumed(given: dict[str, Any]) -> tuple[Config | None, Path]:
    """The run's own configuration; None where nothing is left to do."""
    only(given, WHILE_RESUMING, "--resume: a run is resumed with its own settings")
    folder = Path(given["resume"])
    if not place.is_run(folder):
        missing = f"{place.CONFIG} is missing"
        raise InputError(f"resume = {folder} is no run folder ({missing}); start it with --out {folder}")
    tables, limit = read_file(folder / place.CONFIG), given["run__max_seconds"]
    more = tables if limit is None else {**tables, "run": {**tables.get("run", {}), "max_seconds": limit}}
    config = resolve(more)
    if (folder / place.METRICS).exists():
        if limit is None or not stopped_by_time(folder):
            click.echo(f"{folder} is finished; nothing is left to do\n{said_of(folder)}")
            return None, folder
        (folder / place.METRICS).unlink()
    if limit is not None:
        write_text(folder / place.CONFIG, config.toml())
    return config, folder


def _callbacks(given: dict[str, Any], config: Config, folder: Path) -> list[Callback]:
    out: list[Callback] = [] if given["quiet"] else [Progress(patience=config.run.patience)]
    if given["tensorboard"]:
        out.append(TensorBoard(folder / "tensorboard"))
    if given["mlflow"]:
        sections = config.tables().items()
        params = {f"{section}.{key}": value for section, table in sections for key, value in table.items()}
        out.append(MLflow(name=folder.name, uri=given["mlflow"], params=params))
    return out


def _some_user(run: Run) -> Any:
    store = run.recommender.store
    known = store.trained_users.nonzero().squeeze(1)
    return store.users.raw_ids[int(known[0]) - 1] if known.numel() else "ID"
