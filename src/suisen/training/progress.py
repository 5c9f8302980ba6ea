"""Progress of a run of training: a bar on a terminal, a line every few seconds where the output is no terminal."""

import time
from typing import Any

from suisen.training.options import Curve, EpochRow

LINE_SECONDS = 2.0
"""Fewest seconds between two lines where the output is no terminal."""
DRAW_SECONDS = 0.1
"""Fewest seconds between two updates of the bar."""
BATCH_SHARE = 0.05
"""Share of the newest batch in the moving average of the loss."""


class Progress:
    """A ``Callback`` that shows loss, metric, samples per second and time left of each phase.

    ``console``: a Rich console; None: one on the error stream.
    """

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True, highlight=False)
        self._bar: Any = None
        self._task: Any = None

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        """Starts a bar where the console is a terminal."""
        self._stage = stage
        self._epochs = epochs
        self._examples = examples
        self._seen = 0  # examples
        self._loss: float | None = None
        self._metric: float | None = None
        self._started = time.monotonic()
        self._said = 0.0  # when the bar was last drawn or a line last printed
        if self.console.is_terminal:
            from rich.progress import BarColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = "{task.description}", BarColumn(20), "{task.fields[facts]}", TimeRemainingColumn()
            self._bar = Bar(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task(stage, total=epochs * examples, facts="")
            self._bar.start()

    def on_batch(self, examples: int, loss: float) -> None:
        """Moves the bar, at most every ``DRAW_SECONDS``."""
        self._seen += examples
        self._loss = loss if self._loss is None else self._loss + BATCH_SHARE * (loss - self._loss)
        now = time.monotonic()
        if self._bar is not None and now - self._said > DRAW_SECONDS:
            self._said = now
            self._bar.update(self._task, completed=self._seen, facts=self._facts())

    def on_epoch(self, row: EpochRow) -> None:
        """Moves the bar, or prints a line, at most every ``LINE_SECONDS``."""
        self._seen = row.epoch * self._examples
        self._loss = row.loss
        self._metric = row.metric
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._seen, facts=self._facts(row))
        elif now - self._said > LINE_SECONDS:
            self._said = now
            left = (now - self._started) / max(1, row.epoch) * (self._epochs - row.epoch)
            facts = f"{self._facts(row)}, at most {left:.0f} s left"
            self._print(f"{self._stage}: epoch {row.epoch}/{self._epochs}, {facts}")

    def on_end(self, curve: Curve) -> None:
        """Closes the bar and prints the line that stays."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        took = time.monotonic() - self._started
        best = "" if curve.best_metric is None else f", best epoch {curve.best_epoch} with {curve.best_metric:.4f}"
        self._print(f"{self._stage}: {len(curve.rows)} epochs in {took:.1f} s{best} ({curve.stopped})")

    def _facts(self, row: EpochRow | None = None) -> str:
        numbers = {"loss": self._loss, "metric": self._metric}
        parts = [f"{name} {value:.4f}" for name, value in numbers.items() if value is not None]
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = self._seen / elapsed if row is None else row.examples_per_second
        return ", ".join([*parts, f"{rate:,.0f} samples/s"])

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)
