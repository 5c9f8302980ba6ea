"""API keys: who may ask for what, and how often.

A key is 256 random bits, so that its SHA-256 can lie in a file: nobody tries 2^256 values.  A slow hash (scrypt,
Argon2) is for words that people choose, and would cost every request milliseconds.
"""

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Annotated, Literal, get_args

from msgspec import Meta

from suisen.errors import InputError, unknown
from suisen.serving.decoding import checked
from suisen.serving.messages import Message, Zoned
from suisen.serving.problems import Refusal

logger = logging.getLogger("suisen.serving")
Scope = Literal["open", "read", "events", "admin", "metrics"]
"""What an endpoint is for: ``open`` needs no key; the others are what keys are allowed."""
SCOPES: tuple[str, ...] = get_args(Scope)[1:]
SIMPLE = ("read", "events", "metrics")
"""What the one key of ``--api-key`` is allowed: all but ``admin``."""
SHORTEST = 20
"""Fewest characters of a key that people bring: SHA-256 alone does not protect what can be guessed."""
CHALLENGE = ((b"www-authenticate", b'Bearer realm="suisen"'),)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Key:
    """What is known of a key: everything but the key."""

    name: str
    digest: bytes
    """SHA-256 of it."""
    scopes: frozenset[str]
    rate: float | None = None
    """Requests per second; None: any."""
    burst: float = 1.0
    """Requests that may come at once."""
    expires: float | None = None
    """Seconds since 1970."""


class _Line(Message, frozen=True):
    """``[[key]]`` of the file."""

    name: str
    hash: str
    scopes: Annotated[list[Literal["read", "events", "admin", "metrics"]], Meta(min_length=1)]
    rate: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    burst: Annotated[float, Meta(ge=1, le=1e9)] | None = None
    expires: Zoned | None = None


class _File(Message, frozen=True):
    key: Annotated[list[_Line], Meta(min_length=1)]


class Keys:
    """The keys of a server.  ``look`` reads their file again where it changed; a broken one leaves the old keys."""

    def __init__(
        self,
        path: Path | None = None,
        secret: str | None = None,
        name: str = "api-key",
        scopes: Sequence[str] = SIMPLE,
    ) -> None:
        """``path``: a file of keys; ``secret``: one key, of this name and for this.

        Raises InputError where either is of no use.
        """
        if secret is not None and (len(secret) < SHORTEST or not secret.isascii() or not secret.isprintable()):
            raise InputError(
                f"{name.replace('-', '_')} is {len(secret)} characters long; give at least {SHORTEST} printable ASCII "
                "ones, as `suisen keys new` makes them"
            )
        self._path = path
        self._simple = [] if secret is None else [Key(name, _digest(secret.encode()), frozenset(scopes))]
        self._blind = secrets.token_bytes(32)
        self._stamp = self._seen()
        self._take([] if path is None else read(path))

    def __bool__(self) -> bool:
        """Whether keys are asked for."""
        return self._path is not None or bool(self._simple)

    @property
    def names(self) -> list[str]:
        """Of all keys, in order."""
        return sorted(key.name for key in self._table.values())

    def look(self) -> bool:
        """Reads the file again where it changed, and says whether it did; a ``stat`` (2 µs) where it did not."""
        if self._path is None or (stamp := self._seen()) == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._take(read(self._path))
            logger.info("keys read again", extra={"fields": {"keys": self.names}})
        except InputError as error:
            logger.error("the old keys stay: %s", error)
            return False
        return True

    def check(self, headers: Mapping[bytes, bytes], scope: Scope) -> Key:
        """The key of a request (``Authorization: Bearer`` or ``X-Api-Key``); 3 µs, however many keys there are.

        Refuses one that is missing, unknown or expired (401), or not allowed this (403).  Neither how long it takes
        nor what it says tells how near a wrong key comes to a right one.
        """
        scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
        sent = sent.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = _digest(sent)
        key = self._table.get(self._blinded(digest), NOBODY)
        if not hmac.compare_digest(digest, key.digest):
            said = "the key is unknown" if sent else "no key is given"
            raise Refusal("unauthorized", f"{said}; send Authorization: Bearer KEY, or X-Api-Key", CHALLENGE)
        if key.expires is not None and key.expires <= time.time():
            raise Refusal("unauthorized", "the key has expired; ask for a new one", CHALLENGE)
        if scope not in key.scopes:
            allowed = ", ".join(sorted(key.scopes))
            raise Refusal("forbidden", f"the key {key.name!r} is allowed {allowed}; this needs one allowed {scope}")
        return key

    def _blinded(self, digest: bytes) -> bytes:
        """A digest under a secret of this process: how long a look-up takes then tells nothing of the digest."""
        return hmac.digest(self._blind, digest, "sha256")

    def _take(self, found: Sequence[Key]) -> None:
        for key in found:
            if any(key.name == own.name or key.digest == own.digest for own in self._simple):
                raise InputError(
                    f"{self._path}: the key {key.name!r} is {self._simple[0].name} too; name and key must be its own"
                )
        self._table = {self._blinded(key.digest): key for key in (*found, *self._simple)}

    def _seen(self) -> tuple[int, ...]:
        """What changes when the file does."""
        try:
            found = os.stat(self._path) if self._path is not None else None
        except OSError:
            return (0,)
        return () if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)


NOBODY = Key("", bytes(32), frozenset())
"""Its digest is nobody's: no text is known whose SHA-256 is 0."""


def read(path: Path) -> list[Key]:
    """The keys of a file.  Raises InputError naming the file, the key, the field, the value and the mend."""
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"api_keys = {str(path)!r} cannot be read ({why}); `suisen keys new` makes its lines"
        ) from None
    try:
        lines = checked(plain, _File).key
    except Refusal as refusal:
        raise InputError(f"{path}: {refusal.detail}") from None
    found: list[Key] = []
    for place, line in enumerate(lines):
        key = _key(f"{path}: key[{place}]", line)
        if any(key.name == other.name or key.digest == other.digest for other in found):
            raise InputError(f"{path}: key[{place}] has the name or the hash of another; each key has its own")
        found.append(key)
    return found


def made(name: str, scopes: Sequence[str], rate: float | None = None, burst: float | None = None) -> tuple[str, str]:
    """(a new key, its lines for the file).  Raises InputError where a name or a scope is not one."""
    for scope in scopes:
        if scope not in SCOPES:
            raise unknown("scopes", scope, SCOPES)
    secret = f"suisen_{secrets.token_urlsafe(32)}"
    text = f'[[key]]\nname = "{name}"\nhash = "sha256:{_digest(secret.encode()).hex()}"\n'
    text += f"scopes = {json.dumps(list(dict.fromkeys(scopes)))}\n"
    text += "".join(
        f"{field} = {value:g}\n" for field, value in (("rate", rate), ("burst", burst)) if value is not None
    )
    _key("key", checked(tomllib.loads(text), _File).key[0])
    return secret, text


def _key(where: str, line: _Line) -> Key:
    if not _NAME.fullmatch(line.name):
        raise InputError(f"{where}.name = {line.name!r} must be 1 to 64 letters, digits or ._-")
    if not _HASH.fullmatch(line.hash):
        raise InputError(f"{where}.hash must be sha256: and 64 digits from 0 to f, as `suisen keys new` prints it")
    if line.burst is not None and line.rate is None:
        raise InputError(f"{where}.burst = {line.burst:g} needs rate, the requests per second behind it")
    expires = None if line.expires is None else line.expires.astimezone(UTC).timestamp()
    burst = max(1.0, line.rate or 1.0) if line.burst is None else line.burst
    return Key(line.name, bytes.fromhex(line.hash[7:]), frozenset(line.scopes), line.rate, burst, expires)


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
