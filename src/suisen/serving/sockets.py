"""Listening sockets, and the mistakes of who names a host and a port."""

import errno
import logging
import os
import socket
from ipaddress import ip_address

from suisen.errors import InputError

logger = logging.getLogger("suisen.serving")
BACKLOG = 1024
FILES = 256
"""Files for all that is no connection: logs, stores, the bundle.  Those that part take an eighth of the connections."""
LAST_S = 0.1
"""Seconds from the closing of the port in which connections without a request may still send one."""


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket.  Raises InputError where there can be none; port 0 takes a free one.

    ``shared``: other processes of this user that ask for it so may listen on the same port; the kernel hands each new
    connection to one of them.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port = {port} must be from 0 to 65535; 0 takes a free one")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(
            f"host = {host!r} is unknown ({error.strerror}); 127.0.0.1 serves this machine alone"
        ) from None
    try:
        both = family == socket.AF_INET6  # "::" takes IPv4 connections, too
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both, reuse_port=shared)
    except OSError as error:
        raise _no_socket(error.errno or 0, host, port) from None


def check_reach(listening: socket.socket, host: str, *, safe: bool) -> None:
    """Raises InputError where other machines reach a socket and nobody said how that is ``safe``."""
    if not safe and not ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback:
        raise InputError(
            f"host = {host!r} is reached by other machines, and no key is asked for: give api_keys=, or api_key= from "
            "the environment (SUISEN_API_KEY), listen on 127.0.0.1, or say insecure=True"
        )


def reserve(host: str, port: int) -> socket.socket:
    """A socket that holds a port for workers which listen on it, ``shared``, and takes no connection itself.

    Raises InputError as ``listen`` does, also where another server's workers share the port: two servers that answer
    on one port by chance would be a riddle.
    """
    with listen(host, port) as alone:
        address, family = alone.getsockname(), alone.family
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        held.bind(address)
    except OSError as error:
        held.close()
        raise _no_socket(error.errno or 0, host, port) from None
    return held


def waiting(listening: socket.socket) -> list[socket.socket]:
    """The connections that wait to be accepted: closing the socket would reset them."""
    found = []
    listening.setblocking(False)
    while True:
        try:
            found.append(listening.accept()[0])
        except ConnectionAbortedError:
            continue
        except BlockingIOError:  # none waits
            return found


def most_connections(wanted: int) -> int:
    """How many connections the files that this process may open are enough for, raised as far as the system lets us.

    Without a file for the next connection a loop accepts it and closes it, or waits and tries again: nobody would be
    told why.
    """
    try:
        import resource
    except ImportError:  # Windows counts otherwise
        return wanted
    needed = wanted + wanted // 8 + FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < needed:
        soft = needed if hard < 0 else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = wanted if soft < 0 else max(8, min(wanted, (soft - FILES) * 8 // 9))
    if most < wanted:
        logger.warning(
            "max_connections = %d needs %d files, and this process may open %d: %d connections are taken; "
            "raise the limit (ulimit -Hn, LimitNOFILE=)", wanted, needed, soft, most
        )  # fmt: skip
    return most


def url_of(listening: socket.socket) -> str:
    """Where a socket listens."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _no_socket(reason: int, host: str, port: int) -> InputError:
    if reason == errno.EADDRINUSE:
        return InputError(f"port = {port} is in use on {host}; stop what listens there or give another (0: a free one)")
    if reason == errno.EACCES:
        return InputError(f"port = {port} is not allowed to this user; give one from 1024 on")
    return InputError(
        f"host = {host!r}, port = {port}: cannot listen ({os.strerror(reason)}); give an address of this machine"
    )
