"""Files that nobody sees half of, and the memory that a machine has left."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to, which takes its place at the end; after an error the old one stays.

    Who has the old file open or mapped keeps the old file.  The new one has the mode of the umask whatever its writer
    asks for: some write for their own user alone, and another user's server could not read a bundle.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    part.unlink(missing_ok=True)
    part.touch()
    mode = stat.S_IMODE(part.stat().st_mode)
    try:
        yield part
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Text as UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def available_memory() -> float:
    """Bytes that this process can still be given: what the system says is free, at most what its container may hold;
    infinite where the system says nothing.
    """
    found = [float("inf")]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        found += [float(limit)] if limit.isdigit() else []
    except OSError:  # no Linux, or no container
        pass
    return min(found)
