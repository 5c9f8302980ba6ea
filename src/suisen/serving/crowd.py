"""Those who are connected, and how many more may come."""

from collections import Counter
from email.utils import formatdate
from ipaddress import IPv6Address
from typing import Any

from suisen.serving.app import Admin, App
from suisen.serving.problems import Refusal

LINGER_S = 2.0
"""Seconds for a client to take its last reply; closing a socket that holds unread bytes at once may destroy it."""
PARTING = 1000
"""Most connections that are left so much time; beyond it they are cut."""


class Crowd:
    """The connections of one front."""

    def __init__(self, app: App | Admin) -> None:
        self.app = app
        self.settings = app.service.settings
        self.telemetry = app.service.telemetry
        self.most = self.settings.max_connections
        """Connections that may be open; fewer than the settings say where the system has not the files for them."""
        self.open: set[Any] = set()
        self.parting: set[Any] = set()
        """Connections whose last reply is written."""
        self.addresses: Counter[str] = Counter()
        """Open connections by the client's address."""
        self.closing = False
        self.date = b""
        self.tell_time()
        self.telemetry.follow(self.telemetry.connections, lambda: len(self.open))

    @property
    def last_replies(self) -> bool:
        """Whether every reply ends its connection: clients go elsewhere before the socket is closed."""
        return self.closing or self.app.service.state == "draining"

    def tell_time(self) -> None:
        """Makes the header of replies anew."""
        self.date = f"date: {formatdate(usegmt=True)}\r\n".encode()

    def enter(self, connection: object, address: str) -> Refusal | None:
        """Counts a connection; returns its refusal, where there is to be none.

        Unless a number is set, one address holds no more connections than are still free: alone it gets half of all,
        with another a third, and there is always room for one that comes anew.
        """
        here, free = self.addresses[address], self.most - len(self.open)
        limit = self.settings.max_connections_per_address
        self.open.add(connection)
        self.addresses[address] += 1
        if free <= 0:
            return self.refused("full", f"{self.most:,} connections are open; come again in a second")
        if here >= (max(1, free) if limit is None else limit):
            said = f"{here:,} connections of {address} are open; use them, or close some"
            return self.refused("address", said)
        return None

    def refused(self, reason: str, said: str) -> Refusal:
        """The refusal of one more connection, counted."""
        self.ended(reason)
        return Refusal("overloaded", said)

    def ended(self, reason: str) -> None:
        """Counts a connection that is ended for something its client does or leaves."""
        self.telemetry.connections_refused.labels(reason).inc()

    def forget(self, connection: object, address: str) -> None:
        """It is none of the open connections any more."""
        if connection in self.open:
            self.open.discard(connection)
            self.addresses[address] -= 1
            if not self.addresses[address]:
                del self.addresses[address]


def address_of(peer: object) -> str:
    """Whose connection it is: an IPv4 address; of IPv6 the network of 64 bits, which one client has to itself."""
    if not isinstance(peer, tuple):
        return "local"
    host = str(peer[0])
    if ":" not in host:
        return host
    address = IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64)) + "/64"
