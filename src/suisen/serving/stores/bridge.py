"""Between a store's values and one version that answers: what its visitors are called, what their values become."""

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from weakref import proxy

import numpy as np

from suisen.recommending.answering import planned
from suisen.recommending.states import Kept, key_of
from suisen.recommending.users import EVENT, MOST, Row, Visitor, session_key, user_key
from suisen.serving.answering import Answering, Job, Recommend, Similar
from suisen.serving.event_log import LoggedEvent
from suisen.serving.messages import Query
from suisen.serving.stores.users import TOO_LARGE, UNCHANGED, Asked, Sent
from suisen.serving.stores.wire import (
    VALUE_BYTES,
    early,
    events_key,
    line,
    packed,
    row_key,
    session_name,
    told,
    unpacked,
    user_name,
)

STAMPS = 100_000
"""Visitors whose stamps are remembered, about 150 bytes each."""
FULL = MOST - 1, VALUE_BYTES * 9 // 10
"""Events and bytes from which on a store may have left out older events: what it lacks then is no loss."""


class Want(NamedTuple):
    """A visitor whom a query names."""

    visitor: Visitor
    name: str
    key: Visitor | None
    """Of the row that would answer the query; None where none is kept."""


class Bridge:
    """Of one version.  All in the event loop."""

    def __init__(self, answering: Answering, count: Callable[[str], None], ttl_s: float) -> None:
        """``count`` is told of each key that was asked for: hit, miss, unchanged, stale, early or damaged."""
        self._answering: Answering = proxy(answering)  # who is bound to a job lives; a version that was left may go
        self._count, self._ttl_s = count, ttl_s
        self._stamps: OrderedDict[str, bytes] = OrderedDict()
        self.saved = bool(answering.system.version)
        """Whether the version names one bundle, so that rows may be shared."""

    # -- asking -----------------------------------------------------------------------------------------------------

    def wanted(self, job: Job) -> list[Want]:
        """The visitors whom a job's queries name, once per query."""
        if isinstance(job, Similar) or not job.queries:
            return []
        users = self._answering.system.store.users
        texts = users.texts([query.user_id for query in job.queries])
        dense = users.dense([query.user_id for query in job.queries]).tolist()
        rows = self.saved and self._answering.visitors is not None
        rows = rows and isinstance(job, Recommend) and planned(self._answering.system, job.options)
        return [
            want
            for query, text, known in zip(job.queries, texts, dense, strict=True)
            for want in _named(query, text, known, rows)
        ]

    def asked(self, wants: Sequence[Want]) -> dict[Asked, list[Want]]:
        """The values that answer some wants: events of each visitor, and rows that are not kept here."""
        found: dict[Asked, list[Want]] = {}
        rows = self._answering.visitors
        for want in wants:
            stamp = self._stamps.get(want.name, b"") if self._answering.recent.of(want.visitor) is not None else b""
            found.setdefault(Asked(events_key(want.name), stamp), []).append(want)
        for want in wants:
            if want.key is not None and rows is not None and not rows.holds(want.key):
                found.setdefault(Asked(row_key(self._answering.version, want.name)), []).append(want)
        return found

    # -- what was found ---------------------------------------------------------------------------------------------

    def took_events(self, want: Want, value: bytes | int | None) -> Iterator[Sent]:
        """Takes a visitor's events in; what is known here alone is to be sent."""
        if value == UNCHANGED:
            self._count("unchanged")
            return
        if value is None and self._answering.recent.of(want.visitor) is None:  # what most are
            self._count("miss")
            return
        if isinstance(value, int):
            self._count("damaged")
            value = None
        else:
            self._count("miss" if value is None else "hit")
        found = told(value or b"")
        for _ in range(found.damaged):
            self._count("damaged")
        self._remember(want.name, found.stamp)
        own = self._answering.recent.merge(want.visitor, self._rows(found.times, found.items))
        if len(own) and len(found.times) < FULL[0] and len(value or b"") < FULL[1]:
            items = self._answering.system.store.items.raw(own["item"]).to_list()
            lines = [line(at, str(item), None) for at, item in zip(own["time"].tolist(), items, strict=True)]
            yield Sent(events_key(want.name), tuple(lines))

    def took_row(self, want: Want, key: bytes, value: bytes | int | None) -> bool:
        """Takes a visitor's row in, after their events; False where it has to be computed, and is worth sending."""
        rows, want_key = self._answering.visitors, want.key
        if rows is None or want_key is None or rows.holds(want_key):
            return True
        outcome, row = self._row(key, value, self._answering.recent.of(want.visitor))
        self._count(outcome)
        if row is not None:
            rows.put(want_key, want.visitor, row)
        return row is not None

    def computed(self, want: Want) -> tuple[bytes, bytes] | None:
        """Key and value of a row that was computed here, where it is worth keeping."""
        rows = self._answering.visitors
        row = None if rows is None or want.key is None else rows.kept(want.key)
        if rows is None or row is None or not (row.able or row.seen):
            return None
        key = row_key(self._answering.version, want.name)
        value = packed(key, row, time.time() + self._ttl_s * random.uniform(0.9, 1.0), rows.row_s)
        return (key, value) if len(value) <= VALUE_BYTES else None

    def _row(self, key: bytes, value: bytes | int | None, events: bytes | None) -> tuple[str, Kept | None]:
        if value is None or isinstance(value, int):
            return "damaged" if value == TOO_LARGE else "miss", None
        rows = self._answering.visitors
        assert rows is not None  # noqa: S101 - for mypy
        try:
            found = unpacked(key, value, events, rows.widths, len(self._answering.system.store.items))
        except ValueError:
            return "damaged", None
        if found is None:
            return "stale", None
        if early(found.expires, found.seconds, time.time(), 1.0 - random.random()):
            return "early", None
        return "hit", found.row

    def _rows(self, times: list[int], items: list[str]) -> Row:
        rows = np.empty(len(times), dtype=EVENT)
        rows["time"], rows["item"] = times, self._answering.system.store.items.dense(items)
        return rows

    def _remember(self, name: str, stamp: bytes) -> None:
        self._stamps.pop(name, None)
        if stamp:
            self._stamps[name] = stamp
        if len(self._stamps) > STAMPS:
            self._stamps.popitem(last=False)


def _named(query: Query, text: str | None, known: int, rows: bool) -> Iterator[Want]:
    """The user and the session of a query."""
    own = query.history is not None or query.user_features is not None or query.context is not None
    user, session = user_key(query.user_id, known), session_key(query.session_id)
    if user is not None and text is not None and query.user_id is not None:
        plain = rows and not own and session is None
        yield Want(user, user_name(text), key_of(query.user_id) if plain else None)
    if session is not None:
        yield Want(session, session_name(str(query.session_id)), session if rows and not own and user is None else None)


def sent_of(events: Sequence[LoggedEvent], times: Sequence[int]) -> tuple[list[Sent], list[list[int]]]:
    """Events by visitor, and the places of each visitor's."""
    places: dict[str, list[int]] = {}
    for place, event in enumerate(events):
        name = session_name(event.session_id or "") if event.user_id is None else user_name(event.user_id)
        places.setdefault(name, []).append(place)
    sent = [
        Sent(events_key(name), tuple(line(times[at], events[at].item_id, events[at].event_id) for at in its))
        for name, its in places.items()
    ]
    return sent, list(places.values())
