"""What a socket may bring: halves, floods, lies and silence.  Every request is answered or its connection closed.

Where the fronts differ, by design; all else is tested on both:
* uvicorn has no limits on a request's time, URL and headers, on idle connections and on readers that read nothing;
* what is no HTTP gets its status in plain text from uvicorn, and requests that came before it are not answered;
* a client that shuts its side gets no answer from uvicorn, and HTTP/1.0 is closed though it asks to stay;
* uvicorn hands trailers to the app as if they were headers;
* an ASGI application sees no connections: while it drains it cannot say that one ends.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suisen.serving.settings import Settings
from tests.serving.sockets import SECONDS, Served, new_loop

BODY = b'{"queries":[{"user_id":7}],"k":2}'
POST = b"POST /v1/recommend HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n"
LAST = b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
WHOLE = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


def raw(server, *parts, pause=0.0):
    """All that comes back until the server closes the connection, from a client that closes its side at the end."""
    with socket.create_connection(server.address, timeout=SECONDS) as plain:
        for part in parts:
            plain.sendall(part)
            time.sleep(pause)
        plain.shutdown(socket.SHUT_WR)
        return rest(plain)


def rest(plain):
    found = b""
    try:
        while data := plain.recv(1 << 16):
            found += data
    except ConnectionResetError:
        pass
    return found


def replies(data):
    """[(status, headers, body)] of a stream of replies to other methods than HEAD."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *lines = head.decode("ascii").split("\r\n")
        headers = dict(each.split(": ", 1) for each in lines)
        size = int(headers.get("content-length", 0))
        found.append((int(line.split(" ")[1]), headers, data[:size]))
        assert len(data) >= size, data
        data = data[size:]
    return found


def statuses(data):
    return [status for status, _, _ in replies(data)]


def problem(data):
    """(code, detail) of the last reply, which ends the connection."""
    status, headers, body = replies(data)[-1]
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    document = json.loads(body)
    assert (document["status"], document["request_id"]) == (status, headers["x-request-id"])
    return document["code"], document["detail"]


@pytest.fixture(scope="module", params=[new_loop, asyncio.new_event_loop], ids=["served", "asyncio"])
def fast(request, recommender):
    """The fast front with low limits, in each loop that it may run in."""
    limits = {"max_body_bytes": 4096, "max_header_bytes": 2048, "max_url_bytes": 1024}
    with Served("fast", lambda: recommender.system, Settings(deadline_s=60, **limits), loop=request.param) as made:
        yield made
        assert statuses(raw(made, LIVE)) == [200], "it does not live any more"


@pytest.fixture(scope="module", params=[new_loop, asyncio.new_event_loop], ids=["served", "asyncio"])
def hasty(request, recommender):
    """The fast front with short time-outs."""
    limits = {"header_s": 0.4, "body_s": 0.4, "keep_alive_s": 1.5}
    with Served("fast", lambda: recommender.system, Settings(deadline_s=60, **limits), loop=request.param) as made:
        yield made


# -- both fronts ------------------------------------------------------------------------------------------------------


def test_byte_by_byte(client):
    with socket.create_connection(client.address, timeout=SECONDS) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(WHOLE)):
            plain.sendall(WHOLE[place : place + 1])
        plain.sendall(LAST)
        assert statuses(rest(plain)) == [200, 200]


def test_both_fronts_send_the_same_headers(client):
    found = replies(raw_open(client, LAST))[0][1]
    assert list(found) == ["date", "content-type", "content-length", "x-request-id", "cache-control", "connection"]
    found = replies(raw_open(client, LAST.replace(b"GET", b"DELETE")))[0][1]
    assert list(found)[4:] == ["cache-control", "allow", "connection"]


def test_a_thousand_pipelined_requests_are_answered_in_their_order(client):
    """One in fifty computes: what is ready sooner does not overtake it."""
    path = [b"/v1/recommend/7?k=1" if n % 50 == 0 else b"/health/live" for n in range(1000)]
    asked = [b"GET %b HTTP/1.1\r\nx-request-id: r%d\r\n\r\n" % (path[n], n) for n in range(1000)]
    found = replies(raw_open(client, b"".join(asked) + LAST))
    assert [status for status, _, _ in found] == [200] * 1001
    assert [headers["x-request-id"] for _, headers, _ in found[:-1]] == [f"r{n}" for n in range(1000)]


def raw_open(server, data):
    """What comes back to a client whose last request closes the connection."""
    with socket.create_connection(server.address, timeout=SECONDS) as plain:
        plain.sendall(data)
        return rest(plain)


@pytest.mark.parametrize(
    "chunks",
    [
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
        b"5;name=value\r\n%b\r\n%X\r\n%b\r\n0\r\n\r\n" % (BODY[:5], len(BODY) - 5, BODY[5:]),
    ],
    ids=["plain", "extensions"],
)
def test_bodies_in_chunks(client, chunks):
    assert statuses(raw_open(client, CHUNKED + chunks + LAST)) == [200, 200]


@pytest.mark.parametrize("target", [b"http://a.example/health/live", b"http://a.example:80/health/live?x=1"])
def test_absolute_targets(client, target):
    assert statuses(raw_open(client, LAST.replace(b"/health/live", target))) == [200]


def test_percent_encoded_ids(client):
    found = replies(raw_open(client, LAST.replace(b"/health/live", b"/v1/recommend/%37?k=1")))
    assert json.loads(found[0][2])["answers"][0]["user_id"] == "7"


def test_the_client_may_wait_for_100(client):
    with socket.create_connection(client.address, timeout=SECONDS) as plain:
        plain.sendall(POST + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(BODY))
        assert plain.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        plain.sendall(BODY + LAST)
        assert statuses(rest(plain)) == [200, 200]


def test_who_waits_for_100_is_refused_without_the_body(client):
    with socket.create_connection(client.address, timeout=SECONDS) as plain:
        asked = POST.replace(b"json", b"xml") + b"expect: 100-continue\r\ncontent-length: 9\r\n\r\n"
        plain.sendall(asked)
        assert plain.recv(1 << 16).startswith(b"HTTP/1.1 415 ")


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(client):
    with socket.create_connection(client.address, timeout=15) as plain:  # less than ``body_s``
        plain.sendall(POST + b"content-length: 2000000\r\n\r\n")
        assert plain.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_head_has_a_length_and_no_body(client):
    found = raw_open(client, LIVE.replace(b"GET", b"HEAD") + LAST)
    first, _, behind = found.partition(b"\r\n\r\n")
    assert b"content-length: 43" in first
    assert behind.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        b"content-length: 3\r\ncontent-length: 3\r\n\r\n{}x",
        b"content-length: 3\r\ncontent-length: 4\r\n\r\n{}x",
        b"content-length: 3, 3\r\n\r\n{}x",
        b"content-length: -3\r\n\r\n{}x",
        b"content-length: +3\r\n\r\n{}x",
        b"content-length: 0x3\r\n\r\n{}x",
        b"content-length:\r\n\r\n",
        b"content-length: 99999999999999999999999\r\n\r\n",
        b"transfer-encoding: gzip\r\n\r\n{}x",
        b"transfer-encoding: chunked, gzip\r\n\r\n{}x",
        b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\nfffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n2\n{}\n0\n\n",
        b"transfer-encoding: chunked\r\n\r\n2\r\n{}xx\r\n0\r\n\r\n",
        b"x: a\x00b\r\n\r\n",
        b"x: a\r\n folded\r\n\r\n",
        b"x: a\rb\r\n\r\n",
        b": nameless\r\n\r\n",
    ],
    ids=repr,
)
def test_what_two_readers_could_read_differently_is_refused_and_ends_the_connection(client, head):
    """Request smuggling: what comes behind it is never taken for a request."""
    smuggled = b"GET /v1/recommend/7 HTTP/1.1\r\nx-request-id: smuggled\r\n\r\n"
    found = replies(raw(client, POST + head + smuggled))
    assert [status for status, _, _ in found] == [400]
    assert found[0][1]["connection"] == "close"


@pytest.mark.parametrize(
    "line",
    [
        b"GET /health/live HTTP/1.1\nhost: a\n\n",
        b"GET /a\x00b HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"get /health/live HTTP/1.1\r\n\r\n",
        b"FROB /health/live HTTP/1.1\r\n\r\n",
        b"GET /health/live HTTP/7.7\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"{}\r\n\r\n",
    ],
    ids=repr,
)
def test_what_is_no_request_is_refused(client, line):
    assert statuses(raw(client, line)) == [400]


def test_an_upgrade_is_not_made(client):
    found = replies(
        raw_open(client, LAST.replace(b"connection: close", b"connection: upgrade, close\r\nupgrade: websocket"))
    )
    assert [status for status, _, _ in found] == [200]


def test_who_closes_early_harms_nobody(client):
    for place in (1, 30, len(WHOLE) - 1, len(WHOLE)):
        with socket.create_connection(client.address, timeout=SECONDS) as plain:
            plain.sendall(WHOLE[:place])
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # a reset
    assert statuses(raw_open(client, LAST)) == [200]


# -- the fast front ---------------------------------------------------------------------------------------------------


def test_requests_before_a_broken_one_are_answered(fast):
    assert statuses(raw(fast, LIVE + WHOLE + b"\x00\r\n\r\n" + LIVE)) == [200, 200, 400]


def test_nothing_is_read_behind_the_last_request(fast):
    def refused():
        lines = fast.app.service.telemetry.render().decode().splitlines()
        return [line for line in lines if line.startswith('suisen_requests_total{route="unmatched",status="400"}')]

    before = refused()
    assert statuses(raw_open(fast, LAST + LIVE + b"\0")) == [200]
    assert refused() == before


def test_trailers_say_nothing_of_the_request(fast):
    """A proxy has not looked at them."""
    chunks = b"%x\r\n%b\r\n0\r\nx-request-id: trailer\r\ncontent-type: text/plain\r\n\r\n" % (len(BODY), BODY)
    found = replies(raw(fast, CHUNKED.replace(b"host: a", b"x-request-id: head") + chunks + LAST))
    assert [status for status, _, _ in found] == [200, 200]
    assert found[0][1]["x-request-id"] == "head"


@pytest.mark.parametrize("place", [1, 20, len(WHOLE) - len(BODY), len(WHOLE) - 1])
def test_half_a_request_is_refused_when_the_client_ends(fast, place):
    found = raw(fast, WHOLE[:place])
    assert problem(found) == ("malformed_request", "the connection ended before the request")


def test_what_is_no_request_gets_a_problem_document(fast):
    code, detail = problem(raw(fast, b"FROB / HTTP/1.1\r\n\r\n"))
    assert (code, detail) == (
        "malformed_request",
        "this is no HTTP request (Invalid method encountered); send HTTP/1.1",
    )
    for line in (b"GET /health/live\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n"):
        assert "send a path in HTTP/1.1" in problem(raw(fast, line))[1]
    assert problem(raw(fast, b"CONNECT a:1 HTTP/1.1\r\n\r\nxyz"))[0] == "malformed_request"


def test_http_1_0_stays_open_where_it_asks_to(fast):
    one = b"GET /health/live HTTP/1.0\r\n%b\r\n"
    found = replies(raw(fast, one % b"connection: keep-alive\r\n", one % b""))
    assert [(status, headers["connection"]) for status, headers, _ in found] == [(200, "keep-alive"), (200, "close")]


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        (b"GET /%b HTTP/1.1\r\n\r\n" % (b"a" * 1025), 414, "url_too_long"),
        (b"GET /%b" % (b"a" * 20_000), 414, "url_too_long"),
        (b"GET /%b HTTP/1.1\r\n\r\n" % (b"a" * 1025) * 2 + LIVE, 414, "url_too_long"),
        (b"GET /health/live HTTP/1.1\r\nx: %b\r\n\r\n" % (b"a" * 2048), 431, "headers_too_large"),
        (b"GET /health/live HTTP/1.1\r\nx: %b" % (b"a" * 20_000), 431, "headers_too_large"),
        (b"GET /health/live HTTP/1.1\r\n" + b"x: y\r\n" * 5000, 431, "headers_too_large"),
        (b"\r\n" * 10_000, 431, "headers_too_large"),
        (POST + b"content-length: 4097\r\n\r\n", 413, "too_large"),
        (CHUNKED + b"1001\r\n" + b" " * 4097, 413, "too_large"),
        (CHUNKED + b"1;" + b"x" * 20_000, 431, "headers_too_large"),
        (CHUNKED + b"1\r\n \r\n0\r\nx: " + b"y" * 20_000, 431, "headers_too_large"),
        (b"GET /nowhere HTTP/1.1\r\ncontent-length: 9999\r\n\r\n" + b" " * 4097, 404, "not_found"),
    ],
    ids=lambda given: repr(given)[:40],
)
def test_what_is_too_large_is_refused_before_it_is_read(fast, asked, status, code):
    """The client sends on and waits: the reply comes without the rest, and the connection ends."""
    with socket.create_connection(fast.address, timeout=SECONDS) as plain:
        plain.sendall(asked)
        found = rest(plain)
    assert statuses(found) == [status]
    assert problem(found)[0] == code


def test_a_large_body_that_is_sent_on_does_not_destroy_the_refusal(fast):
    with socket.create_connection(fast.address, timeout=SECONDS) as plain:
        plain.sendall(POST + b"content-length: 1000000\r\n\r\n")
        for _ in range(20):
            plain.sendall(b" " * 50_000)
        plain.shutdown(socket.SHUT_WR)
        assert problem(rest(plain))[0] == "too_large"


@pytest.mark.parametrize(
    ("asked", "detail"),
    [(WHOLE[:40], "the head did not come within 0.4 s"), (WHOLE[:-5], "the body did not come within 0.4 s")],
)
def test_slow_requests_are_refused(hasty, asked, detail):
    """However often a byte comes: the whole has its time."""
    with socket.create_connection(hasty.address, timeout=SECONDS) as plain:
        started = time.monotonic()
        plain.sendall(asked[:-9])
        for byte in asked[-9:]:
            plain.sendall(bytes([byte]))
            time.sleep(0.03)
        found = rest(plain)
    assert time.monotonic() - started >= 0.4
    assert problem(found) == ("too_slow", f"{detail}; send it faster")


def test_connections_without_a_request_are_closed(hasty):
    with (
        socket.create_connection(hasty.address, timeout=SECONDS) as used,
        socket.create_connection(hasty.address, timeout=SECONDS) as silent,
    ):
        used.sendall(LIVE)
        assert statuses(rest(used)) == [200]
        assert rest(silent) == b""


@pytest.fixture
def crowded(recommender):
    limits = {"max_connections": 4, "max_connections_per_address": 3}
    with Served("fast", lambda: recommender.system, Settings(deadline_s=60, **limits)) as made:
        yield made


def test_connections_beyond_the_limit_are_refused(crowded):
    kept = [socket.create_connection(crowded.address, timeout=SECONDS) for _ in range(3)]
    for plain in kept:
        plain.sendall(LIVE)
        assert plain.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    found = raw_open(crowded, LIVE)
    assert problem(found) == ("overloaded", "3 connections of 127.0.0.1 are open; use them, or close some")
    assert replies(found)[0][1]["retry-after"] == "1"
    crowded.front.addresses["192.0.2.1"] = 1
    crowded.front.most = 3
    assert problem(raw_open(crowded, LIVE)) == ("overloaded", "3 connections are open; come again in a second")
    kept.pop().close()
    until(lambda: len(crowded.front.open) == 2)
    assert statuses(raw_open(crowded, LAST)) == [200]
    for plain in kept:
        plain.close()
    until(lambda: not crowded.front.open)
    assert set(crowded.front.addresses) == {"192.0.2.1"}


def until(there):
    end = time.monotonic() + SECONDS
    while not there():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def narrow(recommender):
    """The fast front behind small buffers of the system, so that unread replies are its own to hold."""
    with Served("fast", lambda: recommender.system, Settings(deadline_s=60, body_s=2.0)) as made:
        made.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield made


def test_who_reads_no_replies_gets_no_further_ones_and_is_cut(narrow):
    """What is not taken is held once, not for every request that was sent."""
    size = len(narrow.get("/openapi.json").body)
    with socket.create_connection(narrow.address, timeout=SECONDS) as plain:
        plain.sendall(b"GET /openapi.json HTTP/1.1\r\n\r\n" * 3000)
        until(lambda: any(each._stuck >= 0 for each in narrow.front.open))
        (stuck,) = [each for each in narrow.front.open if each._stuck >= 0]
        assert stuck._transport.get_write_buffer_size() < (1 << 16) + 2 * size
        assert len(stuck._waiting) < 400
        until(lambda: stuck not in narrow.front.open)
        assert len(rest(plain)) < 1000 * size


def test_who_reads_no_replies_is_not_read_on(recommender):
    asked = b"GET /openapi.json HTTP/1.1\r\n\r\n" * 500_000
    with Served("fast", lambda: recommender.system, Settings(deadline_s=60)) as served:
        for side in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            served.listening.setsockopt(socket.SOL_SOCKET, side, 4096)
        with socket.create_connection(served.address, timeout=1) as plain:
            with pytest.raises(TimeoutError):
                plain.sendall(asked)
            until(lambda: any(each._stuck >= 0 for each in served.front.open))
            (stuck,) = served.front.open
            assert len(stuck._rest) <= 1 << 18  # what a loop reads at once


def test_who_reads_slowly_gets_everything(narrow):
    """One large reply, though it takes longer than a client may take nothing."""
    body = json.dumps({"queries": [{}] * 256, "k": 40}).encode()
    with socket.create_connection(narrow.address, timeout=SECONDS) as plain:
        plain.sendall(POST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        found, started = [plain.recv(1)], time.monotonic()
        while data := plain.recv(1 << 15):
            found.append(data)
            if time.monotonic() - started < 3:
                time.sleep(0.15)
    ((status, _, body),) = replies(b"".join(found))
    assert (status, len(json.loads(body)["answers"])) == (200, 256)
    assert time.monotonic() - started > 2


def test_stopping_answers_what_has_come_and_closes_the_rest(recommender):
    with Served("fast", lambda: recommender.system, Settings(deadline_s=60)) as served:
        idle = socket.create_connection(served.address, timeout=SECONDS)
        running = socket.create_connection(served.address, timeout=SECONDS)
        begun = socket.create_connection(served.address, timeout=SECONDS)
        idle.sendall(LIVE)
        assert idle.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        begun.sendall(WHOLE[:50])
        running.sendall(WHOLE)
        until(lambda: len(served.front.open) == 3 and any(each._reading == "head" for each in served.front.open))
        stopping = served.stop_front()
        assert rest(idle) == b""
        ((status, headers, _),) = replies(rest(running))
        assert (status, headers.get("connection", "close")) == (200, "close")
        assert not stopping.done()
        begun.sendall(WHOLE[50:])
        ((status, headers, _),) = replies(rest(begun))
        assert (status, headers["connection"]) == (200, "close")
        for plain in (idle, running, begun):
            plain.close()
        stopping.result(SECONDS)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(served.address, timeout=SECONDS)


def test_who_waits_at_the_port_when_it_is_closed_is_answered(recommender):
    """Connections that the loop had no time to accept are not reset with the socket."""
    with Served("fast", lambda: recommender.system, Settings(deadline_s=60)) as served:
        busy, come = threading.Event(), threading.Event()

        async def stop():
            busy.set()
            come.wait(SECONDS)
            await served.front.stop()

        stopping = asyncio.run_coroutine_threadsafe(stop(), served.loop)
        assert busy.wait(SECONDS)
        clients = [socket.create_connection(served.address, timeout=SECONDS) for _ in range(20)]
        for plain in clients:
            plain.sendall(LIVE)
        come.set()
        for plain in clients:
            ((status, headers, _),) = replies(rest(plain))
            assert (status, headers["connection"]) == (200, "close")
            plain.close()
        stopping.result(SECONDS)


def test_while_it_drains_each_reply_ends_its_connection(recommender):
    with Served("fast", lambda: recommender.system, Settings(deadline_s=60)) as served:
        served.loop.call_soon_threadsafe(served.app.drain)
        until(lambda: served.app.service.state == "draining")
        found = replies(raw_open(served, LIVE + LIVE))
        assert [headers.get("connection") for _, headers, _ in found] == [None, "close"]


@pytest.mark.parametrize("served", ["fast"], indirect=True)
def test_a_fault_of_ours_is_no_traceback(served, recommender, monkeypatch, caplog):
    with served(lambda: recommender.system, Settings(deadline_s=60)) as server:
        monkeypatch.setattr(server.app.dispatch, "opened", lambda exchange: 1 / 0)
        found = raw_open(server, LIVE)
        assert problem(found)[0] == "internal"
        assert "division" not in found.decode()
        assert "ZeroDivisionError" in caplog.text


PARTS = st.sampled_from([LIVE, WHOLE, CHUNKED + b"5\r\n" + BODY[:5] + b"\r\n", LIVE.replace(b"GET", b"HEAD")])
BYTES = st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b" ", b":", b"0", b"-", b"%", b"\xff", b"\r\n\r\n", b"", b"G"])


@given(
    st.lists(PARTS, min_size=1, max_size=3).map(b"".join),
    st.lists(st.tuples(st.integers(0, 400), BYTES, st.integers(0, 3)), max_size=3),
    st.integers(1, 400),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_of_anything_are_answered_or_end_the_connection(fast, data, changes, cut):
    for place, put, out in changes:
        data = data[:place] + put + data[place + out :]
    found = raw(fast, data[:cut], data[cut:])
    codes = [int(line[9:12]) for line in found.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert found == b"" or found.startswith(b"HTTP/1.1 ")
    assert all(code in (100, 200, 400, 404, 405, 408, 413, 414, 415, 422, 431) for code in codes), found
