"""A bundle that nobody changes under its server: a private copy, verified as it is made.

What is hashed is what is kept: a file that is edited, cut short, replaced or removed afterwards is another one.  Where
the file system can share blocks between files (btrfs, XFS), a copy costs no space and next to no time, and is hashed
where it lies; elsewhere bytes are hashed on their way.  Hard links would not do: a file that is edited in its place is
edited under all its names.

The folder has a lock, which the system releases when its owner is gone, however it ended; whoever makes the next folder
beside it removes those that nobody locks.
"""

import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from suisen.errors import BundleError
from suisen.recommending import manifest, signing
from suisen.recommending.place import MANIFEST, find

PREFIX, LOCK = "suisen-held-", ".lock"
CHUNK = 1 << 20
FICLONE = 0x40049409
"""Linux: the blocks of one file, shared by another."""


@contextmanager
def private_folder(base: Path | None = None) -> Iterator[Path]:
    """A new folder of this user alone (mode 0700) in ``base``, or where temporary files lie; gone at the end.

    Those that ended servers left there are removed first.  Raises BundleError where it cannot be made.
    """
    where = Path(tempfile.gettempdir()) if base is None else base
    try:
        where.mkdir(parents=True, exist_ok=True)
        _sweep(where)
        folder, lock = _made(where)
    except OSError as error:
        raise BundleError(f"{where} cannot take the server's own copy ({error.strerror}); give --private-dir") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _made(where: Path) -> tuple[Path, IO[bytes]]:
    """A new folder and its lock; another one where somebody swept it before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
        with suppress(FileNotFoundError):
            lock = (folder / LOCK).open("wb")
            if _locked(lock) and (folder / LOCK).exists():
                return folder, lock
            lock.close()


def _locked(file: IO[bytes]) -> bool:
    """Whether nobody else locks the file, so that it is locked by us from now on.  Windows does not lock."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep(where: Path) -> None:
    """Removes the folders there whose owners are gone; one that has no lock yet is being made."""
    if sys.platform == "win32":
        return
    for folder in where.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, or somebody sweeps as well
            if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open("r+b") as lock:
                if _locked(lock):
                    shutil.rmtree(folder, ignore_errors=True)


def hold(place: Path, into: Path, trusted_keys: Path | None = None) -> Path:
    """A private copy of a bundle, or of the bundle of a run folder, in the new folder ``into``; returns ``into``.

    Only the files that the manifest lists are copied, and each is what its SHA-256 says.  ``trusted_keys``: a file or
    folder of public keys of which one must have signed it.  ``suisen.recommending.bundle.load(into, held=True)`` then
    reads no file twice.  Cost: the bundle's bytes, 1 to 2 s per GB.  Raises BundleError naming the file, and leaves
    nothing behind.
    """
    began_with = _identity(find(place))
    try:
        return _held(find(place), into, trusted_keys)
    except BundleError:
        if _identity(find(place)) == began_with:
            raise
        return _held(find(place), into, trusted_keys)  # another bundle was saved in its place meanwhile


def _identity(place: Path) -> str:
    return manifest.sha256_of(place / MANIFEST)


def _held(place: Path, into: Path, trusted_keys: Path | None) -> Path:
    inside = place.resolve()
    try:
        into.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        into.mkdir(mode=0o700)
        for name in (MANIFEST, signing.SIGNATURE):
            if (place / name).is_file():
                _copied(place / name, into / name)
        said, _ = manifest.read(into)
        if trusted_keys is not None:
            signing.check(into, trusted_keys)
        _check_room(place, into, said["files"])
        for name, expected in said["files"].items():
            file, target = manifest.within(place / name, inside), into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if _copied(file, target) != expected:
                raise manifest.damaged(file)
    except BundleError as error:
        shutil.rmtree(into, ignore_errors=True)
        raise BundleError(str(error).replace(str(into), str(place))) from None
    except OSError as error:
        shutil.rmtree(into, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(into) from None
        raise BundleError(f"{place} cannot be copied to {into.parent} ({error})") from None
    return into


def _check_room(place: Path, into: Path, files: dict[str, str]) -> None:
    """Raises BundleError before anything is copied, where the copy could not end well."""
    needed = sum((place / name).stat().st_size for name in files if (place / name).is_file())
    if needed > shutil.disk_usage(into).free:
        raise _no_room(into, f", {needed:,} bytes,")


def _no_room(into: Path, size: str = "") -> BundleError:
    return BundleError(
        f"{into.parent.parent} has no room for the server's own copy{size} of the bundle; give --private-dir"
    )


def _copied(source: Path, target: Path) -> str:
    """Copies a file and returns the SHA-256 of the copy."""
    with source.open("rb") as given, target.open("x+b") as own:
        os.chmod(target, 0o400)
        if _cloned(given, own):
            return hashlib.file_digest(own, "sha256").hexdigest()
        digest = hashlib.sha256()
        while chunk := given.read(CHUNK):
            digest.update(chunk)
            own.write(chunk)
    return digest.hexdigest()


def _cloned(given: IO[bytes], own: IO[bytes]) -> bool:
    """Whether the copy shares the blocks of the file as it is at this moment."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(own.fileno(), FICLONE, given.fileno())
    except OSError:
        return False
    return True
