"""librdkafka's mock cluster: a broker of Kafka's protocol inside this process, for tests that need no real one."""

from __future__ import annotations

import contextlib

import pytest


@contextlib.contextmanager
def mock_broker(partitions=2):
    """Its address, ``host:port``, for as long as the block lasts."""
    kafka = pytest.importorskip(
        "confluent_kafka", reason="CONFLUENT-KAFKA IS NOT INSTALLED: nothing is shown about Kafka"
    )
    settings = {"test.mock.num.brokers": 1, "bootstrap.servers": "none", "log_level": 0}
    owner = kafka.Producer(settings)
    (broker,) = owner.list_topics(timeout=20).brokers.values()
    yield f"{broker.host}:{broker.port}"
    owner.purge()
    del owner


def send(address, topic, lines, key=b"k"):
    """Puts messages into a topic, which is made."""
    kafka = pytest.importorskip("confluent_kafka")
    producer = kafka.Producer({"bootstrap.servers": address, "linger.ms": 0, "log_level": 0})
    for line in lines:
        producer.produce(topic, line, key=key)
    assert producer.flush(20) == 0
