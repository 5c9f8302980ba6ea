"""What the handlers of all endpoints work with: the bundle that answers, the lane that computes, logs, metrics."""

from collections.abc import Sequence
from typing import Literal

from suisen.errors import InputError
from suisen.serving.answering import Answering, Job, Result
from suisen.serving.event_log import FileLog
from suisen.serving.journal import Journal
from suisen.serving.lane import Lane
from suisen.serving.problems import Refusal
from suisen.serving.settings import Settings
from suisen.serving.telemetry import Telemetry

State = Literal["loading", "ready", "draining", "failed"]


class Service:
    """The parts of one server.  The app sets ``answering``, ``state`` and ``failure``; handlers read them."""

    def __init__(self, settings: Settings) -> None:
        """Raises InputError where the folder of the log cannot be written."""
        self.settings = settings
        self.telemetry = Telemetry()
        self.journal = Journal(_logs(settings), self.telemetry)
        self.lane: Lane[Job, Result] = Lane(
            "recommend", self._work, max_rows=settings.max_queries, rows_per_batch=settings.queries_per_batch
        )
        self.telemetry.watch(self.lane)
        self.answering: Answering | None = None
        self.state: State = "loading"
        self.failure: Exception | None = None
        self.description = b""
        """The bytes of ``/openapi.json``."""

    @property
    def version(self) -> str:
        """Names the bundle; "" before it is loaded."""
        return "" if self.answering is None else self.answering.version

    def loaded(self) -> Answering:
        """What answers.  Refuses (503) while no bundle is loaded."""
        if self.answering is None:
            raise self.not_ready()
        return self.answering

    def not_ready(self) -> Refusal:
        """The refusal that says why the server takes no requests."""
        reasons = {"loading": "the bundle is being loaded", "draining": "the server is closing"}
        return Refusal("not_ready", reasons.get(self.state, f"the bundle is not served: {self.failure}"))

    async def compute(self, job: Job) -> Result:
        """The result of a job, computed with what waits beside it.  Refuses (503) where it would be late."""
        return await self.lane.result(job, self.settings.deadline_s)

    def _work(self, jobs: list[Job]) -> Sequence[Result | Exception]:
        """In the lane's thread."""
        self.telemetry.batch_rows.observe(sum(map(len, jobs)))
        return self.loaded().work(jobs)


def _logs(settings: Settings) -> dict[str, FileLog]:
    """The files of the journal."""
    if settings.log_dir is None:
        if settings.impressions:
            raise InputError("impressions = True needs log_dir, the folder they are written to")
        return {}
    names = ["events", "impressions"] if settings.impressions else ["events"]
    return {name: FileLog(settings.log_dir / f"{name}.jsonl") for name in names}
