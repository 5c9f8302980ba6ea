"""The contract of an endpoint: one method of one path, the messages it takes and gives, the function between them."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Literal, NamedTuple, TypeVar

from msgspec import Struct

from suisen.serving.answering import Job, Result
from suisen.serving.exchange import Exchange, Reply
from suisen.serving.keys import Scope
from suisen.serving.messages import Message
from suisen.serving.problems import PROBLEM_TYPES, Code
from suisen.serving.service import Service

M = TypeVar("M", bound=Struct)


class Pending(NamedTuple):
    """What a handler returns that only computes: no coroutine is made for it, and the job is computed with others."""

    job: Job
    answer: Callable[[Result], Struct | Reply]
    """From the job's result to the answer; it may raise a Refusal."""


Handler = Callable[[Service, Exchange, M], Awaitable[Struct | Reply] | Pending]
QUERY_STRING: tuple[Code, ...] = ("malformed_request", "unknown_field", "invalid_value")
BODY: tuple[Code, ...] = (*QUERY_STRING, "malformed_json", "too_large", "unsupported_media_type")
LOADED: tuple[Code, ...] = ("not_ready", "internal")
COMPUTING: tuple[Code, ...] = ("overloaded", "deadline_exceeded", "too_expensive")
"""Problems of a handler that returns Pending or calls ``Service.compute``."""


class NoParams(Message, frozen=True):
    """An empty query string; every parameter is refused."""


class AnyParams(Struct, frozen=True):
    """A query string that nobody reads: probes of balancers may append to it what they like."""


@dataclass(frozen=True)
class Endpoint(Generic[M]):
    """One method of one path.  Dispatch, metrics, ``/openapi.json`` and the contract tests read these fields."""

    method: Literal["GET", "POST", "PUT"]
    """GET answers HEAD, too; the others take a body."""
    path: str
    """A last segment in braces takes any percent-encoded id (``Exchange.id_in_path``)."""
    handler: Handler[M]
    """Its name is the operation's, its docstring's first paragraph the summary.  It returns ``answers`` or a Reply, now
    (``async def``) or as the Pending that they are made of."""
    takes: type[M]
    """The message: of the query string (GET), of the JSON body (POST, PUT)."""
    answers: type[Struct] | str
    """A Struct, or the media type of an answer that is none."""
    status: int = 200
    """Of the answer."""
    scope: Scope = "read"
    """What a key must be allowed, where keys are asked for."""
    needs_bundle: bool = True
    """Refused with ``not_ready`` until a bundle is loaded; bound to the slot that answers then: ``exchange.slot``.
    Needed by what returns Pending.
    """
    codes: tuple[Code, ...] = ()
    """The handler's own problems; those of reading a message and of loading are added."""
    repeat_safe: bool = False
    """Reads the header ``Idempotency-Key``."""
    notes: str = ""
    """What the schema cannot say: which messages that it allows are refused."""
    example: M | None = None
    """A message for the description and the contract tests, of a query string too; None: one without any field."""

    @cached_property
    def has_body(self) -> bool:
        """Whether its message is a JSON body; of the others it is the query string."""
        return self.method != "GET"

    @cached_property
    def computes(self) -> bool:
        """Whether it asks the model, so that it is refused where too much waits for that."""
        return "overloaded" in self.codes

    @property
    def operation(self) -> str:
        """Its name in ``/openapi.json``."""
        return self.handler.__name__

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        return " ".join((inspect.getdoc(self.handler) or "").partition("\n\n")[0].split())

    @property
    def details(self) -> str:
        """What else is to be said of it: the rest of the handler's docstring, and the notes."""
        rest = " ".join((inspect.getdoc(self.handler) or "").partition("\n\n")[2].split())
        return "  ".join(part for part in (rest, self.notes) if part)

    @property
    def variable(self) -> str:
        """Name of the segment in braces; "" where there is none."""
        return self.path.rpartition("{")[2].rstrip("}") if self.path.endswith("}") else ""

    @property
    def prefix(self) -> str:
        """The path up to the segment in braces."""
        return self.path.partition("{")[0]

    @property
    def refusals(self) -> dict[int, list[Code]]:
        """Codes of the problems that may be the answer, by status; beside those of every path (404, 405)."""
        codes: list[Code] = []
        if self.has_body:
            codes += BODY
        else:
            codes += QUERY_STRING[:1] if self.takes is AnyParams else QUERY_STRING
        if self.needs_bundle:
            codes += LOADED
        found: dict[int, list[Code]] = {}
        for code in (*codes, *self.codes):
            found.setdefault(int(PROBLEM_TYPES[code].status), []).append(code)
        return found
