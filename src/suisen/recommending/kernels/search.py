"""The answer: the best items of some queries, retrieved in int8 and ranked as fast as the speed says.

    table = Quantised.of(index.vectors)                       # or Quantised.load(folder, index.vectors)
    ranks = RankTables.of(form, item_rows, sample)            # or RankTables.load(folder, len(index.vectors))
    positions, scores = two_stage(table, ranks, queries, rows, 500, 10, exclude)

``candidates`` is the first stage alone, ``ranked`` the second.  ``path_of()`` says what runs; the first call of a path
compiles it or reads it from the cache, so a server makes one call before it is ready.

Operations per query: n·d multiply-adds of bytes, then d for each survivor.  Survivors are more than the k that are
asked for, by a margin for what rounding moves over the edge; ``agreement`` measures whether the margin is wide enough.
A call costs 25 µs beside its arithmetic, of which 8 are spent on the way into compiled code; ``benchmarks/kernel_cost``
measures the parts.
"""

import math
import threading
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from suisen.errors import InputError
from suisen.recommending.kernels import plain, reference
from suisen.recommending.kernels.pairs import falling
from suisen.recommending.kernels.paths import path_of
from suisen.recommending.kernels.quantised import Quantised, Words, aligned
from suisen.recommending.kernels.ranks import RankTables
from suisen.retrieval.checks import checked_search
from suisen.retrieval.contract import Bools, Excluded, Floats, Ints
from suisen.retrieval.exact import scan
from suisen.retrieval.select import pack, unpack

QUERIES = 60
"""Queries that are scanned together: more bring nothing, and their keys would leave the cache."""
LEAST_MARGIN, MARGIN_SHARE = 32, 8
"""The margin of k is k / 8, and at least 32."""
LEAST_LEFT, CUT_SHARE = 2, 4
"""Candidates beside k that are scored in float32, at least; and how many times k the cut leaves, at least."""
SPARE = 2_048
"""Keys beside the best that a query's row has room for."""
GROUPS = {"vnni": 6, "avx2": 2}
"""Rows that a tile takes: as many as leave their sums in the processor's registers."""
LEVELS: dict[str, Any] = {"vnni": np.int8, "avx2": np.int16}
"""What levels are multiplied as."""


class Speed(NamedTuple):
    """How much of the arithmetic is left out; the fields' defaults leave nothing out."""

    rescore: bool = True
    """Candidates are chosen and ordered by float32 inner products; else chosen by int8 ones, ordered by int16 ones."""
    cut: int = 0
    """Candidates that a linear read-out of the ranker leaves, or more where k asks for it; 0: all."""
    quantised: bool = False
    """Whether those are scored in int8."""
    finish: int = 0
    """How many of the best in int8 are scored again in float32, or more where k asks for it; 0: none."""

    def fitted(self, k: int, ranks: RankTables) -> tuple[int, int, int]:
        """Cut, int8 and finish as the kernels take them, for lists of k; a ranker without a net has no shorter way."""
        if not ranks.shape[2]:
            return 0, 0, 0
        finish = max(self.finish, k + max(LEAST_LEFT, k // 4)) if self.quantised and self.finish else 0
        cut = max(self.cut, CUT_SHARE * k) if self.cut else 0
        return cut, int(self.quantised), finish


PRECISE = Speed()


class Agreement(NamedTuple):
    """How candidates compare with those of an exact float32 search."""

    identical: float
    """Share of the queries whose lists are the same positions in the same order."""
    overlap: float
    """Mean share of the exact list that was found."""
    queries: int


def margin_of(k: int) -> int:
    """Survivors beside k where nothing else is asked for."""
    return max(LEAST_MARGIN, k // MARGIN_SHARE)


def two_stage(
    table: Quantised,
    ranks: RankTables | None,
    queries: Floats,
    rows: Floats | None,
    candidates: int,
    k: int,
    exclude: Excluded | None = None,
    allowed: Bools | Words | None = None,
    speed: Speed = PRECISE,
    path: str | None = None,
) -> tuple[Ints, Floats]:
    """(B, k) positions, -1 = none, and (B, k) scores, falling, -inf beside none.

    queries: (B, d) float32; ``rows``: (B, r) context rows of the ranker's form; ``ranks`` None: the first stage's lists
    as they are.  ``candidates``: how many are ranked, at least k.  ``exclude``: positions of each query; ``allowed``:
    (n,) one mask for all, or bits that ``table.open_to`` made of one.  Every query gets min(k, positions that are
    left).  Equal scores: the better by the first stage; there, the lower position.

    Raises InputError.
    """
    _check(k)
    if ranks is not None and len(ranks.rows) != len(table.vectors):
        raise InputError(f"ranks holds {len(ranks.rows)} items, table {len(table.vectors)}; make both of one catalogue")
    most = min(max(candidates, k) if ranks is not None else k, len(table.vectors))

    def answered(part: _Part) -> tuple[Ints, Floats]:
        lists = _retrieved(table, part, most, margin_of(most), allowed, speed.rescore, path)
        if ranks is None:
            return lists[:2]
        true = None if speed.rescore else (table.vectors, part.queries)
        return _ranked(ranks, lists, part.rows, k, speed, true, path)

    return _joined(map(answered, _batches(queries, rows, exclude)), len(queries), k)


def candidates(
    table: Quantised,
    queries: Floats,
    k: int,
    exclude: Excluded | None = None,
    allowed: Bools | Words | None = None,
    *,
    path: str | None = None,
    margin: int | None = None,
) -> tuple[Ints, Floats]:
    """(B, k) positions, -1 = none, and (B, k) true inner products, descending, -inf beside none: as ``Index.search``.

    Arguments as in ``two_stage``.  Equal scores: lower position first.  ``margin``: survivors of the scan beside k;
    None: ``margin_of(k)``.  Every path gives the same bits, and so does every way to put queries into calls.
    """
    margin = margin_of(k) if margin is None else margin
    if margin < 0:
        raise InputError(f"margin = {margin} is negative; give 0 or more, or leave it out")
    _check(k)
    most = min(k, len(table.vectors))
    batches = _batches(queries, None, exclude)
    lists = (_retrieved(table, part, most, margin, allowed, True, path)[:2] for part in batches)
    return _joined(lists, len(queries), k)


def ranked(
    ranks: RankTables,
    positions: Ints,
    scores: Floats,
    rows: Floats,
    k: int,
    speed: Speed = PRECISE,
    path: str | None = None,
) -> tuple[Ints, Floats]:
    """The second stage alone: as ``two_stage``, of lists (B, C) of positions, -1 behind them, with falling scores."""
    if positions.shape != scores.shape or (positions >= len(ranks.rows)).any():
        raise InputError(f"positions has shape {positions.shape}, scores {scores.shape}, of {len(ranks.rows)} items")
    _check(k)
    known = positions >= 0
    if (known[:, 1:] & ~known[:, :-1]).any():
        raise InputError("positions has a candidate behind -1; put what is missing at the lists' ends")
    counts = known.sum(axis=1)
    lists = _plain(positions, np.int64), _plain(scores, np.float32), counts
    return _joined([_ranked(ranks, lists, rows, k, speed, None, path)], len(rows), k)


def _check(k: int) -> None:
    if k < 0:
        raise InputError(f"k = {k} is negative; give 0 or more")


class _Part(NamedTuple):
    """Queries that are answered together."""

    queries: Floats
    rows: Floats | None
    exclude: Excluded | None


def _batches(queries: Floats, rows: Floats | None, exclude: Excluded | None) -> list[_Part]:
    if len(queries) <= QUERIES:
        return [_Part(queries, rows, exclude)]
    out = []
    for first in range(0, len(queries), QUERIES):
        here = slice(first, first + QUERIES)
        gone = exclude
        if exclude is not None and len(exclude.offsets) == len(queries) + 1:
            offsets = exclude.offsets[first : first + QUERIES + 1]
            gone = Excluded(exclude.values[offsets[0] : offsets[-1]], offsets - offsets[0])
        out.append(_Part(queries[here], None if rows is None else rows[here], gone))
    return out


def _joined(parts: Iterable[tuple[Ints, Floats]], b: int, k: int) -> tuple[Ints, Floats]:
    """(B, k) copies, filled up where lists are shorter; each part is copied before the next is made."""
    ids, scores = np.full((b, k), -1, dtype=np.int64), np.full((b, k), -np.inf, dtype=np.float32)
    row = 0
    for positions, found in parts:
        here = (slice(row, row + len(positions)), slice(0, positions.shape[1]))
        ids[here], scores[here] = positions, found
        row += len(positions)
    return ids, scores


class _Scratch(threading.local):
    """Arrays that are kept between the calls of a thread, so that no memory is asked for and none is cleared."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, Any], Any] = {}
        self._views: dict[tuple[str, Any], Any] = {}

    def take(self, name: str, shape: tuple[int, ...], kind: Any) -> Any:
        """An array of this shape with anything in it, that holds until the name is taken again."""
        last = self._views.get((name, kind))
        if last is None or last.shape != shape:
            size = math.prod(shape)
            held = self._held.get((name, kind))
            if held is None or len(held) < size:
                held = self._held[name, kind] = aligned((size,), kind)
            last = self._views[name, kind] = held[:size].reshape(shape)
        return last


_scratch = _Scratch()


def _retrieved(
    table: Quantised, part: _Part, most: int, margin: int, allowed: Bools | Words | None, exact: bool, path: str | None
) -> tuple[Ints, Floats, Ints]:
    """The first stage's sorted lists of at most 60 queries: (B, most) positions and scores, and (B,) how many."""
    n = len(table.vectors)
    best = min(most + margin, n) if exact else most
    run = path_of(path)
    asked = part.queries
    if run != "plain" and most > 0 and len(asked) and asked.dtype == np.float32 and asked.shape[1:] == (table.d,):
        base = _words(table, allowed)
        if base is not None:
            lists = _compiled_lists(table, part, base, (best, most), exact, run)
            if lists is not None:
                return lists
    mask: Any = allowed
    if mask is not None and mask.dtype == np.uint64:
        mask = table.allowed_by(mask)
    search = checked_search(table.vectors, part.queries, best, part.exclude, mask)
    return plain.retrieve(table, search, exact, most)


def _words(table: Quantised, allowed: Any) -> Words | None:
    """Bits of the slots that any query may get; None for a mask of something else."""
    if allowed is None:
        return table.open_to_all
    if allowed.dtype == np.uint64 and allowed.shape == (len(table.tiles),):
        bits: Words = allowed
        return bits
    return table.open_to(allowed) if allowed.dtype == np.bool_ and allowed.shape == (len(table.vectors),) else None


def _compiled_lists(
    table: Quantised, part: _Part, base: Words, sizes: tuple[int, int], exact: bool, path: str
) -> tuple[Ints, Floats, Ints] | None:
    """The lists by compiled code; None where the queries or exclusions are no good, whom ``checked_search`` names."""
    from suisen.recommending.kernels.lists import retrieve  # numba takes a second, and not everybody has it

    best, most = sizes
    cells = table.cell_arrays
    b, group = len(part.queries), GROUPS[path]
    rows = 1 if b == 1 else -(-b // group) * group
    values, offsets = part.exclude or Excluded(np.zeros(0, np.int64), np.zeros(b + 1, np.int64))
    if len(offsets) != b + 1:
        return None
    scratch = (
        _scratch.take("keys", (rows, max(best, cells[4]) + SPARE), np.int64),
        _scratch.take("open", (rows, len(table.tiles)), np.uint64),
        _scratch.take("levels", (rows, 4 * table.tiles.shape[1]), LEVELS[path]),
    )
    out = (
        _scratch.take("positions", (b, most), np.int64),
        _scratch.take("scores", (b, most), np.float32),
        _scratch.take("counts", (b,), np.int64),
    )
    arrays = (table.tiles, table.low, table.scale, table.order, table.slots, table.vectors, table.fine)
    gone = _plain(values, np.int64), _plain(offsets, np.int64)
    queries = _plain(part.queries, np.float32)
    good = retrieve(arrays, cells, queries, gone, base, best, exact, ((0,), (0,) * group), scratch, out)
    return out if good else None


def _plain(array: Any, kind: Any) -> Any:
    """The array, or a copy where it is not what code was compiled for: contiguous, and not marked as read-only."""
    flags = array.flags
    if array.dtype == kind and flags.c_contiguous and flags.writeable and flags.aligned:
        return array
    return np.require(array, kind, ["C", "A", "W"])


@cache
def _falling(count: int) -> Floats:
    return falling(count)


def _ranked(
    ranks: RankTables,
    lists: tuple[Ints, Floats, Ints],
    rows: Floats | None,
    k: int,
    speed: Speed,
    true: tuple[Floats, Floats] | None,
    path: str | None,
) -> tuple[Ints, Floats]:
    """The second stage of lists: (B, at most k) positions and scores."""
    b, most = lists[0].shape
    if rows is None or rows.dtype != np.float32 or rows.shape != (b, ranks.rows.shape[1]):
        what = "missing" if rows is None else f"{rows.dtype} of shape {rows.shape}"
        raise InputError(f"rows is {what}; give float32 of shape {(b, ranks.rows.shape[1])}: context rows of the form")
    run, k, steps = path_of(path), min(k, most), speed.fitted(k, ranks)
    if run == "plain":
        return reference.rank(ranks, lists, rows, k, steps, true)
    from suisen.recommending.kernels.ranking import rank

    out = _scratch.take("best", (b, k), np.int64), _scratch.take("found", (b, k), np.float32)
    scratch = (
        _scratch.take("first", (int(ranks.widths[0]),), np.int16),
        _scratch.take("short", (ranks.short_bytes // 2,), np.int16),
        _falling(most),
    )
    ints, floats = ranks.compiled(LEVELS[run])
    if true is None:
        true = (np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))
    rank(
        lists, _plain(rows, np.float32), ints, floats, ranks.widths, ranks.numbers, steps, true,
        (0,) * GROUPS[run], scratch, out,
    )  # fmt: skip
    return out


def agreement(
    table: Quantised, queries: Floats, k: int, *, path: str | None = None, margin: int | None = None
) -> Agreement:
    """How often the candidates of (B, d) queries are those of an exact search, in the float32 arithmetic of both.

    Raises InputError where there is no query.
    """
    if not len(queries):
        raise InputError("queries has no row; give some that the table is to be judged by")
    found, _ = candidates(table, queries, k, path=path, margin=margin)
    # A few more of the exact search, in our own order of additions: at the edge its rounding is not ours.
    wide = checked_search(table.vectors, queries, min(k + LEAST_MARGIN, len(table.vectors)), None, None)
    near, _ = unpack(scan(table.vectors, wide), wide.k)
    keys = pack(plain.rescored(table.vectors, wide.queries, near), near)
    keys.sort(axis=1)
    truth, _ = unpack(keys[:, :k], k)
    overlap = [np.isin(true, one).mean() for true, one in zip(truth, found, strict=True)]
    return Agreement(float((truth == found).all(axis=1).mean()), float(np.mean(overlap)), len(queries))
