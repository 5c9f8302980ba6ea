import builtins
import os

import pytest

from suisen.errors import InputError, MissingExtra
from suisen.training.callbacks import MLflow, TensorBoard, scalars
from suisen.training.options import Curve, EpochRow

ROWS = [EpochRow(1, 0.9, 0.1, 0.5, 200.0), EpochRow(2, 0.5, 0.3, 0.5, 400.0)]


def tell(callback, stage, rows=ROWS, best=0.3):
    callback.on_start(stage, 2, 100)
    for row in rows:
        callback.on_batch(100, row.loss)
        callback.on_epoch(row)
    callback.on_end(Curve(list(rows), 2, best, "all 2 epochs done"))


def test_what_is_not_known_is_not_logged():
    assert scalars(EpochRow(1, 0.5, None, 1.0, 3.0)) == {"loss": 0.5, "examples_per_second": 3.0}


def test_tensorboard_holds_every_epoch(tmp_path):
    callback = TensorBoard(tmp_path)
    tell(callback, "retriever")
    tell(callback, "ranker")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for file in sorted(tmp_path.iterdir()):
        events = EventAccumulator(str(file)).Reload()
        found |= {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert [step for step, _ in found["retriever/loss"]] == [1, 2]
    assert [value for _, value in found["ranker/metric"]] == pytest.approx([0.1, 0.3])
    assert set(found) == {
        f"{s}/{n}" for s in ("retriever", "ranker") for n in ("loss", "metric", "examples_per_second")
    }


def test_tensorboard_files_are_closed_when_a_phase_ends(tmp_path):
    callback, closed = TensorBoard(tmp_path), []

    class Writer:
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def add_scalar(self, name: str, value: float, step: int) -> None: ...

        def close(self) -> None:
            closed.append(self.folder)

    callback._make = Writer
    tell(callback, "retriever")
    tell(callback, "ranker")
    assert closed == [str(tmp_path)] * 2


def test_mlflow_holds_one_run_of_all_stages(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    callback = MLflow(name="a", uri=(tmp_path / "mlruns").as_uri(), params={"retriever.dim": 8})
    tell(callback, "retriever")
    first = callback.run_id
    callback.on_start("ranker", 2, 100)
    assert callback.client.get_run(first).info.status == "RUNNING"  # again, though its first phase has ended
    tell(callback, "ranker", best=None)
    run = callback.client.get_run(callback.run_id)
    assert callback.run_id == first
    assert run.info.status == "FINISHED"
    assert run.data.params == {"retriever.dim": "8"}
    assert run.data.metrics["retriever.best_metric"] == 0.3
    assert "ranker.best_metric" not in run.data.metrics
    history = callback.client.get_metric_history(first, "ranker.loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.9), (2, 0.5)]
    again = MLflow(uri=(tmp_path / "mlruns").as_uri())
    tell(again, "retriever")
    assert again.run_id != first


def test_a_store_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(InputError, match=r"mlflow: the store .* cannot be used"):
        MLflow(uri=os.fspath(tmp_path / "mlruns"))


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [(TensorBoard, "torch.utils.tensorboard", "tensorboard"), (lambda p: MLflow(), "mlflow", "mlflow")],
)
def test_a_missing_library_names_its_extra(tmp_path, monkeypatch, make, package, extra):
    real = builtins.__import__

    def without(name, *rest):
        if name == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=rf"pip install 'suisen\[{extra}\]'"):
        make(tmp_path)
