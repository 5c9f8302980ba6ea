"""What an answer needs of a visitor, kept from one query to the next: query vector, ranker's context row, seen items.

A row holds as long as its visitor's events are the object that it was computed from (``RecentEvents.of``): an event
makes another one, so that no answer after it finds the old row, whichever thread computes meanwhile.  Rows are computed
when they are missed, those of a call together.  A query that brings a history, features or a context is computed and
not kept, as is every one where a network reads the time.

Memory: the floats, 320 bytes, the key (the text of a user, or 28), 33 and 4 per seen item, and the events once more:
2,400 bytes of a user who has seen 100 items, with 128 floats of a query vector and 266 of a context row; 2.4 GB of a
million such users.  ``nbytes`` counts so and never passes the limit: who was longest not asked for goes first.
Time: see ``docs/serving.md``.
"""

import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from suisen.data.batch import Contexts
from suisen.data.ids import RawId
from suisen.data.ragged import Ragged
from suisen.recommending.engine import States
from suisen.recommending.queries import RawQueries, answerable, dense_queries
from suisen.recommending.store import Store
from suisen.recommending.system import System
from suisen.recommending.users import RecentEvents, Visitor, session_key, user_key

ENTRY = 320
"""Most bytes of a row beside key, floats, seen items and events: nodes and tables that grow before they are full."""
NOBODY = b"\xff"
"""The key of a query that names nobody of whom anything is known: no text of a session has these bytes."""
WARMED = 256
"""Users whose rows are computed together before the first query."""
MISSED, STRANGER = -1, 0
"""No slot; and the slot that all share whom neither the bundle nor an event knows and no model answers."""


class Rows(NamedTuple):
    """What the answers to B queries need of those who ask."""

    states: States
    """Zeros where the model cannot answer."""
    able: npt.NDArray[np.bool_]
    """(B,) which queries the model can answer."""
    known: npt.NDArray[np.bool_]
    """(B,) which are of users whom train has events of."""
    seen: list[bytes]
    """B times the dense items of the history as int32, rising, each once."""


class Kept(NamedTuple):
    """The row of one visitor, and what it was computed from."""

    query: npt.NDArray[np.float32]
    """(d,) the query vector."""
    row: npt.NDArray[np.float32] | None
    """(r,) the ranker's context row; None where no ranker reads one."""
    able: bool
    known: bool
    seen: bytes
    events: bytes | None


def _somebody(store: Store) -> Contexts:
    """The context of a user with events, or, where there are guests alone, of one who took the most popular item."""
    contexts = store.contexts(store.trained_users.long().argmax()[None], 0)
    if contexts.history.values.numel():
        return contexts
    one = Ragged(store.popular[:1], torch.tensor([0, len(store.popular[:1])]))
    return replace(contexts, history=one, history_time=torch.zeros_like(one.values))


def key_of(user: RawId) -> str:
    """What a user's row is kept by: 7 and "7" are one."""
    return str(user)


class VisitorRows:
    """Rows of those who asked lately.  Any thread may ask."""

    def __init__(self, system: System, recent: RecentEvents, max_bytes: int) -> None:
        """``max_bytes``: of all rows together, 0 keeps none.  Raises TypeError for a system without a plan."""
        store, engine = system.store, system.engine
        if engine.plan is None:
            raise TypeError("the engine has no plan: nothing reads rows")
        self.nbytes = self.hits = self.misses = 0
        """Bytes held as the head of this file counts them; queries answered by a row that was kept; others."""
        self.row_s = 0.0
        """Seconds that a row took when rows were last computed."""
        self.plan, self.recent, self._store, self._abilities = engine.plan, recent, store, system.abilities
        timeless = not any(net is not None and net.reads_time for net in (engine.retriever, engine.ranker))
        self._max_bytes = max_bytes if timeless else 0
        queries, rows = self.plan.prepare(_somebody(store))
        self.widths = queries.shape[1], 0 if rows is None else rows.shape[1]
        """Floats of a query vector and of a context row."""
        self.bytes_of_a_row = queries.nbytes + (0 if rows is None else rows.nbytes)
        slots = 1 + self._max_bytes // (ENTRY + self.bytes_of_a_row)
        # Pages of an empty array take no memory before they are written to: nothing has to grow, or be copied.
        self._queries = np.empty((slots, queries.shape[1]), dtype=np.float32)
        self._rows = None if rows is None else np.empty((slots, rows.shape[1]), dtype=np.float32)
        self._able, self._known = np.zeros(slots, dtype=np.bool_), np.zeros(slots, dtype=np.bool_)
        self._queries[STRANGER] = 0
        if self._rows is not None:
            self._rows[STRANGER] = 0
        self._who: list[Visitor | None] = [None]  # of each slot: whose events count
        self._events: list[bytes | None] = [None]  # those that the row was computed from
        self._seen = [b""]
        self._free: list[int] = []
        self._slots: OrderedDict[Visitor, int] = OrderedDict()  # least recently asked for first
        self._lock = Lock()

    def __len__(self) -> int:
        """Visitors with a row."""
        return len(self._slots)

    def of(self, queries: RawQueries) -> Rows:
        """The rows of B queries.  Raises InputError for features that do not exist."""
        keys, queries = self._keyed(queries)
        slots = [MISSED] * len(keys)
        seen = [b""] * len(keys)
        with self._lock:
            for place, key in enumerate(keys):
                if key is not None and (slot := self._held(key)) != MISSED:
                    slots[place], seen[place] = slot, self._seen[slot]
            where = np.array(slots, dtype=np.int64)
            states = States(self._queries[where], None if self._rows is None else self._rows[where])
            able, known = self._able[where], self._known[where]
            missed = [place for place, slot in enumerate(slots) if slot == MISSED] if MISSED in slots else []
            self.misses += len(missed)
            self.hits += len(keys) - len(missed)
        found = Rows(states, able, known, seen)
        if missed:
            self._compute_once(queries, keys, missed, found)
        return found

    def holds(self, key: Visitor) -> bool:
        """Whether a row of a visitor is kept, and still holds."""
        with self._lock:
            return self._held(key) != MISSED

    def kept(self, key: Visitor) -> Kept | None:
        """The row of a visitor, named as ``key_of`` does, where it still holds."""
        with self._lock:
            slot = self._held(key)
            if slot in (MISSED, STRANGER):
                return None
            row = None if self._rows is None else self._rows[slot].copy()
            able, known = bool(self._able[slot]), bool(self._known[slot])
            return Kept(self._queries[slot].copy(), row, able, known, self._seen[slot], self._events[slot])

    def put(self, key: Visitor, who: Visitor, row: Kept) -> None:
        """Keeps a row that was computed elsewhere from the events that it brings, which must be those of now."""
        states = States(row.query[None], None if row.row is None else row.row[None])
        one = Rows(states, np.array([row.able]), np.array([row.known]), [row.seen])
        with self._lock:
            self._keep(key, who, row.events, 0, one)

    def warm(self, seconds: float) -> None:
        """Computes rows of those who acted last before the bundle was made, until the time is over or memory full."""
        until, store = time.monotonic() + seconds, self._store
        users = (store.trained_users & (store.histories.lengths > 0)).nonzero().squeeze(1)
        newest = store.history_times[store.histories.offsets[1:][users] - 1]
        users = users[newest.argsort(descending=True, stable=True)]
        for chunk in torch.split(users, WARMED):
            rows = len(self)
            if time.monotonic() >= until:
                break
            self.of(RawQueries(store.users.raw(chunk.numpy()).cast(pl.String).to_list()))
            if len(self) < rows + len(chunk):  # others had to go
                break
        self.misses = 0

    def _keyed(self, queries: RawQueries) -> tuple[list[Visitor | None], RawQueries]:
        """What each query's row is kept by, None where it is not kept; and the queries without sessions that did
        nothing: what one does from now on must not be in the row of a user.
        """
        users = queries.named
        keys: list[Visitor | None] = [NOBODY if user is None else key_of(user) for user in users]
        if queries.sessions is not None:
            sessions = list(queries.sessions)
            for place, session in enumerate(sessions):
                guest = session_key(session)
                if guest is None or self.recent.of(guest) is None:
                    sessions[place] = None
                else:
                    keys[place] = guest if users[place] is None else None
            queries = replace(queries, users=users, sessions=sessions)
        own = queries.bring_their_own
        return [None if own[place] else key for place, key in enumerate(keys)] if any(own) else keys, queries

    def _held(self, key: Visitor) -> int:
        """The slot of a row that still holds, now the most recently used one."""
        slot = self._slots.get(key)
        if slot is None:
            return MISSED
        who = self._who[slot] if slot else key
        if self.recent.of(who) is not self._events[slot]:
            return MISSED
        self._slots.move_to_end(key)
        return slot

    def _compute_once(self, queries: RawQueries, keys: Sequence[Visitor | None], missed: list[int], out: Rows) -> None:
        """Fills the rows that were missed: of queries of one visitor one is computed, the others share its row."""
        began = time.perf_counter()
        names: list[Visitor] = [place if (key := keys[place]) is None else key for place in missed]
        firsts: dict[Visitor, int] = {}
        for name, place in zip(names, missed, strict=True):
            firsts.setdefault(name, place)
        self._compute(queries, keys, list(firsts.values()), out)
        self.row_s = (time.perf_counter() - began) / len(firsts)
        if len(firsts) == len(missed):
            return
        sources = [firsts[name] for name in names]
        for held in (*out.states, out.able, out.known):
            if held is not None:
                held[missed] = held[sources]
        for place, source in zip(missed, sources, strict=True):
            out.seen[place] = out.seen[source]

    def _compute(self, queries: RawQueries, keys: Sequence[Visitor | None], missed: list[int], out: Rows) -> None:
        """Fills the rows that were missed, and keeps those that have a key."""
        asked = queries.take(missed)
        users = asked.named
        known = self._store.users.dense(users)
        who = [
            keys[at] if type(keys[at]) is bytes else user_key(user, dense)
            for at, user, dense in zip(missed, users, known.tolist(), strict=True)
        ]
        events = [self.recent.of(one) for one in who]  # before the history is read: what comes later makes it miss
        dense = dense_queries(self._store, asked, None, self.recent, known)
        able = answerable(dense, self._abilities)
        rows = able.nonzero().squeeze(1)
        places = np.array(missed)
        made = self.plan.prepare(dense.contexts.take(rows)) if len(rows) else States(self._queries[:0], None)
        for held, new in zip(out.states, made, strict=True):
            if held is not None:
                held[places] = 0
                held[places[rows.numpy()]] = new if new is not None else 0
        out.able[places], out.known[places] = able.numpy(), dense.known.numpy()
        history = dense.seen.unique()
        items, ends = history.values.to(torch.int32).numpy().tobytes(), (4 * history.offsets).tolist()
        for row, place in enumerate(missed):
            out.seen[place] = items[ends[row] : ends[row + 1]]
        with self._lock:
            for row, place in enumerate(missed):
                if (key := keys[place]) is not None:
                    self._keep(key, who[row], events[row], place, out)

    def _keep(self, key: Visitor, who: Visitor | None, events: bytes | None, place: int, out: Rows) -> None:
        """Takes a row in where it fits."""
        if key in self._slots:
            self._forget(key)
        seen = out.seen[place]
        stranger = not out.able[place] and not seen and type(who) is not int
        size = self._size(key, stranger, seen, events)
        if size > self._max_bytes:
            return
        while self.nbytes + size > self._max_bytes:
            self._forget(next(iter(self._slots)))
        self.nbytes += size
        if stranger:
            self._slots[key] = STRANGER
            return
        if not self._free:
            self._free.append(len(self._seen))
            self._who.append(None)
            self._events.append(None)
            self._seen.append(b"")
        slot = self._slots[key] = self._free.pop()
        self._who[slot], self._events[slot], self._seen[slot] = who, events, seen
        self._able[slot], self._known[slot] = out.able[place], out.known[place]
        self._queries[slot] = out.states.queries[place]
        if self._rows is not None and out.states.rows is not None:
            self._rows[slot] = out.states.rows[place]

    def _forget(self, key: Visitor) -> None:
        slot = self._slots.pop(key)
        self.nbytes -= self._size(key, slot == STRANGER, self._seen[slot], self._events[slot])
        if slot != STRANGER:
            self._who[slot], self._events[slot], self._seen[slot] = None, None, b""
            self._free.append(slot)

    def _size(self, key: Visitor, stranger: bool, seen: bytes, events: bytes | None) -> int:
        if stranger:
            return ENTRY + sys.getsizeof(key)
        own = self.bytes_of_a_row + sys.getsizeof(seen) + (0 if events is None else sys.getsizeof(events))
        return ENTRY + sys.getsizeof(key) + own
