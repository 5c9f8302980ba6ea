"""Logs in Kafka, on librdkafka's mock cluster: read from where a run ended, committed after what was written."""

from __future__ import annotations

import json
from datetime import timedelta

import polars as pl
import pytest

from suisen.data import kafka
from suisen.data.from_log import Options, from_log
from suisen.data.kafka import Topic
from suisen.errors import InputError
from tests.brokers import mock_broker, send
from tests.data.test_from_log import event, parts, shown

pytest.importorskip("confluent_kafka", reason="CONFLUENT-KAFKA IS NOT INSTALLED: nothing is shown about Kafka")


def lines(*found):
    return [json.dumps(line).encode() for line in found]


@pytest.fixture(scope="module")
def broker():
    with mock_broker() as address:
        yield address


# -- where ------------------------------------------------------------------------------------------------------------


def test_a_url_names_brokers_topics_and_settings(monkeypatch):
    monkeypatch.setenv("SECRET", "p&ss")
    topic = Topic.of("log", "kafka://a:9092,b:9093/shop.events?sasl.username=me&sasl.password=$SECRET")
    assert (topic.servers, topic.name, topic.lists) == ("a:9092,b:9093", "shop.events", "shop.events-impressions")
    assert topic.options == {"sasl.username": "me", "sasl.password": "p&ss"}
    assert "p&ss" not in f"{topic} {topic!r}"


@pytest.mark.parametrize(
    "url",
    ["kafka://", "kafka:///t", "kafka://a:1", "kafka://a:1/", "kafka://a:1/a/b", "kafka://a:1/é", "kafka://a,,b/t",
     "http://a/t", "a:9092/t", "kafka://a/.", "kafka://a/" + "t" * 240, ""],
)  # fmt: skip
def test_what_names_no_topic_is_refused(url):
    with pytest.raises(InputError, match="log"):
        Topic.of("log", url)


def test_a_password_in_the_url_is_refused_and_not_repeated():
    with pytest.raises(InputError, match="user or password") as refused:
        Topic.of("log", "kafka://me:hush@a/t")
    assert "hush" not in str(refused.value)


def test_a_setting_that_librdkafka_does_not_know_is_refused(broker):
    with pytest.raises(InputError, match=r"No such configuration property: \"linger.sec\""):
        Topic.of("log", f"kafka://{broker}/t?linger.sec=3").client("Producer")


# -- reading ----------------------------------------------------------------------------------------------------------


def test_both_topics_become_one_log(broker, tmp_path):
    send(broker, "one", [*lines(event(1, event_id="a", request="r"), event(1, event_id="a", request="r")), b"", b"no"])
    send(broker, "one-impressions", lines(shown("r", ["1", "3"])))
    _, notes = from_log([f"kafka://{broker}/one"], tmp_path / "t.parquet")
    table = pl.read_parquet(tmp_path / "t.parquet")
    assert table.select("event_id", "position").rows() == [("a", 2)]
    assert "5 lines read" in notes
    assert any(note.startswith("2 lines left out: no JSON (first: one[") for note in notes)


def test_a_topic_without_lists_is_read_and_told(broker, tmp_path):
    send(broker, "alone", lines(event(1, event_id="a")))
    _, notes = from_log([f"kafka://{broker}/alone"], tmp_path / "t.parquet")
    assert f"kafka://{broker}/alone: no topic 'alone-impressions': no event is joined to a list" in notes


def test_offsets_are_committed_after_the_table_is_written(broker, tmp_path, monkeypatch):
    source, out = f"kafka://{broker}/twice", tmp_path / "t.parquet"
    send(broker, "twice", lines(event(1, event_id="a"), event(2, event_id="b")))
    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            from_log([source], out, Options(group="g"))
    assert not out.exists()
    from_log([source], out, Options(group="g"))
    assert sorted(pl.read_parquet(out)["event_id"]) == ["a", "b"]
    send(broker, "twice", lines(event(3, event_id="c")))
    from_log([source], out, Options(group="g"))
    assert pl.read_parquet(out)["event_id"].to_list() == ["c"]
    from_log([source], out, Options(group="other"))
    assert pl.read_parquet(out).height == 3


def test_a_folder_goes_on_where_its_last_part_ended_whatever_the_group_says(broker, tmp_path, monkeypatch):
    source, out = f"kafka://{broker}/parts", tmp_path / "log"
    options = Options(group="g", wait=timedelta(0))
    send(broker, "parts", lines(event(1, event_id="a")))
    with monkeypatch.context() as patch:
        patch.setattr(kafka.Reading, "commit", lambda self: 1 / 0)  # the part is written, the broker not told
        with pytest.raises(ZeroDivisionError):
            from_log([source], out, options)
    send(broker, "parts", lines(event(2, event_id="b"), event(1, event_id="a")))
    _, notes = from_log([source], out, options)
    assert notes[0] == "2 lines read"
    assert parts(out)["event_id"].to_list() == ["a", "b"]
    assert from_log([source], out, options)[0] is None


def test_a_missing_topic_and_a_broker_that_is_away_are_refused(broker, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="the broker has no topic 'none'"):
        from_log([f"kafka://{broker}/none"], tmp_path / "t.parquet")
    monkeypatch.setattr(kafka, "PATIENCE_S", 0.3)
    with pytest.raises(InputError, match=r"kafka://127\.0\.0\.1:1/t does not answer"):
        from_log(["kafka://127.0.0.1:1/t"], tmp_path / "t.parquet")
