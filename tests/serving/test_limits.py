"""Rates of keys and addresses, and pages of other origins."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.errors import InputError
from suisen.serving import limits as limits_module
from suisen.serving.cors import Cors
from suisen.serving.keys import made
from suisen.serving.limits import OF_KEYS, Limits
from suisen.serving.problems import Refusal
from suisen.serving.settings import Settings
from suisen.serving.siblings import Group
from tests.serving.test_contract import refused

PATIENT = 60.0


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(limits_module, "time", made)
    return made


def allowed(take, *given):
    try:
        take(*given)
    except Refusal:
        return False
    return True


def test_a_bucket_takes_its_burst_at_once_and_its_rate_behind(clock):
    limits = Limits()
    limits.know(["a"])
    assert [allowed(limits.key, "a", 2.0, 3.0) for _ in range(5)] == [True] * 3 + [False] * 2
    clock.now += 0.49
    assert not allowed(limits.key, "a", 2.0, 3.0)
    clock.now += 0.01
    assert [allowed(limits.key, "a", 2.0, 3.0) for _ in range(2)] == [True, False]
    clock.now += 3600
    assert [allowed(limits.key, "a", 2.0, 3.0) for _ in range(5)] == [True] * 3 + [False] * 2


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["a", "b"]), st.floats(0, 0.4)), min_size=1, max_size=200),
    st.floats(0.5, 20),
    st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_workers_draw_from_one_bucket(tmp_path_factory, asks, rate, burst):
    """Whichever worker is asked, and when: all together take the burst and the rate, and not less by much."""
    folder = tmp_path_factory.mktemp("workers")
    clock = Clock()
    before, limits_module.time = limits_module.time, clock
    try:
        workers = [Limits(Group(folder, number, 3, 0)) for number in range(3)]
        for each in workers:
            each.know(["a", "b"])
        taken = {"a": [], "b": []}
        for worker, name, pause in asks:
            clock.now += pause
            if allowed(workers[worker].key, name, rate, float(burst)):
                taken[name].append(clock.now)
        for times in taken.values():
            for first, begun in enumerate(times):
                for last, ended in enumerate(times[first:], first):
                    assert last - first + 1 <= burst * 2 + rate * (ended - begun) + 1
    finally:
        limits_module.time = before


def test_names_have_cells_of_their_own_in_every_worker():
    names = [f"key-{n}" for n in range(3000)]
    one, other = Limits(), Limits()
    one.know(names)
    other.know(reversed(names))
    cells = {name: one._keys[name].cell for name in names}
    assert len(set(cells.values())) == 3000
    assert cells == {name: other._keys[name].cell for name in names}
    assert max(cells.values()) < OF_KEYS


def test_addresses_are_remembered_up_to_a_number(clock, monkeypatch):
    monkeypatch.setattr(limits_module, "ADDRESSES", 10)
    limits = Limits()
    for n in range(100):
        assert allowed(limits.address, f"10.0.0.{n}", 1.0, 1.0)
    assert not allowed(limits.address, "10.0.0.99", 1.0, 1.0)
    assert len(limits._addresses) == 10


def test_a_key_above_its_rate_is_told_when_to_come_again(served, recommender, tmp_path):
    path = tmp_path / "keys.toml"
    (slow, lines), (free, more) = made("slow", ["read"], rate=0.1, burst=2), made("free", ["read"])
    path.write_text(lines + more)
    with served(lambda: recommender.system, Settings(deadline_s=PATIENT, api_keys=path)) as client:
        said = [client.get("/v1/recommend/7", headers={"x-api-key": slow}) for _ in range(3)]
        assert [each.status for each in said] == [200, 200, 429]
        assert [each.headers["ratelimit-remaining"] for each in said] == ["1", "0", "0"]
        detail = refused(said[2], 429, "rate_limited")
        assert detail == "the key 'slow' is allowed 0.1 requests a second, 2 at once; send fewer"
        assert said[2].headers["ratelimit-limit"] == "2"
        assert 5 <= int(said[2].headers["retry-after"]) <= 10
        assert client.get("/health/live").status == 200
        assert {client.get("/v1/recommend/7", headers={"x-api-key": free}).status for _ in range(5)} == {200}
        assert 'suisen_rate_limited_total{key="slow"} 1' in client.app.service.telemetry.render().decode()


def test_addresses_have_a_rate_where_it_is_set(served, recommender):
    options = Settings(deadline_s=PATIENT, rate_per_address=0.01, burst_per_address=3)
    with served(lambda: recommender.system, options) as client:
        assert [client.get("/v1/recommend/7").status for _ in range(5)] == [200] * 3 + [429] * 2
        assert client.get("/health/live").status == 200
        assert client.post("/v1/recommend", b"{").status == 429
        described = client.get("/openapi.json").json
        assert "429" in described["paths"]["/v1/recommend"]["post"]["responses"]


# -- pages of other origins -------------------------------------------------------------------------------------------

SHOP = "https://shop.example"


@pytest.fixture(scope="module")
def shared(served, recommender):
    options = Settings(deadline_s=PATIENT, cors_origin=(SHOP, "http://localhost:3000"), api_key="x" * 20)
    with served(lambda: recommender.system, options) as made:
        yield made


def preflight(client, path, origin, method="POST"):
    return client.ask("OPTIONS", path, headers={"origin": origin, "access-control-request-method": method})


def test_a_page_on_the_list_may_ask(shared):
    """Before it asks it has no key, and needs none."""
    said = preflight(shared, "/v1/recommend", SHOP)
    assert (said.status, said.body) == (200, b"")
    assert said.headers["access-control-allow-origin"] == SHOP
    assert said.headers["access-control-allow-methods"] == "POST"
    assert "x-api-key" in said.headers["access-control-allow-headers"]
    assert said.headers["vary"] == "Origin"
    for key, status in (("x" * 20, 200), ("y" * 20, 401)):
        said = shared.get("/v1/recommend/7", headers={"origin": SHOP, "x-api-key": key})
        assert (said.status, said.headers["access-control-allow-origin"]) == (status, SHOP)
        assert "access-control-allow-credentials" not in said.headers


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "*",
        f"{SHOP}.evil.example",
        f"{SHOP}:444",
        "http://shop.example",
        SHOP.upper(),
    ],
)
def test_a_page_that_is_not_on_the_list_may_not(shared, origin):
    refused(preflight(shared, "/v1/recommend", origin), 403, "forbidden")
    said = shared.get("/health/live", headers={"origin": origin})
    assert said.status == 200
    assert "access-control-allow-origin" not in said.headers
    assert said.headers["vary"] == "Origin"


def test_paths_that_are_not_there_have_no_preflight(shared):
    refused(preflight(shared, "/nowhere", SHOP), 404, "not_found")
    refused(shared.ask("OPTIONS", "/v1/recommend", headers={"origin": SHOP}), 405, "method_not_allowed")


def test_without_a_list_nothing_is_said_of_origins(client):
    refused(preflight(client, "/v1/recommend", SHOP), 405, "method_not_allowed")
    said = client.get("/health/live", headers={"origin": SHOP})
    assert not [name for name in said.headers if name.startswith("access-control") or name == "vary"]


def test_any_origin_is_a_list_too(served, recommender):
    with served(lambda: recommender.system, Settings(deadline_s=PATIENT, cors_origin=("*",))) as client:
        said = client.get("/health/live", headers={"origin": "https://any.example"})
        assert said.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in said.headers


@pytest.mark.parametrize(
    "origin",
    ["shop.example", f"{SHOP}/", f"{SHOP}/path", "ftp://a", "null", "https://a b", "https://A.example", f"{SHOP}\n"],
)
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(InputError, match=r"cors_origin = .* must be like https://shop\.example"):
        Cors([origin])
