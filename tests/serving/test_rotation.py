"""Files of a log that are full, old, renamed, deleted, emptied or cannot be written: no event is lost, none doubled."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.serving.event_log import FileLog
from suisen.serving.segments import Position, Rotation, keep_from, prune, rotated, segments
from suisen.serving.settings import Settings
from suisen.serving.siblings import Group, Siblings
from tests.serving.client import Client
from tests.serving.events import logged, read_events

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def event(item):
    return logged(item, time=NOON)


def items_of(path):
    """Of all files of a log, in their order."""
    return [item for each in segments(path) for item in read_events(each)["item_id"].to_list()]


def size_of(*items):
    with tempfile.TemporaryDirectory() as folder:
        return FileLog(Path(folder) / "x.jsonl").append([event(item) for item in items]).offset


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_whatever_the_size_no_line_is_lost_and_no_file_above_it(batches, lines):
    """Property: the files in their order hold what was appended; one above the bound is one batch."""
    most = size_of("00") * lines
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        log = FileLog(path, Rotation(max_bytes=most))
        posted = []
        for number, count in enumerate(batches):
            rows = [f"{number:x}{place}" for place in range(count)]
            end = log.append([event(row) for row in rows])
            assert end == Position(path.stat().st_ino, path.stat().st_size)
            posted += rows
        assert items_of(path) == posted
        for each in segments(path):
            assert each.stat().st_size <= most or len({item[0] for item in read_events(each)["item_id"]}) == 1
        log.close()


def test_rotated_files_are_named_by_time_and_number(tmp_path):
    path = tmp_path / "events.jsonl"
    log = FileLog(path, Rotation(max_bytes=1))
    for item in "abcd":
        log.append([event(item)])
    names = [each.name for each in rotated(path)]
    assert [re.fullmatch(r"events-\d{8}T\d{6}Z-(\d{6})\.jsonl", name)[1] for name in names] == [
        "000001",
        "000002",
        "000003",
    ]
    assert abs(datetime.strptime(names[0][7:23], "%Y%m%dT%H%M%S%z").timestamp() - time.time()) < 60
    assert segments(path) == [*rotated(path), path]
    (tmp_path / "events-20991231T000000Z-000003x.jsonl").write_text("")  # none of ours
    assert len(segments(path)) == 4


def test_the_number_tells_the_order_when_clocks_go_back(tmp_path):
    path = tmp_path / "events.jsonl"
    log = FileLog(path, Rotation(max_bytes=1))
    log.append([event("a")])
    log.append([event("b")])
    rotated(path)[0].rename(tmp_path / "events-20990101T000000Z-000001.jsonl")
    log.append([event("c")])
    assert items_of(path) == ["a", "b", "c"]


def test_a_file_holds_lines_of_one_period(tmp_path):
    path = tmp_path / "events.jsonl"
    log = FileLog(path, Rotation(max_age_s=3600))
    log.append([event("a")])
    log.append([event("b")])
    assert not rotated(path)
    os.utime(path, (time.time() - 3600,) * 2)  # its last line came an hour ago
    assert log.wants_care()
    log.append([])
    assert len(rotated(path)) == 1
    assert not log.wants_care()
    log.close()
    log = FileLog(path, Rotation(max_age_s=3600))  # a new server goes on
    log.append([event("c")])
    assert items_of(path) == ["a", "b", "c"]


def test_the_newest_are_kept(tmp_path):
    path = tmp_path / "events.jsonl"
    log = FileLog(path, Rotation(max_bytes=1, keep=2))
    for item in "abcdef":
        log.append([event(item)])
    assert items_of(path) == ["d", "e", "f"]


def test_what_somebody_still_needs_is_kept(tmp_path):
    path = tmp_path / "events.jsonl"
    log = FileLog(path, Rotation(max_bytes=1, keep=1))
    log.append([event("a")])
    log.append([event("b")])
    keep_from(path, log.append([event("c")]).inode)  # of the file that is written to
    for item in "defg":
        log.append([event(item)])
    assert items_of(path) == ["c", "d", "e", "f", "g"]  # all from there on
    keep_from(path, None)
    log.append([event("h")])
    assert items_of(path) == ["g", "h"]
    keep_from(path, None)
    (tmp_path / ".events.jsonl.keep").write_text("broken")
    log.append([event("i")])
    assert items_of(path) == ["g", "h", "i"]
    assert prune(path, None) == []


@pytest.mark.parametrize("how", ["renamed", "deleted", "replaced", "folder"])
def test_a_file_that_is_not_at_its_path_any_more_is_noticed(tmp_path, how, caplog):
    path = tmp_path / "log" / "events.jsonl"
    log = FileLog(path)
    why = []
    log.on_begin = why.append
    log.append([event("a")])
    if how in ("renamed", "replaced"):
        path.rename(path.with_name("events.jsonl.1"))
    if how == "deleted":
        path.unlink()
    if how == "replaced":  # as logrotate does with create
        path.write_text("")
    if how == "folder":
        shutil.rmtree(path.parent)
    assert log.wants_care()
    log.append([event("b")])
    log.append([event("c")])
    assert read_events(path)["item_id"].to_list() == ["b", "c"]
    assert items_of(path) == (["a", "b", "c"] if how in ("renamed", "replaced") else ["b", "c"])
    assert why == ([] if how == "replaced" else ["moved"])
    assert ("was moved or deleted; a new file was begun" in caplog.text) == (how != "replaced")


def test_copytruncate_loses_nothing_of_what_comes_after(tmp_path):
    path = tmp_path / "events.jsonl"
    log = FileLog(path)
    log.append([event("a"), event("b")])
    shutil.copy(path, tmp_path / "events.jsonl.1")
    os.truncate(path, 0)
    assert log.append([event("c")]).offset == path.stat().st_size
    assert items_of(path) == ["a", "b", "c"]


def test_a_log_that_cannot_be_written_recovers_by_itself(tmp_path, monkeypatch):
    path = tmp_path / "log" / "events.jsonl"
    log = FileLog(path)
    log.append([event("a")])
    shutil.rmtree(path.parent)
    path.parent.write_text("a file in its place")
    for _ in range(2):
        with pytest.raises(OSError, match=r"exists|directory"):
            log.append([event("b")])
    assert log.wants_care()
    path.parent.unlink()
    log.append([event("c")])
    assert items_of(path) == ["c"]


def test_who_cannot_write_holds_up_nobody(tmp_path):
    """A folder that is gone for a while, and comes back."""
    path, aside = tmp_path / "log" / "events.jsonl", tmp_path / "aside"
    one, two = FileLog(path), FileLog(path)
    path.parent.rename(aside)
    path.parent.write_text("a file in its place")
    with pytest.raises(OSError, match="directory"):
        one.append([event("a")])
    path.parent.unlink()
    aside.rename(path.parent)
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(two.append, [event("b")]).result(20)
        finally:
            one.close()
    assert items_of(path) == ["b"]


def test_what_was_emptied_before_it_was_read_is_not_made_up(tmp_path, caplog):
    one, two = Worker(tmp_path, 0, 0, Rotation()), Worker(tmp_path, 1, 0, Rotation())
    two.post("a")
    os.truncate(tmp_path / "events.jsonl", 0)
    two.post("b")
    assert one.look() == ["b"]
    assert "bytes were gone before they were read" in caplog.text


def test_a_disk_that_hangs_stops_no_answer_and_looks_do_not_pile_up(recommender, tmp_path, monkeypatch):
    with Client(lambda: recommender.system, Settings(deadline_s=60, log_dir=tmp_path)) as client:
        hanging, go = threading.Event(), threading.Event()

        def hangs(self):
            hanging.set()
            go.wait(60)
            return False

        monkeypatch.setattr(FileLog, "wants_care", hangs)
        journal = client.app.service.journal
        client.run(asyncio.sleep(0.05))  # the first look, at the start
        try:
            client.app.service.look()
            assert hanging.wait(60)
            for _ in range(20):
                client.app.service.look()
            assert client.get("/v1/recommend/7").status == 200
            assert journal._lanes["events"].waiting == 0
        finally:
            go.set()


def test_a_file_that_cannot_be_renamed_is_written_on(tmp_path, monkeypatch, caplog):
    path = tmp_path / "events.jsonl"
    log = FileLog(path, Rotation(max_bytes=1))
    log.append([event("a")])

    def refused(self, target):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refused)
    log.append([event("b")])
    monkeypatch.undo()
    assert "cannot be rotated" in caplog.text
    assert read_events(path)["item_id"].to_list() == ["a", "b"]
    log.append([event("c")])
    assert items_of(path) == ["a", "b", "c"]


def test_a_durable_log_is_on_the_disk_before_it_says_so(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fdatasync", lambda file: synced.append(os.fstat(file).st_size))
    monkeypatch.setattr(os, "fsync", lambda file: synced.append("folder"))
    path = tmp_path / "events.jsonl"
    log = FileLog(path, Rotation(max_bytes=1), durable=True)
    assert synced == ["folder"]
    first = log.append([event("a")])
    log.append([event("b")])
    assert synced == ["folder", first.offset, "folder", first.offset]
    FileLog(tmp_path / "new" / "events.jsonl", durable=True)
    assert synced[4:] == ["folder", "folder"]  # its own name is in the one above
    del synced[4:]
    plain = FileLog(tmp_path / "other.jsonl")
    plain.append([event("a")])
    assert len(synced) == 4

    def broken(file):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="Input/output"):
        log.append([event("c")])
    assert items_of(path) == ["a", "b"]  # nothing is half kept


def test_several_writers_rotate_together(tmp_path):
    """As two servers on one folder do: every line once, batches whole, one file after the other."""
    path = tmp_path / "events.jsonl"
    most = size_of("a-00-0") * 7

    def write(name):
        log = FileLog(path, Rotation(max_bytes=most))
        for number in range(25):
            log.append([event(f"{name}-{number:02}-{place}") for place in range(3)])
        log.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    found = items_of(path)
    assert len(found) == len(set(found)) == 4 * 25 * 3
    for name in "abcd":
        assert [item for item in found if item[0] == name] == [
            f"{name}-{n:02}-{p}" for n in range(25) for p in range(3)
        ]
    assert len(rotated(path)) >= 4 * 25 * 3 // 7
    assert not list(tmp_path.glob("*.torn"))


# -- what workers know of each other ---------------------------------------------------------------------------------


class Worker:
    """A log and a reader, as a worker has them; ``known`` is what it was told, its own included."""

    def __init__(self, folder, number, since, rotation):
        self.log = FileLog(folder / "events.jsonl", rotation)
        self.siblings = Siblings(Group(folder, number, 2, since), self.log.path)
        self.log.on_append, self.log.guard = self.siblings.wrote, self.siblings.ends.guard
        self.known = []

    def post(self, item):
        self.log.append([event(item)])
        self.known.append(item)

    def look(self):
        self.siblings.catch_up(lambda events: self.known.extend(one.item_id for one in events))
        return sorted(self.known)


STEPS = st.lists(
    st.tuples(st.sampled_from(["post", "post", "look", "die", "rename", "torn"]), st.integers(0, 1)), max_size=40
)


@given(STEPS, st.integers(1, 5))
@settings(max_examples=120, deadline=None)
def test_every_worker_knows_every_event_once_whatever_happens_to_the_files(steps, lines):
    """Property: however files are rotated and renamed, by us or by others, and workers are started again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, rotation = folder / "events.jsonl", Rotation(max_bytes=size_of("00") * lines)
        since = FileLog(path).append([event("before")]).offset
        workers = [Worker(folder, number, since, rotation) for number in range(2)]
        posted: list[str] = []
        for step, (what, number) in enumerate(steps):
            if what == "post":
                posted.append(f"{step:02}")
                workers[number].post(posted[-1])
            elif what == "look":
                assert workers[number].look() == sorted(posted)
            elif what == "die":
                workers[number].log.close()
                workers[number] = Worker(folder, number, since, rotation)
            elif path.exists():
                disturb(path, what, step)
        for worker in workers:
            assert worker.look() == sorted(posted)
            worker.log.close()


def disturb(path, what, step):
    if what == "rename":
        path.rename(path.with_name(f"events.jsonl.{step}"))
    else:
        with path.open("ab") as file:
            file.write(b'{"event_id":"half')


def test_a_log_that_is_emptied_in_place_goes_on(tmp_path):
    one, two = Worker(tmp_path, 0, 0, Rotation()), Worker(tmp_path, 1, 0, Rotation())
    for turn in "abc":
        one.post(f"{turn}1")
        two.post(f"{turn}2")
        assert one.look() == two.look()
        os.truncate(tmp_path / "events.jsonl", 0)
    two.post("d")
    assert one.look() == ["a1", "a2", "b1", "b2", "c1", "c2", "d"]


def test_lines_of_a_killed_worker_count_for_the_others_also_when_their_file_is_full(tmp_path):
    """It wrote, and was killed before it said so."""
    rotation = Rotation(max_bytes=1)
    one, two = Worker(tmp_path, 0, 0, rotation), Worker(tmp_path, 1, 0, rotation)
    two.post("a")
    FileLog(tmp_path / "events.jsonl").append([event("of the killed")])
    two.post("b")
    assert one.look() == ["a", "b", "of the killed"]


def test_files_that_are_gone_are_told(tmp_path, caplog):
    rotation = Rotation(max_bytes=1, keep=1)
    one, two = Worker(tmp_path, 0, 0, rotation), Worker(tmp_path, 1, 0, rotation)
    for item in "abcd":
        two.post(item)
    with caplog.at_level(logging.WARNING, "suisen.serving"):
        assert set(one.look()) >= {"c", "d"}
    assert "bytes were gone before they were read" in caplog.text
    two.post("e")
    two.post("f")
    shutil.rmtree(tmp_path)
    assert not {"e", "f"} & set(one.look())


def test_a_worker_that_fell_far_behind_goes_on_with_what_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr("suisen.serving.siblings.FILES", 4)
    rotation = Rotation(max_bytes=1)
    one, two = Worker(tmp_path, 0, 0, rotation), Worker(tmp_path, 1, 0, rotation)
    for item in "abcdefgh":
        two.post(item)
    assert one.look() == ["e", "f", "g", "h"]


# -- a server ----------------------------------------------------------------------------------------------------------


def test_a_server_notices_within_a_tick_and_counts_it(recommender, tmp_path):
    path = tmp_path / "events.jsonl"
    body = {"events": [{"user_id": 1, "item_id": 1, "event": "view"}]}
    with Client(lambda: recommender.system, Settings(deadline_s=60, log_dir=tmp_path)) as client:
        assert client.post("/v1/events", body).status == 202
        path.rename(tmp_path / "events.jsonl.1")
        client.app.service.look()

        async def there():
            for _ in range(500):
                if path.exists():
                    return
                await asyncio.sleep(0.01)

        client.run(there())
        assert path.read_bytes() == b""
        assert client.post("/v1/events", body).status == 202
        assert 'suisen_log_reopened_total{log="events",reason="moved"} 1.0' in client.get("/metrics").body.decode()
    assert len(items_of(path)) == 2


def test_a_removed_folder_refuses_nothing_and_one_that_cannot_be_made_refuses_until_it_can(recommender, tmp_path):
    folder = tmp_path / "log"
    body = {"events": [{"user_id": 1, "item_id": 1, "event": "view"}]}
    with Client(lambda: recommender.system, Settings(deadline_s=60, log_dir=folder)) as client:
        shutil.rmtree(folder)
        assert client.post("/v1/events", body).status == 202
        shutil.rmtree(folder)
        folder.write_text("")
        for _ in range(2):
            refused = client.post("/v1/events", body)
            assert str(tmp_path) not in refused.json["detail"]
            assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (
                503,
                "log_unavailable",
                "1",
            )
        folder.unlink()
        assert client.post("/v1/events", body).status == 202
        assert 'suisen_log_failures_total{log="events"}' in client.get("/metrics").body.decode()
    assert len(items_of(folder / "events.jsonl")) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_sighup_opens_the_log_anew_and_ends_nothing(recommender, tmp_path):
    recommender.save(tmp_path / "bundle")
    script = (
        "import sys; from pathlib import Path; from suisen.serving import server; server.TICK_S = 1000.0;"
        "server.serve(Path(sys.argv[1]), port=0, on_ready=lambda url: print(url, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline().startswith("http")
            path = tmp_path / "events" / "events.jsonl"
            path.rename(path.with_suffix(".old"))
            process.send_signal(signal.SIGHUP)
            until = time.monotonic() + 30
            while not path.exists() and time.monotonic() < until:
                time.sleep(0.01)
            assert path.exists()
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
