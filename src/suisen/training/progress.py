"""Progress of a run of training: a bar on a terminal, a line every few seconds where the output is no terminal."""

import sys
import time
from dataclasses import replace
from typing import Any

from suisen.display import in_notebook, seconds, stage_title
from suisen.training.options import Curve, EpochRow, RunOptions

LINE_SECONDS = 2.0
"""Fewest seconds between two lines where the output is no terminal."""
DRAW_SECONDS = 0.1
"""Fewest seconds between two updates of the bar."""
BATCH_SHARE = 0.05
"""Share of the newest batch in the moving average of the loss."""


class Progress:
    """A ``Callback`` that shows loss, metric, samples per second and time left of each phase.

    ``console``: a Rich console; None: one on the error stream (in a notebook on the output, for errors are red there).
    ``patience``: that of the run, from which the time left is told where training may stop early; None: it runs to its
    last epoch.
    """

    def __init__(self, console: Any = None, patience: int | None = None) -> None:
        from rich.console import Console

        if console is None and in_notebook():
            console = Console(file=sys.stdout, highlight=False, force_jupyter=False, force_terminal=False)
        self.console = console or Console(stderr=True, highlight=False)
        self.patience = patience
        self._bar: Any = None
        self._task: Any = None

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        """Starts a bar where the console is a terminal."""
        self._stage = stage_title(stage)
        self._epochs = epochs
        self._examples = examples
        self._seen = 0  # examples
        self._loss: float | None = None
        self._metric: float | None = None
        self._best: tuple[float, int] | None = None  # metric and its epoch
        self._started = time.monotonic()
        self._first = 0  # the first epoch of this process: 1 unless it was resumed
        self._ahead = ""  # the time left, in words
        self._said = 0.0  # when the bar was last drawn or a line last printed
        if self.console.is_terminal:
            from rich.progress import BarColumn
            from rich.progress import Progress as Bar

            columns = "{task.description}", BarColumn(10), "{task.fields[facts]}"
            self._bar = Bar(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task(self._stage, total=epochs * examples, facts="")
            self._bar.start()

    def on_batch(self, examples: int, loss: float) -> None:
        """Moves the bar, at most every ``DRAW_SECONDS``."""
        self._seen += examples
        self._loss = loss if self._loss is None else self._loss + BATCH_SHARE * (loss - self._loss)
        now = time.monotonic()
        if self._bar is not None and now - self._said > DRAW_SECONDS:
            self._said = now
            self._bar.update(self._task, completed=self._seen, facts=self._facts() + self._ahead)

    def on_epoch(self, row: EpochRow) -> None:
        """Moves the bar, or prints a line, at most every ``LINE_SECONDS``."""
        self._seen = row.epoch * self._examples
        self._loss = row.loss
        self._metric = row.metric
        self._first = self._first or row.epoch
        if row.metric is not None and (self._best is None or row.metric > self._best[0]):
            self._best = row.metric, row.epoch
        now = time.monotonic()
        self._ahead = f", {self._left(row, now)}"
        facts = self._facts(row) + self._ahead
        if self._bar is not None:
            self._bar.update(self._task, completed=self._seen, facts=facts)
        elif now - self._said > LINE_SECONDS:
            self._said = now
            self._print(f"{self._stage}: epoch {row.epoch}/{self._epochs}, {facts}")

    def _left(self, row: EpochRow, now: float) -> str:
        """The time to the last epoch, and to the one that stops training where nothing gets better before."""
        pace = (now - self._started) / (row.epoch - self._first + 1)  # validation included
        most = pace * (self._epochs - row.epoch)
        if self._best is None or self.patience is None:
            return f"{most:.0f} s left" if row.metric is None else f"at most {most:.0f} s left"
        soon = pace * max(0, min(self._epochs, self._best[1] + self.patience) - row.epoch)
        return f"{most:.0f} s left" if soon >= most else f"{soon:.0f} to {most:.0f} s left"

    def on_end(self, curve: Curve) -> None:
        """Closes the bar and prints the line that stays."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        count = len(curve.rows)
        learning, validating = (
            sum(row.seconds for row in curve.rows),
            sum(row.validation_seconds for row in curve.rows),
        )
        took = seconds(learning + validating) + (f" ({seconds(validating)} of it validation)" if validating else "")
        best = "" if curve.best_metric is None else f", best epoch {curve.best_epoch} with {curve.best_metric:.4f}"
        self._print(f"{self._stage}: {count} epoch{'s' if count != 1 else ''} in {took}{best} ({curve.stopped})")

    def _facts(self, row: EpochRow | None = None) -> str:
        numbers = {"loss": self._loss, "metric": self._metric}
        parts = [f"{name} {value:.4f}" for name, value in numbers.items() if value is not None]
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = self._seen / elapsed if row is None else row.examples_per_second
        return ", ".join([*parts, f"{rate:,.0f} samples/s"])

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)


def with_progress(options: RunOptions) -> RunOptions:
    """The options with a ``Progress`` among their callbacks."""
    if any(isinstance(each, Progress) for each in options.callbacks):
        return options
    return replace(options, callbacks=(*options.callbacks, Progress(patience=options.patience)))
