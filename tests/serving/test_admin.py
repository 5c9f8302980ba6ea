"""Versions that are swapped while the server answers, through the admin listener of a real server."""

from __future__ import annotations

import gc
import http.client
import json
import shutil
import threading
import time
import weakref
from contextlib import closing, contextmanager
from itertools import cycle, islice

import pytest

from suisen.errors import InputError
from suisen.recommending import bundle
from suisen.serving.server import start_in_thread
from suisen.serving.settings import Settings
from tests.fitted import fitted

USERS = [f"u{one:04}" for one in range(1, 61)]
SETTINGS = {"deadline_s": 60.0, "drain_s": 0.0, "warm_s": 0.1}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return [bundle.save(fitted(name).system, folder / name) for name in ("mf", "ease")]


@pytest.fixture(scope="module")
def expected(bundles):
    """version → user → items."""
    return dict(map(answers_of, bundles))


def answers_of(place):
    server = start_in_thread(place, settings=Settings(**SETTINGS))
    with closing(Caller(server.url)) as caller:
        found = {user: caller.items(user) for user in USERS}
    server.stop()
    return found[USERS[0]][0], {user: items for user, (_, items) in found.items()}


class Caller:
    def __init__(self, url):
        self.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        self.headers = {"content-type": "application/json"}

    def close(self):
        self.connection.close()

    def call(self, method, path, message=None):
        body = None if message is None else json.dumps(message)
        self.connection.request(method, path, body, self.headers)
        reply = self.connection.getresponse()
        return reply.status, json.loads(reply.read())

    def items(self, user):
        status, answer = self.call("GET", f"/v1/recommend/{user}")
        assert status == 200, answer
        return answer["version"], [item["item_id"] for item in answer["answers"][0]["items"]]

    def asked(self, path, **message):
        status, answer = self.call("POST", f"/admin/{path}", message)
        assert status == 200, answer
        return answer

    def refused(self, path, **message):
        status, answer = self.call("POST", f"/admin/{path}", message)
        assert status != 200
        return answer["code"], answer["detail"]


@contextmanager
def served(source, **settings):
    server = start_in_thread(source, settings=Settings(**{**SETTINGS, "admin_port": 0, "insecure": True, **settings}))
    with closing(Caller(server.url)) as caller, closing(Caller(server.admin_url)) as admin:
        try:
            yield server, caller, admin
        finally:
            server.stop()


def roles(answer):
    return {slot["role"]: slot["version"] for slot in answer["slots"]}


def test_a_bundle_is_loaded_beside_switched_to_and_rolled_back(bundles, expected):
    mf, ease = expected
    with served(bundles[0]) as (_, caller, admin):
        assert roles(admin.asked("load", bundle=str(bundles[1]))) == {"serving": mf, "candidate": ease}
        assert caller.items("u0003") == (mf, expected[mf]["u0003"])
        assert roles(admin.asked("switch")) == {"serving": ease, "former": mf}
        assert caller.items("u0003") == (ease, expected[ease]["u0003"])
        assert roles(admin.asked("rollback")) == {"serving": mf, "former": ease}
        assert caller.items("u0003") == (mf, expected[mf]["u0003"])
        assert roles(admin.asked("unload", role="former")) == {"serving": mf}
        assert admin.refused("rollback")[0] == "conflict"
        assert admin.refused("switch") == ("conflict", "no candidate is loaded; load a bundle first")


def test_swaps_under_load_lose_and_mix_nothing(bundles, expected):
    """Every request is answered, by one version, as that version answers offline."""
    with served(bundles[0]) as (server, _, admin):
        over, wrong, seen = threading.Event(), [], []

        def load(first):
            with closing(Caller(server.url)) as caller:
                for user in islice(cycle(USERS), first, None):
                    version, items = caller.items(user)
                    seen.append(version)
                    if expected[version][user] != items:
                        wrong.append((version, user, items))
                    if over.is_set():
                        return

        threads = [threading.Thread(target=load, args=(first,)) for first in range(3)]
        for thread in threads:
            thread.start()
        for swap in range(5):
            admin.asked("load", bundle=str(bundles[(swap + 1) % 2]), switch=True)
            time.sleep(0.1)
        over.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert set(seen) == set(expected)
        assert len(seen) > 100


def test_a_broken_bundle_is_refused_and_changes_nothing(bundles, expected, tmp_path):
    mf, _ = expected
    with served(bundles[0]) as (_, caller, admin):
        assert admin.refused("load", bundle=str(tmp_path))[0] == "bundle_refused"
        for path in bundles[1].rglob("*"):
            if path.is_file():
                place = tmp_path / "broken" / path.relative_to(bundles[1])
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(path.read_bytes())
        (tmp_path / "broken" / "items.arrow").write_bytes(b"no items")
        code, detail = admin.refused("load", bundle=str(tmp_path / "broken"))
        assert code == "bundle_refused"
        assert "items.arrow" in detail
        assert roles(admin.call("GET", "/admin/slots")[1]) == {"serving": mf}
        assert caller.items("u0003") == (mf, expected[mf]["u0003"])
        assert roles(admin.asked("load", bundle=str(bundles[1]), switch=True)).keys() == {"serving", "former"}


def test_a_former_version_goes_when_its_time_is_over_and_leaves_no_memory(bundles):
    gc.collect()
    gc.disable()
    try:
        with served(bundles[0], former_s=0.2) as (server, caller, admin):
            service = server.app.service
            parts = [weakref.ref(service.slot), weakref.ref(service.slot.answering.system.engine)]
            parts += [weakref.ref(service.slot.answering.system.store), weakref.ref(service.slot.answering)]
            admin.asked("load", bundle=str(bundles[1]), switch=True)
            until = time.monotonic() + 20
            while any(part() is not None for part in parts) and time.monotonic() < until:
                time.sleep(0.05)
                caller.items("u0001")
            assert [part() for part in parts] == [None] * 4
            assert roles(admin.call("GET", "/admin/slots")[1]).keys() == {"serving"}
    finally:
        gc.enable()


def test_events_count_in_the_next_version_those_before_the_load_and_those_during_it(bundles, tmp_path):
    with served(bundles[0], log_dir=tmp_path) as (_, caller, admin):

        def takes(item, **who):
            event = {"event": "view", "item_id": item, "user_id": "u0003", **who}
            assert caller.call("POST", "/v1/events", {"events": [event]})[0] == 202

        before = caller.items("u0003")[1][:3]
        takes(before[0])
        admin.asked("load", bundle=str(bundles[1]))
        takes(before[1])
        admin.asked("switch")
        takes(before[2])
        items = caller.items("u0003")[1]
        assert not set(items) & set(before)
        admin.asked("rollback")
        assert not set(caller.items("u0003")[1]) & set(before)


def test_a_shadow_compares_and_changes_no_answer(bundles, expected):
    mf, _ = expected
    with served(bundles[0]) as (_, caller, admin):
        for place, same in ((bundles[0], True), (bundles[1], False)):
            admin.asked("load", bundle=str(place))
            admin.asked("shadow", share=1.0)
            for user in USERS:
                assert caller.items(user) == (mf, expected[mf][user])
            until = time.monotonic() + 20
            while (report := admin.call("GET", "/admin/slots")[1]["shadow"])["lists"] < len(USERS) - report["dropped"]:
                assert time.monotonic() < until
                time.sleep(0.05)
            assert report["errors"] == 0
            assert report["places"] == 10 * report["lists"] > 300
            assert (report["identical"] == report["lists"]) is same
            assert (report["shared"] == report["places"]) is same
        assert admin.asked("shadow", share=0.0)["shadow"] is None


def test_an_admin_listener_asks_for_a_key(bundles, tmp_path):
    with pytest.raises(InputError, match=r"admin_key= from the environment \(SUISEN_ADMIN_KEY\)"):
        start_in_thread(bundles[0], settings=Settings(admin_port=0))
    with pytest.raises(InputError, match="admin_key= from"):
        start_in_thread(bundles[0], settings=Settings(admin_port=0, api_key="k" * 30))
    with served(bundles[0], insecure=False, admin_key="a" * 30, api_key="k" * 30) as (_, caller, admin):
        assert admin.refused("load", bundle=str(bundles[1]))[0] == "unauthorized"
        admin.headers["x-api-key"] = "k" * 30
        assert admin.refused("switch")[0] == "unauthorized"
        admin.headers["x-api-key"] = "a" * 30
        assert len(admin.asked("load", bundle=str(bundles[1]))["slots"]) == 2
        caller.headers["x-api-key"] = "k" * 30
        assert caller.call("GET", "/admin/slots")[0] == 404
        assert caller.items("u0001")


def test_a_bundle_that_appears_in_a_watched_folder_answers_and_a_broken_one_does_not(bundles, expected, tmp_path):
    mf, ease = expected
    watched = tmp_path / "models"
    shutil.copytree(bundles[0], watched / "a")
    with served(bundles[0], watch=str(watched)) as (_, caller, _admin):
        time.sleep(1)

        def until(version):
            late = time.monotonic() + 20
            while caller.items("u0003")[0] != version:
                assert time.monotonic() < late
                time.sleep(0.1)

        shutil.copytree(bundles[1], watched / "b")  # file by file, as copies go
        (watched / "b" / "manifest.json").touch()
        until(ease)
        shutil.copytree(bundles[0], watched / "c")
        (watched / "c" / "items.arrow").write_bytes(b"half")
        (watched / "c" / "manifest.json").touch()
        time.sleep(1.5)
        assert caller.items("u0003") == (ease, expected[ease]["u0003"])
        shutil.copy(bundles[0] / "items.arrow", watched / "c" / "items.arrow")
        until(mf)


def test_a_bundle_that_appears_in_an_object_store_answers(bundles, expected, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    _, ease = expected
    monkeypatch.setattr("suisen.serving.mirror.EVERY_S", 0.1)
    store = fsspec.filesystem("memory")
    with served(bundles[0], watch="memory://shop/models") as (_, caller, _admin):
        time.sleep(1)
        for file in sorted(bundles[1].rglob("*"), key=lambda one: one.name == "manifest.json"):
            if file.is_file():
                store.pipe(f"/shop/models/today/{file.relative_to(bundles[1])}", file.read_bytes())
        late = time.monotonic() + 30
        while caller.items("u0003")[0] != ease:
            assert time.monotonic() < late
            time.sleep(0.1)
        assert caller.items("u0003") == (ease, expected[ease]["u0003"])
