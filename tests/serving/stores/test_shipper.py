"""The log on its way to Kafka: librdkafka's mock cluster takes it, and a producer of ours refuses it in every way."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec
import pytest

from suisen.data.kafka import Topic
from suisen.errors import InputError
from suisen.serving.event_log import FileLog, LoggedEvent
from suisen.serving.segments import Position, Rotation, segments
from suisen.serving.service import Service
from suisen.serving.settings import Settings
from suisen.serving.stores import shipper as module
from suisen.serving.stores.shipper import Shipper
from suisen.serving.telemetry import Telemetry
from tests.brokers import mock_broker

kafka = pytest.importorskip("confluent_kafka", reason="CONFLUENT-KAFKA IS NOT INSTALLED: nothing is shown about Kafka")


def event(name, user="7", session=None):
    time_ = datetime(2026, 12, 1, tzinfo=UTC)
    return LoggedEvent(
        event_id=name,
        user_id=user,
        session_id=session,
        item_id="3",
        event="v",
        time=time_,
        request_id=None,
        position=None,
    )


class Report:
    """What a delivery report names."""

    def __init__(self, offset):
        self._offset = offset

    def offset(self):
        return self._offset


class Broker:
    """Takes messages by a script: per message ``None`` (taken), an error's code, or ``"again"`` (held for a repeat)."""

    def __init__(self):
        self.script, self.taken, self.producers, self.answers = [], [], 0, True
        self._waiting = []

    def client(self, topic, kind, **settings):
        assert (kind, settings["acks"], settings["enable.idempotence"]) == ("Producer", "all", True)
        self.producers += 1
        return self

    def produce(self, topic, value, key, on_delivery):
        self._waiting.append((value, key, on_delivery))

    def poll(self, timeout):
        while self.answers and self._waiting:
            value, key, told = self._waiting.pop(0)
            what = self.script.pop(0) if self.script else None
            if what is None:
                self.taken.append((msgspec.json.decode(value)["event_id"], key))
            error = kafka.KafkaError(what) if isinstance(what, int) else None
            told(error, Report(None if what == "again" else len(self.taken)))
        time.sleep(min(timeout, 0.01))

    def purge(self):
        self._waiting.clear()

    def names(self):
        return [name for name, _ in self.taken]


@pytest.fixture
def broker(monkeypatch):
    one = Broker()
    monkeypatch.setattr(Topic, "client", lambda topic, kind, **settings: one.client(topic, kind, **settings))  # noqa: PLW0108
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    return one


@pytest.fixture
def log(tmp_path):
    made = FileLog(tmp_path / "events.jsonl", Rotation(max_bytes=1_000, keep=1))
    yield made
    made.close()


@contextmanager
def shipping(log, telemetry=None, seconds=5.0):
    one = Shipper(Topic("h:1", "t"), "t", log.path, telemetry or Telemetry())
    one.start()
    yield one
    one.stop(time.monotonic() + seconds)


def until(holds):
    by = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < by
        time.sleep(0.01)


def test_every_line_is_shipped_once_in_order_under_its_user_or_session(log, broker):
    with shipping(log):
        for number in range(40):
            log.append([event(f"{number}", user=None, session="s"), event(f"{number}!", user="é")])
    assert broker.names() == [f"{number}{end}" for number in range(40) for end in ("", "!")]
    assert {key for _, key in broker.taken} == {b"s", "é".encode()}


def test_the_next_one_goes_on_where_the_last_one_ended(log, broker):
    with shipping(log):
        log.append([event("a")])
    with shipping(log):
        log.append([event("b")])
    assert broker.names() == ["a", "b"]


def test_what_the_broker_refuses_is_sent_again_and_counted(log, broker):
    broker.script = [None, kafka.KafkaError.NOT_LEADER_FOR_PARTITION, kafka.KafkaError._TIMED_OUT]
    telemetry = Telemetry()
    with shipping(log, telemetry):
        log.append([event("a"), event("b"), event("c")])
    assert broker.names() == ["a", "b", "c"]
    assert b'suisen_broker_failed_total{topic="t"} 2.0' in telemetry.render()
    assert b'suisen_broker_delivered_total{topic="t"} 3.0' in telemetry.render()


def test_lines_that_the_broker_says_it_had_before_are_sent_again_under_new_numbers(log, broker):
    broker.script = [None, "again", None]
    with shipping(log):
        log.append([event("a"), event("b"), event("c")])
    assert broker.names() == ["a", "c", "a", "b", "c"]
    assert broker.producers == 2


def test_a_line_that_is_too_large_is_set_aside_and_the_others_go_on(log, broker):
    broker.script = [kafka.KafkaError.MSG_SIZE_TOO_LARGE]
    with shipping(log):
        log.append([event("large"), event("b")])
    assert broker.names() == ["b"]
    aside = log.path.with_name("events.jsonl.unsent").read_bytes()
    assert msgspec.json.decode(aside)["event_id"] == "large"


def test_a_broker_that_is_silent_holds_the_spool_and_nothing_is_deleted(log, broker, caplog, monkeypatch):
    monkeypatch.setattr(module, "QUIET_S", 0.2)
    caplog.set_level("INFO", logger="suisen.serving")
    broker.answers = False
    telemetry = Telemetry()
    with shipping(log, telemetry) as one:
        for number in range(50):
            log.append([event(f"{number}")])
        until(lambda: one.spool == sum(path.stat().st_size for path in segments(log.path)))
        until(lambda: "takes nothing" in caplog.text)
        assert len(segments(log.path)) > 3
        assert one.lag > 0
        broker.answers = True
        until(lambda: one.spool == 0)
        until(lambda: one.lag == 0)
        until(lambda: "takes lines again" in caplog.text)
        until(lambda: log.append([event("later")]) and len(segments(log.path)) <= 3)  # rotation deletes what is shipped
    assert set(broker.names()) == {*map(str, range(50)), "later"}


def test_an_end_in_time_says_what_is_left(log, broker, caplog):
    broker.answers = False
    with shipping(log, seconds=0.3):
        log.append([event("a")])
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert "are not with the broker yet; the next start ships them" in caplog.text
    broker.answers = True
    with shipping(log):
        pass
    assert broker.names() == ["a"]


def test_one_of_two_ships_and_the_other_takes_over(log, broker):
    with shipping(log) as first:
        until(lambda: first._lock >= 0)
        with shipping(log) as second:
            log.append([event("a")])
            end = log.append([event("b")])
            until(lambda: second.has(second.head(end), end.offset))
            assert second._lock < 0
            first.stop(time.monotonic() + 5)
            until(lambda: second._lock >= 0)
            log.append([event("c")])
    assert broker.names() == ["a", "b", "c"]


def test_a_damaged_checkpoint_ships_everything_again(log, broker, caplog):
    with shipping(log):
        log.append([event("a")])
    log.path.with_name(".events.jsonl.shipped").write_bytes(b"\0\0")
    with shipping(log):
        pass
    assert broker.names() == ["a", "a"]
    assert "the whole log is shipped again" in caplog.text


def test_a_new_file_with_the_number_and_the_size_of_one_that_is_gone_is_shipped(log, broker):
    """A file system gives a deleted file's inode to the next one."""
    with shipping(log) as one:
        for number in range(60):
            log.append([event(f"{number:03}" + "x" * 400)])
            until(lambda: one.spool == 0)
            time.sleep(0.002)
    assert len(broker.names()) == 60


def test_a_place_in_a_file_that_is_gone_has_no_head(log, broker):
    one = Shipper(Topic("h:1", "t"), "t", log.path, Telemetry())
    assert one.head(Position(1, 5)) == ""


# -- the server -------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(InputError, match="log needs log_dir"):
        Service(Settings(log="kafka://h:1/t"))
    with pytest.raises(InputError, match="durable = 'broker' needs log, a topic of Kafka"):
        Service(Settings(log_dir=tmp_path, durable="broker"))
    with pytest.raises(InputError, match="log: 'a/b' is no topic"):
        Service(Settings(log_dir=tmp_path, log="kafka://h:1/a/b"))


def test_a_mock_cluster_takes_the_log(log):
    with mock_broker() as address:
        one = Shipper(Topic.of("log", f"kafka://{address}/t"), "t", log.path, Telemetry())
        one.start()
        log.append([event(f"{number}") for number in range(100)])
        one.stop(time.monotonic() + 20)
        consumer = kafka.Consumer({"bootstrap.servers": address, "group.id": "g", "auto.offset.reset": "earliest"})
        consumer.assign(
            [kafka.TopicPartition("t", number, 0) for number in consumer.list_topics().topics["t"].partitions]
        )
        found, by = set(), time.monotonic() + 20
        while len(found) < 100 and time.monotonic() < by:
            found |= {
                msgspec.json.decode(message.value())["event_id"]
                for message in consumer.consume(100, 0.2)
                if not message.error()
            }
        consumer.close()
    assert found == {f"{number}" for number in range(100)}
    assert os.path.exists(log.path.with_name(".events.jsonl.shipped"))


def test_a_full_disk_does_not_stop_shipping(log, broker, monkeypatch, caplog):
    def full(*given):
        raise OSError(28, "No space left on device")

    with shipping(log) as one, monkeypatch.context() as patch:
        patch.setattr(module.Progress, "save", full)
        patch.setattr(module, "keep_from", full)
        for number in range(5):
            log.append([event(f"{number}")])
            until(lambda wanted=number + 1: len(broker.names()) == wanted)
        until(lambda: one.spool == 0)
    assert broker.names() == [*"01234"]
    assert "how far the log is shipped cannot be written" in caplog.text


def test_lines_that_the_log_takes_back_are_not_shipped(log, broker):
    """As where the disk is full in the middle of a batch: no other process sees what was written of it."""
    with shipping(log):
        log.append([event("a")])
        until(lambda: broker.names() == ["a"])
        with log.alone():
            size = log.path.stat().st_size
            with log.path.open("ab") as file:
                file.write(msgspec.json.encode(event("half")) + b"\n")
            time.sleep(0.2)
            os.truncate(log.path, size)
        log.append([event("b")])
    assert broker.names() == ["a", "b"]
