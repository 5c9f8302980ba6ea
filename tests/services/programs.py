"""The real programs around the server: found, started on free ports, ended; or skipped aloud."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

PACKAGES = {
    "redis-server": "redis-server",
    "redis-cli": "redis-tools",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "haproxy": "haproxy",
    "nginx": "nginx",
    "logrotate": "logrotate",
    "yamllint": "yamllint",
    "chromium": "chromium",
}
"""Debian's packages by what they bring."""
SYSTEM = "/usr/sbin:/sbin"
"""Where servers lie that are on no user's path."""
LEASH = """
import os, signal, sys
held = set()
for line in sys.stdin:
    (held.add if line[0] == "+" else held.discard)(int(line[1:]))
for group in held:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
"""Told of each group of processes that begins and ends; kills what is left when the process that tells it is gone."""


def program(name: str) -> str:
    """The path of a program; the test is skipped where there is none."""
    found = shutil.which(name) or shutil.which(name, path=SYSTEM)
    if found is None:
        mend = f"make services, or apt-get install {PACKAGES.get(name, name)}"
        pytest.skip(f"{name} IS NOT INSTALLED: nothing is shown about it; {mend}")
    return found


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody takes connections."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=0.5):
        return True
    return False


@cache
def leash() -> subprocess.Popen[str]:
    """The process that ends what this one leaves, also where it is killed itself."""
    made = subprocess.Popen([sys.executable, "-c", LEASH], stdin=subprocess.PIPE, text=True, start_new_session=True)
    atexit.register(made.communicate)
    return made


def hold(sign: str, group: int) -> None:
    """A group of processes begins (+), or has ended (-)."""
    pipe = leash().stdin
    assert pipe is not None
    pipe.write(f"{sign}{group}\n")
    pipe.flush()


class Program:
    """A started program, which ``kill``, ``pause``, ``resume`` and ``start`` may trouble."""

    def __init__(self, words: list[str], port: int, log: Path, env: dict[str, str] | None = None) -> None:
        self.words, self.port, self.log, self.env = words, port, log, env
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 20.0) -> Program:
        """Starts it, again too; returns when its port is open."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.words, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **(self.env or {})}, start_new_session=True,
            )  # fmt: skip
        hold("+", self.process.pid)
        until = time.monotonic() + seconds
        while not listening(self.port):
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                said = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.words[0]} did not open port {self.port}: {said}")
            time.sleep(0.02)
        return self

    def send(self, sig: int) -> None:
        """To the program and its children."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, sig)

    def kill(self) -> None:
        """At once, as a power cut does."""
        self.send(signal.SIGKILL)
        self._wait()

    def pause(self) -> None:
        """It holds its connections and answers nothing."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        self.send(signal.SIGCONT)

    def stop(self) -> None:
        """As its operator would."""
        self.resume()
        self.send(signal.SIGTERM)
        self._wait()

    def _wait(self) -> None:
        if self.process is not None:
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.send(signal.SIGKILL)
                self.process.wait(10)
            hold("-", self.process.pid)


@contextlib.contextmanager
def started(words: list[str], port: int, log: Path, env: dict[str, str] | None = None):
    """A program for the length of a block."""
    one = Program(words, port, log, env)
    try:
        yield one.start()
    finally:
        one.kill()


@contextlib.contextmanager
def redis(folder: Path, *more: str, port: int | None = None):
    """A Redis of its own, which keeps nothing."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    words = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with started([*words, *more], port, folder / "redis.log") as one:
        yield one
