"""One connection that speaks HTTP/1.1: bytes through httptools to ``Dispatch``, and its replies back.

A connection's requests are answered one after the other, in their order.  What a client can make us hold is bounded:
headers, URL and body by their sizes, pipelined requests by ``PIPELINED``, an unread reply by one; and by time: silence
before the first request, slow headers, slow bodies, readers that read little or nothing, connections without a request.
What cannot be read as a request gets a problem document, as everything that is refused, and ends its connection.
"""

import asyncio
import contextlib
import time
from collections import deque
from http import HTTPStatus
from typing import NamedTuple, cast

import httptools

from suisen.serving.crowd import LINGER_S, PARTING, Crowd, address_of
from suisen.serving.dispatch import Found
from suisen.serving.exchange import Exchange, Reply, check_size, too_slow
from suisen.serving.problems import Refusal
from suisen.serving.settings import Settings

PIECE = 4096
"""Bytes that are parsed before it is looked at what they brought."""
PIPELINED = 16
"""Requests of a connection that may wait, parsed, behind the one that is answered; what a last piece brings apart."""
READ_BYTES_PER_S = 1000
"""Of an answer, on average, once ``body_s`` are over: a client that reads a byte now and then holds it no longer."""
SPILT = 4 << 20
"""Bytes behind the last request that are read, so that its client takes the reply; beyond it the connection is cut."""
WHOLE = 1 << 16
"""Replies up to this many bytes are one write."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STATUS_LINES = {int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n".encode() for status in HTTPStatus}
KEEP, CLOSE, STAY = b"", b"connection: close\r\n", b"connection: keep-alive\r\n"
"""What a reply says of the connection: nothing, that it ends, and to HTTP/1.0 that it does not."""
IDLE, HEAD, BODY = "idle", "head", "body"
"""What is read at the moment: nothing, a request's line and headers, its body."""


class _Request(NamedTuple):
    """A request that is whole, or refused before."""

    exchange: Exchange
    found: Found
    body: bytes
    connection: bytes


class Connection(asyncio.Protocol):
    """One connection.  Callbacks of the parser only collect; ``_pump`` answers what they collected."""

    __slots__ = (
        "_address", "_answering", "_connection", "_deaf", "_due", "_exchange", "_expects", "_found", "_fresh",
        "_front", "_headers", "_last", "_left", "_loose", "_parser", "_parts", "_pumping", "_reading", "_rest",
        "_since", "_size", "_stuck", "_transport", "_url", "_waiting"
    )  # fmt: skip

    def __init__(self, front: Crowd) -> None:
        self._front = front
        self._parser = httptools.HttpRequestParser(self)
        self._reading = IDLE
        self._url, self._size = b"", 0
        self._fresh = True
        """It has not begun a request yet."""
        self._deaf = False
        """The transport reads nothing."""
        self._since = time.monotonic()
        """When what is going on began: see ``check_time``."""
        self._waiting: deque[_Request] = deque()
        self._answering: _Request | None = None
        self._rest = b""
        """Bytes that are parsed once there is room."""
        self._loose = 0
        """Bytes parsed since the last that a request's body or end was made of."""
        self._last = False
        """Nothing more is parsed: the last request is there."""
        self._expects = False
        """The client waits for "100 Continue"."""
        self._pumping = False
        self._stuck = -1
        """Bytes of replies that the client did not take when it was last looked; -1: it takes them."""
        self._due = 0.0
        """When it should have taken them all."""
        self._left = False
        """The last reply is written, or the connection is gone."""

    # -- the transport's calls --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came; one too many is refused."""
        self._transport = cast(asyncio.Transport, transport)
        self._address = address_of(transport.get_extra_info("peername"))
        refusal = self._front.enter(self, self._address)
        if refusal is not None:
            self._refuse(refusal)
            self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone; what is computed for it is thrown away."""
        if not self._left and (self._owing or self._reading is not IDLE):
            self._front.telemetry.disconnected.inc()
        self._left = self._last = True
        if self._answering is not None:
            self._answering.exchange.gone = True
        self._waiting.clear()
        self._rest = b""
        self._front.forget(self, self._address)
        self._front.parting.discard(self)
        del self._parser  # the parser holds this object

    def data_received(self, data: bytes) -> None:
        """Parses, then answers."""
        if self._last:
            self._loose += len(data)
            if self._loose > SPILT:
                self.cut()
            return
        if self._rest:
            self._rest += data
        else:
            self._parse(data)
            self._pump()

    def eof_received(self) -> bool:
        """The client sends nothing more; what it sent is answered first."""
        if self._reading != IDLE and not self._last:
            self._refuse(Refusal("malformed_request", "the connection ended before the request"))
        elif not self._rest:
            self._last = True
        self._pump()
        return self._owing and not self._left

    def pause_writing(self) -> None:
        """The client does not read its replies: it gets no further ones."""
        self._stick()

    def resume_writing(self) -> None:
        """It reads on."""
        self._stuck = -1
        self._since = time.monotonic()
        self._pump()

    # -- the parser's calls -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._fresh = False
        self._reading = HEAD
        self._since = time.monotonic()
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._size = 0

    def on_url(self, url: bytes) -> None:
        """A part of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, whole.  What follows a body of chunks is none of a request's headers."""
        if self._reading is HEAD:
            self._headers[name.lower()] = value
            self._size += len(name) + len(value)

    def on_headers_complete(self) -> None:
        """Finds out who answers, and whether the body is read."""
        if self._last:
            return
        parser, headers, dispatch = self._parser, self._headers, self._front.app.dispatch
        version = parser.get_http_version()
        target = _target(self._url)
        if target is None or version not in ("1.0", "1.1"):
            shown = f"{self._url[:80].decode('latin-1')!r}, HTTP/{version}"
            self._refuse(Refusal("malformed_request", f"{shown}: send a path in HTTP/1.1"))
            return
        if (refusal := self._too_large()) is not None:
            self._refuse(refusal)
            return
        self._exchange = dispatch.exchange(parser.get_method().decode("ascii"), *target, headers, self._address)
        self._found = dispatch.opened(self._exchange)
        self._reading = BODY
        self._since = time.monotonic()
        self._loose = self._size = 0
        self._parts: list[bytes] = []
        if not parser.should_keep_alive() or parser.should_upgrade():
            self._connection = CLOSE
        else:
            self._connection = KEEP if version == "1.1" else STAY
        self._expects = headers.get(b"expect", b"").lower() == b"100-continue" and version == "1.1"
        if isinstance(self._found, Reply) and (self._expects or self._found.status == 413):
            self._close_with(self._exchange, self._found)  # not waiting for the body: nothing behind it can be read

    def on_body(self, body: bytes) -> None:
        """A part of it."""
        if self._last:
            return
        self._loose = 0
        self._expects = False
        self._size += len(body)
        try:
            check_size(self._size, self._front.settings.max_body_bytes)
        except Refusal as refusal:
            self._refuse(refusal)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._last:
            return
        self._reading = IDLE
        self._loose = 0
        self._expects = False
        self._last = self._connection is CLOSE
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._waiting.append(_Request(self._exchange, self._found, body, self._connection))

    # -- what happens -----------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        """Reads bytes piece by piece until enough requests wait."""
        place, settings = 0, self._front.settings
        while place < len(data) and not self._last and len(self._waiting) < PIPELINED:
            piece = data if len(data) <= PIECE else data[place : place + PIECE]
            place += len(piece)
            self._loose += len(piece)
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserUpgrade:
                self._last = True  # the request is answered as any other; what comes behind it is another protocol's
            except httptools.HttpParserCallbackError as error:  # a fault of ours
                self._refuse(error)
            except httptools.HttpParserError as error:
                if not self._last:
                    self._refuse(Refusal("malformed_request", f"this is no HTTP request ({error}); send HTTP/1.1"))
            if not self._last and self._loose > settings.max_header_bytes + settings.max_url_bytes:
                self._refuse((self._too_large() if self._reading is HEAD else None) or _large(self._loose, settings))
        self._rest = b"" if self._last else data[place:]

    def _too_large(self) -> Refusal | None:
        return too_large(len(self._url), self._size, self._front.settings)

    def _refuse(self, error: Exception) -> None:
        """Refuses what is being read, unless it is refused already, and reads nothing more."""
        dispatch = self._front.app.dispatch
        if self._reading is not BODY:
            exchange = dispatch.exchange("", "", b"", {})
            self._close_with(exchange, dispatch.refused(exchange, error))
        elif isinstance(self._found, Reply):
            self._close_with(self._exchange, self._found)
        else:
            self._close_with(self._exchange, dispatch.refused(self._exchange, error))

    def _close_with(self, exchange: Exchange, reply: Reply) -> None:
        """Lets this be the connection's last reply."""
        self._last = True
        self._expects = False
        self._waiting.append(_Request(exchange, reply, b"", CLOSE))

    def _pump(self) -> None:
        """Answers what waits, one after the other, and reads on where nothing does."""
        if self._pumping:
            return
        self._pumping = True
        while self._answering is None and self._stuck < 0 and not self._left:
            if self._waiting:
                self._answer(self._waiting.popleft())
            elif self._rest:
                rest, self._rest = self._rest, b""
                self._parse(rest)
            else:
                break
        self._pumping = False
        if self._left:
            return
        if not self._owing:
            if self._last:
                self._part()
                return
            if self._expects:
                self._expects = False
                self._transport.write(CONTINUE)
        deaf = bool(self._waiting or self._rest or self._stuck >= 0)
        if deaf != self._deaf and not self._transport.is_closing():
            self._deaf = deaf
            (self._transport.pause_reading if deaf else self._transport.resume_reading)()

    @property
    def _owing(self) -> bool:
        """Whether there are requests that are not answered yet."""
        return self._answering is not None or bool(self._waiting) or bool(self._rest)

    def _answer(self, request: _Request) -> None:
        self._answering = request
        if isinstance(request.found, Reply):
            self._replied(request.found)
        else:
            self._front.app.dispatch.answer(request.exchange, request.found, request.body, self._replied)

    def _replied(self, reply: Reply) -> None:
        """Writes a reply."""
        request = self._answering
        self._answering = None
        if self._left or request is None:
            return
        front = self._front
        last = request.connection is CLOSE or (front.last_replies and not self._waiting and not self._rest)
        exchange = request.exchange
        head = head_of(exchange, reply, front.date, CLOSE if last else request.connection)
        if exchange.method == "HEAD":
            self._transport.write(head)
        elif len(reply.body) < WHOLE:
            self._transport.write(head + reply.body)
        else:
            self._transport.writelines((head, reply.body))
        self._since = time.monotonic()
        if last:
            self._part()
        elif not self._pumping and (self._waiting or self._rest or self._last or self._expects or self._deaf):
            self._pump()

    # -- the end ----------------------------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Bytes of replies that the client has not taken yet."""
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    def _part(self) -> None:
        """Ends a connection whose last reply is written: nothing more is sent, and what still comes is not read."""
        self._left = self._last = True
        self._front.forget(self, self._address)
        if len(self._front.parting) >= min(PARTING, self._front.most // 8 + 1) or self._transport.is_closing():
            self._transport.close()
            return
        self._front.parting.add(self)
        self._stick()
        with contextlib.suppress(OSError):  # the client may be gone
            self._transport.write_eof()
        if self._deaf:
            self._transport.resume_reading()  # else its end is not seen

    def _stick(self) -> None:
        """Looks from now on how the client takes what it was sent."""
        self._stuck, self._since = self.unsent, time.monotonic()
        self._due = self._since + self._front.settings.body_s + self._stuck / READ_BYTES_PER_S

    def check_time(self, now: float) -> None:
        """Ends what takes longer than it may."""
        took, settings = now - self._since, self._front.settings
        if self._stuck >= 0 or self._left:
            unsent = self.unsent
            if 0 < unsent < self._stuck and now < self._due:  # it reads, if slowly
                self._stuck, self._since = unsent, now
            elif took > (settings.body_s if unsent else LINGER_S) or (unsent and now >= self._due):
                if unsent:
                    self._front.ended("unread")
                self.cut()
        elif self._reading is IDLE:
            if took > (settings.first_byte_s if self._fresh else settings.keep_alive_s):
                if self._fresh and not self._owing:
                    self._front.ended("silent")
                self.leave()
        elif not self._owing and took > (limit := settings.header_s if self._reading is HEAD else settings.body_s):
            self._front.ended("slow")
            self._refuse(too_slow(self._reading, limit))
            self._pump()

    def leave(self) -> None:
        """Closes a connection without a request; one with a request is closed with its reply."""
        if not self._owing and self._reading is IDLE:
            self._left = self._last = True
            self._stick()
            self._transport.close()

    def cut(self) -> None:
        """Closes it at once."""
        self._transport.abort()


def _target(url: bytes) -> tuple[str, bytes] | None:
    """(path as it was sent, query string) of a request's target, its absolute form, too; None: it has no path."""
    if url[:1] == b"/" and b"#" not in url:
        path, _, query = url.partition(b"?")
        return path.decode("latin-1"), query
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        return None
    return ((parsed.path or b"/").decode("latin-1"), parsed.query or b"") if parsed.schema or parsed.path else None


def head_of(exchange: Exchange, reply: Reply, date: bytes, connection: bytes) -> bytes:
    """A reply's line and headers."""
    return b"%b%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\ncache-control: no-store\r\n%b%b\r\n" % (
        STATUS_LINES[reply.status],
        date,
        reply.media_type,
        len(reply.body),
        exchange.request_id.encode("ascii"),
        b"".join([b"%b: %b\r\n" % header for header in reply.headers]) if reply.headers else b"",
        connection,
    )


def too_large(url: int, headers: int, settings: Settings) -> Refusal | None:
    """The refusal of a request whose line or headers are of too many bytes."""
    if url > settings.max_url_bytes:
        most = f"the URL of {url:,} bytes is above {settings.max_url_bytes:,}"
        return Refusal("url_too_long", f"{most}; send ids in the body of POST /v1/recommend")
    return _large(headers, settings) if headers > settings.max_header_bytes else None


def _large(size: int, settings: Settings) -> Refusal:
    most = f"the headers of {size:,} bytes are above {settings.max_header_bytes:,}"
    return Refusal("headers_too_large", f"{most}; send fewer or shorter ones")
