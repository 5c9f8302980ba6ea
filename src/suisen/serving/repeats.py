"""Events that were sent again: an id is taken once, whichever worker hears of it, also after a restart.

A client that got no answer does not know whether its events were taken, so it sends them again under the ids that they
had.  The ids of the newest events are kept, and what was said under them: the same again is a repeat, which is neither
written nor counted; something else is refused.  The log is where ids come from: before a worker writes, it alone, it
reads what others wrote; when a server starts it reads the newest part of the log.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from suisen.serving.event_log import LoggedEvent
from suisen.serving.messages import microseconds
from suisen.serving.problems import Refusal
from suisen.serving.segments import segments
from suisen.serving.siblings import Reader, decoded, pieces

logger = logging.getLogger("suisen.serving")
TRIES = 5
"""Most times that the log is read back, where files are renamed meanwhile."""
READ_BACK = 32 << 20
"""Most bytes of the log that are read for their ids when a server starts: about 100,000 events."""
NAMED, OURS = b'{"event_id":"', b'{"event_id":"~'
"""How lines begin whose events have ids, and ids that no client gave."""
_TIME, _SECOND = 1 << 64, 1 << 32
"""What was said under an id, when it happened, and in which second that came, are one number."""


@dataclass(frozen=True)
class Sent:
    """The events of a request."""

    events: Sequence[LoggedEvent]
    timed: Sequence[bool]
    """Whether the client said when an event happened; else it is the time of arrival, which a repeat does not share."""

    def __len__(self) -> int:
        return len(self.events)


class Repeats:
    """The ids of the newest events.  A lane's thread uses it while no other process may write to the log.

    Memory: 250 bytes per id of 36 characters, 25 MB for 100,000.  Time: 3 µs per event that brings an id, 0.2 µs per
    event that brings none.
    """

    def __init__(self, path: Path, most: int, seconds: float, reader: Reader | None = None) -> None:
        """``path``: of the log; ``most``, ``seconds``: how many ids are kept, and how long; ``reader``: of what other
        processes append, beginning at the end of what is at the path.
        """
        self._path, self._most, self._seconds, self._reader = path, most, seconds, reader
        self._known: OrderedDict[str, int] = OrderedDict()  # the oldest first
        self._fresh: dict[str, int] = {}
        self._ready = False

    def read_back(self) -> None:
        """Learns the ids of the newest part of the log, the first time.  Nobody else need wait meanwhile."""
        if self._ready:
            return
        self._ready = True
        why: OSError | None = None
        for _ in range(TRIES):
            try:
                files = segments(self._path)
                self._read_back(files)
                if segments(self._path) == files:  # else one was renamed, and may not have been read
                    return
                why = None
            except OSError as error:  # perhaps a file was deleted meanwhile
                why = error
        if why is not None:
            logger.error("the ids of earlier events cannot be read: %s; they would be taken again", why)

    def _read_back(self, files: Sequence[Path]) -> None:
        rest = READ_BACK
        parts: list[tuple[Path, int, int]] = []
        for path in reversed(files):
            if rest > 0:
                size = path.stat().st_size
                parts.insert(0, (path, max(0, size - rest), size))
                rest -= size
        for path, start, end in parts:
            with path.open("rb") as file:
                cut = start > 0  # its first line may be half of one
                for lines in pieces(file.fileno(), start, end):
                    self._learn(lines[lines.index(b"\n") + 1 :] if cut else lines)
                    cut = False

    def sort_out(self, jobs: Sequence[Sent]) -> list[list[LoggedEvent] | Refusal]:
        """Of each job the events that are no repeats, not even of each other; a refusal where an id was used for
        something else.  What is new is known once ``wrote`` is called.
        """
        if self._reader is not None:
            for lines in self._reader.lines():
                self._learn(lines)
        self._forget()
        self._fresh = {}
        return [self._new(sent) for sent in jobs]

    def wrote(self) -> None:
        """What was new is in the log."""
        self._add(self._fresh)
        if self._reader is not None:
            self._reader.skip()

    def _new(self, sent: Sent) -> list[LoggedEvent] | Refusal:
        said: dict[str, int] = {}
        found = []
        for place, (event, timed) in enumerate(zip(sent.events, sent.timed, strict=True)):
            name = _name(event)
            if name is None:
                found.append(event)
                continue
            now = _said(event)
            before = said.get(name) or self._fresh.get(name) or self._known.get(name, 0) // _SECOND
            if not before:
                said[name] = now
                found.append(event)
            elif before // _TIME != now // _TIME or (timed and before != now):
                return _reused(place, event)
        self._fresh |= said
        return found

    def _learn(self, lines: bytes) -> None:
        """The ids of whole lines."""
        named = [line for line in lines.split(b"\n") if line.startswith(NAMED) and not line.startswith(OURS)]
        events = decoded(b"\n".join([*named, b""])) if named else []
        self._add({name: _said(event) for event in events if (name := _name(event)) is not None})

    def _add(self, said: dict[str, int]) -> None:
        """Keeps ids, unless they are kept already."""
        second = int(time.monotonic()) + 1
        for name, one in said.items():
            self._known.setdefault(name, one * _SECOND + second)
        self._forget()

    def _forget(self) -> None:
        """Forgets the oldest ids, where they are too many or too old."""
        since = time.monotonic() - self._seconds
        while self._known:
            name = next(iter(self._known))
            if len(self._known) <= self._most and self._known[name] % _SECOND >= since:
                break
            del self._known[name]


def derived(key: str, place: int, events: int) -> str:
    """The id of an event without one in a request with an idempotency key.  No client may give an id with a #."""
    return f"{key}#{place}/{events}"


def _name(event: LoggedEvent) -> str | None:
    """What an event is known by; None where no client named it."""
    name = event.event_id
    if name is None or name.startswith("~"):
        return None
    return name.rpartition("/")[0] if "#" in name else name  # a request of more events is another


def _said(event: LoggedEvent) -> int:
    """What an event says, and when it happened, in the lower 64 bits."""
    told = (event.event_id, _plain(event.user_id), event.session_id, _plain(event.item_id), event.event)
    value = None if event.value is None else str(event.value)  # Python's hashes of −1 and −2 are equal
    worth = (event.request_id, event.position, value, event.price, event.quantity)
    return (hash((told, worth)) % _TIME | 1) * _TIME + microseconds(event.time)


def _plain(text: str | None) -> str | None:
    """An id without what another bundle, which knows it, may spell otherwise: 007 is 7."""
    if text is None or not text[:1].isascii() or text[:1].isalpha():
        return text
    whole, _, rest = text.partition(".")
    try:
        return text if rest.strip("0") else str(int(whole))
    except ValueError:
        return text


def _reused(place: int, event: LoggedEvent) -> Refusal:
    key, derived, _ = str(event.event_id).partition("#")
    if derived:
        text = f"idempotency-key = {key!r} was used for other events; give each request its own key"
    else:
        text = f"events[{place}].event_id = {key!r} was used for another event; give each event its own id"
    return Refusal("id_reused", text)
