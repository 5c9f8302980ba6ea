"""What a socket may bring: halves, floods, lies and silence.  Every request is answered or its connection closed."""

from __future__ import annotations

import json
import socket
import time

import pytest

from suisen.serving.settings import Settings
from tests.serving.sockets import SECONDS, Served

BODY = b'{"queries":[{"user_id":7}],"k":2}'
POST = b"POST /v1/recommend HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n"
LAST = b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
WHOLE = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
BY_DESIGN = {
    "early 408, 414 and 431": "uvicorn has no limit of its own on a request's time, URL and headers",
    "a problem document for what is no HTTP": "uvicorn says it in plain text",
    "HTTP/1.0 stays open where it asks to": "uvicorn closes it",
    "connection: close while draining": "an ASGI application does not see the connection",
    "limits on connections": "uvicorn's limit counts tasks",
    "trailers are no headers": "uvicorn puts them behind the headers that it hands to the app",
    "who shuts its side is still answered": "uvicorn closes the connection",
    "requests before a broken one are answered": "uvicorn closes the connection",
}
"""Where the fronts differ, and why: what of it is tested below is tested on the fast one alone."""


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


@pytest.fixture(scope="module")
def fast(recommender):
    """The fast front with short limits."""
    limits = {"header_s": 0.4, "body_s": 0.4, "keep_alive_s": 0.8, "max_body_bytes": 4096}
    more = {"max_header_bytes": 2048, "max_url_bytes": 1024}
    with Served("fast", lambda: recommender.system, Settings(deadline_s=60, **limits, **more)) as made:
        yield made
        assert statuses(raw(made, LIVE)) == [200], "it does not live any more"


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


def test_head_has_a_length_and_no_body(client):
    found = raw_open(client, LIVE.replace(b"GET", b"HEAD") + LAST)
    first, _, behind = found.partition(b"\r\n\r\n")
    assert b"content-length: 43" in first
    assert statuses(behind) == [200]


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
