"""Versions and blocked items of several workers, through the admin listener that any of them may answer."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import closing
from urllib.request import Request, urlopen

import pytest

from suisen.recommending import bundle
from tests.fitted import fitted
from tests.services.programs import free_port
from tests.serving.test_admin import Caller
from tests.serving.test_workers import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return [bundle.save(fitted(name).system, folder / name) for name in ("mf", "ease")]


def asked(port, path, message=None):
    body = None if message is None else json.dumps(message).encode()
    with urlopen(Request(f"http://127.0.0.1:{port}/admin/{path}", body, {"content-type": "application/json"})) as reply:
        return json.loads(reply.read())


def versions(server):
    found = set()
    for _ in range(12):
        with closing(Caller(server.says)) as caller:
            found.add(caller.items("u0003")[0])
    return found


def test_all_workers_swap_and_one_that_is_started_again_takes_up_what_the_others_serve(bundles):
    port = free_port()
    server = Server(bundles[0], 2, 5, admin_port=port, insecure=True, drain_s=0, former_s=60.0)
    try:
        (first,) = versions(server)
        answer = asked(port, "load", {"bundle": str(bundles[1]), "switch": True, "wait_s": 60})
        assert answer["pending"] == []
        assert [len(slot["workers"]) for slot in answer["slots"]] == [2, 2]
        (second,) = versions(server)
        assert second != first
        with closing(Caller(server.says)) as caller:
            top = caller.items("u0003")[1][:2]
        assert asked(port, "blocklist", {"block": top})["pending"] == []
        victim = asked(port, "status")["workers"][0]["pid"]
        os.kill(victim, signal.SIGKILL)
        until = time.monotonic() + 120
        while victim in {worker["pid"] for worker in asked_again(port)["workers"]}:
            assert time.monotonic() < until
            time.sleep(0.2)
        time.sleep(1)
        for _ in range(12):
            with closing(Caller(server.says)) as caller:
                version, items = caller.items("u0003")
                assert version == second
                assert not set(items) & set(top)
        while states(port) != ["ready"] * 4:  # the former version, too, in the worker that was started again
            assert time.monotonic() < until
            time.sleep(0.2)
        look = {"queries": [{"user_id": "u0003"}], "role": "former"}
        assert {asked(port, "inspect", look)["version"] for _ in range(12)} == {first}
        assert asked(port, "rollback", {"wait_s": 60})["pending"] == []
        assert versions(server) == {first}
    finally:
        server.process.terminate()
        server.process.wait(60)
        server.process.stdout.close()


def states(port):
    """Of all versions in all workers."""
    return [worker["state"] for slot in asked(port, "slots")["slots"] for worker in slot["workers"]]


def asked_again(port):
    for _ in range(20):
        try:
            return asked(port, "status")
        except OSError:
            time.sleep(0.1)
    raise AssertionError("no worker answers")
