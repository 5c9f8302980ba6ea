"""From what servers logged to a log to learn from: files, folders and Kafka topics in, Parquet out.

A run to a file reads everything and writes it anew.  A run to a folder adds a part with what came since the last run,
so that it can be repeated for ever.  A hidden folder in it remembers how far each source was read and holds what cannot
be decided yet: lists that may still be answered, events whose list has not come.  A part takes its name from that
memory, which is replaced last: who is killed between writes the same part again, and nothing is lost or doubled.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from suisen.data import training_log
from suisen.data.formats import unpacked
from suisen.data.kafka import Reading, Topic
from suisen.data.progress import Progress
from suisen.data.served import Lines
from suisen.data.training_log import Rows
from suisen.errors import InputError
from suisen.files import replacing, write_text

MEMORY = ".from-log"
"""The folder beside the parts; readers of a folder of Parquet files pass over it."""


@dataclass(frozen=True)
class Options:
    """What a training log is made of."""

    rows: Rows = "events"
    labels: tuple[str, ...] = ()
    """Types of events that make label 1; none: all."""
    wait: timedelta = timedelta(hours=1)
    """In runs to a folder: how long a list may be answered."""
    group: str | None = None
    """Whose offsets Kafka keeps; committed once what was read is written."""

    def __post_init__(self) -> None:
        if self.labels and self.rows == "events":
            raise InputError(f"--label {self.labels[0]} needs --rows impressions: a row per event has no label")


@dataclass
class Memory:
    """What a folder remembers of the runs before."""

    rows: str
    part: int = 0
    lists: bool = False
    """Whether there ever was a list; where none is kept, no event waits for one."""
    files: dict[str, Any] = field(default_factory=dict)
    """How far each was read: ``Progress.marks``."""
    kafka: dict[str, Any] = field(default_factory=dict)
    """Offsets of each topic."""

    @classmethod
    def load(cls, folder: Path, rows: Rows) -> "Memory":
        """Raises InputError where the parts hold other rows, or where the memory is damaged."""
        path = folder / MEMORY / "state.json"
        try:
            memory = cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls(rows)
        except (ValueError, TypeError):
            raise InputError(f"{path} is damaged; remove {folder} and read the log again from its beginning") from None
        if memory.rows != rows:
            raise InputError(
                f"{folder} holds a row per {memory.rows[:-1]}; give --rows {memory.rows} or another folder"
            )
        return memory

    def save(self, folder: Path) -> None:
        """The last step of a run."""
        write_text(folder / MEMORY / "state.json", json.dumps(asdict(self)))


def from_log(sources: Sequence[str], out: Path, options: Options | None = None) -> tuple[Path | None, list[str]]:
    """Writes the training log of some sources; returns the file that was written, None where nothing is new, and notes.

    ``out``: a ``.parquet`` file, or a folder that a part is added to.  Raises InputError for sources that cannot be
    read, and where there is no event and no list in them.
    """
    options = options or Options()
    whole = out.suffix in (".parquet", ".pq")
    if out.is_dir() if whole else out.is_file():
        raise InputError(f"-o {out} is a {'folder' if whole else 'file'}; name a .parquet file, or a folder")
    memory = Memory(options.rows) if whole else Memory.load(out, options.rows)
    lines, progress, readings = Lines(), Progress(memory.files), []
    try:
        for source in sources:
            if source.startswith("kafka:"):
                topic = Topic.of("SOURCE", source)
                readings.append(reading := Reading(topic, options.group))
                since = memory.kafka.get(str(topic), {})
                lines.take(reading.messages(since))
                memory.kafka[str(topic)] = reading.offsets
            else:
                lines.take(_new_lines(Path(source), progress, to_the_end=whole))
        memory.files = progress.marks
        written, notes = (_write_file if whole else _write_part)(out, lines, memory, options)
        for reading in readings:
            reading.commit()
            notes = [*reading.notes, *notes]
    finally:
        for reading in readings:
            reading.close()
    return written, [f"{lines.count:,} lines read", *lines.notes(), *notes]


# -- sources ----------------------------------------------------------------------------------------------------------


def _files(source: Path) -> list[Path]:
    """The file, or the logs of a folder: their segments, not what was moved aside."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source} is no file and no folder; give what a server logged, or kafka://host:9092/topic")
    found = [path for path in sorted(source.iterdir()) if _is_log(path)]
    if not found:
        raise InputError(f"{source} holds no events.jsonl and no impressions.jsonl; give the folder of --log-dir")
    return found


def _is_log(path: Path) -> bool:
    return path.is_file() and ".jsonl" in path.name and path.suffix != ".torn" and not path.name.startswith(".")


def _new_lines(source: Path, progress: Progress, to_the_end: bool) -> Iterator[tuple[str, bytes]]:
    """(place, line) of what was not read yet, in files that are rotated meanwhile, too.  A last line without an end is
    still being written: it is read when it is whole, or ``to_the_end`` as it is.
    """
    read: set[int] = set()
    found = _files(source)
    while found:
        for path in found:
            with suppress(FileNotFoundError), path.open("rb") as file:  # else it has another name by now
                inode = os.fstat(file.fileno()).st_ino
                if inode not in read:
                    read.add(inode)
                    yield from _lines_of(path, file, progress, to_the_end)
        found = [path for path in _files(source) if path.exists() and path.stat().st_ino not in read]


def _lines_of(path: Path, file: BinaryIO, progress: Progress, to_the_end: bool) -> Iterator[tuple[str, bytes]]:
    packed = path.suffix == ".gz"
    start = at = 0 if packed else progress.offset(file.fileno())
    file.seek(start)
    for line in unpacked(path).splitlines(keepends=True) if packed else file:
        if to_the_end or packed or line.endswith(b"\n"):
            yield f"{path.name} at byte {at:,}", line
            at += len(line)
    if at > start and not packed:
        progress.advance(file.fileno(), at)


# -- what is written --------------------------------------------------------------------------------------------------


def _write_file(out: Path, lines: Lines, memory: Memory, options: Options) -> tuple[Path, list[str]]:
    """Everything, in one file."""
    events, shown = lines.events(), lines.shown()
    if not events.height + shown.height:
        raise InputError(f"no event and no list was found ({'; '.join(lines.notes()) or 'the log is empty'})")
    once, lists = training_log.distinct(events), training_log.distinct_lists(shown)
    made = training_log.join(once, lists, options.rows, options.labels)
    with replacing(out) as part:
        made.rows.write_parquet(part)
    return out, [*_repeats(events, once, shown, lists), *made.notes]


def _write_part(folder: Path, lines: Lines, memory: Memory, options: Options) -> tuple[Path | None, list[str]]:
    """What is new and decided, as one more file of a folder."""
    kept = folder / MEMORY
    before = [kept / f"{name}-{memory.part}.parquet" for name in ("events", "shown")]
    events, shown = (
        pl.concat([pl.read_parquet(path), new]) if path.exists() else new
        for path, new in zip(before, (lines.events(), lines.shown()), strict=True)
    )
    once, lists = training_log.distinct(events), training_log.distinct_lists(shown)
    once, lists = _not_in_parts(folder, memory, once, lists)
    memory.lists = memory.lists or shown.height > 0
    closed = _closed(events, shown, options.wait) if memory.lists else None
    made = training_log.join(once, lists, options.rows, options.labels, closed)
    memory.part += 1
    kept.mkdir(parents=True, exist_ok=True)
    path = folder / f"part-{memory.part:06}.parquet"
    if made.rows.height:
        with replacing(path) as part:
            made.rows.write_parquet(part)
    else:
        path.unlink(missing_ok=True)  # of a run that was killed
    for name, frame in (("events", made.events), ("shown", made.shown)):
        with replacing(kept / f"{name}-{memory.part}.parquet") as part:
            frame.write_parquet(part)
    memory.save(folder)
    for old in before:
        old.unlink(missing_ok=True)
    waits = [f"{made.events.height:,} events and {made.shown.height:,} lists wait for what may still come"]
    said = [*_repeats(events, once, shown, lists), *made.notes, *waits]
    return path if made.rows.height else None, said


def _closed(events: pl.DataFrame, shown: pl.DataFrame, wait: timedelta) -> datetime | None:
    """Before when lists are answered no more, by the log's own clock: that of the server, which times the lists."""
    newest: Any = (shown if shown.height else events)["time"].max()
    return None if newest is None or not wait else newest - wait


def _not_in_parts(
    folder: Path, memory: Memory, events: pl.DataFrame, shown: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Without the events, or the lists, that an earlier part holds: they were sent or shipped again."""
    named = (folder / f"part-{number:06}.parquet" for number in range(1, memory.part + 1))
    parts = [path for path in named if path.exists()]
    if not parts:
        return events, shown
    table = pl.scan_parquet(parts)
    if memory.rows == "events":
        had = table.select(training_log.key().alias("_key")).collect()
        return events.with_columns(training_log.key().alias("_key")).join(had, on="_key", how="anti").drop(
            "_key"
        ), shown
    had = table.select(training_log.LIST).unique().collect()
    return events, shown.join(had, on=training_log.LIST, how="anti", nulls_equal=True)


def _repeats(events: pl.DataFrame, once: pl.DataFrame, shown: pl.DataFrame, lists: pl.DataFrame) -> list[str]:
    pairs = ((events.height - once.height, "events"), (shown.height - lists.height, "lists"))
    return [f"{count:,} repeated {what} counted once" for count, what in pairs if count]
