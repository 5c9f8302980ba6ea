"""The client against the real server: its verbs, its retries, and that it knows all that the description says."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import msgspec
import pytest

from suisen.client import AdminClient, AsyncClient, Client, Refused, Unreachable, calls, messages
from suisen.data.dataset import Dataset
from suisen.data.synthetic import World
from suisen.models import EASE, Popularity
from suisen.pipeline.recommender import Recommender
from suisen.recommending import bundle
from suisen.serving.server import running
from suisen.serving.settings import Settings


def verbs_of(kind):
    """What it asks for."""
    return [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_" and name != "close"]


VERBS = verbs_of(Client)
PATHS = {
    "recommend": "POST /v1/recommend",
    "recommend_batch": "POST /v1/recommend/batch",
    "recommend_user": "GET /v1/recommend/{user}",
    "rank": "POST /v1/rank",
    "similar": "GET /v1/similar/{item}",
    "events": "POST /v1/events",
    "bundle": "GET /v1/bundle",
    "ready": "GET /health/ready",
    "live": "GET /health/live",
}
ADMIN_PATHS = {
    "slots": "GET /admin/slots",
    "status": "GET /admin/status",
    "load": "POST /admin/load",
    "shadow": "POST /admin/shadow",
    "switch": "POST /admin/switch",
    "rollback": "POST /admin/rollback",
    "unload": "POST /admin/unload",
    "blocklist": "GET /admin/blocklist",
    "change_blocklist": "POST /admin/blocklist",
    "replace_blocklist": "PUT /admin/blocklist",
}
LEFT_OUT = {
    "/metrics": "Prometheus reads them",
    "/openapi.json": "tools read it",
    "/admin/openapi.json": "tools read it",
    "/docs": "people read it in a browser",
    "/console": "people use it in a browser",
    "/admin/inspect": "the console asks it",
    "/admin/items": "the console asks it",
}
"""Paths, with all below them, that programs do not ask for through a client, and why."""
EXAMPLES = {
    "load": ("/models/today",), "shadow": (0.1,), "unload": ("former",),
    "replace_blocklist": {"blocked": ["3"], "unavailable": []},
}  # fmt: skip
"""What verbs of AdminClient cannot be called without."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    system = Recommender(EASE()).fit(Dataset.of(World(users=60, items=40).generate().log)).system
    options = Settings(
        log_dir=tmp_path_factory.mktemp("log"), deadline_s=30.0, admin_port=0, insecure=True, drain_s=0.0
    )
    with running(system, options) as made:
        yield made


def both(server, verb, *given, **options):
    """What both clients answer."""
    with Client(server.url, deadline_s=30.0) as client:
        one = getattr(client, verb)(*given, **options)

    async def other():
        async with AsyncClient(server.url, deadline_s=30.0) as asynchronous:
            return await getattr(asynchronous, verb)(*given, **options)

    return one, asyncio.run(other())


# -- what it knows -----------------------------------------------------------------------------------------------------


def described(server, kind=Client):
    """The description of the listener that a client asks."""
    import httpx

    admin = kind is AdminClient
    return httpx.get(f"{server.admin_url}/admin/openapi.json" if admin else f"{server.url}/openapi.json").json()


@pytest.mark.parametrize(("kind", "paths"), [(Client, PATHS), (AdminClient, ADMIN_PATHS)])
def test_it_has_a_verb_for_every_path(server, kind, paths):
    there = {
        f"{method.upper()} {path}"
        for path, its in described(server, kind)["paths"].items()
        for method in its
        if not any(path == left or path.startswith(f"{left}/") for left in LEFT_OUT)
    }
    if kind is AdminClient:
        there -= set(PATHS.values())  # its health is that of the other listener
    assert set(paths) == set(verbs_of(kind))
    assert there == set(paths.values())


def resolved(document, schema):
    """The schema behind a reference."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def assert_fields(document, schema, kind, path):
    """A Struct of the client has exactly the fields that the description gives, all the way down."""
    fields = {one.encode_name: one.type for one in msgspec.structs.fields(kind)}
    assert set(resolved(document, schema)["properties"]) == set(fields), f"{path}: {kind.__name__}"
    for name, declared in resolved(document, schema)["properties"].items():
        inner = resolved(document, declared)
        options = [resolved(document, one) for one in inner.get("anyOf", [inner])]
        options = [resolved(document, one.get("items", one)) for one in options]
        structs = [one for one in parts(fields[name]) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
        for struct in structs:
            (described_so,) = [one for one in options if "properties" in one]
            assert_fields(document, described_so, struct, f"{path}.{name}")


def parts(kind):
    """A type and those that it is made of."""
    from typing import get_args

    yield kind
    for one in get_args(kind):
        yield from parts(one)


@pytest.mark.parametrize(
    ("kind", "verb"), [*((Client, verb) for verb in PATHS), *((AdminClient, verb) for verb in ADMIN_PATHS)]
)
def test_its_answers_have_the_fields_of_the_description(server, kind, verb):
    document = described(server, kind)
    method, path = {**PATHS, **ADMIN_PATHS}[verb].split()
    answers = document["paths"][path][method.lower()]["responses"]
    good = next(answer for status, answer in answers.items() if status.startswith("2"))
    answered = inspect.signature(getattr(kind, verb)).return_annotation
    assert_fields(document, good["content"]["application/json"]["schema"], answered, path)


@pytest.mark.parametrize("verb", [verb for verb, path in ADMIN_PATHS.items() if not path.startswith("GET")])
def test_changes_say_all_that_the_description_lets_them(server, verb, monkeypatch):
    document, made = described(server, AdminClient), []
    monkeypatch.setattr(AdminClient, "_made", lambda self, call, deadline_s: made.append((call, deadline_s)))
    given = EXAMPLES.get(verb, ())
    with AdminClient(server.admin_url) as admin:
        getattr(admin, verb)(**given) if isinstance(given, dict) else getattr(admin, verb)(*given)
    ((call, deadline_s),) = made
    assert f"{call.method} {call.path}" == ADMIN_PATHS[verb]
    body = document["paths"][call.path][call.method.lower()]["requestBody"]["content"]["application/json"]
    assert set(json.loads(call.body)) == set(resolved(document, body["schema"])["properties"]) - {"replace"}
    assert deadline_s > json.loads(call.body)["wait_s"]  # the server answers by then
    assert not call.again


def test_problems_have_the_fields_of_the_description(server):
    problem = described(server)["components"]["schemas"]["Problem"]["properties"]
    assert set(problem) - {"type"} == {one.name for one in msgspec.structs.fields(messages.Problem)}


def test_the_two_clients_have_the_same_verbs():
    for verb in VERBS:
        one, other = (inspect.signature(getattr(kind, verb)) for kind in (Client, AsyncClient))
        assert one == other
        assert inspect.iscoroutinefunction(getattr(AsyncClient, verb))


# -- its verbs ---------------------------------------------------------------------------------------------------------


def test_lists_of_users_histories_and_nobody(server):
    for found in both(server, "recommend", [{"user_id": 7}, {"history": [3, 5]}, {}], k=4):
        assert [len(answer.items) for answer in found.answers] == [4, 4, 4]
        assert [answer.answered_by for answer in found.answers] == ["model", "model", "popular"]
        assert [item.rank for item in found.answers[0].items] == [1, 2, 3, 4]
    for found in both(server, "recommend_user", 7, k=4, exclude_seen=False):
        assert len(found.items) == 4
    for found in both(server, "recommend_batch", [{"user_id": one} for one in range(1, 31)], k=2):
        assert len(found.answers) == 30
    with pytest.raises(ValueError, match="too many values"):
        both(server, "recommend", [{}, {}])[0].items  # noqa: B018


def test_ranking_similar_items_bundle_and_health(server):
    for found in both(server, "rank", [{"user_id": 7, "items": [3, "5", "nothing"]}]):
        assert {str(item.item_id) for item in found.answers[0].items} == {"3", "5"}
        assert found.answers[0].left_out == ["nothing"]
    for found in both(server, "similar", 3, k=2):
        assert len(found.items) == 2
    for found in both(server, "bundle"):
        assert (found.retriever.name, found.log.durable) == ("ease", "os")
    assert [found.status for found in both(server, "ready")] == ["ready", "ready"]
    assert [found.status for found in both(server, "live")] == ["alive", "alive"]


def test_ids_of_every_spelling_find_their_path(server):
    for user in ("a/b", "ü ?&#%", "..", ".", "x.y", "batch", " "):
        with Client(server.url) as client:
            assert client.recommend_user(user, k=1).answers[0].user_id == user


def test_a_refusal_tells_code_and_detail(server):
    with Client(server.url) as client, pytest.raises(Refused, match="exclude_seen") as caught:
        client.recommend_user("7", exclude_seen=3)
    assert (caught.value.code, caught.value.status) == ("invalid_value", 422)
    assert caught.value.request_id
    with Client(server.url) as client, pytest.raises(Refused, match="unknown_item"):
        client.similar("no such item")


# -- its retries -------------------------------------------------------------------------------------------------------


def test_events_have_an_id_and_a_time_before_they_are_sent():
    call = calls.events([{"user_id": 1, "item_id": 2, "event": "x"}, {"event_id": "mine", "item_id": 2, "event": "x"}])
    first, second = json.loads(call.body)["events"]
    assert len(first["event_id"]) == 32
    assert first["time"].endswith("Z")
    assert second["event_id"] == "mine"


class Flaky:
    """Between client and server: spoils the first answers as it is told, then passes everything on."""

    def __init__(self, server, spoil, times):
        self.requests, self._spoil, self._left = 0, spoil, times
        self._to = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=partial(self._one, client), daemon=True).start()

    def _one(self, client):
        request = _whole(client)
        self.requests += 1
        spoiled, self._left = self._left > 0, self._left - 1
        if spoiled and self._spoil == "refuses":
            client.sendall(b"HTTP/1.1 503 x\r\nretry-after: 0\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        elif spoiled and self._spoil == "hangs":
            time.sleep(3.0)
        else:
            with socket.create_connection(self._to) as server:
                server.sendall(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
                answer = b"".join(iter(partial(server.recv, 1 << 16), b""))
            client.sendall(b"" if spoiled else answer)  # the server did it, and nobody hears of it
        client.close()

    def close(self):
        self._listening.close()


def _whole(client):
    """A request with its body."""
    read = b""
    while b"\r\n\r\n" not in read:
        read += client.recv(1 << 16)
    head, _, body = read.partition(b"\r\n\r\n")
    size = int((re.search(rb"content-length: (\d+)", head, re.IGNORECASE) or [0, b"0"])[1])
    while len(body) < size:
        body += client.recv(1 << 16)
    return head + b"\r\n\r\n" + body


@contextmanager
def flaky(server, spoil, times):
    one = Flaky(server, spoil, times)
    try:
        yield one
    finally:
        one.close()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("spoil", ["refuses", "breaks", "hangs"])
def test_events_are_taken_once_whatever_happens_on_the_way(server, spoil, kind):
    def sent(url):
        if kind is Client:
            with Client(url, deadline_s=4.0) as client:
                return client.events([{"user_id": "9", "item_id": 4, "event": "click"}])

        async def asynchronously():
            async with AsyncClient(url, deadline_s=4.0) as client:
                return await client.events([{"user_id": "9", "item_id": 4, "event": "click"}])

        return asyncio.run(asynchronously())

    with flaky(server, spoil, 1 if spoil == "hangs" else 2) as between:
        found = sent(between.url)
        assert found.accepted == 1
        assert found.repeats == (spoil == "breaks")  # the first one had arrived
        assert between.requests == (2 if spoil == "hangs" else 3)


def test_a_refusal_that_stands_is_not_asked_for_again(server):
    with flaky(server, "", 0) as between, Client(between.url) as client:
        with pytest.raises(Refused):
            client.similar("no such item")
        assert between.requests == 1


def test_the_deadline_ends_all_tries(server):
    with flaky(server, "refuses", 10**6) as between, Client(between.url, deadline_s=0.5) as client:
        began = time.monotonic()
        with pytest.raises(Refused, match="503"):
            client.ready()
        assert time.monotonic() - began < 3
        assert between.requests > 2
    with Client("http://127.0.0.1:9", deadline_s=0.3) as client, pytest.raises(Unreachable, match=r"within 0.3 s \(\d"):
        client.live()


def test_the_server_says_how_long_to_wait():
    tries = calls.Tries(calls.live(), 60.0)
    assert tries.answered(503, {"retry-after": "7"}, b"{}") >= 7.0
    assert tries.answered(429, {}, b"{}") < 1.0
    with pytest.raises(Refused, match="not_suisen: HTTP status 502: Bad gateway"):
        tries.answered(502, {}, b"Bad\n gateway")
    with pytest.raises(Refused, match="503"):
        calls.Tries(calls.live(), 5.0).answered(503, {"retry-after": "9"}, b"")


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), float("inf")])
def test_a_deadline_is_a_number_of_seconds(deadline):
    with pytest.raises(ValueError, match="deadline_s"):
        Client("http://localhost", deadline_s=deadline)


# -- the admin listener ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The bundle of another model."""
    system = Recommender(Popularity()).fit(Dataset.of(World(users=60, items=40).generate().log)).system
    return str(bundle.save(system, tmp_path_factory.mktemp("bundle") / "other"))


def test_a_program_swaps_versions(server, other):
    with AdminClient(server.admin_url, deadline_s=30.0) as admin, Client(server.url) as client:
        first = admin.slots().version("serving")
        second = admin.load(other).version("candidate")
        assert second not in (None, first)
        assert admin.shadow(0.5).shadow.share == 0.5
        assert admin.shadow(0).shadow is None
        found = admin.switch()
        assert (found.version("serving"), found.version("former"), found.pending) == (second, first, [])
        assert client.recommend_user(7).version == second
        assert admin.rollback().version("serving") == client.recommend_user(7).version == first
        assert admin.unload("former").version("former") is None
        status = admin.status()
        assert (status.state, status.version, len(status.workers)) == ("ready", first, 1)
        with pytest.raises(Refused, match="no candidate is loaded") as caught:
            admin.switch()
        assert (caught.value.code, caught.value.status) == ("conflict", 409)
        with pytest.raises(Refused, match="bundle_refused"):
            admin.load("/no/such/bundle")


def test_a_program_blocks_items(server):
    with AdminClient(server.admin_url, deadline_s=30.0) as admin:
        assert admin.change_blocklist(block=[3, "4"], unavailable=[5]).blocked == ["3", "4"]
        assert admin.change_blocklist(unblock=[3]).in_force == 2
        found = admin.replace_blocklist(blocked=[9], unavailable=[])
        assert (found.blocked, found.unavailable, found.kept) == (["9"], [], True)
        assert admin.blocklist().blocked == ["9"]
        assert admin.replace_blocklist(blocked=[], unavailable=[]).in_force == 0


@pytest.mark.parametrize(("spoil", "error", "requests"), [("breaks", Unreachable, 1), ("refuses", Refused, 3)])
def test_a_change_is_sent_again_only_where_nothing_was_done(server, spoil, error, requests):
    with flaky(SimpleNamespace(url=server.admin_url), spoil, 2) as between:
        with AdminClient(between.url) as admin, pytest.raises(error, match=r"no candidate|no answer"):
            admin.switch()
        assert between.requests == requests


def test_a_change_waits_for_a_server_that_is_not_there_yet():
    with AdminClient("http://127.0.0.1:9", deadline_s=0.3) as admin, pytest.raises(Unreachable, match=r"\(\d+ tries"):
        admin.switch(wait_s=0.1)
