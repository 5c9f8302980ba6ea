"""The newest bundle under a prefix of an object store, copied into a folder that is watched (``serving.watching``).

Whatever fsspec reads: s3://bucket/models, gs://…, abfs://…, each with its own package beside the extra ``remote``.  A
bundle is as new as its manifest, which whoever uploads it writes last; what is copied before the rest is there is no
whole bundle, is refused, and is copied again when the manifest is newer.
"""

import logging
import shutil
import threading
from pathlib import Path, PurePosixPath
from typing import Any

from suisen.errors import InputError, need_extra
from suisen.recommending.place import MANIFEST

logger = logging.getLogger("suisen.serving")
EVERY_S = 10.0
"""Seconds between two listings of the prefix."""
KEPT = 2
"""Copies that are kept: the newest, and the one that may still be loading."""


class Mirror:
    """One prefix.  A look costs a listing; a new bundle, its bytes once."""

    def __init__(self, url: str, into: Path) -> None:
        """Raises MissingExtra, and InputError for an address that nothing reads."""
        need_extra("remote", "fsspec")
        import fsspec

        try:
            self._store, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise InputError(f"watch = {url!r} cannot be read ({error}); give a folder or s3://bucket/prefix") from None
        self.url, self.into = url, into
        self._copied: tuple[str, Any] | None = None
        self._said = ""
        self._end = threading.Event()

    def start(self) -> None:
        """Looks now and then, in a thread."""
        threading.Thread(target=self._run, name="suisen-mirror", daemon=True).start()

    def stop(self) -> None:
        """Looks no more."""
        self._end.set()

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self.look()
                self._said = ""
            except Exception as error:  # whatever the store's package raises: it is asked again
                if str(error) != self._said:
                    logger.error("%s cannot be read: %s", self.url, error)
                self._said = str(error)
            self._end.wait(EVERY_S)

    def look(self) -> Path | None:
        """The place of a bundle that is newer than the last one, once it is copied; None where there is none."""
        self._store.invalidate_cache()
        files = self._store.find(self._root)
        manifests = [name for name in files if PurePosixPath(name).name == MANIFEST]
        newest = max(((self._store.modified(name), name) for name in manifests), default=None)
        if newest is None or newest[::-1] == self._copied:
            return None
        made, manifest = newest
        folder = str(PurePosixPath(manifest).parent)
        place = self._copy(folder, [name for name in files if name.startswith(f"{folder}/")])
        self._copied = manifest, made
        for old in sorted(self.into.iterdir(), key=lambda one: one.stat().st_mtime_ns)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return place

    def _copy(self, folder: str, names: list[str]) -> Path:
        """A folder with these files, there at once."""
        self.into.mkdir(parents=True, exist_ok=True)
        part = self.into / ".part"
        shutil.rmtree(part, ignore_errors=True)
        for name in names:
            inside = PurePosixPath(name).relative_to(folder)
            if ".." in inside.parts or inside.is_absolute():
                raise InputError(f"{name} leads out of its bundle; remove it from the store")
            target = part / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            self._store.get_file(name, str(target))
        number = 1 + max((int(one.name) for one in self.into.iterdir() if one.name.isdigit()), default=0)
        return part.rename(self.into / f"{number:06d}")
