"""Several workers of one server, as real processes: what a client sees of starting, dying, restarting and ending."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from prometheus_client.parser import text_string_to_metric_families

from suisen.errors import BundleError, InputError
from suisen.serving import workers
from suisen.serving.settings import Settings
from suisen.serving.sockets import listen, reserve
from tests.serving.events import read_events

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")
SECONDS = 120
SCRIPT = """
import json, sys
from pathlib import Path
from suisen.errors import SuisenError
from suisen.errors import BundleError, InputError
from suisen.serving import workers
from suisen.serving.settings import Settings
from suisen.serving.settings import Settings

workers.FAILURES = int(sys.argv[3])
try:
    workers.serve_workers(Path(sys.argv[1]), int(sys.argv[2]), port=0,
                          settings=Settings(deadline_s=60, **json.loads(sys.argv[4])),
                          on_ready=lambda url: print(url, flush=True))
    print("ended", flush=True)
except SuisenError as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(2)
"""


class Server:
    """A supervisor with its workers."""

    def __init__(self, place, count, failures, **settings):
        command = [sys.executable, "-c", SCRIPT, str(place), str(count), str(failures), json.dumps(settings)]
        self.errors = place / f"errors-{time.monotonic_ns()}.txt"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.connections = []
        self.says = self.line()

    def line(self):
        """The next line that it prints; a server that says nothing is ended, and what it logged is shown."""
        late = threading.Timer(SECONDS, self.process.kill)
        late.start()
        line = self.process.stdout.readline().strip()
        late.cancel()
        return line

    def connect(self):
        self.connections.append(Connection(self.says))
        return self.connections[-1]

    def metrics(self):
        for _ in range(3):  # a worker that ends may close a connection that has no request yet
            with suppress(ConnectionError), self.connect() as connection:
                return connection.metrics()
        raise AssertionError("nobody answers")

    def pids(self):
        found = self.metrics()
        return {n: int(found["suisen_worker_pid", (("worker", str(n)),)]) for n in range(9) if pid_of(found, n)}

    def log(self):
        return self.errors.read_text()


def pid_of(found, number):
    return found.get(("suisen_worker_pid", (("worker", str(number)),)), 0)


class Connection:
    """One kept-alive connection, and so one worker."""

    def __init__(self, url):
        self._http = http.client.HTTPConnection(url.removeprefix("http://"), timeout=SECONDS)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self._http.close()

    def call(self, method, path, message=None):
        body = None if message is None else json.dumps(message)
        self._http.request(method, path, body, {"content-type": "application/json"})
        reply = self._http.getresponse()
        return reply.status, reply.read()

    def items(self, user, k=40):
        status, body = self.call("GET", f"/v1/recommend/{user}?k={k}")
        assert status == 200, body
        return [item["item_id"] for item in json.loads(body)["answers"][0]["items"]]

    def takes(self, user, item):
        event = {"user_id": user, "item_id": item, "event": "view"}
        status, body = self.call("POST", "/v1/events", {"events": [event]})
        assert status == 202, body

    def metrics(self):
        families = text_string_to_metric_families(self.call("GET", "/metrics")[1].decode())
        return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}

    def worker(self):
        """The number of the worker: the one whose requests grow by what only this connection asks."""
        before, after = (by_worker(self.metrics()) for _ in range(2))
        (number,) = (number for number, count in after.items() if count > before[number])
        return number


def by_worker(found):
    return {labels[0][1]: value for (name, labels), value in found.items() if name == "suisen_worker_requests_total"}


@contextmanager
def served(place, count=2, failures=5, **settings):
    """Never leaves a process behind."""
    server = Server(place, count, failures, drain_s=0.0, **settings)
    try:
        yield server
    finally:
        for connection in server.connections:
            connection.close()
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()


def one_of_each(server, count):
    """A connection to each worker."""
    found = {}
    for _ in range(200):
        connection = server.connect()
        number = connection.worker()
        if number in found:
            connection.close()
        found.setdefault(number, connection)
        if len(found) == count:
            return found
    raise AssertionError(f"only workers {sorted(found)} answered")


def until(there):
    end = time.monotonic() + SECONDS
    while not there():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def place(recommender, tmp_path):
    recommender.save(tmp_path / "bundle")
    return tmp_path


@pytest.fixture(scope="module")
def three(recommender, tmp_path_factory):
    """A server of three workers, which SIGINT ends at last."""
    place = tmp_path_factory.mktemp("three")
    recommender.save(place / "bundle")
    with served(place, 3) as server:
        assert server.says.startswith("http://127.0.0.1:"), server.log()
        yield server
        pids = server.pids()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(SECONDS) == 0, server.log()
        assert not any(alive(pid) for pid in pids.values())


def test_an_event_counts_on_every_worker_once_it_was_accepted(three):
    by_number = one_of_each(three, 3)
    for user in range(1, 13):
        for number, connection in by_number.items():
            item = connection.items(user)[0]
            connection.takes(user, item)
            for other in by_number.values():
                assert item not in other.items(user), (user, number)
    found = three.metrics()
    answered = sum(value for (name, _), value in found.items() if name == "suisen_requests_total")
    assert answered == sum(by_worker(found).values())
    assert found["suisen_events_written_total", ()] == 36
    assert found["suisen_users_with_events", ()] == 12


def test_a_killed_worker_breaks_its_own_connections_and_comes_back_lacking_nothing(three):
    by_number, before, pids = one_of_each(three, 3), three.metrics(), three.pids()
    victim = by_number.pop("0")
    stop, broken = threading.Event(), []

    def ask(connection):
        answered = 0
        while not stop.is_set():
            try:
                connection.items(7)
            except (http.client.HTTPException, OSError) as error:
                broken.append(error)
                return answered
            answered += 1
        return answered

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, one) for one in by_number.values()]
        lost = pool.submit(ask, victim)
        try:
            os.kill(pids[0], signal.SIGKILL)
            lost.result(SECONDS)
            until(lambda: not os.path.exists(f"/proc/{pids[0]}"))  # its socket goes after its connections
            taken = {}
            with three.connect() as one, three.connect() as two:  # to workers that live
                for user in range(20, 40):
                    taken[user] = one.items(user)[0]
                    two.takes(user, taken[user])
            until(lambda: three.metrics()["suisen_ready", ()] == 1)
        finally:
            stop.set()
        assert all(one.result(SECONDS) > 0 for one in asking)
    assert len(broken) == 1  # the killed worker's connection, and no other

    assert three.pids()[0] != pids[0]
    again = one_of_each(three, 3)["0"]
    assert not [user for user, item in taken.items() if item in again.items(user)]
    after = three.metrics()
    assert [after["suisen_worker_restarts_total", (("worker", str(n)),)] for n in range(3)] == [1, 0, 0]
    kept = {key for key in before if key[0].startswith("suisen") and key[0].endswith(("_total", "_count", "_bucket"))}
    assert not {key for key in kept if after[key] < before[key]}  # a killed worker's counts are kept


def test_a_terminal_that_goes_away_ends_nothing(three):
    """SIGHUP is heard by all, and means that files of the log are looked for."""
    for pid in (three.process.pid, *three.pids().values()):
        with open(f"/proc/{pid}/status") as file:
            (heard,) = (line.split()[1] for line in file if line.startswith("SigCgt:"))
        assert int(heard, 16) >> (signal.SIGHUP - 1) & 1
        os.kill(pid, signal.SIGHUP)
    assert len(three.pids()) == 3


def test_sigterm_under_load_loses_no_request(place):
    """Every request is answered, or refused by a problem or a closed port; what was accepted is in the log."""
    with served(place, grace_s=30.0) as server:
        accepted, other, stop = [], [], threading.Event()

        def post(thread):
            for number in range(100_000):
                if stop.is_set():
                    return
                item = f"{thread}-{number}"
                try:
                    with server.connect() as connection:
                        connection.takes("somebody", item)
                except ConnectionError as error:  # the port is closed, or was while the connection was made
                    other.append(error)
                    return
                accepted.append(item)

        with ThreadPoolExecutor(4) as pool:
            posting = [pool.submit(post, thread) for thread in range(4)]
            try:
                until(lambda: len(accepted) > 50)
                server.process.send_signal(signal.SIGTERM)
                code = server.process.wait(SECONDS)
            finally:
                stop.set()
            for one in posting:
                one.result(SECONDS)
        assert code == 0, server.log()
        assert len(other) == 4
        logged = read_events(place / "events" / "events.jsonl")["item_id"].to_list()
        assert sorted(logged) == sorted(accepted)
        assert server.line() == "ended"


def test_the_workers_end_with_a_killed_supervisor(place):
    with served(place, 1, grace_s=1000.0) as server:
        pids = server.pids()
        server.process.kill()
        until(lambda: not any(alive(pid) for pid in pids.values()))
        port = int(server.says.rpartition(":")[2])
        until(lambda: free(port))


def free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def restarted(server, before):
    """The process of worker 0, once it is another one."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        with suppress(AssertionError, ConnectionError):
            if (pid := server.pids().get(0, before)) not in (0, before):
                return pid
        time.sleep(0.1)
    raise AssertionError(server.log())


def test_a_worker_that_dies_again_and_again_ends_the_server(place):
    with served(place, 1, failures=1) as server:
        first = server.pids()[0]
        (place / "bundle" / "manifest.json").unlink()  # workers load the server's own copy
        os.kill(first, signal.SIGKILL)
        second = restarted(server, first)
        os.kill(second, signal.SIGKILL)
        line = server.line()
        assert line.startswith("SuisenError worker 0 ended 2 times in 60 s, at last: "), server.log()
        assert "by signal SIGKILL" in line
        assert server.process.wait(SECONDS) == 2
        assert not alive(first)
        assert not alive(second)
        assert "worker 0 ended by signal SIGKILL; it is started again in 0.1 s" in server.log()


def test_a_damaged_bundle_ends_all_with_its_error(place):
    (place / "bundle" / "users.arrow").write_bytes(b"")
    with served(place, 1) as server:
        assert server.says.startswith("BundleError "), server.log()
        assert "users.arrow is damaged" in server.says
        assert server.process.wait(SECONDS) == 2


def test_what_is_wrong_is_said_before_a_worker_starts(place, tmp_path, monkeypatch):
    monkeypatch.setattr(workers.Supervisor, "run", lambda self: pytest.fail("started"))
    with listen("127.0.0.1", 0) as taken, pytest.raises(InputError, match=r"port = \d+ is in use on 127\.0\.0\.1"):
        workers.serve_workers(place, 2, port=taken.getsockname()[1])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        workers.serve_workers(place, 2, port=0, settings=Settings(log_dir=tmp_path / "file"))
    with pytest.raises(BundleError, match="holds no bundle"):
        workers.serve_workers(tmp_path / "nowhere", 2, port=0)
    monkeypatch.setattr(sys, "platform", "plan9")
    with pytest.raises(InputError, match="workers = 2 needs Linux, and this is plan9; give 1"):
        workers.serve_workers(place, 2, port=0)


def test_the_port_of_another_servers_workers_is_in_use():
    """SO_REUSEPORT would let two servers answer on one port by chance."""
    with reserve("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with listen("127.0.0.1", port, shared=True), listen("127.0.0.1", port, shared=True):
            with pytest.raises(InputError, match=f"port = {port} is in use"):
                reserve("127.0.0.1", port)
            with pytest.raises(InputError, match=f"port = {port} is in use"):
                listen("127.0.0.1", port)


def test_sigterm_to_one_worker_starts_it_again_without_losing_a_request(three):
    """As an operator does who wants a fresh one: what it was asked is answered, the others go on."""
    pids = three.pids()
    stop, answered, broken = threading.Event(), [], []

    def ask():
        while not stop.is_set():
            try:
                with three.connect() as connection:
                    answered.append(connection.call("GET", "/v1/recommend/7?k=5")[0])
            except ConnectionError as error:  # made, or left without a request, when the port was closed
                broken.append(error)

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            os.kill(pids[2], signal.SIGTERM)
            until(lambda: three.pids().get(2, pids[2]) != pids[2])
            until(lambda: three.metrics()["suisen_ready", ()] == 1)
        finally:
            stop.set()
        for one in asking:
            one.result(SECONDS)
    assert set(answered) == {200}
    assert len(broken) <= 2


@pytest.mark.parametrize("signals", [1, 3])
def test_a_worker_that_hangs_holds_the_end_no_longer_than_it_may(place, signals):
    """It is paused: no signal but one that kills reaches it."""
    grace_s = 0.7 if signals == 1 else 60.0
    with served(place, grace_s=grace_s) as server:
        hanging = server.pids()[0]
        os.kill(hanging, signal.SIGSTOP)
        began = time.monotonic()
        for _ in range(signals):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)  # signals that are pending together are one
        server.process.wait(SECONDS)
        assert time.monotonic() - began < (grace_s if signals == 1 else 0.3) + 2
        with pytest.raises(ProcessLookupError):
            os.kill(hanging, 0)
