"""What a data set known by name is: its files, where they come from and how they are checked, its licence, its reader.

CONTRIBUTING.md shows how one is added: one file in this folder and one line in ``SOURCES``.
"""

import zipfile
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


@dataclass(frozen=True)
class Layout:
    """One way in which a data set is laid out in files."""

    sample: Mapping[str, bytes]
    """The names of the files, by which a folder or an archive is known to hold the data set, and of each some made-up
    lines in its format: what the contract suite reads."""
    read: Callable[[Files], Tables]
    """From the files to tables.  What it raises on damaged files is turned into an InputError that names the source."""
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
    downloads: tuple[Download, ...]
    """Where it can be fetched, tried in this order."""
    layouts: tuple[Layout, ...]
    """How it is laid out, the official layout first."""
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Kinds of feature columns; the others are inferred."""

    @property
    def advice(self) -> str:
        """What a person does who has to get the files by hand."""
        official = self.downloads[0]
        folder = self.layouts[0].inside or f"{self.name}/"
        return f"get {official.origin} and pass the folder that holds {official.file} or {folder} as data_dir"

    def find(self, place: Path) -> Path | None:
        """The folder or file that holds the data set, looked for in and below ``place``; None where there is none."""
        if place.is_file():
            return place
        below = [place, *(place / layout.inside for layout in self.layouts if layout.inside), place / self.name]
        folders = [folder for folder in below if any(_holds(folder, layout) for layout in self.layouts)]
        files = [place / download.file for download in self.downloads if (place / download.file).is_file()]
        return next(iter([*folders, *files]), None)

    def fetch(self, cache: Path) -> tuple[Path, str]:
        """The file in ``cache`` and a note on where it comes from.  Raises InputError where no download succeeds."""
        failures: list[str] = []
        for download in self.downloads:
            try:
                return download.fetch(cache), "; ".join([*failures, download.said])
            except Unreachable as error:
                failures.append(str(error))
        raise InputError(f"{self.name}: {'; '.join(failures)}; {self.advice}")

    def read(self, place: Path) -> Tables:
        """The tables of a folder or file.  Raises InputError where it is damaged or of another layout."""
        for download in self.downloads:
            if place.name == download.file:
                download.verify(place)
        damage = (zipfile.BadZipFile, KeyError, OSError, EOFError, ValueError, pl.exceptions.PolarsError)
        try:
            return self._read(place)
        except damage as error:
            raise InputError(
                f"{place}: not the official layout of {self.name}, or damaged ({error}); fetch it anew"
            ) from None

    def _read(self, place: Path) -> Tables:
        if place.is_dir():
            layout = next((each for each in self.layouts if _holds(place, each)), self.layouts[0])
            return layout.read(lambda file: (place / file).read_bytes())
        for layout in self.layouts:
            if set(layout.sample) == {place.name}:  # the data set is this one file
                return layout.read(lambda _: place.read_bytes())
        with zipfile.ZipFile(place) as archive:
            inside = set(archive.namelist())
            fits = [each for each in self.layouts if all(f"{each.inside}{file}" in inside for file in each.sample)]
            layout = next(iter(fits), self.layouts[0])
            return layout.read(lambda file: archive.read(f"{layout.inside}{file}"))

    def log(self, place: Path, positive_from: float | None = None) -> Log:
        """The log of a folder or file.

        ``positive_from``: label 1 where the rating is at least this, else 0; None: every rating is a positive.  Raises
        InputError where files are damaged, and for ``positive_from`` where the source has no ratings.
        """
        tables = self.read(place)
        self._check(place, tables)
        events, items, notes = tables.events, tables.items, []
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
        return Log(events, tables.users, items, kinds, tuple(f"{self.name}: {note}" for note in notes))

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
    return all((folder / file).is_file() for file in layout.sample)
