"""What has happened since the bundle was made, by visitor: events count for the very next answer.

Per visitor: the newest events in order of time, as one immutable array, so that a reader never sees half of a change.
A user who acted is known by their dense id, or, where the bundle does not know them, by their raw one; a session, whose
events name no user, by its id as bytes, so that no session is taken for a user of the same name.

Memory: 240 bytes of a user, the key (28 bytes of a known user, the text of another, 33 and its bytes of a session), 33
and 16 per event: 461 bytes of ten events, 461 MB of a million such users.  ``nbytes`` counts so and never passes
the limit: users who were longest neither heard nor asked of are forgotten, and are answered from the bundle again.
Time: the ids of n events are looked up together (0.4 ms, 2 ms for 1,000, 2 µs where they were lately).  An event alone
and newer than all of its user's is put behind them (3 µs); else the user's events are sorted once (25 to 100 µs).  A
query without events costs one look-up in a dict (2 µs), with them 0.2 ms, 256 together 0.4 ms.
"""

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch

from suisen.data.batch import Contexts
from suisen.data.ids import RawId
from suisen.data.ragged import Ragged, offsets_of, side_by_side
from suisen.recommending.store import Store

MOST = 4096
"""Events kept of one user, the newest: no model reads a longer history (``SASRec.length`` ends here)."""
ENTRY = 240
"""Most bytes of a user beside key and events: node, share of a table that grows before it is full, rounding."""
EVENT = np.dtype([("time", np.int64), ("item", np.int64)])
Row = npt.NDArray[np.void]
"""(n,) of EVENT, by time; equal times in order of arrival."""
Visitor = RawId | bytes
"""Whose events they are: a dense id or the text of a user, the bytes of a session."""


class RecentEvents:
    """Events since the bundle was made.  Any thread may add and read."""

    def __init__(self, store: Store, max_bytes: int, most: int = MOST) -> None:
        """``max_bytes``: of all users together, 0 keeps nothing; ``most``: events kept of one user."""
        self.nbytes = 0
        """Bytes held, as the head of this file counts them."""
        self._store, self._max_bytes, self._most = store, max_bytes, most
        self._rows: OrderedDict[Visitor, bytes] = OrderedDict()  # least recently used first
        self._lock = Lock()
        self._ends, self._items = store.histories.offsets.numpy(), store.histories.values.numpy()
        self._times = store.history_times.numpy()

    def __len__(self) -> int:
        """Users and sessions with events."""
        return len(self._rows)

    def add(
        self,
        users: Sequence[RawId | None],
        items: Sequence[RawId],
        times: Sequence[int],
        sessions: Sequence[RawId | None] | None = None,
    ) -> int:
        """Takes n events in the order of their arrival; times are microseconds since 1970 UTC, at most now.

        An event counts for its user, or, where it names none, for its session; events of neither, and of items that the
        bundle does not know, are passed over.  Returns the number of the latter.  The same item at the same time is the
        same event, sent again, and counts once, also where the bundle holds it already.
        """
        dense = self._store.items.dense(items)
        new = np.empty(len(dense), dtype=EVENT)
        new["time"], new["item"] = times, dense
        places: dict[Visitor, list[int]] = {}
        guests = [None] * len(dense) if sessions is None else sessions
        for place, known in enumerate(self._store.users.dense(users).tolist()):
            key = user_key(users[place], known) or session_key(guests[place])
            if key is not None and dense[place]:
                places.setdefault(key, []).append(place)
        for key, its in places.items():
            self._append(key, new[its])
        return int((dense == 0).sum())

    def merge(self, visitor: Visitor, events: Row) -> Row:
        """Takes in (n,) events of a visitor that another server heard of, in the order of arrival; returns those of the
        visitor that were known here alone.

        Of equal times theirs stand first, so that all servers have one order.
        """
        theirs = _joined(b"", self._unlearnt(visitor, events[events["item"] > 0]))
        with self._lock:
            ours = self._rows.get(visitor, b"")
            both = theirs if theirs == ours else _joined(theirs, np.frombuffer(ours, dtype=EVENT))
            self._put(visitor, ours, both)
        if len(both) == len(theirs):
            return events[:0]
        told = set(np.frombuffer(theirs, dtype=EVENT).tolist())
        own = np.frombuffer(ours, dtype=EVENT)
        return own[[one not in told for one in own.tolist()]]

    def adopt(self, other: "RecentEvents") -> None:
        """Takes the events of another bundle's users over, by raw ids; those that this bundle was made of count once.

        Items that this bundle does not know are passed over.  3 µs a user and 1 µs an event; both stay usable.
        """
        with other._lock:
            held = list(other._rows.items())  # least recently used first, and so they are taken
        known = np.array([key if isinstance(key, int) else 0 for key, _ in held], dtype=np.int64)
        raw = iter(other._store.users.raw(known[known > 0]).to_list())
        names = [next(raw) if isinstance(key, int) else key for key, _ in held]
        dense = self._store.users.dense([None if isinstance(name, bytes) else name for name in names]).tolist()
        events = np.frombuffer(b"".join(row for _, row in held), dtype=EVENT).copy()
        events["item"] = self._store.items.dense(other._store.items.raw(events["item"]))
        end = 0
        for name, user, (_, row) in zip(names, dense, held, strict=True):
            start, end = end, end + len(row) // EVENT.itemsize
            key = name if isinstance(name, bytes) else user_key(name, user)
            new = events[start:end]
            if key is not None and (new := new[new["item"] > 0]).size:
                self._append(key, new)

    def of(self, visitor: Visitor | None) -> bytes | None:
        """The events of a visitor, who is the most recently used one now; None where there are none.

        They are the same object until the visitor's events change.
        """
        if visitor is None or visitor not in self._rows:  # what most are: no lock for them
            return None
        with self._lock:
            if visitor not in self._rows:
                return None
            self._rows.move_to_end(visitor)
            return self._rows[visitor]

    def followed(
        self, contexts: Contexts, users: Sequence[RawId | None], sessions: Sequence[RawId | None] | None = None
    ) -> Contexts:
        """The contexts of (B,) raw ``users``, dense in ``contexts.user``, their histories followed by what is new: what
        the user did, and what their session did without naming a user.

        An event older than the newest stored one stands where its time belongs, behind stored ones of the same time;
        without times in the bundle all stand behind.
        """
        keys = map(user_key, users, contexts.user.tolist())
        guests = [None] * len(users) if sessions is None else map(session_key, sessions)
        found = [_of_both(self.of(user), self.of(guest)) for user, guest in zip(keys, guests, strict=True)]
        if not any(found):
            return contexts
        events = np.frombuffer(b"".join(found), dtype=EVENT)
        items = torch.cat([contexts.history.values, torch.from_numpy(events["item"].copy())])
        times = torch.cat([contexts.history_time, torch.from_numpy(events["time"] * self._store.has_time)])
        lengths = torch.tensor([len(row) // EVENT.itemsize for row in found], dtype=torch.int64)
        places = torch.arange(items.numel())
        stored = contexts.history.with_values(places[: -len(events)])
        both = side_by_side(stored, Ragged(places[-len(events) :], offsets_of(lengths)))
        order, rows = both.values, both.rows()
        if bool(((times[order].diff() < 0) & (rows.diff() == 0)).any()):  # rare: an event older than the bundle
            order = order[torch.from_numpy(np.lexsort((times[order].numpy(), rows.numpy())))]
        return replace(contexts, history=both.with_values(items[order]), history_time=times[order])

    def _append(self, key: Visitor, new: Row) -> None:
        new = self._unlearnt(key, new)
        with self._lock:
            old = self._rows.get(key, b"")
            self._put(key, old, _joined(old, new) if len(new) else old)

    def _put(self, key: Visitor, old: bytes, row: bytes) -> None:
        """A visitor's events in the place of the old ones; equal ones stay the same object.  Under the lock."""
        row = row[-self._most * EVENT.itemsize :]
        if row == old:
            if old:
                self._rows.move_to_end(key)
            return
        if old:
            self.nbytes -= _size(key, self._rows.pop(key))
        self._rows[key] = row
        self.nbytes += _size(key, row)
        while self.nbytes > self._max_bytes:
            self.nbytes -= _size(*self._rows.popitem(last=False))

    def _unlearnt(self, key: Visitor, new: Row) -> Row:
        """Those that the bundle's history of a user lacks: a model that learnt from an event must not meet it again.

        0.5 µs where all are newer than the history.
        """
        if type(key) is not int or not self._store.has_time:
            return new
        first, end = self._ends[key], self._ends[key + 1]
        if first == end or not len(new) or new["time"].min() > self._times[end - 1]:
            return new
        held = set(zip(self._times[first:end].tolist(), self._items[first:end].tolist(), strict=True))
        return new[[one not in held for one in new.tolist()]]


def user_key(raw: RawId | None, dense: int) -> RawId | None:
    """What a user's events are kept by: 7 and "7" are the same; None for nobody."""
    return dense or (None if raw is None else str(raw))


def session_key(raw: RawId | None) -> bytes | None:
    """What the events of a session are kept by."""
    return None if raw is None else str(raw).encode("utf-8", "surrogatepass")


def _of_both(user: bytes | None, session: bytes | None) -> bytes:
    """Events of a user and of their session, by time."""
    if not user or not session:
        return user or session or b""
    events = np.frombuffer(user + session, dtype=EVENT)
    return events[np.argsort(events["time"], kind="stable")].tobytes()


def _joined(old: bytes, new: Row) -> bytes:
    """By time, equal times in order of arrival; of equal events the first."""
    events = np.frombuffer(old, dtype=EVENT)
    if len(new) == 1 and (not old or events["time"][-1] < new["time"][0]):
        return old + new.tobytes()  # what nearly every event is: alone, and the newest
    events = np.concatenate([events, new])
    order = np.lexsort((events["item"], events["time"]))  # stable: equal events stay in order of arrival
    again = np.flatnonzero(events[order[1:]] == events[order[:-1]])
    events = np.delete(events, order[1:][again])
    return events[np.argsort(events["time"], kind="stable")].tobytes()


def _size(key: Visitor, row: bytes) -> int:
    return ENTRY + sys.getsizeof(key) + sys.getsizeof(row)
