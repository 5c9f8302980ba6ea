"""What ``suisen recommend`` reads of text and files: conditions on items, and a file of users or histories."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from suisen.cli.options import note
from suisen.data.clean import as_ids
from suisen.data.formats import raw_of_path
from suisen.data.raw import Raw
from suisen.errors import InputError
from suisen.pipeline import Recommender
from suisen.recommending import answering
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.rules.ruling import tally, unmet_lines

USERS = ("user_id", "user", "userid", "uid")
HISTORY = "history"
SEPARATOR = "|"
QUERIES_PER_CHUNK = 8192
"""Queries of a file whose lists are held at a time."""
CONDITION = re.compile(r"\s*([^<>=]+?)\s*(>=|<=|=)\s*(.+?)\s*", re.DOTALL)


def conditions(texts: Sequence[str]) -> dict[str, Any] | None:
    """``genre=Drama|Comedy`` and ``year>=1990`` as ``RecommendOptions.where`` has them; None where there are none."""
    out: dict[str, Any] = {}
    for text in texts:
        found = CONDITION.fullmatch(text)
        if found is None:
            raise InputError(f"--where {text!r} is no condition; write genre=Drama, genre=Drama|Comedy or year>=1990")
        name, sign, value = found.groups()
        if sign == "=" and name not in out:
            out[name] = value.split(SEPARATOR)
        elif sign != "=" and isinstance(out.get(name, ()), tuple):
            least, most = out.get(name, (None, None))
            out[name] = (value, most) if sign == ">=" else (least, value)
        else:
            raise InputError(f"--where {name} is given twice; write {name}=a|b for either of two values")
    return out or None


def answered_file(recommender: Recommender, path: Path, options: RecommendOptions) -> Iterator[pl.DataFrame]:
    """Frames of user_id, item_id, score and rank for the queries of a file, some thousands of queries at a time.

    A row without a user bears its number in the file, from 0.  Raises InputError where the file has neither users nor
    histories, and where such a number is also a user's id.
    """
    raw = raw_of_path(path)
    users, histories = _users(raw), _histories(raw)
    if users is None and histories is None:
        columns = ", ".join(raw.frame.columns)
        raise InputError(f"--queries {path}: name a column user_id or {HISTORY}; columns: {columns}")
    names = _names(raw.frame.height, users, path)
    unused = [name for name in raw.frame.columns if name.lower() not in (*USERS, HISTORY)]
    if unused:
        note(f"{path.name}: columns not used: {', '.join(unused)}")
    return _frames(recommender, options, names, users, histories)


def _frames(
    recommender: Recommender,
    options: RecommendOptions,
    names: pl.Series,
    users: pl.Series | None,
    histories: list[list[Any] | None] | None,
) -> Iterator[pl.DataFrame]:
    counts = dict.fromkeys(("popular", "nobody"), 0)
    unmet: Counter[tuple[str, str]] = Counter()
    for start in range(0, names.len(), QUERIES_PER_CHUNK):
        part = slice(start, start + QUERIES_PER_CHUNK)
        queries = RawQueries(
            None if users is None else users[part].to_list(), history=None if histories is None else histories[part]
        )
        answers = recommender.answer(queries, options)
        for by in counts:
            counts[by] += answers.by.count(by)  # type: ignore[arg-type]
        unmet += tally(answers.unmet)
        yield answering.to_frame(recommender.system, RawQueries(names[part].to_list()), answers)
    for by, said in (("popular", "got the popular list"), ("nobody", "were skipped")):
        if counts[by]:
            note(f"{counts[by]:,} of {names.len():,} queries, of which the model knows nothing, {said}")
    for line in unmet_lines(unmet, names.len()):
        note(line)


def _users(raw: Raw) -> pl.Series | None:
    found = [name for name in raw.frame.columns if name.lower() in USERS]
    if len(found) > 1:
        raise InputError(f"{raw.name}: {' and '.join(found)} may each be the user; keep one of them")
    return as_ids(found[0], raw.frame[found[0]], raw.text) if found else None


def _histories(raw: Raw) -> list[list[Any] | None] | None:
    """One list of items per row, oldest first; None: what is stored of the user."""
    found = [name for name in raw.frame.columns if name.lower() == HISTORY]
    if not found:
        return None
    column = raw.frame[found[0]]
    if column.dtype in (pl.List, pl.Array):
        rows: list[list[Any] | None] = column.to_list()
    else:
        texts = column.cast(pl.String)
        rows = texts.set(texts.str.strip_chars() == "", None).str.split(SEPARATOR).to_list()
    return [None if row is None else [item.strip() if isinstance(item, str) else item for item in row] for row in rows]


def _names(count: int, users: pl.Series | None, path: Path) -> pl.Series:
    """What stands in user_id: the user, or the number of the row."""
    numbers = pl.int_range(count, dtype=pl.Int64, eager=True)
    if users is None:
        return numbers
    numbers = numbers.cast(users.dtype)
    taken = numbers.filter(users.is_null())
    twice = taken.filter(taken.is_in(users.drop_nulls().implode()))
    if twice.len():
        raise InputError(f"--queries {path}: row {twice[0]} names no user, and {twice[0]!r} is a user too; ask apart")
    return pl.select(pl.coalesce(users, numbers)).to_series()
