"""Callbacks that write learning curves to TensorBoard or MLflow, both optional extras."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suisen.errors import InputError, missing_extra
from suisen.training.options import Curve, EpochRow


def scalars(row: EpochRow) -> dict[str, float]:
    """Loss, metric and speed of an epoch by name, without the metric where nothing validates."""
    known = {"loss": row.loss, "metric": row.metric, "examples_per_second": row.examples_per_second}
    return {name: float(value) for name, value in known.items() if value is not None}


class TensorBoard:
    """Writes one event file per phase into ``folder``, one point per epoch.

    Tags: ``<stage>/loss``, ``<stage>/metric``, ``<stage>/examples_per_second``.  Raises MissingExtra where
    tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing_extra("tensorboard", "tensorboard") from None
        self._make: Any = SummaryWriter
        self.folder = folder
        self._writer: Any = None
        self._stage = ""

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        """Opens the phase's event file."""
        self._stage = stage
        self._writer = self._make(str(self.folder))

    def on_batch(self, examples: int, loss: float) -> None:
        """Writes nothing: batches are too many."""

    def on_epoch(self, row: EpochRow) -> None:
        """Writes the epoch's numbers."""
        for name, value in scalars(row).items():
            self._writer.add_scalar(f"{self._stage}/{name}", value, row.epoch)

    def on_end(self, curve: Curve) -> None:
        """Closes the event file."""
        self._writer.close()


class MLflow:
    """Logs all phases as one MLflow run: ``params`` at the start, then metrics named ``<stage>.loss`` and so on.

    ``experiment`` is made where it does not exist; ``name``: of the run; ``uri``: the tracking server or store, None:
    what MLflow finds in its environment.  Raises MissingExtra where mlflow is not installed, InputError where the store
    cannot be used.
    """

    def __init__(
        self,
        experiment: str = "suisen",
        name: str | None = None,
        uri: str | None = None,
        params: Mapping[str, Any] = {},
    ) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError:
            raise missing_extra("mlflow-skinny", "mlflow") from None
        try:
            self.client: Any = MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(experiment)
            self._experiment = self.client.create_experiment(experiment) if found is None else found.experiment_id
        except MlflowException as error:
            raise InputError(f"mlflow: the store {uri or 'of its environment'} cannot be used: {error}") from None
        self._name = name
        self._params = dict(params)
        self.run_id = ""
        self._stage = ""

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        """Opens the run at the first phase, and says that it is running at each."""
        if not self.run_id:
            run = self.client.create_run(self._experiment, run_name=self._name)
            self.run_id = run.info.run_id
            for key, value in self._params.items():
                self.client.log_param(self.run_id, key, value)
        self.client.update_run(self.run_id, status="RUNNING")
        self._stage = stage

    def on_batch(self, examples: int, loss: float) -> None:
        """Writes nothing: batches are too many."""

    def on_epoch(self, row: EpochRow) -> None:
        """Logs the epoch's numbers."""
        for name, value in scalars(row).items():
            self.client.log_metric(self.run_id, f"{self._stage}.{name}", value, step=row.epoch)

    def on_end(self, curve: Curve) -> None:
        """Logs the best metric; the run is finished unless another phase follows."""
        if curve.best_metric is not None:
            self.client.log_metric(self.run_id, f"{self._stage}.best_metric", curve.best_metric)
        self.client.set_terminated(self.run_id, "FINISHED")
