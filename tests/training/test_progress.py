from io import StringIO

import pytest
from rich.console import Console

from suisen.training import progress
from suisen.training.options import Curve, EpochRow
from suisen.training.progress import Progress


def watched(console, epochs=3):
    """What a console shows of a phase of three epochs."""
    bar = Progress(console)
    bar.on_start("retriever", epochs, 100)
    curve = Curve(stopped="all 3 epochs done", best_epoch=2, best_metric=0.25)
    for epoch in range(1, epochs + 1):
        bar.on_batch(60, 1.0 / epoch)
        bar.on_batch(40, 1.0 / epoch)
        row = EpochRow(epoch, 1.0 / epoch, 0.1 * epoch, 0.5, 200.0)
        curve.rows.append(row)
        bar.on_epoch(row)
    bar.on_end(curve)
    return console.file.getvalue()


def test_lines_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    lines = watched(Console(file=StringIO(), force_terminal=False)).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("retriever: epoch 1/3, loss 1.0000, metric 0.1000, 200 samples/s, at most 0")
    assert lines[0].endswith(" s left")
    assert lines[3].startswith("retriever: 3 epochs in 1.5 s, best")
    assert lines[3].endswith(", best epoch 2 with 0.2500 (all 3 epochs done)")


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_what_a_phase_shows_is_its_own(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    bar = Progress(Console(file=StringIO(), force_terminal=False))
    for metric in (0.5, None):
        bar.on_start("s", 4, 100)
        assert bar._facts() == "0 samples/s"
        bar.on_batch(60, 1.0)
        bar.on_batch(40, 0.0)
        clock.now += 4.0
        assert bar._facts() == "loss 0.9500, 25 samples/s"  # a batch moves the mean by a twentieth
        bar.on_epoch(EpochRow(1, 0.5, metric, 2.0, 50.0))
        bar.on_end(Curve([EpochRow(1, 0.5, metric, 2.0, 50.0)], 1, metric, "done"))
    lines = bar.console.file.getvalue().splitlines()
    assert lines[0] == "s: epoch 1/4, loss 0.5000, metric 0.5000, 50 samples/s, at most 12 s left"
    assert lines[1] == "s: 1 epoch in 2.0 s, best epoch 1 with 0.5000 (done)"
    unvalidated = lines[0].replace(", metric 0.5000", "").replace("at most ", "")
    assert lines[2:] == [unvalidated, "s: 1 epoch in 2.0 s (done)"]


def test_the_bar_is_drawn_now_and_then_and_counts_all_epochs(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    bar = Progress(Console(file=StringIO(), force_terminal=True, width=120, color_system=None))
    bar.on_start("s", 4, 100)
    completed = []
    for _ in range(6):
        clock.now += progress.DRAW_SECONDS * 0.6  # every other batch is soon enough behind a drawing
        bar.on_batch(10, 1.0)
        completed.append(bar._bar.tasks[0].completed)
    assert completed == [10, 10, 30, 30, 50, 50]
    assert bar._bar.tasks[0].total == 400
    bar.on_epoch(EpochRow(1, 0.5, None, 2.0, 50.0))
    assert bar._bar.tasks[0].completed == 100
    assert bar._bar.live.transient  # one line stays, not the bar
    bar.on_end(Curve())
    assert bar._bar is None


def test_lines_are_not_too_many(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 3600.0)
    clock = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: 10_000.0 + next(clock))
    assert len(watched(Console(file=StringIO(), force_terminal=False), epochs=9).splitlines()) == 2


@pytest.mark.parametrize("metric", [None, 0.5])
def test_a_bar_on_a_terminal(monkeypatch, metric):
    monkeypatch.setattr(progress, "DRAW_SECONDS", -1.0)
    console = Console(file=StringIO(), force_terminal=True, width=120, color_system=None)
    bar = Progress(console)
    bar.on_start("ranker", 2, 10)
    bar.on_batch(5, 0.7)
    bar.on_epoch(EpochRow(1, 0.7, metric, 0.5, 1234.0))
    assert bar._facts().startswith("loss 0.7000, metric 0.5000, " if metric else "loss 0.7000, ")
    bar.on_end(Curve([EpochRow(1, 0.7, metric, 0.5, 1234.0)], 1, metric, "stopped"))
    shown = console.file.getvalue()
    assert "ranker" in shown
    assert "loss 0.7000" in shown
    assert "1,234 samples/s" in shown
    assert ("best epoch 1 with 0.5000" in shown) == (metric is not None)


def test_the_rate_of_the_first_moments_is_of_what_has_passed(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    bar = Progress(Console(file=StringIO(), force_terminal=False))
    bar.on_start("s", 1, 100)
    bar.on_batch(50, 1.0)
    clock.now += 0.25
    assert bar._facts() == "loss 1.0000, 200 samples/s"


def lefts(monkeypatch, metrics, patience=2, epochs=10, seconds=4.0):
    """What is said of the time left behind each epoch."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    bar = Progress(Console(file=StringIO(), force_terminal=False, width=200), patience=patience)
    bar.on_start("s", epochs, 100)
    for epoch, metric in enumerate(metrics, 1):
        clock.now += seconds
        bar.on_epoch(EpochRow(epoch, 0.5, metric, 1.0, 100.0, 3.0))
    return [line.rpartition(", ")[2] for line in bar.console.file.getvalue().splitlines()]


def test_the_time_left_has_early_stopping_in_mind(monkeypatch):
    assert lefts(monkeypatch, [0.1, 0.2, 0.1]) == ["8 to 36 s left", "8 to 32 s left", "4 to 28 s left"]
    assert lefts(monkeypatch, [0.1] + [0.05] * 8, patience=20)[-1] == "4 s left"  # it can only end at the last epoch
    assert lefts(monkeypatch, [None, None]) == ["36 s left", "32 s left"]
    assert lefts(monkeypatch, [0.1], patience=None) == ["at most 36 s left"]


def test_seconds_say_how_much_of_them_was_validation():
    bar = Progress(Console(file=StringIO(), force_terminal=False, width=200))
    bar.on_start("ranker", 3, 10)
    bar.on_end(Curve([EpochRow(n, 0.5, 0.1, 1.5, 9.0, 0.5) for n in (1, 2)], 1, 0.1, "stopped"))
    assert (
        bar.console.file.getvalue()
        == "ranker: 2 epochs in 4.0 s (1.0 s of it validation), best epoch 1 with 0.1000 (stopped)\n"
    )


def test_stages_have_names_that_a_newcomer_knows():
    bar = Progress(Console(file=StringIO(), force_terminal=False, width=200))
    for stage, said in (
        ("retriever", "retriever"),
        ("retriever-inner3", "retriever for the lists 3"),
        ("ranker-phase2", "ranker, phase 2"),
        ("retriever-inner1-phase3", "retriever for the lists, phase 3"),
    ):
        bar.on_start(stage, 1, 1)
        bar.on_end(Curve(stopped="x"))
        assert bar.console.file.getvalue().splitlines()[-1].startswith(f"{said}: 0 epochs")
