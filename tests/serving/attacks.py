"""Clients that mean harm: what tests, the long ones too, let loose on a server."""

from __future__ import annotations

import contextlib
import socket
import time

GET = b"GET /v1/recommend/7?k=1 HTTP/1.1\r\nhost: a\r\n\r\n"
BODY = b'{"queries":[{"user_id":7}],"k":2}'
POST = b"POST /v1/recommend HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
WHOLE = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"


def connect(address, source="127.0.0.1", seconds=10.0):
    """A connection that comes from another address of this machine."""
    return socket.create_connection(address, timeout=seconds, source_address=(source, 0))


def crowd(address, count, data=b"", source="127.0.0.1"):
    """Connections that send this much and nothing more; the caller closes them."""
    found = []
    for _ in range(count):
        plain = connect(address, source)
        with contextlib.suppress(OSError):  # refused already
            plain.sendall(data)
        found.append(plain)
    return found


def asked(address, data=GET, source="127.0.0.1", seconds=10.0):
    """(status, seconds until it was there) of one request; 0: the connection ended without an answer."""
    began = time.monotonic()
    try:
        with connect(address, source, seconds) as plain:
            plain.sendall(data)
            line = plain.makefile("rb").readline()
    except ConnectionError:
        line = b""
    return int(line.split()[1]) if line else 0, time.monotonic() - began


def trickle(plain, data, every):
    """Sends a byte now and then, until the other side ends it; the seconds it took."""
    began = time.monotonic()
    with contextlib.suppress(OSError):
        for place in range(len(data)):
            plain.sendall(data[place : place + 1])
            time.sleep(every)
    return time.monotonic() - began


def closed(plain, seconds):
    """Whether the server ends a connection within this time; what it says before is read."""
    plain.settimeout(seconds)
    try:
        while plain.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def reset(address, data):
    """Sends this and ends the connection at once, as a client does that crashes."""
    plain = connect(address)
    plain.sendall(data)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    plain.close()
