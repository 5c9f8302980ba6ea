from __future__ import annotations

import errno
import logging
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.dataset import Dataset
from suisen.errors import InputError
from suisen.serving.decoding import decode_body
from suisen.serving.endpoints.events import EventsRequest, _logged
from suisen.serving.event_log import FileLog, LoggedEvent
from suisen.serving.problems import Refusal
from tests.fitted import fitted
from tests.serving.events import SCHEMA, read_events

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def event(user="u", item="i", **more):
    fields = {"session_id": None, "event": "view", "time": NOON, "request_id": None, "position": None, **more}
    return LoggedEvent(user_id=user, item_id=item, **fields)


def test_batches_are_read_back_in_their_order(tmp_path):
    path = tmp_path / "deep" / "events.jsonl"
    log = FileLog(path)
    log.append([event("u1", "a"), event("u2", "水", position=3, event_id="e2", value=4.5, quantity=2)])
    log.append([event(None, "b", session_id="s", request_id="r")])
    log.close()
    found = read_events(path)
    assert found["event_id", "value", "price", "quantity"].rows() == [(None,) * 4, ("e2", 4.5, None, 2), (None,) * 4]
    assert found.drop("time", "event_id", "value", "price", "quantity").rows() == [
        ("u1", None, "a", "view", None, None),
        ("u2", None, "水", "view", None, 3),
        (None, "s", "b", "view", "r", None),
    ]
    assert found["time"].to_list() == [NOON] * 3
    assert found["time"].dtype == pl.Datetime("us", "UTC")


def test_the_datasets_reader_reads_the_log(tmp_path):
    path = tmp_path / "events.jsonl"
    log = FileLog(path)
    log.append([event("7", "3"), event("x", "4", time=datetime(2026, 2, 1, 9, 30, 15, 123456, tzinfo=UTC))])
    data = Dataset.from_path(path, user="user_id", item="item_id", time="time")
    assert data.users.raw_ids.to_list() == ["7", "x"]
    assert data.items.raw_ids.to_list() == ["3", "4"]
    assert data.events.time.tolist() == [1_769_860_800_000_000, 1_769_938_215_123_456]
    log.append([event(None, "3", session_id="s")])
    guests = Dataset.from_path(path, user="user_id", item="item_id", time="time", session="session_id")
    assert len(guests.events) == 3
    log.close()


STORE = fitted("popularity").store
OLD = '{"user_id":"u0","session_id":null,"item_id":"3","event":"view","time":"2026-01-30T12:00:00Z",'
"""The beginning of a line as servers wrote it before events had ids and values."""


@pytest.mark.parametrize("order", [1, -1])
def test_a_log_of_old_and_new_lines_is_read(tmp_path, order):
    path = tmp_path / "events.jsonl"
    FileLog(path).append(
        [event("u1", "4", event_id="e", value=1.0, price=2.5, quantity=3), event("u2", "5", value=0.5)]
    )
    new = path.read_text()
    path.write_text("".join([OLD + '"request_id":null,"position":null}\n', new][::order]))
    found = read_events(path)
    assert found["event_id"].to_list() == [None, "e", None] if order == 1 else ["e", None, None]
    data = Dataset.from_path(path, user="user_id", item="item_id", time="time")
    assert sorted(data.users.raw_ids.to_list()) == ["u0", "u1", "u2"]
    assert data.items.raw_ids.len() == 3


IDS = st.one_of(st.text(min_size=1, max_size=8), st.integers(-(2**63), 2**63 - 1))
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC))
EVENTS = st.fixed_dictionaries(
    {"user_id": IDS, "item_id": IDS, "event": st.text(min_size=1, max_size=5), "time": TIMES}
)


@given(st.lists(EVENTS, min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_whatever_the_server_accepts_the_dataset_reads(rows):
    """Property: an accepted event never makes the log unreadable, and none is lost."""
    body = msgspec.json.encode({"events": rows})
    if any(not str(row[name]).strip() for row in rows for name in ("user_id", "item_id", "event")):
        with pytest.raises(Refusal, match="must be text that is not blank"):
            decode_body(body, EventsRequest)
        return
    events = decode_body(body, EventsRequest).events
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        log = FileLog(path)
        log.append(_logged(events, STORE, NOON, iter("abcde")))
        log.close()
        data = Dataset.from_path(path, user="user_id", item="item_id", time="time")
        assert len(data.events) == len(rows) == read_events(path).height
        assert set(data.items.raw_ids.to_list()) == {str(row["item_id"]) for row in rows}
        micros = {(row["time"] - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution) for row in rows}
        assert set(data.events.time.tolist()) == micros


def test_a_torn_last_line_is_skipped_and_counted(tmp_path, caplog):
    path = tmp_path / "events.jsonl"
    log = FileLog(path)
    log.append([event("u1"), event("u2")])
    log.close()
    whole = path.read_bytes()
    for cut in (1, 5, len(whole) // 2 - 1):
        path.write_bytes(whole[:-cut])
        caplog.clear()
        with caplog.at_level(logging.WARNING, "suisen.serving"):
            assert read_events(path)["user_id"].to_list() == ["u1"]
        assert "1 half-written last line was skipped" in caplog.text


def test_opening_moves_a_torn_line_aside(tmp_path, caplog):
    path = tmp_path / "events.jsonl"
    log = FileLog(path)
    log.append([event("u1")])
    log.close()
    torn = b'{"user_id":"' + b"x" * 200_000  # longer than what is read at a time
    with path.open("ab") as file:
        file.write(torn)
    with caplog.at_level(logging.WARNING, "suisen.serving"):
        log = FileLog(path)
    assert "half-written last line (200012 bytes) was moved to events.jsonl.torn" in caplog.text
    log.append([event("u2")])
    log.close()
    caplog.clear()
    assert read_events(path)["user_id"].to_list() == ["u1", "u2"]
    assert caplog.text == ""
    assert (tmp_path / "events.jsonl.torn").read_bytes() == torn + b"\n"


def test_a_log_that_is_one_torn_line_becomes_empty(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"user')
    FileLog(path).close()
    assert path.read_bytes() == b""
    assert read_events(path).schema == pl.Schema({**SCHEMA, "time": pl.Datetime("us", "UTC")})


def test_a_write_cut_short_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "events.jsonl"
    log = FileLog(path)
    log.append([event("u1")])
    before, write = path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
    with pytest.raises(OSError, match=r"only \d+ of \d+ bytes were written"):
        log.append([event("u2")])
    assert path.read_bytes() == before

    def full(file, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        log.append([event("u2")])
    monkeypatch.undo()
    log.append([event("u3")])
    log.close()
    assert read_events(path)["user_id"].to_list() == ["u1", "u3"]


def test_several_writers_never_mix_their_batches(tmp_path):
    path = tmp_path / "events.jsonl"

    def write(name):
        log = FileLog(path)
        for number in range(20):
            log.append([event(name, f"{number}-{place}") for place in range(50)])
        log.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    found = read_events(path)
    assert found.height == 4 * 20 * 50
    batches = [found[start : start + 50] for start in range(0, found.height, 50)]
    assert all(batch["user_id"].n_unique() == 1 for batch in batches)
    assert all(batch["item_id"].str.split("-").list.first().n_unique() == 1 for batch in batches)


def test_a_line_that_is_no_event_is_named(tmp_path):
    path = tmp_path / "events.jsonl"
    log = FileLog(path)
    log.append([event("u1")])
    log.close()
    path.write_bytes(path.read_bytes() + b'{"user_id": 3}\n')
    with pytest.raises(
        InputError, match=r"events\.jsonl: line 2 is no event \(Expected `str \| null`, got `int`.*take it"
    ):
        read_events(path)


def test_files_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"log = '.*file/events\.jsonl' cannot be written \(.*\); give another folder"):
        FileLog(tmp_path / "file" / "events.jsonl")
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read \(No such file"):
        read_events(tmp_path / "none.jsonl")


def test_a_closed_log_takes_nothing(tmp_path):
    log = FileLog(tmp_path / "events.jsonl")
    log.close()
    log.close()
    with pytest.raises(OSError, match=r"events\.jsonl is closed"):
        log.append([])
