"""Keys: who may ask what; files that are wrong, that change; nothing of a key is ever told."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suisen.errors import InputError
from suisen.serving import keys as keys_module
from suisen.serving.endpoints import ENDPOINTS
from suisen.serving.keys import SCOPES, Keys, made, read
from suisen.serving.problems import Refusal
from suisen.serving.settings import Settings
from tests.serving.test_contract import good, path_of, refused

PATIENT = 60.0


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """(the file of four keys, one per scope, and the keys by their scope)."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    both = {scope: made(f"the-{scope}", [scope]) for scope in SCOPES}
    path.write_text("\n".join(lines for _, lines in both.values()))
    return path, {scope: secret for scope, (secret, _) in both.items()}


@pytest.fixture(scope="module")
def locked(served, recommender, file, tmp_path_factory):
    log = tmp_path_factory.mktemp("log")
    with served(lambda: recommender.system, Settings(deadline_s=PATIENT, api_keys=file[0], log_dir=log)) as made:
        yield made


def send(client, endpoint, **headers):
    given = {"content-type": "application/json"} if endpoint.method == "POST" else {}
    return client.ask(endpoint.method, path_of(endpoint), good(endpoint), {**given, **headers})


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.operation)
def test_every_endpoint_is_answered_for_its_scope_and_no_other(locked, file, endpoint):
    if endpoint.scope == "open":
        assert send(locked, endpoint).status == endpoint.status
        return
    for scope, secret in file[1].items():
        response = send(locked, endpoint, **bearer(secret))
        if scope == endpoint.scope:
            assert response.status == endpoint.status, response.body
            assert send(locked, endpoint, **{"x-api-key": secret}).status == endpoint.status
        else:
            assert f"needs one allowed {endpoint.scope}" in refused(response, 403, "forbidden")
    assert "no key is given" in refused(send(locked, endpoint), 401, "unauthorized")


def test_what_is_open_is_listed_here():
    """Whoever opens a path does so on purpose."""
    assert {each.path for each in ENDPOINTS if each.scope == "open"} == {
        "/health/live",
        "/health/ready",
        "/openapi.json",
        "/docs",
        "/docs/page.css",
        "/docs/page.js",
    }


def test_the_description_says_who_needs_a_key(locked):
    described = locked.get("/openapi.json").json
    assert set(described["components"]["securitySchemes"]) == {"bearer", "header"}
    for endpoint in ENDPOINTS:
        operation = described["paths"][endpoint.path][endpoint.method.lower()]
        assert ("security" in operation) == (endpoint.scope != "open")
        assert {"401", "403"} <= set(operation["responses"]) or endpoint.scope == "open"


def wrong(secret):
    """Keys that are nearly right, and headers that are none."""
    yield {}
    yield from ({"authorization": value} for value in ("", "Bearer", "Bearer ", secret, f"Basic {secret}"))
    yield from (
        bearer(value) for value in (secret[:-1], secret + "x", secret[:-1] + "!", secret.upper(), "é", "x" * 9999)
    )
    yield {"x-api-key": secret[1:]}
    yield {**bearer("nobody"), "x-api-key": secret}


def test_what_is_nearly_a_key_is_none(locked, file):
    for headers in wrong(file[1]["read"]):
        response = locked.get("/v1/recommend/7", headers=headers)
        refused(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == 'Bearer realm="suisen"'
    assert locked.get("/v1/recommend/7", headers={"authorization": f"bEARER  {file[1]['read']} "}).status == 200


def test_a_request_without_a_key_is_refused_before_its_body(locked):
    """Also where the body would be refused: nothing of it is read."""
    response = locked.post("/v1/recommend", b"{", headers={"content-type": "text/plain"})
    refused(response, 401, "unauthorized")


@given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_sent_is_no_key(file, value):
    keys = Keys(file[0])
    for headers in ({b"authorization": value}, {b"authorization": b"Bearer " + value}, {b"x-api-key": value}):
        with pytest.raises(Refusal) as error:
            keys.check(headers, "read")
        assert error.value.code == "unauthorized"


def test_keys_are_compared_in_constant_time(file, monkeypatch):
    """However a wrong key looks, the same work is done, and the last word has ``compare_digest``."""
    keys, asked = Keys(file[0]), []
    compare = keys_module.hmac.compare_digest
    monkeypatch.setattr(
        keys_module.hmac, "compare_digest", lambda a, b: asked.append((len(a), len(b))) or compare(a, b)
    )
    for headers in wrong(file[1]["read"]):
        with pytest.raises(Refusal):
            keys.check({name.encode(): value.encode() for name, value in headers.items()}, "read")
    keys.check({b"x-api-key": file[1]["read"].encode()}, "read")
    assert asked == [(32, 32)] * (1 + sum(1 for _ in wrong("x")))


def test_nothing_of_a_key_is_told(served, recommender, file, caplog):
    """Neither logs, nor metrics, nor refusals, nor the description hold a key or its hash; its name they may."""
    caplog.set_level(logging.DEBUG)
    with served(lambda: recommender.system, Settings(deadline_s=PATIENT, api_keys=file[0], access_log=True)) as client:
        said = [client.get("/v1/recommend/7", headers=bearer(secret)).body for secret in file[1].values()]
        said += [client.get("/v1/recommend/7", headers=bearer(f"{secret}x")).body for secret in file[1].values()]
        said += [client.get(path, headers=bearer(file[1]["metrics"])).body for path in ("/metrics", "/openapi.json")]
    logged = [str(vars(record)) for record in caplog.records]
    assert any("the-read" in line for line in logged)
    for text in [*logged, *(each.decode() for each in said), repr(client.app.service.settings)]:
        for secret, line in zip(file[1].values(), read(file[0])):
            assert secret not in text
            assert line.digest.hex() not in text


def test_one_key_of_the_environment_is_allowed_all_but_admin(served, recommender):
    secret = "a-key-of-more-than-20-signs"
    options = Settings(deadline_s=PATIENT, api_key=secret)
    assert secret not in repr(options)
    with served(lambda: recommender.system, options) as client:
        assert client.get("/v1/recommend/7").status == 401
        assert client.get("/v1/recommend/7", headers=bearer(secret)).status == 200
        assert client.get("/metrics", headers={"x-api-key": secret}).status == 200
        with pytest.raises(Refusal, match="needs one allowed admin"):
            client.app.service.guard.keys.check({b"x-api-key": secret.encode()}, "admin")
    with pytest.raises(InputError, match=r"api_key is 5 characters long; give at least 20") as error:
        Keys(None, "short")
    assert "short" not in str(error.value)


def test_an_expired_key_is_refused(tmp_path):
    path = tmp_path / "keys.toml"
    secret, lines = made("old", ["read"])
    for away, code in ((timedelta(hours=1), None), (-timedelta(seconds=1), "unauthorized")):
        path.write_text(f"{lines}expires = {(datetime.now(UTC) + away).isoformat()}\n")
        keys = Keys(path)
        if code is None:
            assert keys.check({b"x-api-key": secret.encode()}, "read").name == "old"
        else:
            with pytest.raises(Refusal, match="the key has expired"):
                keys.check({b"x-api-key": secret.encode()}, "read")


GOOD = made("a", ["read"])[1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "key is missing"),
        ("key = 3", "key = 3 must be a list"),
        ("[[key]", "cannot be read"),
        (GOOD.replace("name", "nam"), "field of key[0] = 'nam' is unknown; did you mean 'name'?"),
        (GOOD.replace('"a"', '"a b"'), "key[0].name = 'a b' must be 1 to 64 letters"),
        (GOOD.replace('"a"', '""'), "key[0].name"),
        (GOOD.replace('"a"', "7"), "key[0].name = 7 must be text"),
        (GOOD.replace("sha256:", "md5:"), "key[0].hash must be sha256:"),
        (GOOD.replace("sha256:", "sha256:0"), "key[0].hash must be sha256:"),
        (GOOD.replace("read", "raed"), "key[0].scopes[0] = 'raed' is unknown; did you mean 'read'?"),
        (GOOD.replace('"read"', ""), "key[0].scopes = [] must be a list"),
        (GOOD.replace("read", "open"), "scopes[0] = 'open' is unknown"),
        (f"{GOOD}rate = 0\n", "key[0].rate = 0"),
        (f"{GOOD}rate = nan\n", "key[0].rate = NaN"),
        (f"{GOOD}rate = inf\n", "key[0].rate = Infinity"),
        (f"{GOOD}burst = 5\n", "key[0].burst = 5 needs rate"),
        (f"{GOOD}rate = 1\nburst = 0.5\n", "key[0].burst = 0.5"),
        (f"{GOOD}expires = 2030-01-01\n", "key[0].expires"),
        (f"{GOOD}expires = 2030-01-01T00:00:00\n", "key[0].expires"),
        (GOOD + GOOD, "key[1] has the name or the hash of another"),
        (GOOD + GOOD.replace('"a"', '"b"'), "key[1] has the name or the hash of another"),
    ],
    ids=range(21),
)
def test_a_file_that_is_wrong_is_refused(tmp_path, text, why):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        Keys(path)
    assert why in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Keys(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read"):
        Keys(tmp_path)


def test_the_file_is_read_again_when_it_changes_and_a_broken_one_leaves_the_old_keys(tmp_path, caplog):
    path = tmp_path / "keys.toml"
    (first, old), (second, new) = made("one", ["read"]), made("two", ["read"])
    path.write_text(old)
    keys = Keys(path)
    assert not keys.look()

    def known(secret):
        try:
            return keys.check({b"x-api-key": secret.encode()}, "read").name
        except Refusal:
            return None

    path.write_text("[[key")
    assert not keys.look()
    assert "the old keys stay" in caplog.text
    assert (known(first), known(second)) == ("one", None)
    path.unlink()
    assert not keys.look()
    assert known(first) == "one"
    path.with_suffix(".new").write_text(new)
    os.replace(path.with_suffix(".new"), path)
    assert keys.look()
    assert (known(first), known(second)) == (None, "two")


def test_a_running_server_sees_a_new_key_and_forgets_an_old_one(served, recommender, tmp_path):
    path = tmp_path / "keys.toml"
    (first, old), (second, new) = made("one", ["read"]), made("two", ["read"])
    path.write_text(old)
    with served(lambda: recommender.system, Settings(deadline_s=PATIENT, api_keys=path)) as client:
        assert client.get("/v1/recommend/7", headers=bearer(first)).status == 200
        path.write_text(new)
        client.app.service.look()  # what the server does four times a second
        assert client.get("/v1/recommend/7", headers=bearer(first)).status == 401
        assert client.get("/v1/recommend/7", headers=bearer(second)).status == 200


def test_the_access_log_names_key_and_trace(served, recommender, file, caplog):
    caplog.set_level(logging.INFO)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with served(lambda: recommender.system, Settings(deadline_s=PATIENT, api_keys=file[0], access_log=True)) as client:
        client.get("/v1/recommend/7", headers={**bearer(file[1]["read"]), "traceparent": trace})
    fields = [record.fields for record in caplog.records if record.message == "request"]
    assert (fields[-1]["key"], fields[-1]["trace_id"]) == ("the-read", "0af7651916cd43dd8448eb211c80319c")
    json.dumps(fields)
