"""Users in a real Redis: two servers that share it answer as one, whatever befalls it."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import pytest

from suisen.serving.settings import Settings
from suisen.serving.stores.wire import events_key, row_key
from tests.fitted import fitted
from tests.recommending.planning import with_plan
from tests.services.programs import program, redis
from tests.serving.client import Client
from tests.serving.sockets import Served

USERS = ["u0001", "u0002", "u0007", "somebody new", "7"]
FAST = partial(Served, "fast")
PATIENT = 5.0
"""Seconds for a round trip: a busy machine must not look like a store that is away."""


def system_of(name="two-tower", version="M-0123456789ab"):
    return replace(with_plan(fitted(name).system), version=version)


@pytest.fixture
def store(tmp_path):
    with redis(tmp_path / "redis") as one:
        yield one


def command(store, *words):
    """What Redis says to words, by its own client."""
    import redis as library

    client = library.Redis(port=store.port)
    try:
        return client.execute_command(*words)
    finally:
        client.close()


@contextmanager
def servers(store, tmp_path, *names, system=None, cls=Client, **options):
    """Servers on one store."""
    system = system or system_of()
    options = {"users_timeout_s": PATIENT, "warm_s": 0.0, **options}
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                cls(
                    lambda: system,
                    Settings(
                        deadline_s=60.0, log_dir=tmp_path / name, users=f"redis://127.0.0.1:{store.port}/0", **options
                    ),
                )
            )
            for name in names
        ]


def ask(client, **query):
    response = client.post("/v1/recommend", {"queries": [query], "k": 5})
    assert response.status == 200, response.body
    return response.json


def listed(client, **query):
    (answer,) = ask(client, **query)["answers"]
    return [(item["item_id"], item["score"]) for item in answer["items"]], answer["answered_by"]


def send(client, *events):
    response = client.post("/v1/events", {"events": list(events)})
    assert response.status == 202, response.body
    return response.json


def event(item, user="u0001", **more):
    return {"item_id": item, "event": "click", "user_id": user, **more}


def alike(one, other):
    """Whether two lists agree: ids and order wholly, scores to what a batch's shape may change."""
    return [item for item, _ in one[0]] == [item for item, _ in other[0]] and one[1] == other[1] and all(
        abs(a - b) <= 1e-5 * max(1.0, abs(a)) for (_, a), (_, b) in zip(one[0], other[0], strict=True)
    )  # fmt: skip


# -- as one ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["two-tower", "ease + fm"])
def test_two_servers_on_one_store_answer_as_one_with_its_own_memory(name, store, tmp_path):
    drawn = random.Random(3)
    system = system_of(name)
    items = system.store.items.raw_ids.to_list()
    settings = Settings(deadline_s=60.0, log_dir=tmp_path / "alone", warm_s=0.0)
    with servers(store, tmp_path, "a", "b", system=system) as both, Client(lambda: system, settings) as alone:
        for _ in range(200):
            user, session = drawn.choice([*USERS, None]), drawn.choice(["s1", "s2", None])
            if drawn.random() < 0.5 and (user or session):
                many = drawn.choice([1, 1, 3])
                at = f"2026-11-{drawn.randint(1, 28):02}T10:00:00Z"
                batch = [event(drawn.choice(items), user, session_id=session, time=at) for _ in range(many)]
                answers = [send(client, *batch) for client in (drawn.choice(both), alone)]
                assert answers[0]["accepted"] == answers[1]["accepted"]
            else:
                query = {"user_id": user, "session_id": session}
                assert alike(listed(drawn.choice(both), **query), listed(alone, **query)), query
        assert 'suisen_store_keys_total{outcome="hit",store="users"}' in both[0].get("/metrics").body.decode()


def test_an_event_acknowledged_by_one_counts_for_the_next_answer_of_the_other(store, tmp_path):
    with servers(store, tmp_path, "a", "b") as (one, other):
        before = listed(other, user_id="u0001")
        taken = before[0][0][0]
        assert "degraded" not in send(one, event(taken))
        after = listed(other, user_id="u0001")
        assert taken not in [item for item, _ in after[0]]
        assert "degraded" not in ask(other, user_id="u0001")
        assert alike(listed(one, user_id="u0001"), after)


def test_an_event_that_is_sent_to_both_counts_once(store, tmp_path):
    system = system_of("ease + fm")
    with servers(store, tmp_path, "a", "b", system=system) as (one, other):
        item = system.store.items.raw_ids[3]
        send(one, event(item, "guest", event_id="e-1"))
        expected = listed(one, user_id="guest")
        send(other, event(item, "guest", event_id="e-1"))  # at another time, which it does not name
        assert alike(listed(other, user_id="guest"), expected)
        assert alike(listed(one, user_id="guest"), expected)
        assert command(store, "GET", events_key("u:guest")).count(b"\n[") == 1


def test_a_row_is_computed_by_one_server_and_read_by_the_other(store, tmp_path):
    with servers(store, tmp_path, "a", "b") as (one, other):
        expected = listed(one, user_id="u0002")
        listed(one, user_id="u0003")  # the row goes along with the next round trip
        until = time.monotonic() + 10
        while not command(store, "EXISTS", row_key("M-0123456789ab", "u:u0002")) and time.monotonic() < until:
            listed(one, user_id=None)
        assert alike(listed(other, user_id="u0002"), expected)
        rows = other.app.service.slot.answering.visitors
        assert (rows.misses, rows.hits) == (0, 1)


# -- what befalls it --------------------------------------------------------------------------------------------------


def until_whole(client, seconds=20.0, **query):
    """Seconds until answers are made with the store again."""
    began = time.monotonic()
    while "degraded" in ask(client, **query):
        assert time.monotonic() < began + seconds
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_without_the_store_answers_come_from_what_is_at_hand_and_say_so(how, store, tmp_path):
    with servers(store, tmp_path, "a", "b", cls=FAST, users_timeout_s=0.1) as (
        one,
        other,
    ):
        send(one, event("i001", "guest"))
        assert listed(other, user_id="guest")[1] == "model"
        (store.kill if how == "killed" else store.pause)()
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            answer = ask(other, user_id="guest")
            slowest = max(slowest, time.monotonic() - began)
            assert answer["degraded"] == ["users"]
            assert answer["answers"][0]["answered_by"] == "model"  # what was fetched before is at hand
        assert slowest < 5
        assert "degraded" not in ask(other, history=["i002"])  # names nobody
        assert send(one, event("i002", "guest"))["degraded"] == ["users"]
        assert other.get("/health/ready").status == 200
        assert b'suisen_breaker_open{store="users"} 1' in other.get("/metrics").body
        (store.start if how == "killed" else store.resume)()
        until_whole(one, user_id="guest")
        until_whole(other, user_id="guest")
        assert alike(listed(other, user_id="guest"), listed(one, user_id="guest"))
        lines = command(store, "GET", events_key("u:guest"))
        assert lines.count(b'"i001"') == lines.count(b'"i002"') == 1  # the first was told again where Redis forgot it


def test_a_server_starts_and_is_ready_while_the_store_is_away(store, tmp_path):
    store.kill()
    with servers(store, tmp_path, "a", cls=FAST) as (one,):
        assert one.get("/health/ready").status == 200
        assert ask(one, user_id="u0001")["degraded"] == ["users"]
        store.start()
        until_whole(one, user_id="u0001")


GARBAGE = {
    "bytes": ("SET", b"\x00\xff\xfe\n\n\x01garbage"),
    "another row": ("SET", b""),
    "empty": ("SET", b""),
    "json": (
        "SET",
        b'0123456789abcdef\n{"a":1}\n[-1,"i001",0]\n[9999999999999999999,"i001",0]\n[1,2,3]\n',
    ),
    "list": ("RPUSH", b"x"),
    "hash": ("HSET", b"field", b"x"),
    "huge": ("SET", b"x" * 5_000_000),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_values_that_are_none_are_misses_and_never_a_wrong_answer(kind, store, tmp_path):
    verb, *values = GARBAGE[kind]
    settings = Settings(deadline_s=60.0, log_dir=tmp_path / "alone", warm_s=0.0)
    system = system_of()
    with servers(store, tmp_path, "a", system=system) as (one,), Client(lambda: system, settings) as alone:
        listed(one, user_id="u0002")
        listed(one, user_id="u0001")
        other = command(store, "GET", row_key(system.version, "u:u0002"))
        assert other
        for key in (row_key(system.version, "u:u0003"), row_key("another", "u:u0003"), events_key("u:u0004")):
            command(store, verb, key, *([other] if kind == "another row" else values))
        for user in ("u0003", "u0004"):
            found = ask(one, user_id=user)
            assert "degraded" not in found
            assert alike(listed(one, user_id=user), listed(alone, user_id=user))
        if kind != "empty":
            assert b'suisen_store_keys_total{outcome="damaged",store="users"}' in one.get("/metrics").body
        for client in (one, alone):
            send(client, event("i005", "u0004", time="2026-11-01T00:00:00Z"))
        assert alike(listed(one, user_id="u0004"), listed(alone, user_id="u0004"))
        assert b'"i005"' in command(store, "GET", events_key("u:u0004"))  # the value is mended


def test_a_store_that_was_emptied_hears_again_what_a_server_knows(store, tmp_path):
    with servers(store, tmp_path, "a", "b") as (one, other):
        send(one, event("i001", "guest"), event("i002", "guest"))
        expected = listed(one, user_id="guest")
        command(store, "FLUSHALL")
        assert alike(listed(one, user_id="guest"), expected)
        ask(one, user_id="u0001")  # the round trip that takes the events along
        assert alike(listed(other, user_id="guest"), expected)


def test_rows_of_another_bundle_are_not_read(store, tmp_path):
    old, new = system_of("two-tower", "M-old"), system_of("ials", "M-new")
    settings = Settings(deadline_s=60.0, log_dir=tmp_path / "alone", warm_s=0.0)
    with servers(store, tmp_path, "a", system=old) as (one,):
        for user in USERS[:3]:
            listed(one, user_id=user)
        send(one, event("i003", "u0001"))
        for user in USERS[:3]:
            listed(one, user_id=user)
    with servers(store, tmp_path, "b", system=new) as (other,), Client(lambda: new, settings) as alone:
        for user in USERS[1:3]:
            assert alike(listed(other, user_id=user), listed(alone, user_id=user))
        assert "i003" not in [item for item, _ in listed(other, user_id="u0001")[0]]  # events are facts


def test_a_store_without_memory_takes_no_events_and_is_still_read(store, tmp_path):
    with servers(store, tmp_path, "a") as (one,):
        send(one, event("i001", "guest"))
        command(store, "CONFIG", "SET", "maxmemory", "1")
        assert send(one, event("i002", "guest"))["degraded"] == ["users"]
        assert "degraded" not in ask(one, user_id="guest")
        command(store, "CONFIG", "SET", "maxmemory", "0")
        one.app.service.users._again = 0.0
        ask(one, user_id="guest")
        assert b'"i002"' in command(store, "GET", events_key("u:guest"))


def test_evicted_keys_are_misses(tmp_path):
    system = system_of()
    more = "--maxmemory", "2mb", "--maxmemory-policy", "allkeys-lru"
    settings = Settings(deadline_s=60.0, log_dir=tmp_path / "alone", warm_s=0.0)
    with ExitStack() as stack:
        store = stack.enter_context(redis(tmp_path / "small", *more))
        (one,) = stack.enter_context(servers(store, tmp_path, "a", system=system))
        alone = stack.enter_context(Client(lambda: system, settings))
        for day in (1, 2, 3):
            for number in range(1, 40):
                user = f"u{number:04}"
                assert alike(listed(one, user_id=user), listed(alone, user_id=user))
                for client in (one, alone):
                    send(client, event(f"i{number:03}", user, time=f"2026-11-0{day}T00:00:00Z"))


def test_a_password_is_never_told(tmp_path, caplog, monkeypatch):
    with redis(tmp_path / "shut", "--requirepass", "secret-word") as store:
        for password, word in (("wrong-word", "wrong-word"), ("secret-word", "secret-word")):
            url = f"redis://:{password}@127.0.0.1:{store.port}/0"
            settings = Settings(deadline_s=60.0, log_dir=tmp_path / password, users=url, users_timeout_s=PATIENT)
            with Client(lambda: fitted("ease").system, settings) as one:
                found = ask(one, user_id="u0001")
                assert ("degraded" in found) == (password == "wrong-word")
                said = caplog.text + one.get("/metrics").body.decode() + one.get("/v1/bundle").body.decode()
                assert word not in said
        monkeypatch.setenv("SUISEN_USERS_PASSWORD", "secret-word")
        with servers(store, tmp_path, "c") as (one,):
            assert "degraded" not in ask(one, user_id="u0001")


def test_redis_is_there():
    assert program("redis-server")
