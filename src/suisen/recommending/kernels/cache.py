"""Where compiled code is kept: in a folder for each version of the kernels' sources.

Numba keeps a function's code beside a digest of the one file that the function stands in.  A kernel that calls another
file's would not notice when that changes, so the folder's name says what all files together were.  Processors and
versions of numba are kept apart by numba itself.
"""

import os
import tempfile
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from numba import config, njit

SOURCES = Path(__file__).parent
_USER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "suisen"


def digest_of(folder: Path) -> str:
    """16 hexadecimal digits that change with any .py file of a folder: its name or what it holds."""
    out = blake2b(digest_size=8)
    for path in sorted(folder.glob("*.py")):
        text = path.read_bytes()
        out.update(f"{path.name} {len(text)} ".encode() + text)
    return out.hexdigest()


@cache
def folder() -> Path | None:
    """The first that can be written to: in NUMBA_CACHE_DIR, beside the sources, or the user's own; None: nowhere."""
    name = f"kernels-{digest_of(SOURCES)}"
    bases = [Path(config.CACHE_DIR)] if config.CACHE_DIR else [SOURCES / "__pycache__", _USER]
    return next((base / name for base in bases if _writable(base / name)), None)


def _writable(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError:
        return False
    return True


def compiled(function: Callable[..., Any]) -> Any:
    """The function, compiled at its first call, and kept for other processes where there is a place for it."""
    place = folder()
    if place is None:
        return njit(nogil=True)(function)
    before = config.CACHE_DIR
    config.CACHE_DIR = str(place)  # numba reads it while it decorates
    try:
        return njit(nogil=True, cache=True)(function)
    finally:
        config.CACHE_DIR = before
