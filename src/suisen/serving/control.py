"""Which versions this process has loaded: it does what the board wants, and changes what the board wants when asked to.

A change of the version that answers is two changes of the board.  ``load``: a private, verified copy is loaded beside
in every worker; where one of them cannot, it is taken back in all.  ``switch``: only what every worker has loaded can
answer.  What was switched from stays loaded for a while, so that ``rollback`` takes no loading.
"""

import asyncio
import ctypes
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import msgspec

from suisen.errors import SuisenError
from suisen.recommending.held import hold
from suisen.recommending.place import find
from suisen.recommending.system import System
from suisen.serving.blocking import Blocklist, Lists
from suisen.serving.board import START, Board, Desired, Loaded, Role, Status
from suisen.serving.problems import Refusal
from suisen.serving.service import Service
from suisen.serving.shadow import Shadow
from suisen.serving.slots import Slot

logger = logging.getLogger("suisen.serving")
POLL_S = 0.02
"""Seconds between two looks at what the other workers have done."""
HELD = "held"
"""Folder of the private copies, in the board's."""
replace = msgspec.structs.replace


class Control:
    """The versions of one process.  Everything here runs in the event loop; loading goes to threads."""

    def __init__(self, service: Service, board: Board, load: Callable[[Path], System]) -> None:
        """``load``: brings the System of a bundle, its parity fixture replayed."""
        self.board = board
        self._service, self._load = service, load
        self._slots: dict[str, Slot] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, str] = {}
        self._told: Status | None = None
        settings = service.settings
        self.blocking = Blocklist(settings.blocklist, (settings.log_dir or board.folder) / "blocked.json")

    # -- what the board wants ---------------------------------------------------------------------------------------

    def first(self, load: Callable[[], System], *, own: bool) -> tuple[str, Callable[[], Slot]]:
        """The place that is to answer first and what loads it: a worker that is started again takes up what the others
        serve; ``load`` brings what the server was started with, ``own``: to nobody else.
        """
        self._start = load, own
        self.blocking.look()
        self._service.block(self.blocking.items)
        place = self.board.desired().serving
        return place, partial(self._opened, place)

    def _opened(self, place: str) -> Slot:
        """The slot of a place.  In a thread."""
        load, own = self._start if place == START else (partial(self._load, Path(place)), True)
        return self._service.open(load, own=own)

    def begin(self, place: str, slot: Slot) -> None:
        """Takes the first slot, which answers from now on."""
        self._slots[place] = slot
        self._service.switch(slot)
        self.look()

    def look(self) -> None:
        """Does what is wanted and not done yet; now and then, and after a change."""
        service, desired = self._service, self.board.desired()
        if service.slot is None:
            return
        if self.blocking.look():
            service.block(self.blocking.items)
        wanted = desired.places
        for place in wanted:
            if place not in self._slots and place not in self._opening and place not in self._failed:
                self._opening[place] = asyncio.get_running_loop().create_task(self._open(place))
        if (slot := self._slots.get(desired.serving)) is not None and slot is not service.slot:
            service.switch(slot)
            logger.info("switched", extra={"fields": {"version": slot.version}})
        self._compare(desired)
        for place in [one for one in self._slots if one not in wanted and self._slots[one] is not service.slot]:
            self._drop(place)
        self._failed = {place: error for place, error in self._failed.items() if place in wanted}
        self._tell(desired)

    async def _open(self, place: str) -> None:
        try:
            slot = await asyncio.to_thread(self._opened, place)
        except Exception as error:
            logger.error("%s is not loaded: %s", place, error, exc_info=not isinstance(error, SuisenError))
            self._failed[place] = str(error) or type(error).__name__
        else:
            self._slots[place] = slot
        del self._opening[place]
        self.look()

    def _drop(self, place: str) -> None:
        self._service.leave(self._slots.pop(place))
        asyncio.get_running_loop().call_later(2 * self._service.settings.deadline_s, _trim)

    def _compare(self, desired: Desired) -> None:
        """Starts and ends the shadow."""
        service, slot = self._service, self._slots.get(desired.candidate or "")
        shadow = service.shadow
        if desired.candidate is None or not desired.shadow:
            slot = None
        if shadow is not None and (shadow.slot is not slot or shadow.report.share != desired.shadow):
            shadow.stop()
            service.shadow = None
        if slot is not None and service.shadow is None:
            service.shadow = Shadow(slot, desired.shadow)

    def _tell(self, desired: Desired) -> None:
        service, shadow = self._service, self._service.shadow
        ready = [
            Loaded(place=place, state="ready", version=slot.version, since=slot.loaded)
            for place, slot in self._slots.items()
        ]
        serving = next((place for place, slot in self._slots.items() if slot is service.slot), START)
        status = Status(
            number=self.board.number,
            pid=os.getpid(),
            serial=desired.serial,
            serving=serving,
            slots=(
                *ready,
                *(Loaded(place=place, state="loading") for place in self._opening),
                *(Loaded(place=place, state="failed", error=error) for place, error in self._failed.items()),
            ),
            shadow=None if shadow is None else replace(shadow.report),
            lists=desired.lists,
            blocked=len(self.blocking.items),
        )
        if status != self._told:
            if self._told is None or status.slots != self._told.slots or status.serial != self._told.serial:
                roles = desired.places
                words = [{"version": one.version, "role": roles.get(one.place, "leaving")} for one in ready]
                service.telemetry.slots.info(*words)
            self._told = status
            self.board.tell(status)

    def slot(self, role: Role) -> Slot:
        """The version of a role, as this process has it.  Refuses (409) where there is none, or it is still loading."""
        place = next((place for place, its in self.board.desired().places.items() if its == role), None)
        slot = None if place is None else self._slots.get(place)
        if slot is None:
            raise Refusal("conflict", f"role = {role!r}: none is loaded; GET /admin/slots lists the versions that are")
        return slot

    # -- what is asked for ------------------------------------------------------------------------------------------

    async def load(self, source: Path, wait_s: float) -> str:
        """Loads a bundle beside, in every worker; returns its version.  The former candidate is let go.

        Refuses a bundle that any worker cannot load (``bundle_refused``), and what takes longer than ``wait_s``.
        """
        with self._busy():
            try:
                place = await asyncio.to_thread(self._held, source)
            except (SuisenError, OSError) as error:
                self._service.telemetry.swaps.labels("refused").inc()
                raise Refusal("bundle_refused", str(error)) from None
            before, _ = self.board.change(lambda old: replace(old, candidate=place, shadow=0.0))
            self._forget(before)
            failures: list[str] = []

            def done(status: Status) -> bool:
                slot = status.of(place)
                if slot is not None and slot.state == "failed":
                    failures.append(f"worker {status.number}: {slot.error}" if self.board.workers > 1 else slot.error)
                return bool(failures) or (slot is not None and slot.state == "ready")

            pending = await self._until(done, wait_s)
            if failures or pending:
                taken_back, _ = self.board.change(lambda old: replace(old, candidate=None, shadow=0.0))
                self._forget(taken_back)
                self.look()
                self._service.telemetry.swaps.labels("refused").inc()
                raise _not_loaded(failures, pending, wait_s)
            return self._slots[place].version

    async def switch(self, wait_s: float) -> list[int]:
        """Lets the candidate answer, in every worker; returns the workers that do not after ``wait_s``."""

        def change(old: Desired) -> Desired:
            if old.candidate is None:
                raise Refusal("conflict", "no candidate is loaded; load a bundle first")
            self._check_ready(old.candidate, "candidate")
            until = time.time() + self._service.settings.former_s
            return replace(
                old, serving=old.candidate, candidate=None, former=old.serving, former_until=until, shadow=0.0
            )

        return await self._serve(change, "switched", wait_s)

    async def rollback(self, wait_s: float) -> list[int]:
        """Lets the former version answer again; the one that answered is the former then."""

        def change(old: Desired) -> Desired:
            if old.former is None:
                raise Refusal("conflict", "no former version is loaded; load its bundle and switch to it")
            self._check_ready(old.former, "former version")
            until = time.time() + self._service.settings.former_s
            return replace(old, serving=old.former, former=old.serving, former_until=until)

        return await self._serve(change, "rolled_back", wait_s)

    async def swap(self, source: Path, wait_s: float) -> str:
        """``load`` and ``switch``; returns the version."""
        version = await self.load(source, wait_s)
        await self.switch(wait_s)
        return version

    async def unload(self, role: str, wait_s: float) -> list[int]:
        """Lets go of the candidate or of the former version; returns the workers that have it after ``wait_s``."""
        before, after = self.board.change(lambda old: _without(old, role))
        self.look()
        pending = await self._until(lambda status: status.serial >= after.serial, wait_s)
        self._forget(before)
        return pending

    async def shadow(self, share: float, wait_s: float) -> list[int]:
        """Lets the candidate answer a share of the live requests too, for comparison; 0 ends it."""

        def change(old: Desired) -> Desired:
            if old.candidate is None:
                raise Refusal("conflict", "no candidate is loaded; load a bundle first")
            return replace(old, shadow=share)

        _, after = self.board.change(change)
        self.look()
        return await self._until(lambda status: status.serial >= after.serial, wait_s)

    async def block(self, change: Callable[[Lists], Lists], wait_s: float) -> list[int]:
        """Changes what the admin listener was told of blocked items; returns the workers where it is not in force."""

        def changed(old: Desired) -> Desired:
            self.blocking.look()
            self.blocking.tell(change(self.blocking.told))
            return replace(old, lists=old.lists + 1)

        _, after = self.board.change(changed)
        self._service.block(self.blocking.items)
        return await self._until(lambda status: status.lists >= after.lists, wait_s)

    def expire(self) -> None:
        """Lets go of a former version whose time is over."""
        desired = self.board.desired()
        if desired.former is not None and time.time() > desired.former_until:
            before, _ = self.board.change(lambda old: _expired(old, desired))
            self.look()
            self._forget(before)

    # -- their parts ------------------------------------------------------------------------------------------------

    def _check_ready(self, place: str, what: str) -> None:
        lacking = [status.number for status in self.board.statuses() if not _ready(status, place)]
        if lacking:
            raise Refusal("conflict", f"workers {lacking} have not loaded the {what}; try again in a second")

    async def _serve(self, change: Callable[[Desired], Desired], outcome: str, wait_s: float) -> list[int]:
        with self._busy():
            before, after = self.board.change(change)
            self.look()
            pending = await self._until(lambda status: status.serving == after.serving, wait_s)
            self._service.telemetry.swaps.labels(outcome).inc()
            self._forget(before)
            return pending

    async def _until(self, done: Callable[[Status], bool], wait_s: float) -> list[int]:
        """Waits until all workers have done something; returns the numbers of those that have not."""
        until = time.monotonic() + wait_s
        while True:
            self.look()
            finished = {status.number for status in self.board.statuses() if done(status)}
            pending = [number for number in range(self.board.workers) if number not in finished]
            if not pending or time.monotonic() > until:
                return pending
            await asyncio.sleep(POLL_S)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """One change of versions at a time, over all workers."""
        with self.board.alone("swap.lock", wait=False) as held:
            if not held:
                raise Refusal("conflict", "another change of versions is under way; try again when it is done")
            yield

    def _held(self, source: Path) -> str:
        """The place of a private copy of a bundle, verified."""
        into = self.board.folder / HELD / uuid4().hex
        into.parent.mkdir(exist_ok=True)
        return str(hold(find(source), into, self._service.settings.trusted_keys))

    def _forget(self, before: Desired) -> None:
        """Deletes private copies that are not wanted any more; what is mapped of them stays until it is let go."""
        for place in before.places.keys() - self.board.desired().places.keys():
            if Path(place).is_relative_to(self.board.folder / HELD):
                shutil.rmtree(place, ignore_errors=True)


def _not_loaded(failures: list[str], pending: list[int], wait_s: float) -> Refusal:
    if failures:
        return Refusal("bundle_refused", failures[0])
    return Refusal("conflict", f"workers {pending} did not load it within {wait_s:g} s; all serve what they served")


def _ready(status: Status, place: str) -> bool:
    slot = status.of(place)
    return slot is not None and slot.state == "ready"


def _without(old: Desired, role: str) -> Desired:
    if role == "candidate" and old.candidate is not None:
        return replace(old, candidate=None, shadow=0.0)
    if role == "former" and old.former is not None:
        return replace(old, former=None)
    raise Refusal("conflict", f"there is no {role} version")


def _expired(old: Desired, seen: Desired) -> Desired:
    return replace(old, former=None) if old.former == seen.former and time.time() > old.former_until else old


def _trim() -> None:
    """Gives free memory back to the system, where the allocator can: it keeps what many small objects left."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            asyncio.get_running_loop().run_in_executor(None, ctypes.CDLL(None).malloc_trim, 0)
