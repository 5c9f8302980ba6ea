"""``/admin/slots`` and what changes them: load, shadow, switch, rollback, unload."""

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from suisen.serving.board import Desired, Role, Status
from suisen.serving.contract import Endpoint, Handler, NoParams
from suisen.serving.control import Control
from suisen.serving.exchange import Exchange
from suisen.serving.messages import Message
from suisen.serving.problems import Code
from suisen.serving.service import Service
from suisen.serving.shadow import Report

Wait = Annotated[float, Meta(gt=0, le=600, description="Most seconds until all workers have done it.")]
PATH = 4_096
"""Most characters of a path."""


class WorkerSlot(Struct, frozen=True):
    """A version in one worker."""

    worker: int
    state: Literal["loading", "ready", "failed"]
    error: str


class SlotAnswer(Struct, frozen=True):
    """A version."""

    role: Role
    """``serving`` answers; ``candidate`` is loaded beside; ``former`` answered before and is kept for a while."""
    version: str
    """"" until a worker has loaded it."""
    workers: list[WorkerSlot]


class SlotsAnswer(Struct, frozen=True):
    """The versions that are loaded, or to be loaded, in all workers."""

    request_id: str
    slots: list[SlotAnswer]
    pending: list[int]
    """Workers that have not done yet what was asked for: one that is started again does it when it comes up."""
    shadow: Report | None
    """How the candidate's answers compare with the live ones, over all workers; null where no share is compared."""


class StatusAnswer(Struct, frozen=True):
    """The server and its workers."""

    request_id: str
    state: str
    version: str
    workers: list[Status]


class LoadRequest(Message, frozen=True, kw_only=True):
    """``POST /admin/load``."""

    bundle: Annotated[str, Meta(min_length=1, max_length=PATH)]
    """A bundle, or a run folder that holds one, on the server's machine."""
    switch: bool = False
    """Also let it answer, once every worker has loaded it."""
    wait_s: Wait = 120.0


class ShadowRequest(Message, frozen=True, kw_only=True):
    """``POST /admin/shadow``."""

    share: Annotated[float, Meta(ge=0, le=1)]
    """Of the live requests that the candidate answers too, off the answer path; 0 ends it."""
    wait_s: Wait = 10.0


class SwitchRequest(Message, frozen=True, kw_only=True):
    """``POST /admin/switch`` and ``POST /admin/rollback``."""

    wait_s: Wait = 10.0


class UnloadRequest(Message, frozen=True, kw_only=True):
    """``POST /admin/unload``."""

    role: Literal["candidate", "former"]
    wait_s: Wait = 10.0


async def admin_slots(service: Service, exchange: Exchange, message: NoParams) -> SlotsAnswer:
    """The versions that are loaded, what each is for, and how the candidate compares."""
    return _slots(service, exchange, [])


async def admin_status(service: Service, exchange: Exchange, message: NoParams) -> StatusAnswer:
    """The server's state and what each worker serves."""
    statuses = control_of(service).board.statuses()
    return StatusAnswer(exchange.request_id, service.state, service.version, statuses)


async def admin_load(service: Service, exchange: Exchange, message: LoadRequest) -> SlotsAnswer:
    """Loads a bundle beside what answers, in every worker: verified, warmed on live requests, not answering yet.

    A bundle that one worker cannot load is taken back in all.
    """
    control = control_of(service)
    await control.load(Path(message.bundle), message.wait_s)
    return _slots(service, exchange, await control.switch(message.wait_s) if message.switch else [])


async def admin_shadow(service: Service, exchange: Exchange, message: ShadowRequest) -> SlotsAnswer:
    """Lets the candidate answer a share of the live requests too, off the answer path, and compares."""
    return _slots(service, exchange, await control_of(service).shadow(message.share, message.wait_s))


async def admin_switch(service: Service, exchange: Exchange, message: SwitchRequest) -> SlotsAnswer:
    """Lets the candidate answer from now on; the version that answered is kept for a while."""
    return _slots(service, exchange, await control_of(service).switch(message.wait_s))


async def admin_rollback(service: Service, exchange: Exchange, message: SwitchRequest) -> SlotsAnswer:
    """Lets the former version answer again; the two change places."""
    return _slots(service, exchange, await control_of(service).rollback(message.wait_s))


async def admin_unload(service: Service, exchange: Exchange, message: UnloadRequest) -> SlotsAnswer:
    """Lets go of the candidate or of the former version."""
    return _slots(service, exchange, await control_of(service).unload(message.role, message.wait_s))


def control_of(service: Service) -> Control:
    """What changes versions.  Refuses (503) before the first bundle is loaded."""
    service.current()
    if not isinstance(service.control, Control):
        raise service.not_ready()
    return service.control


def _slots(service: Service, exchange: Exchange, pending: list[int]) -> SlotsAnswer:
    board = control_of(service).board
    desired, statuses = board.desired(), board.statuses()
    slots = [_slot(place, role, statuses) for place, role in desired.places.items()]
    return SlotsAnswer(exchange.request_id, slots[::-1], pending, _compared(desired, statuses))


def _slot(place: str, role: Role, statuses: list[Status]) -> SlotAnswer:
    found = [(status.number, slot) for status in statuses if (slot := status.of(place)) is not None]
    version = next((slot.version for _, slot in found if slot.version), "")
    return SlotAnswer(role, version, [WorkerSlot(number, slot.state, slot.error) for number, slot in found])


def _compared(desired: Desired, statuses: list[Status]) -> Report | None:
    reports = [status.shadow for status in statuses if status.shadow is not None]
    if not desired.shadow or not reports:
        return None
    whole = reports[0]
    for one in reports[1:]:
        whole = whole.plus(one)
    return whole


def endpoint(
    method: Literal["GET", "POST", "PUT"],
    verb: str,
    handler: Handler[Any],
    takes: type[Struct],
    *,
    answers: type[Struct] = SlotsAnswer,
    codes: tuple[Code, ...] = (),
    example: Struct | None = None,
    notes: str = "",
) -> Endpoint[Any]:
    """One of ``/admin``: for a key that may change the server, and answered while a bundle is missing, too."""
    return Endpoint(
        method,
        f"/admin/{verb}",
        handler,
        takes,
        answers,
        scope="admin",
        needs_bundle=False,
        codes=(*codes, "not_ready"),
        example=example,
        notes=notes,
    )


CONFLICT: tuple[Code, ...] = ("conflict",)
SLOTS = endpoint("GET", "slots", admin_slots, NoParams)
STATUS = endpoint("GET", "status", admin_status, NoParams, answers=StatusAnswer)
LOAD = endpoint(
    "POST",
    "load",
    admin_load,
    LoadRequest,
    codes=("bundle_refused", *CONFLICT),
    example=LoadRequest(bundle="/models/today"),
    notes="Refused though the schema allows it: what is no bundle, or one that cannot be loaded (code bundle_refused).",
)
SHADOW = endpoint("POST", "shadow", admin_shadow, ShadowRequest, codes=CONFLICT, example=ShadowRequest(share=0.1))
SWITCH = endpoint("POST", "switch", admin_switch, SwitchRequest, codes=CONFLICT, example=SwitchRequest())
ROLLBACK = endpoint("POST", "rollback", admin_rollback, SwitchRequest, codes=CONFLICT, example=SwitchRequest())
UNLOAD = endpoint("POST", "unload", admin_unload, UnloadRequest, codes=CONFLICT, example=UnloadRequest(role="former"))
