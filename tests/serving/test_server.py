"""Real servers on free ports: in a thread of this process, and as a process of its own."""

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
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from suisen.errors import BundleError, InputError
from suisen.recommending import bundle, parity
from suisen.serving import answering
from suisen.serving.server import loaded, running, serve, start_in_thread
from suisen.serving.settings import Settings
from suisen.serving.sockets import listen
from tests.serving.events import read_events

PATIENT = Settings(deadline_s=60)
SECONDS = 120


def fetch(url, message=None):
    """(status, parsed body) of a GET, or of a POST where there is a message."""
    body = None if message is None else json.dumps(message).encode()
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def until(there):
    """Waits for a condition; a machine may be slow, but not for ever."""
    end = time.monotonic() + SECONDS
    while not there():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def place(recommender, tmp_path_factory):
    """A run folder with a bundle."""
    folder = tmp_path_factory.mktemp("run")
    recommender.save(folder / "bundle")
    return folder


# -- in a thread -------------------------------------------------------------------------------------------------------


def test_answers_under_load_are_those_of_the_recommender(recommender):
    """Hammered by threads, whatever is computed together: every answer is the one to its own question."""
    users = list(range(1, 61))
    frame = recommender.recommend(users, k=5)
    expected = {user: part.sort("rank") for (user,), part in frame.group_by("user_id")}

    with running(recommender.system, PATIENT) as server:
        place = server.url.removeprefix("http://")

        def ask_all(shift):
            connection = http.client.HTTPConnection(place, timeout=SECONDS)
            found = {}
            for user in users[shift:] + users[:shift]:
                connection.request("GET", f"/v1/recommend/{user}?k=5")
                found[user] = json.loads(connection.getresponse().read())["answers"][0]
            connection.close()
            return found

        with ThreadPoolExecutor(8) as pool:
            rounds = list(pool.map(ask_all, range(0, 64, 8)))
    for found in rounds:
        for user, answer in found.items():
            assert [item["item_id"] for item in answer["items"]] == expected[user]["item_id"].to_list()
            scores = [item["score"] for item in answer["items"]]
            assert scores == pytest.approx(expected[user]["score"].to_list(), rel=1e-4)


@pytest.mark.parametrize("front", ["fast", "asgi"])
def test_a_bundle_is_served_from_its_run_folder(place, recommender, front):
    with running(place, Settings(deadline_s=60, front=front)) as server:
        status, health = fetch(f"{server.url}/health/ready")
        assert (status, health["status"]) == (200, "ready")
        assert health["version"].startswith("ease-")
        status, body = fetch(f"{server.url}/v1/recommend", {"queries": [{"user_id": 7}], "k": 3})
        assert status == 200
        assert body["version"] == health["version"]
        items = recommender.recommend([7], 3)["item_id"].to_list()
        assert [item["item_id"] for item in body["answers"][0]["items"]] == items
        head = urllib.request.urlopen(
            urllib.request.Request(f"{server.url}/health/live", method="HEAD"), timeout=SECONDS
        )
        assert (head.status, head.read()) == (200, b"")
        head.close()
    with pytest.raises(urllib.error.URLError):
        fetch(f"{server.url}/health/live")


def test_many_at_once_are_refused_not_queued(recommender, monkeypatch):
    """One computes, one waits, the third is told to come again."""
    go, begun, answer = threading.Event(), threading.Event(), answering.answer

    def slow(*given):
        begun.set()
        go.wait(SECONDS)
        return answer(*given)

    monkeypatch.setattr(answering, "answer", slow)
    with running(recommender.system, Settings(deadline_s=60, max_queries=2)) as server, ThreadPoolExecutor(2) as pool:
        url = f"{server.url}/v1/recommend/7"
        first = pool.submit(fetch, url)
        assert begun.wait(SECONDS)
        second = pool.submit(fetch, url)
        until(lambda: server.app.service.lane.held == 2)
        status, problem = fetch(url)
        go.set()
        assert (status, problem["code"]) == (503, "overloaded")
        assert [one.result()[0] for one in (first, second)] == [200, 200]


def test_an_answer_that_would_be_late_is_a_problem(recommender, monkeypatch):
    go, answer = threading.Event(), answering.answer

    def slow(*given):
        go.wait(SECONDS)
        return answer(*given)

    monkeypatch.setattr(answering, "answer", slow)
    with running(recommender.system, Settings(deadline_s=0.05)) as server:
        status, problem = fetch(f"{server.url}/v1/recommend/7")
        go.set()
    assert (status, problem["code"]) == (503, "deadline_exceeded")
    assert problem["detail"] == "no answer within 0.05 s; ask for less, or later"


def test_a_bundle_that_answers_otherwise_is_not_served(place, monkeypatch):
    def wrong(recommender, fixture):
        raise BundleError(f"parity: {len(fixture)} requests replayed, one differs")

    monkeypatch.setattr(parity, "check", wrong)
    with pytest.raises(BundleError, match=r"parity: \d+ requests replayed, one differs"):
        start_in_thread(place)


def test_the_fixture_is_replayed_on_loading(place, monkeypatch):
    replayed = []
    monkeypatch.setattr(parity, "check", lambda recommender, fixture: replayed.append(fixture))
    loaded(place)
    assert replayed == [bundle.fixture(place)]
    assert replayed[0]


def test_faults_of_loading_end_the_server(recommender, monkeypatch):
    monkeypatch.setattr("suisen.serving.service.Answering", lambda *given: 1 / 0)
    with pytest.raises(RuntimeError, match="the bundle cannot be served"):
        start_in_thread(recommender.system)


# -- sockets -----------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_refused_before_anything_is_loaded(place, monkeypatch):
    monkeypatch.setattr(bundle, "load", lambda place: pytest.fail("loaded first"))
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        message = f"port = {port} is in use on 127.0.0.1; stop what listens there or give another"
        with pytest.raises(InputError, match=message):
            serve(place, port=port)
        with pytest.raises(InputError, match=message):
            start_in_thread(place, port=port)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 70000, "port = 70000 must be from 0 to 65535"),
        ("127.0.0.1", -1, "port = -1 must be from 0 to 65535"),
        ("no.such.host.invalid", 0, r"host = 'no\.such\.host\.invalid' is unknown"),
        ("192.0.2.1", 0, r"host = '192\.0\.2\.1', port = 0: cannot listen \(.*\); give an address of this machine"),
    ],
)
def test_places_where_nothing_can_listen(host, port, message):
    with pytest.raises(InputError, match=message):
        listen(host, port)


def test_a_log_that_cannot_be_written_is_refused_and_the_port_is_free_again(place, tmp_path):
    (tmp_path / "file").write_text("")
    with listen("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    for start in (serve, start_in_thread):
        with pytest.raises(InputError, match="cannot be written"):
            start(place, port=port, settings=Settings(log_dir=tmp_path / "file"))
    listen("127.0.0.1", port).close()


def test_a_folder_without_a_bundle(tmp_path):
    with pytest.raises(BundleError, match="holds no bundle"):
        serve(tmp_path)


# -- as a process ------------------------------------------------------------------------------------------------------

SCRIPT = """
import time
import sys, threading
from pathlib import Path
from suisen.errors import SuisenError
from suisen.serving import answering
from suisen.serving.server import serve
from suisen.serving.settings import Settings

answer = answering.answer
def slow(system, queries, *others):
    if queries.users == ["slow"]:
        print("computing", flush=True)
        sys.stdin.readline()
    if queries.users == ["stuck"]:
        print("computing", flush=True)
        time.sleep(600)
    return answer(system, queries, *others)
answering.answer = slow
try:
    settings = Settings(deadline_s=60, drain_s=float(sys.argv[3]), grace_s=float(sys.argv[4]))
    serve(Path(sys.argv[1]), port=int(sys.argv[2]), settings=settings,
          on_ready=lambda url: print(url, flush=True))
except SuisenError as error:
    print(error, flush=True)
    sys.exit(2)
"""


def started(place, port=0, drain_s=0.0, grace_s=30.0):
    """The server as a process; its first line is the URL, once it is ready, or the error."""
    command = [sys.executable, "-c", SCRIPT, str(place), str(port), str(drain_s), str(grace_s)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
    late = threading.Timer(SECONDS, process.kill)  # a child that says nothing does not hold the suite
    late.start()
    try:
        return process, process.stdout.readline().strip()
    finally:
        late.cancel()


def ended(process):
    """(exit code, standard error); never leaves a process behind."""
    try:
        _, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return process.returncode, errors


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_sigterm_drains(place):
    """Ready turns to 503 while the port is open; the running request is answered; the process exits with 0."""
    process, url = started(place, drain_s=600.0)  # the end is told by the second signal, not by a clock
    try:
        assert fetch(f"{url}/health/ready")[0] == 200
        event = {"user_id": 7, "item_id": 3, "event": "view"}
        assert fetch(f"{url}/v1/events", {"events": [event]})[0] == 202
        with ThreadPoolExecutor(1) as pool:
            running_request = pool.submit(fetch, f"{url}/v1/recommend/slow")
            assert process.stdout.readline() == "computing\n"
            process.send_signal(signal.SIGTERM)
            until(lambda: fetch(f"{url}/health/ready")[0] == 503)
            status, problem = fetch(f"{url}/health/ready")
            assert (status, problem["code"]) == (503, "not_ready")
            assert fetch(f"{url}/health/live")[0] == 200
            process.send_signal(signal.SIGTERM)  # a second one closes the port at once
            until(lambda: refuses(url))
            assert not running_request.done()
            process.stdin.write("go\n")
            process.stdin.flush()
            status, body = running_request.result(SECONDS)
            assert status == 200
            assert body["answers"][0]["answered_by"] == "popular"
    finally:
        code, errors = ended(process) if process.poll() is None else (process.returncode, process.stderr.read())
    assert code == 0, errors
    assert read_events(place / "events" / "events.jsonl")["user_id"].to_list()[-1] == "7"
    assert all(json.loads(line)["level"] == "info" for line in errors.splitlines()), errors


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_a_third_signal_waits_for_nobody(place):
    process, url = started(place, drain_s=600.0)
    with ThreadPoolExecutor(1) as pool:
        running_request = pool.submit(fetch, f"{url}/v1/recommend/slow")
        assert process.stdout.readline() == "computing\n"
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            process.send_signal(sig)
            time.sleep(0.2)  # signals that are pending together are one
        until(lambda: process.poll() is not None)  # standard input is open: the request never ends
        assert running_request.exception(SECONDS) is not None
    assert ended(process)[0] == 128 + signal.SIGINT


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_job_of_minutes_holds_the_end_no_longer_than_it_may(place, sig):
    """Nothing interrupts it: neither the deadline nor a checkpoint."""
    process, url = started(place, drain_s=0.3, grace_s=0.7)
    with ThreadPoolExecutor(1) as pool:
        running_request = pool.submit(fetch, f"{url}/v1/recommend/stuck")
        assert process.stdout.readline() == "computing\n"
        assert fetch(f"{url}/health/live")[0] == 200  # the event loop is free
        began = time.monotonic()
        process.send_signal(sig)
        process.wait(SECONDS)
        took = time.monotonic() - began
        assert running_request.exception(SECONDS) is not None
    code, errors = ended(process)
    assert took < 0.3 + 0.7 + 2, errors
    assert code == 0, errors
    assert "recommend did not end within 0.5 s and is given up" in errors


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_loading_that_does_not_end_holds_the_end_no_longer_than_it_may(place):
    """The interpreter would wait for the thread that loads."""
    script = (
        "import sys, time; from pathlib import Path; from suisen.recommending import bundle; "
        "from suisen.serving.server import serve; from suisen.serving.settings import Settings\n"
        "def stuck(source, held): print('loading', flush=True); time.sleep(600)\n"
        "bundle.load = stuck\n"
        "serve(Path(sys.argv[1]), port=0, settings=Settings(drain_s=0.1, grace_s=0.4))"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", script, str(place)]
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    process.wait(SECONDS)
    assert time.monotonic() - began < 0.1 + 0.4 + 2
    code, errors = ended(process)
    assert (code, "the server did not end within grace_s = 0.4 s and is ended" in errors) == (1, True), errors


def refuses(url):
    """Whether nothing listens any more."""
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS).close()
    except OSError:
        return True
    return False


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT there")
def test_interrupting_ends_at_once_with_0(place):
    process, url = started(place, drain_s=600.0)
    assert url.startswith("http://127.0.0.1:"), url
    process.send_signal(signal.SIGINT)
    code, errors = ended(process)
    assert code == 0, errors


def test_a_process_says_in_one_line_that_the_port_is_in_use(place):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        process, line = started(place, port)
        code, errors = ended(process)
    assert (code, errors) == (2, "")
    assert line.startswith(f"port = {port} is in use on 127.0.0.1; stop what listens there")
