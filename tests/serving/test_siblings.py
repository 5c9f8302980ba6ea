"""Events of other workers, read from the log that all append to."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.serving import siblings as module
from suisen.serving.event_log import FileLog
from suisen.serving.siblings import Group, Siblings
from tests.serving.events import logged

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def event(item, user="u"):
    return logged(item, user, time=NOON)


class Worker:
    """A log and a reader, as a worker has them; ``known`` is what it was told, its own included."""

    def __init__(self, folder, number, since=0):
        self.log = FileLog(folder / "events.jsonl")
        self.siblings = Siblings(Group(folder, number, 3, since), self.log.path)
        self.log.on_append, self.log.guard = self.siblings.wrote, self.siblings.ends.guard
        self.known = []

    def post(self, *items):
        self.log.append([event(item) for item in items])
        self.known += items

    def look(self):
        self.siblings.catch_up(lambda events: self.known.extend(one.item_id for one in events))
        return self.known


STEPS = st.lists(st.tuples(st.sampled_from(["post", "look", "die"]), st.integers(0, 2), st.integers(1, 3)), max_size=25)


@given(STEPS, st.integers(20, 400))
@settings(max_examples=80, deadline=None)
def test_every_worker_knows_every_event_once(steps, piece):
    """Property: whoever posts, looks or is started again, all know all events exactly once, however they are read."""
    kept, module.PIECE = module.PIECE, piece
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            before = FileLog(folder / "events.jsonl")
            before.append([event("before")])
            since = before.size()
            workers = [Worker(folder, number, since) for number in range(3)]
            posted = []
            for step, (what, number, count) in enumerate(steps):
                if what == "post":
                    items = [f"{step}-{place}" + "水" * place for place in range(count)]
                    workers[number].post(*items)
                    posted += items
                elif what == "look":
                    assert sorted(workers[number].look()) == sorted(posted)
                else:
                    workers[number].log.close()
                    workers[number] = Worker(folder, number, since)
            for worker in workers:
                assert sorted(worker.look()) == sorted(posted)
                worker.log.close()
            before.close()
    finally:
        module.PIECE = kept


def test_who_computes_waits_until_what_is_new_is_counted(tmp_path):
    """Two threads of a worker look at once: none goes on before the events count."""
    one, two = Worker(tmp_path, 0), Worker(tmp_path, 1)
    two.post("a")
    begun, go, order = threading.Event(), threading.Event(), []

    def slow(events):
        begun.set()
        go.wait(60)
        order.append("counted")

    first = threading.Thread(target=one.siblings.catch_up, args=(slow,))
    second = threading.Thread(target=lambda: (one.siblings.catch_up(slow), order.append("went on")))
    first.start()
    assert begun.wait(60)
    second.start()
    second.join(0.2)
    assert order == []
    go.set()
    first.join(60)
    second.join(60)
    assert order == ["counted", "went on"]


def test_a_log_that_somebody_emptied_begins_again(tmp_path):
    one, two = Worker(tmp_path, 0), Worker(tmp_path, 1)
    two.post("a", "b", "c")
    one.post("d")
    assert sorted(one.look()) == ["a", "b", "c", "d"]
    one.post("x")
    os.truncate(tmp_path / "events.jsonl", 0)
    two.post("e")
    one.post("f")
    assert sorted(one.look()) == ["a", "b", "c", "d", "e", "f", "x"]
    assert two.look() == ["a", "b", "c", "e", "f"]  # d and x were gone before it looked


def test_a_line_that_is_no_event_spoils_no_other(tmp_path, caplog):
    one, two = Worker(tmp_path, 0), Worker(tmp_path, 1)
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"of": "another program"}\n')
    two.post("a")
    with caplog.at_level(logging.WARNING, "suisen.serving"):
        assert one.look() == ["a"]
    assert "a line of the event log is no event" in caplog.text


def test_half_a_line_of_a_killed_sibling_is_mended_before_the_next_one(tmp_path):
    one, two = Worker(tmp_path, 0), Worker(tmp_path, 1)
    two.post("a")
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"user_id":"u","item_id":"half')
    assert one.look() == ["a"]
    one.post("b")
    assert two.look() == ["a", "b"]
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert len(lines) == 2
    assert (tmp_path / "events.jsonl.torn").read_bytes() == b'{"user_id":"u","item_id":"half\n'
