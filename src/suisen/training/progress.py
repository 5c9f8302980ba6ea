"""Progress of a run on a terminal: a bar with loss, metric, samples/s and time left; elsewhere a line now and then."""

from __future__ import annotations

import time
from typing import Any

from suisen.training.options import Curve, EpochRow

LINE_SECONDS = 2.0
"""At least so long between two lines where the output is no terminal."""
DRAW_SECONDS = 0.1
WEIGHT = 0.05
"""Of the newest batch in the running mean of the loss."""


class Progress:
    """A ``Callback`` that says how far a run is, on the error stream unless a console is given."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True, highlight=False)
        self._bar: Any = None
        self._task: Any = None
        self._stage, self._epochs, self._examples = "", 0, 0
        self._seen = 0
        self._loss: float | None = None
        self._metric: float | None = None
        self._started = self._said = 0.0

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        """A phase starts."""
        self._stage, self._epochs, self._examples = stage, epochs, examples
        self._seen, self._loss, self._metric = 0, None, None
        self._started, self._said = time.monotonic(), 0.0
        if self.console.is_terminal:
            self._open()

    def _open(self) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[facts]}"))
        self._bar = Bar(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        self._task = self._bar.add_task(self._stage, total=self._epochs * self._examples, facts="")
        self._bar.start()

    def on_batch(self, examples: int, loss: float) -> None:
        """A batch is done."""
        self._seen += examples
        self._loss = loss if self._loss is None else self._loss + WEIGHT * (loss - self._loss)
        now = time.monotonic()
        if self._bar is not None and now - self._said > DRAW_SECONDS:
            self._said = now
            self._bar.update(self._task, completed=self._seen, facts=self._facts())

    def on_epoch(self, row: EpochRow) -> None:
        """An epoch is done."""
        self._seen, self._loss = row.epoch * self._examples, row.loss
        self._metric = row.metric
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._seen, facts=self._facts(row))
        elif now - self._said > LINE_SECONDS:
            self._said = now
            left = (now - self._started) / max(1, row.epoch) * (self._epochs - row.epoch)
            self._print(
                f"{self._stage}: epoch {row.epoch}/{self._epochs}, {self._facts(row)}, at most {left:.0f} s left"
            )

    def on_end(self, curve: Curve) -> None:
        """The phase is done: one line stays."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        took = time.monotonic() - self._started
        best = "" if curve.best_metric is None else f", best epoch {curve.best_epoch} with {curve.best_metric:.4f}"
        self._print(f"{self._stage}: {len(curve.rows)} epochs in {took:.1f} s{best} ({curve.stopped})")

    def _facts(self, row: EpochRow | None = None) -> str:
        parts = ["" if self._loss is None else f"loss {self._loss:.4f}"]
        if self._metric is not None:
            parts.append(f"metric {self._metric:.4f}")
        rate = self._seen / max(time.monotonic() - self._started, 1e-9) if row is None else row.examples_per_second
        return ", ".join([*(part for part in parts if part), f"{rate:,.0f} samples/s"])

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)
