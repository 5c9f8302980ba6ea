"""What a data set known by name is: its files, where they come from and how they are checked, its licence, its reader.

CONTRIBUTING.md shows how one is added: one file in this folder and one line in ``SOURCES``.
"""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from suisen.data.log import Col, Kind, Log
from suisen.data.sources.download import Download, Unreachable
from suisen.errors import InputError

RATING = "rating"
"""Column of a source's events that ``positive_from`` judges; it is not a feature, for it is not known beforehand."""
Files = Callable[[str], bytes]
"""A file's bytes by its name."""


@dataclass(frozen=True)
class Tables:
    """What a reader makes of the files: rows in the order of the file, which breaks ties in time."""

    events: pl.DataFrame
    """Columns user and item; where the source has them time (Int64, microseconds since 1970 UTC), rating, label (0 or
    1), weight (> 0), session; then context columns."""
    users: pl.DataFrame | None = None
    """Column user first, then features; one row per user."""
    items: pl.DataFrame | None = None
    """Column item first, then features and titles; one row per item."""
    ordered: bool = False
    """Whether the rows of each user stand in the order in which they happened, where there are no times."""
    parts: tuple[int, int] | None = None
    """Where the data set is published as a split: the rows at which valid and test begin (``--split given``)."""
    notes: tuple[str, ...] = ()
    """What the reader assumed, in words."""


@dataclass(frozen=True)
class Layout:
    """One way in which a data set is laid out in files."""

    sample: Mapping[str, bytes]
    """The names of the files, by which a folder or an archive is known to hold the data set (in a folder each may be
    packed, ``.gz``), and of each some made-up lines in its format: what the contract suite reads."""
    read: Callable[[Files], Tables]
    """From the files to tables; what is packed as ``.gz`` is unpacked before.  What it raises on damaged files is
    turned into an InputError that names the source."""
    inside: str = ""
    """Folder of the files inside an archive, with a "/" at its end."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set that is known by name."""

    name: str
    description: str
    """How many events, users and items of what, and of when."""
    licence: str
    """Whose it is and what may be done with it."""
    downloads: tuple[Download, ...] = ()
    """Where it can be fetched, tried in this order."""
    page: str = ""
    """Where there is no download: the address of the page from which a person gets it."""
    layouts: tuple[Layout, ...]
    """How it is laid out, the official layout first."""
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Kinds of feature columns; the others are inferred."""

    @property
    def advice(self) -> str:
        """What a person does who has to get the files by hand."""
        if not self.downloads:
            files = ", ".join(self.layouts[0].sample)
            return f"get it by hand from {self.page} and pass the folder that holds {files} as data_dir"
        official = self.downloads[0]
        folder = self.layouts[0].inside or f"{self.name}/"
        return f"get {official.origin} and pass the folder that holds {official.file} or {folder} as data_dir"

    def find(self, place: Path) -> Path | None:
        """The folder or file that holds the data set, looked for in and below ``place``; None where there is none."""
        if place.is_file():
            return place
        below = [place, *(place / layout.inside for layout in self.layouts if layout.inside), place / self.name]
        folders = [folder for folder in below if any(_holds(folder, layout) for layout in self.layouts)]
        names = [*(download.file for download in self.downloads), f"{self.name}.zip"]
        return next(iter([*folders, *(place / file for file in names if (place / file).is_file())]), None)

    def fetch(self, cache: Path) -> tuple[Path, str]:
        """The file in ``cache`` and a note on where it comes from.  Raises InputError where no download succeeds."""
        failures: list[str] = []
        for download in self.downloads:
            try:
                return download.fetch(cache), "; ".join([*failures, download.said])
            except Unreachable as error:
                failures.append(str(error))
        failed = "; ".join(failures) or "it cannot be fetched from here"
        raise InputError(f"{self.name}: {failed}; {self.advice}")

    def read(self, place: Path) -> Tables:
        """The tables of a folder or file.  Raises InputError where it is damaged or of another layout."""
        for download in self.downloads:
            if place.name == download.file:
                download.verify(place)
        damage: tuple[type[Exception], ...] = (
            zipfile.BadZipFile,
            tarfile.TarError,
            zlib.error,
            pl.exceptions.PolarsError,
        )
        damage += (KeyError, OSError, EOFError, ValueError)
        try:
            return self._read(place)
        except damage as error:
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"{place}: not the official layout of {self.name}, or damaged ({said}); fetch it anew"
            ) from None

    def _read(self, place: Path) -> Tables:
        if place.is_dir():
            layout = next((each for each in self.layouts if _holds(place, each)), self.layouts[0])
            return layout.read(lambda file: _bytes(_packed(place / file)))
        packed = tarfile.is_tarfile(place) or zipfile.is_zipfile(place)
        for layout in self.layouts:
            if not packed and {file.removesuffix(".gz") for file in layout.sample} == {place.name.removesuffix(".gz")}:
                return layout.read(lambda _: _bytes(place))  # the data set is this one file
        if tarfile.is_tarfile(place):
            members = _members(place)
            return self._inside(set(members), members.__getitem__)
        with zipfile.ZipFile(place) as archive:
            return self._inside(set(archive.namelist()), archive.read)

    def _inside(self, names: set[str], read: Files) -> Tables:
        """The tables of an archive that holds files of these names."""
        fits = [each for each in self.layouts if all(f"{each.inside}{file}" in names for file in each.sample)]
        layout = next(iter(fits), self.layouts[0])
        return layout.read(lambda file: _unpacked(read(f"{layout.inside}{file}")))

    def log(self, place: Path, positive_from: float | None = None) -> Log:
        """The log of a folder or file.

        ``positive_from``: label 1 where the rating is at least this, else 0; None: every rating is a positive.  Raises
        InputError where files are damaged, and for ``positive_from`` where the source has no ratings.
        """
        tables = self.read(place)
        self._check(place, tables)
        events, items, notes = tables.events, tables.items, [*tables.notes]
        if positive_from is not None:
            if RATING not in events.columns:
                raise InputError(f"{self.name} has no ratings that positive_from could judge; leave it out")
            events = events.with_columns((pl.col(RATING) >= positive_from).cast(pl.Int8).alias(Col.LABEL))
        elif RATING in events.columns:
            notes.append("every rating is an event; the rating itself is not used (positive_from= makes a label)")
        if items is not None:
            idle = items.height - items[Col.ITEM].is_in(events[Col.ITEM].unique().implode()).sum()
            notes.append(f"{idle:,} of {items.height:,} items have no events and are kept")
        events = events.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(Col.ROW))
        own = [name for name in Col if name in events.columns]
        context = [name for name in events.columns if name not in (*own, RATING)]
        events = events.select(*own, *context)
        known = {*context, *(name for table in (tables.users, items) if table is not None for name in table.columns)}
        kinds = {name: kind for name, kind in self.kinds.items() if name in known}
        said = tuple(f"{self.name}: {note}" for note in notes)
        return Log(events, tables.users, items, kinds, said, tables.ordered, tables.parts)

    def _check(self, place: Path, tables: Tables) -> None:
        """Raises InputError for tables without rows and for events that lack what they must have."""
        for what, table in (("events", tables.events), ("users", tables.users), ("items", tables.items)):
            if table is not None and table.height == 0:
                raise InputError(f"{place}: {self.name} holds no {what}; it is damaged, fetch it anew")
        events = tables.events
        needed = [name for name in events.columns if name in (Col.USER, Col.ITEM, RATING, Col.TIME)]
        if Col.SESSION in events.columns:  # a guest has a session in place of a user
            needed.remove(Col.USER)
        if sum(events.select(needed).null_count().row(0)):
            what = f"{', '.join(needed[:-1])} or {needed[-1]}"
            raise InputError(f"{place}: {self.name} holds events without a {what}; it is damaged, fetch it anew")


def _holds(folder: Path, layout: Layout) -> bool:
    return all(_packed(folder / file).is_file() for file in layout.sample)


def _packed(path: Path) -> Path:
    """The file, or the one of its name with ``.gz`` behind it or without it."""
    others = (path, path.with_name(f"{path.name}.gz"), path.with_name(path.name.removesuffix(".gz")))
    return next((other for other in others if other.is_file()), path)


def _bytes(path: Path) -> bytes:
    return _unpacked(path.read_bytes())


def _unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def _members(place: Path) -> dict[str, bytes]:
    """The files of a tar archive by their names, read and never unpacked onto the disk."""
    with tarfile.open(place) as archive:
        found = ((each.name, archive.extractfile(each)) for each in archive)
        return {name: file.read() for name, file in found if file is not None}
