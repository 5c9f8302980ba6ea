"""Fetching the files of a source into the cache: resumed, verified, and there whole or not at all."""

import hashlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suisen.errors import InputError, SuisenError

CONNECT_SECONDS = 4.0
"""A machine without a network must learn so quickly."""
PIP_SECONDS = 180
BYTES_PER_CHUNK = 1 << 18
"""Read from the server between two updates of the progress bar."""
ALGORITHMS = {"md5": "MD5", "sha256": "SHA-256"}


class Unreachable(SuisenError):
    """A download cannot be reached or does not answer as it should: another one may be tried."""


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


@dataclass(frozen=True)
class WebFile:
    """A file on a web server."""

    url: str
    checksum: str
    """``"md5:…"`` or ``"sha256:…"`` in hexadecimal, or the address of a page that publishes the file's MD5; empty where
    the publisher names none: then the length that the server announces and the layout are all that is verified."""
    publisher: str
    """Who publishes it, for messages."""

    @property
    def file(self) -> str:
        """Its name in the cache: the last part of its address."""
        return self.url.rpartition("/")[2]

    @property
    def origin(self) -> str:
        """Its address."""
        return self.url

    @property
    def said(self) -> str:
        """Who published it, and how it was verified."""
        if not self.checksum:
            return f"fetched from {self.publisher}, which publishes no checksum: only its length is verified"
        algorithm = "md5" if _is_address(self.checksum) else self.checksum.partition(":")[0]
        return f"fetched from {self.publisher}, {ALGORITHMS[algorithm]} verified"

    def fetch(self, folder: Path) -> Path:
        """The file in ``folder``, its checksum equal to the published one.

        Raises Unreachable where the server cannot be reached (what came so far is kept and resumed next time) and
        InputError on a wrong checksum (the file is removed).
        """
        _knock(self.url)
        published = f"md5:{_published_md5(self.checksum)}" if _is_address(self.checksum) else self.checksum
        algorithm, _, wanted = published.partition(":")
        target = folder / self.file
        part = target.with_name(f"{target.name}.part")
        folder.mkdir(parents=True, exist_ok=True)
        _download(self.url, part)
        found = digest_of(part, algorithm) if algorithm else ""
        if found != wanted:
            part.unlink()
            raise InputError(
                f"{self.url}: {ALGORITHMS[algorithm]} is {found} and {self.publisher} publishes {wanted}; "
                "the file was removed, fetch it again"
            )
        part.replace(target)
        return target

    def verify(self, path: Path) -> None:
        """Nothing: it was verified when it was fetched, and a copy that the user brought may be packed otherwise."""


@dataclass(frozen=True)
class WheelFile:
    """A wheel that holds a copy of a data set, from the package index that pip is set up with."""

    requirement: str
    """The one version, like ``"recbole==1.2.1"``."""
    sha256: str
    """Of the wheel that was looked at when this was written."""

    @property
    def file(self) -> str:
        """Its name in the cache: that of a wheel of pure Python."""
        return f"{self.requirement.replace('==', '-')}-py3-none-any.whl"

    @property
    def origin(self) -> str:
        """The command that fetches it."""
        return f"pip download {self.requirement}"

    @property
    def said(self) -> str:
        """That a copy is used, and how it was verified."""
        return f"the copy inside {self.requirement} is used, SHA-256 verified"

    def fetch(self, folder: Path) -> Path:
        """The wheel in ``folder``, its SHA-256 verified.

        Raises Unreachable where pip cannot get it and InputError on a wrong checksum.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as inside:
            wheel = _pip_download(self.requirement, Path(inside))
            self.verify(wheel)
            wheel.replace(folder / self.file)
        return folder / self.file

    def verify(self, path: Path) -> None:
        """Raises InputError unless the file is the wheel that was looked at when this was written."""
        found = digest_of(path, "sha256")
        if found != self.sha256:
            raise InputError(
                f"{path.name}: SHA-256 is {found} and should be {self.sha256}; remove it and fetch it again"
            )


@dataclass(frozen=True)
class WebFolder:
    """Several files on a web server, which lie beside each other in a folder of the cache."""

    file: str
    """The folder's name in the cache."""
    files: tuple[WebFile, ...]

    @property
    def origin(self) -> str:
        """Their addresses."""
        return " ".join(each.origin for each in self.files)

    @property
    def said(self) -> str:
        """Who published them, and how they were verified."""
        return self.files[0].said

    def fetch(self, folder: Path) -> Path:
        """The folder that holds them.  Raises like ``WebFile.fetch``."""
        for each in self.files:
            if not (folder / self.file / each.file).is_file():
                each.fetch(folder / self.file)
        return folder / self.file

    def verify(self, path: Path) -> None:
        """Nothing: each was verified when it was fetched."""


Download = WebFile | WebFolder | WheelFile
"""A place from which a data set can be fetched: an archive, the only file that there is, or a folder of files."""


def _is_address(checksum: str) -> bool:
    return "://" in checksum


def _knock(url: str) -> None:
    """Raises Unreachable after ``CONNECT_SECONDS`` without an answer: name servers may be silent for much longer."""
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
    """Appends to what is there of the file; begins anew where the server does not resume."""
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
    from rich.progress import wrap_file

    console = Console(stderr=True)
    left = (total or have) - have
    bar = wrap_file(
        answer, left, description=part.stem, console=console, transient=True, disable=not console.is_terminal
    )
    with bar as reader, part.open("ab" if have else "wb") as file:
        try:
            shutil.copyfileobj(reader, file, BYTES_PER_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{part.stem}: the connection broke ({error}); the next call goes on there") from None


def _pip_download(requirement: str, folder: Path) -> Path:
    """The wheel that pip puts into ``folder``.  Raises Unreachable where it puts none."""
    words = ["download", "--no-deps", "--quiet", "--disable-pip-version-check", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, no shell
            [sys.executable, "-m", "pip", *words], capture_output=True, text=True, timeout=PIP_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreachable(f"pip download {requirement} did not end ({error})") from None
    found = list(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        message = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unreachable(f"pip download {requirement} failed ({message})")
    return found[0]
