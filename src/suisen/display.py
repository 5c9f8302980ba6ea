"""What a person sees of an object: its lines and tables, as text in a terminal and as HTML in a notebook."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from html import escape
from typing import Any, NamedTuple

LEFT = frozenset(
    {"metric", "models", "model", "protocol", "95 % interval", "part", "what", "features", "stage", "segment"}
)
"""Headings of columns of words; the others hold numbers, which stand to the right."""
CUT = 60
"""Most characters of a part of a record."""
LONG = 240
"""Most characters of a note that is told while something is read."""


class Table(NamedTuple):
    """A table of texts."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Shown:
    """A base of what prints itself: a subclass says its lines and tables once, in ``_parts``."""

    def _parts(self) -> Iterable[str | Table]:
        """Lines and tables, in order; lines that begin with "note: " are beside the point."""
        raise NotImplementedError

    def __str__(self) -> str:
        return "\n".join(part if isinstance(part, str) else text_table(*part) for part in self._parts())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return "".join(_html(part) for part in self._parts())


def brief(record: Any) -> str:
    """A record in one line: arrays by their type and shape, other parts cut short.

    >>> from suisen.data.batch import Candidates
    >>> import torch
    >>> Candidates(torch.zeros((2, 3), dtype=torch.int64))
    Candidates(items=int64 (2, 3), pair=None)
    """
    parts = ((field.name, getattr(record, field.name)) for field in fields(record))
    return f"{type(record).__name__}({', '.join(f'{name}={_cut(part)}' for name, part in parts)})"


def _cut(part: Any) -> str:
    if hasattr(part, "dtype") and hasattr(part, "shape"):
        return f"{str(part.dtype).removeprefix('torch.')} {tuple(part.shape)}"
    if hasattr(part, "columns") or isinstance(part, Mapping | tuple | list):
        return f"{type(part).__name__} of {len(part)}"
    text = repr(part)
    return text if len(text) <= CUT and "\n" not in text else type(part).__name__


def notes_of(notes: Iterable[str]) -> list[str]:
    """Notes as lines, a repeated one once."""
    return [f"note: {note}" for note in dict.fromkeys(notes)]


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    lines = []
    for cells in (head, *rows):
        triples = zip(head, cells, widths, strict=True)
        lines.append("  ".join(cell.ljust(w) if name in LEFT else cell.rjust(w) for name, cell, w in triples).rstrip())
    return "\n".join(lines)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table, numbers to the right."""
    rule = ["---" if name in LEFT else "---:" for name in head]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *escaped))


def _html(part: str | Table) -> str:
    if isinstance(part, str):
        return f'<div style="white-space: pre-wrap">{escape(part)}</div>'
    sides = ["left" if name in LEFT else "right" for name in part.head]

    def row(tag: str, cells: Sequence[str]) -> str:
        pairs = zip(sides, cells, strict=True)
        return "<tr>" + "".join(f'<{tag} style="text-align: {s}">{escape(c)}</{tag}>' for s, c in pairs) + "</tr>"

    body = "".join(row("td", cells) for cells in part.rows)
    return f"<table><thead>{row('th', part.head)}</thead><tbody>{body}</tbody></table>"


def stage_title(stage: str) -> str:
    """A stage of training in words.

    >>> stage_title("retriever-inner2"), stage_title("ranker-phase2")
    ('retriever for the lists 2', 'ranker, phase 2')
    """
    base, sign, phase = stage.partition("-phase")
    name, inner, part = base.partition("-inner")
    said = f"{name} for the lists{'' if part == '1' else f' {part}'}" if inner else name
    return f"{said}, phase {phase}" if sign else said


def seconds(value: float) -> str:
    """Seconds for people; what is short does not become 0.0.

    >>> seconds(12.34), seconds(0.052), seconds(0.001)
    ('12.3 s', '0.05 s', 'under 0.01 s')
    """
    return f"{value:.1f} s" if value >= 1 else f"{value:.2f} s" if value >= 0.01 else "under 0.01 s"


# -- who looks on ------------------------------------------------------------------------------------------------------


def in_notebook() -> bool:
    """Whether this is a notebook: an IPython that speaks to a front end."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


_SILENT = ContextVar("silent", default=False)


@contextmanager
def silent() -> Iterator[None]:
    """Within it nobody looks on: for what shows its progress itself."""
    token = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(token)


def watched() -> bool:
    """Whether a person looks on: in a notebook, or at a terminal that neither output was turned away from."""
    return not _SILENT.get() and (in_notebook() or (sys.stdout.isatty() and sys.stderr.isatty()))


def tell(lines: Iterable[str], always: bool = False) -> None:
    """Shows lines to a person who looks on, and to nobody else unless ``always``; what is too long ends in …"""
    if always or watched():
        stream = sys.stdout if in_notebook() else sys.stderr  # a notebook paints errors red
        for line in lines:
            stream.write((line if len(line) <= LONG else f"{line[: LONG - 1]}…") + "\n")
