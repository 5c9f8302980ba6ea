"""Quotes that are not all RFC 4180: rows line by line, and the signs by which a row is told from a quoted line."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from suisen.data.records import Records

SAMPLE = 2000
"""Lines by which the shape of each column is known."""
MOST_LINES = 1000
"""Lines after which a quote counts as never closed."""
QUOTE = '"'
Row = tuple[int, list[str] | None, bool]
"""The line a record begins at, its fields (None: its quotes fit no reading), whether its quotes are text."""


@dataclass(frozen=True)
class Dialect:
    """How lines are read."""

    mark: str
    """Between fields."""
    quote: str = QUOTE
    escape: str | None = None
    """The sign that escapes quotes."""
    guess: bool = False
    """Whether quotes are text where a line then has the right width, or where the lines behind it are rows too."""

    def parsed(self, text: str) -> tuple[list[str] | None, bool]:
        """The fields of one record by RFC 4180, None where its quotes do not follow it; whether a quote is open."""
        signs = {"delimiter": self.mark, "quotechar": self.quote, "escapechar": self.escape}
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), strict=True, **signs))  # type: ignore[arg-type]
        except csv.Error as error:
            return None, "end of data" in str(error)
        return (rows[0] if len(rows) == 1 else None), False


def split(text: str, mark: str, quote: str = QUOTE) -> list[str]:
    """The fields of one record; quotes that follow no rule are text."""
    row = Dialect(mark, quote).parsed(text)[0] if len(mark) == 1 else None
    return text.split(mark) if row is None else row


def by_lines(text: str, dialect: Dialect, width: int = 0) -> Iterator[Row]:
    """Each line that holds a quote is what RFC 4180 makes of it, with the lines behind it where they belong to it.

    ``width``: the number of fields where there is no header; else the header's.
    """
    mark = re.escape(dialect.mark)
    if dialect.escape:  # a database's null is no escape
        text = re.sub(rf"(?m)(^|{mark})\\N(?={mark}|\r?$)", r"\1\\\\N", text)
    lines, at, encloses = text.split("\n"), 0, False
    known = _without_quotes(lines[1:SAMPLE], dialect.mark)
    while at < len(lines):
        line, used, stray = lines[at].removesuffix("\r"), 1, False
        row: list[str] | None = line.split(dialect.mark)
        if dialect.quote in line or (dialect.escape and dialect.escape in line):
            row, used, stray = _judged(lines[at : at + MOST_LINES], dialect, width, known)
        if line:
            yield at + 1, [_bare(cell, encloses) for cell in row] if row and stray else row, stray
            encloses |= not width and QUOTE in line
            width = width or len(row or ())
        at += used


def _judged(
    lines: list[str], dialect: Dialect, width: int, known: list[list[str]]
) -> tuple[list[str] | None, int, bool]:
    """The record that begins in the first line, how many lines it takes, and whether its quotes are text."""
    (alone, opened), plain = dialect.parsed(lines[0]), lines[0].removesuffix("\r").split(dialect.mark)
    if alone is not None and (not dialect.guess or width in (0, len(alone))):
        return alone, 1, False
    for used in (i for i in range(2, len(lines) + 1) if dialect.quote in lines[i - 1]):
        row, opened = dialect.parsed("\n".join(lines[:used])) if opened else (None, False)
        pieces = [piece.split(dialect.mark) for piece in lines[:used]]
        if row and (not dialect.guess or (width in (0, len(row)) and not _are_rows(pieces, width, known))):
            return row, used, False
        if not opened:
            break
    return (plain, 1, True) if dialect.guess and width in (0, len(plain)) else (alone, 1, False)


def _bare(cell: str, encloses: bool) -> str:
    """A field without the quotes around it; others within it only where the file ``encloses`` all of its fields."""
    whole = len(cell) > 1 and cell[0] == cell[-1] == QUOTE and (encloses or QUOTE not in cell[1:-1])
    return cell[1:-1].replace(QUOTE * 2, QUOTE) if whole else cell


def enclosed(frame: pl.DataFrame) -> bool:
    """Whether quotes enclose a column's name and its values: then they are no text."""
    values = frame.select(pl.all().str.contains('(?s)^".*"$').all() & pl.all().is_not_null().any()).row(0)
    return any(_bare(name, encloses=True) != name for name in frame.columns) or (frame.height > 1 and any(values))


# -- is it a row or a quoted line? -------------------------------------------------------------------------------------


def rows_inside(data: bytes, mark: str, records: Records) -> bool:
    """Whether a record that goes on over several lines is rows in truth, swallowed by a quote that is text."""
    head = data[: 100 * SAMPLE].decode(errors="replace").split("\n")[:SAMPLE]
    known, over = _without_quotes(head[1:], mark), records.take(records.several)
    spans = zip(over.starts.tolist(), over.ends.tolist(), strict=True)
    texts = (data[start:end].decode(errors="replace").split("\n") for start, end in spans)
    return QUOTE not in head[0] and any(  # a header with quotes has them around its names
        _are_rows([line.split(mark) for line in lines], int(records.fields[0]), known) for lines in texts
    )


def _without_quotes(lines: list[str], mark: str) -> list[list[str]]:
    return [line.split(mark) for line in lines if QUOTE not in line]


def _are_rows(pieces: list[list[str]], width: int, known: list[list[str]]) -> bool:
    """Whether the lines of a record are rows: the first and most of the others have the right width, and in the columns
    whose cells are all of one shape, the cells that would lie within the quotes are of that shape.

    ``known``: rows without quotes.  Where they are few, half of the columns must say so.
    """
    right = [len(piece) == width for piece in pieces]
    if width < 2 or not right[0] or 2 * sum(right[1:]) <= len(right) - 1:
        return False
    known = [row for row in known if len(row) == width]
    told, many = [], len(known) >= 5
    for column in range(width):
        cells = [(row[column], column in _inside(row, i == 0)) for i, row in enumerate(pieces) if right[i]]
        mine = [_shape(cell) for cell, inside in cells if inside]
        theirs = [_shape(cell) for cell, inside in cells if not inside and QUOTE not in cell and not many]
        shapes = {*theirs, *(_shape(row[column]) for row in known)}.union([] if many else mine)
        if len(shapes) > 1 + len(known) // 50 or shapes <= {""} or not mine:
            continue  # titles, say
        if not shapes.issuperset(mine):
            return False
        if (many and width > 2) or any("9" in shape for shape in shapes):
            told.append(len(mine) if many or len(known) + len(theirs) + len(mine) > 1 else 0)
    return sum(told) > 1 and (many or 2 * sum(map(bool, told)) >= width)


def _inside(row: list[str], first: bool) -> range:
    """The columns within the quotes: behind the one that opens in the first line, before the next one in the others."""
    quoted = [i for i, cell in enumerate(row) if QUOTE in cell]
    return range(quoted[-1] + 1, len(row)) if first else range(quoted[0] if quoted else len(row))


def _shape(cell: str) -> str:
    """Words with a digit as 9, others as a: ``u17`` → 9, ``2021-01-02`` → 9-9-9."""
    return re.sub(r"\w+", lambda word: "9" if any(map(str.isdigit, word[0])) else "a", cell.rstrip("\r"))
