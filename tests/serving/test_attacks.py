"""Clients that mean harm hold no more than they may, and others are answered meanwhile."""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from suisen.serving import sockets
from suisen.serving.crowd import address_of
from suisen.serving.settings import Settings
from suisen.serving.sockets import FILES, most_connections
from tests.serving.attacks import BODY, GET, POST, WHOLE, asked, closed, connect, crowd, reset, trickle

PATIENT = 60.0
HASTY = {"first_byte_s": 0.4, "header_s": 0.5, "body_s": 0.5, "keep_alive_s": 4.0}


def counted(server, name, **labels):
    """A metric's value."""
    wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
    lines = server.app.service.telemetry.render().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{wanted} "))


def until(there, seconds=PATIENT):
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def small(served, recommender):
    """Both fronts in turn, with room for 40."""
    with served(lambda: recommender.system, Settings(deadline_s=PATIENT, max_connections=40)) as made:
        yield made


@pytest.fixture(scope="module")
def hasty(served, recommender):
    with served(lambda: recommender.system, Settings(deadline_s=PATIENT, **HASTY)) as made:
        yield made


@pytest.mark.parametrize("data", [b"", b"G", WHOLE[:60], WHOLE[:-1], GET], ids=["silent", "G", "head", "body", "idle"])
def test_one_address_cannot_take_all_places(small, data):
    """Whatever its connections do, the first, second and third address that come anew are answered."""
    held = crowd(small.address, 100, data)
    until(lambda: small.front.addresses["127.0.0.1"] == 20)
    more = []
    for source in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
        assert asked(small.address, source=source)[0] == 200
        more += crowd(small.address, 30, data, source)
    assert len(small.front.open) < 40
    assert asked(small.address)[0] == 503
    for plain in (*held, *more):
        plain.close()
    until(lambda: not small.front.open)
    assert asked(small.address)[0] == 200
    until(lambda: not small.front.addresses)


def test_a_number_is_kept_where_one_is_given(served, recommender):
    limits = {"max_connections": 10, "max_connections_per_address": 10}
    with served(lambda: recommender.system, Settings(deadline_s=PATIENT, **limits)) as made:
        held = crowd(made.address, 9, GET)
        assert asked(made.address)[0] == 200
        held += crowd(made.address, 1)
        until(lambda: len(made.front.open) == 10)
        assert asked(made.address, source="127.0.0.2")[0] == 503
        assert counted(made, "suisen_connections_refused_total", reason="full") >= 1
        until(lambda: counted(made, "suisen_connections") == 10)
        for plain in held:
            plain.close()


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("10.0.0.1", 5), "10.0.0.1"),
        (("::ffff:10.0.0.1", 5, 0, 0), "10.0.0.1"),
        (("2001:db8:1:2:aaaa::1", 5, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:bbbb::9", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        ("", "local"),
        (None, "local"),
    ],
)
def test_what_counts_as_one_address(peer, address):
    assert address_of(peer) == address


def test_who_says_nothing_is_closed_sooner_than_who_was_answered(hasty):
    before = counted(hasty, "suisen_connections_refused_total", reason="silent")
    with connect(hasty.address) as silent, connect(hasty.address) as used:
        used.sendall(GET)
        assert used.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert closed(silent, 3.0)
        used.sendall(GET)
        assert used.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert counted(hasty, "suisen_connections_refused_total", reason="silent") == before + 1


@pytest.mark.parametrize(
    "data", [WHOLE[:70] + b"x: y\r\n" * 99, POST + b"content-length: 999\r\n\r\n" + b" " * 999, b"\r\n" * 99]
)
def test_a_byte_now_and_then_is_no_request(hasty, data):
    """Slowloris: what counts is the time of the whole, not that of the last byte."""
    with connect(hasty.address) as plain:
        sent = 70 if data.startswith(WHOLE[:70]) else data.find(b"\r\n\r\n") + 4 if data.startswith(b"P") else 0
        plain.sendall(data[:sent])
        took = trickle(plain, data[sent:], 0.1)
    assert took < 8.0


def test_half_requests_are_gone_after_their_time_and_hold_up_nobody(hasty):
    held = crowd(hasty.address, 200, WHOLE[:50])
    worst = max(asked(hasty.address, source="127.0.0.2")[1] for _ in range(20))
    assert worst < 5.0
    until(lambda: not hasty.front.open)
    for plain in held:
        plain.close()


def test_who_reads_a_byte_now_and_then_is_cut(recommender, monkeypatch):
    """The fast front alone: 1,000 bytes a second, on average, are the least."""
    from tests.serving.sockets import Served

    with Served("fast", lambda: recommender.system, Settings(deadline_s=PATIENT, body_s=0.5)) as made:
        made.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        monkeypatch.setattr("suisen.serving.connection.READ_BYTES_PER_S", 200_000)
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        plain.connect(made.address)
        plain.sendall(b"GET /openapi.json HTTP/1.1\r\n\r\n" * 100)
        began = time.monotonic()
        reading = threading.Thread(target=lambda: [plain.recv(600) or time.sleep(0.05) for _ in range(60)], daemon=True)
        until(lambda: any(each._stuck >= 0 for each in made.front.open))
        reading.start()
        until(lambda: not made.front.open)
        assert time.monotonic() - began < 8.0
        until(lambda: counted(made, "suisen_connections_refused_total", reason="unread") >= 1)
        plain.close()
        assert asked(made.address)[0] == 200


def test_clients_that_go_are_counted_and_no_errors(served, recommender, caplog):
    caplog.set_level(logging.INFO)
    with served(lambda: recommender.system, Settings(deadline_s=PATIENT)) as made:
        for place in (0, 1, 30, len(WHOLE) - 5, len(WHOLE)):
            for _ in range(5):
                reset(made.address, WHOLE[:place])
        for _ in range(5):
            reset(made.address, GET * 5 + WHOLE[:20])
            reset(made.address, b"\0" + GET)
            reset(made.address, POST + b"expect: 100-continue\r\ncontent-length: 9\r\n\r\n")
        assert asked(made.address)[0] == 200
        until(lambda: not made.front.open)
        assert counted(made, "suisen_disconnected_total") >= 5
        assert not [
            line for line in made.app.service.telemetry.render().decode().splitlines() if 'status="500"' in line
        ]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    "data", [b"\x00\r\n\r\n", b"FROB / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]
)
def test_what_is_no_http_gets_a_problem_document_and_is_counted(small, data):
    before = counted(small, "suisen_requests_total", route="unmatched", status=400)
    with connect(small.address) as plain:
        plain.sendall(data)
        said = plain.makefile("rb").read()
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in said
    assert b'"code":"malformed_request"' in said
    assert counted(small, "suisen_requests_total", route="unmatched", status=400) == before + 1


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /%b HTTP/1.1\r\n\r\n" % (b"a" * 9000), b"414"),
        (b"GET / HTTP/1.1\r\nx: %b\r\n\r\n" % (b"a" * 17_000), b"431"),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(4000)), b"431"),
    ],
    ids=["url", "header", "headers"],
)
def test_heads_are_bounded_by_both_fronts(small, data, status):
    with connect(small.address) as plain:
        plain.sendall(data)
        assert plain.makefile("rb").read().startswith(b"HTTP/1.1 " + status)


def test_who_sends_on_behind_a_refusal_is_cut(recommender):
    """A header of 286 MB is not read to its end, not even to throw it away."""
    from tests.serving.sockets import Served

    with Served("fast", lambda: recommender.system, Settings(deadline_s=PATIENT)) as made:
        plain, sent = connect(made.address), 0
        plain.sendall(b"GET / HTTP/1.1\r\nx: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(286):
                plain.sendall(b"a" * (1 << 20))
                sent += 1
        assert sent < 40
        plain.close()
        assert asked(made.address)[0] == 200


def test_a_wrong_method_is_counted_under_its_path(small):
    before = counted(small, "suisen_requests_total", route="/v1/recommend/{user}", status=405)
    assert asked(small.address, GET.replace(b"GET", b"DELETE"))[0] == 405
    assert counted(small, "suisen_requests_total", route="/v1/recommend/{user}", status=405) == before + 1


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "wanted", "most", "raised"),
    [
        ((1024, 1 << 20), 10_000, 10_000, 11_506),
        ((1024, 2048), 10_000, (2048 - FILES) * 8 // 9, 2048),
        ((1 << 20, 1 << 20), 10_000, 10_000, None),
        ((64, 64), 10_000, 8, 64),
        ((1024, resource.RLIM_INFINITY), 10_000, 10_000, 11_506),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 10_000, 10_000, None),
    ],
)
def test_connections_are_as_many_as_there_are_files_for(monkeypatch, caplog, limits, wanted, most, raised):
    said = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda what, new: said.append(new))
    assert most_connections(wanted) == most
    assert [soft for soft, _ in said] == ([] if raised is None else [raised])
    assert ("raise the limit" in caplog.text) == (most < wanted)
    assert sockets.logger.name == "suisen.serving"


SCRIPT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
from pathlib import Path
from suisen.serving.server import serve
serve(Path(sys.argv[1]), port=0, on_ready=lambda url: print(url, flush=True))
"""


def ticks(pid):
    """Hundredths of a second of processor that a process had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_flood_beyond_the_files_of_the_process_is_refused_and_others_are_answered(recommender, tmp_path):
    recommender.save(tmp_path / "bundle")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tmp_path / "bundle"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        address = ("127.0.0.1", int(process.stdout.readline().rpartition(":")[2]))
        held = crowd(address, 600, WHOLE[:40])
        for source in ("127.0.0.2", "127.0.0.3"):
            assert asked(address, source=source)[0] == 200
        spent = ticks(process.pid)
        time.sleep(0.5)
        assert ticks(process.pid) - spent < 25, "it spins"
        for plain in held:
            plain.close()
    finally:
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert "raise the limit" in said
    assert '"level":"error"' not in said
    assert process.returncode == 0


def test_the_bodies_of_attacks_are_good_ones(small):
    """Else the tests above would show nothing."""
    assert asked(small.address, WHOLE)[0] == 200
    assert BODY in WHOLE
