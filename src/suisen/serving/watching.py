"""Bundles that appear in a folder are swapped in: the newest that is whole.

A bundle that is being copied is not whole (SHA-256 that are not its manifest's) and is tried again when it changes;
one that is refused is told of once.  Of several workers one watches; where it ends, another does.
"""

import asyncio
import logging
from contextlib import ExitStack
from pathlib import Path

from suisen.recommending.place import MANIFEST
from suisen.serving.control import Control
from suisen.serving.mirror import Mirror
from suisen.serving.problems import Refusal

logger = logging.getLogger("suisen.serving")
WAIT_S = 600.0
"""Most seconds until all workers serve a bundle that appeared."""
Seen = tuple[Path, int, int]
"""A bundle as it lies there: place, time of its manifest in ns, bytes of all its files."""


class Watcher:
    """One folder.  A look costs a listing of it and a ``stat`` of each bundle's files."""

    def __init__(self, watched: str, control: Control) -> None:
        """``watched``: a folder of bundles (or runs), or itself a bundle, also through a symbolic link; or the address
        of a prefix in an object store.  Raises InputError for one that nothing reads, and MissingExtra.
        """
        self._mirror = Mirror(watched, control.board.folder / "watched") if "://" in watched else None
        self._folder = Path(watched) if self._mirror is None else self._mirror.into
        self._control = control
        self._tried: Seen | None = None
        self._last: Seen | None = None
        self._swapping: asyncio.Task[None] | None = None
        self._lock = ExitStack()
        self._mine = False

    def look(self) -> None:
        """Swaps to the newest bundle, once it stood still between two looks.  What lay there at the start counts as
        served: the server was told what to begin with.
        """
        if self._swapping is not None and not self._swapping.done():
            return
        found = newest(self._folder)
        before, self._last = self._last, found
        if not self._mine:
            self._tried = found
            self._mine = self._lock.enter_context(self._control.board.alone("watch.lock", wait=False))
            if not self._mine:
                self._lock.close()
            elif self._mirror is not None:
                self._mirror.start()
            return
        if found is None or found == self._tried or found != before:
            return
        self._tried = found
        self._swapping = asyncio.get_running_loop().create_task(self._swap(found[0]))

    async def _swap(self, place: Path) -> None:
        try:
            version = await self._control.swap(place, WAIT_S)
            logger.info("a new bundle answers", extra={"fields": {"version": version, "place": str(place)}})
        except Refusal as refusal:
            logger.error("%s is not swapped in: %s", place, refusal.detail)
            if refusal.code == "conflict":  # another change is under way: again
                self._tried = None
        except Exception as error:
            logger.error("%s is not swapped in", place, exc_info=error)

    def stop(self) -> None:
        """Lets another process watch."""
        if self._mirror is not None:
            self._mirror.stop()
        self._lock.close()


def newest(folder: Path) -> Seen | None:
    """The bundle whose manifest is the newest; None where there is none."""
    try:
        places = [folder, *sorted(one for one in folder.iterdir() if not one.name.startswith("."))]
    except OSError:
        return None
    found = [seen for place in places for one in (place, place / "bundle") if (seen := _seen(one)) is not None]
    return max(found, key=lambda seen: (seen[1], str(seen[0])), default=None)


def _seen(place: Path) -> Seen | None:
    try:
        made = (place / MANIFEST).stat().st_mtime_ns
        real = place.resolve()
        return real, made, sum(file.stat().st_size for file in real.rglob("*") if file.is_file())
    except OSError:
        return None
