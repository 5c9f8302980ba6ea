"""An exported system, answered with NumPy and ONNX Runtime alone: who asks in, ranked lists out.

``suisen export`` copies this file beside what it reads, so that whoever answers from it needs nothing of Suisen:

    from exported import Exported
    lists = Exported("folder").answer(["4711", None], [None, ["50", "181"]], k=10)

The stages are those of ``suisen.recommending.engine``: the query tower, every inner product with what may be
recommended, the best of them in the ranker's order.  Cost per list: n·d multiply-adds and 12·n bytes for n items of d
numbers, and the ranker's work per candidate.  Equal scores: the item of the lower number first.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SCORES_PER_CHUNK = 2**23
"""Scores of the catalogue that are held at a time: 96 MB with what orders them."""
ROWS_PER_CHUNK = 256
"""Queries that are answered together."""
MAPPED = 2**20
"""Bytes from which on a table is mapped into memory rather than read: processes then share it."""
SIGN = np.uint32(0x8000_0000)
WHOLE = re.compile(r"-?[0-9]+")
FORMAT = 1
CPU = ("CPUExecutionProvider",)


class Rows(NamedTuple):
    """Row i is ``values[offsets[i]:offsets[i + 1]]``."""

    values: Array
    offsets: Array

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Rows:
        """From Python lists."""
        offsets = np.cumsum([0, *(len(row) for row in rows)])
        return cls(np.array([value for row in rows for value in row], dtype=np.int64), offsets)

    def take(self, which: Array) -> Rows:
        """The rows named, in that order."""
        starts = self.offsets[which]
        lengths = self.offsets[which + 1] - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Rows(np.asarray(self.values[places]), offsets)

    def places(self) -> Array:
        """(n,) the row that each value stands in."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def box(self, most: int | None, width: int | None) -> Array:
        """(B, L) the last ``most`` values of each row from the left, 0 behind; L is ``width``, or the longest row."""
        lengths = np.diff(self.offsets)
        kept = (lengths if most is None else np.minimum(lengths, most))[:, None]  # (B, 1)
        places = np.arange(width or max(1, int(kept.max(initial=0))))
        inside = places < kept
        at = np.where(inside, self.offsets[1:, None] - kept + places, 0)
        return np.where(inside, self.values[at] if len(self.values) else 0, 0).astype(np.int64)


class Asked(NamedTuple):
    """B queries in dense numbers."""

    user: Array
    """(B,) rows of the user tables; 0: nobody that they know."""
    history: Rows
    """Items of each, oldest first."""
    history_time: Rows
    """Their times, microseconds since 1970 UTC; those of the query where a query brings its own history."""
    at: int
    """The query's time."""


class Lists(NamedTuple):
    """Answers to B queries."""

    items: list[list[str]]
    """Ids, best first: k of them, or as many as are allowed."""
    scores: list[list[float]]
    by: list[str]
    """What answered each: "model", or "popular" where the model knows nothing to go by."""


class Exported:
    """A folder that ``suisen export`` wrote, ready to answer.  ``threads``: of each graph."""

    def __init__(self, folder: str | Path, threads: int = 1, providers: Sequence[str] = CPU) -> None:
        import onnxruntime

        self.folder = Path(folder)
        self.about: dict[str, Any] = json.loads((self.folder / "suisen.json").read_text(encoding="utf-8"))
        if self.about["format"] != FORMAT:
            raise ValueError(f"{self.folder} has format {self.about['format']}, this reads {FORMAT}; export it again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        self._graphs = {
            name: onnxruntime.InferenceSession(str(self.folder / f"{name}.onnx"), options, list(providers))
            for name in self.about["graphs"]
        }
        self._tables = {path.stem: _loaded(path) for path in self.folder.glob("*.npy")}
        self._grams = {}
        for name, settings in self.about["folds"].items():
            table = self._tables["item_vectors" if name == "query" else "item_states"]
            self._grams[name] = settings["unobserved"] * (table.T @ table).astype(np.float64)
        self.allowed = np.asarray(self._tables["allowed"])
        self.n_allowed = int(self.allowed.sum())
        self._vectors = self._tables["item_vectors"][1:]
        self._histories = Rows(self._tables["history"], self._tables["history_offsets"])
        self.items = self._texts("item")
        self._dense = {"item": _places(self.items), "user": _places(self._texts("user"))}

    # -- queries ------------------------------------------------------------------------------------------------------

    def ask(
        self,
        users: Sequence[str | None],
        histories: Sequence[Sequence[str] | None] | None = None,
        at: int | None = None,
    ) -> Asked:
        """Queries of users, of histories, or of both: a history that is given takes the stored one's place.

        Ids that are not known are passed over.  ``at``: microseconds since 1970 UTC; None: now.
        """
        rows = self._dense_of("user", users)
        at = (time.time_ns() // 1000 if at is None else at) * self.about["has_time"]
        history = self._histories.take(rows)
        times = self._tables.get("history_time")
        since = history._replace(values=np.zeros_like(history.values))
        if times is not None:
            since = Rows(times, self._histories.offsets).take(rows)
        if histories is None or all(one is None for one in histories):
            return Asked(rows, history, since, at)
        stored, moments = np.split(history.values, history.offsets[1:-1]), np.split(since.values, since.offsets[1:-1])
        for place, given in enumerate(histories):
            if given is not None:
                known = self._dense_of("item", given)
                stored[place] = known[known > 0]
                moments[place] = np.full_like(stored[place], at)
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in stored])])
        return Asked(rows, Rows(np.concatenate(stored), offsets), Rows(np.concatenate(moments), offsets), at)

    def answerable(self, asked: Asked) -> Array:
        """(B,) bool: which queries the model can answer: by the user's own vector, a history or features."""
        abilities, able = self.about["abilities"], np.asarray(self._tables["user_trained"][asked.user])
        past = np.diff(asked.history.offsets) > 0
        if "history" in abilities:
            able = able | past if "new users" in abilities else past
        if "new users" in abilities:
            able = able | (self._tables["user_featured"][asked.user] if "features" in abilities else True)
        return able

    def answer(
        self,
        users: Sequence[str | None],
        histories: Sequence[Sequence[str] | None] | None = None,
        k: int = 10,
        exclude_seen: bool | None = None,
    ) -> Lists:
        """The best k items for each query, none of its history unless the bundle, or ``exclude_seen``, says so."""
        asked = self.ask(users, histories)
        able = self.answerable(asked)
        seen = self.about["exclude_seen"] if exclude_seen is None else exclude_seen
        exclude = asked.history if seen else Rows.of([()] * len(users))
        ids, scores = np.zeros((len(users), k), dtype=np.int64), np.full((len(users), k), -np.inf, dtype=np.float32)
        for rows, make in ((np.flatnonzero(able), self.lists), (np.flatnonzero(~able), self.popular)):
            if len(rows):
                ids[rows], scores[rows] = make(_some(asked, rows), k, exclude.take(rows))
        counts = (ids > 0).sum(1)
        return Lists(
            [[self.items[at] for at in row[:count]] for row, count in zip(ids.tolist(), counts, strict=True)],
            [row[:count] for row, count in zip(scores.tolist(), counts, strict=True)],
            ["model" if yes else "popular" for yes in able.tolist()],
        )

    # -- stages -------------------------------------------------------------------------------------------------------

    def lists(self, asked: Asked, k: int, exclude: Rows) -> tuple[Array, Array]:
        """(B, k) dense items, 0 = none, and their scores, descending, -inf beside none."""
        n = max(k, self.about["candidates"]) if "combine" in self._graphs else k
        return self._chunked(asked, k, exclude, lambda part, gone: self._ranked(part, *self._found(part, n, gone)))

    def popular(self, asked: Asked, k: int, exclude: Rows) -> tuple[Array, Array]:
        """The same of the items that train has most events of; scores are the events."""
        counts = np.where(self._tables["item_trained"], self._tables["item_counts"], -np.inf).astype(np.float32)[1:]

        def make(part: Asked, gone: Rows) -> tuple[Array, Array]:
            return _best(np.repeat(counts[None], len(part.user), 0), k, gone)

        return self._chunked(asked, k, exclude, make)

    def _chunked(self, asked: Asked, k: int, exclude: Rows, make: Any) -> tuple[Array, Array]:
        ids, scores = np.zeros((len(asked.user), k), dtype=np.int64), np.full((len(asked.user), k), -np.inf)
        step = max(1, min(ROWS_PER_CHUNK, SCORES_PER_CHUNK // len(self.allowed)))
        for start in range(0, len(asked.user), step):
            rows = np.arange(start, min(start + step, len(asked.user)))
            found, values = make(_some(asked, rows), exclude.take(rows))
            width = min(k, found.shape[1])
            ids[rows, :width], scores[rows, :width] = found[:, :k], values[:, :k]
        return ids, scores.astype(np.float32)

    def _found(self, asked: Asked, n: int, exclude: Rows) -> tuple[Array, Array]:
        """(B, at most n) candidates and their retrieval scores."""
        scores = self.state("query", asked) @ self._vectors.T  # (B, n_items − 1)
        scores[:, ~self.allowed[1:]] = -np.inf
        return _best(scores, min(n, self.n_allowed), exclude)

    def _ranked(self, asked: Asked, ids: Array, scores: Array) -> tuple[Array, Array]:
        """The same lists in the ranker's order, with its scores."""
        if "combine" not in self._graphs or not ids.shape[1]:
            return ids, scores
        given = {
            "context": self.state("context", asked),
            "item": self._tables["item_states"][ids],
            "pair": pair_features(scores, ids > 0),
        }
        graph = self._graphs["combine"]
        ranked = graph.run(None, {each.name: given[each.name] for each in graph.get_inputs()})[0]
        ranked = np.where(ids > 0, ranked, -np.inf)
        order = np.argsort(-ranked, axis=1, kind="stable")
        return np.take_along_axis(ids, order, 1), np.take_along_axis(ranked, order, 1)

    def state(self, name: str, asked: Asked) -> Array:
        """(B, d) query vectors (``query``) or context states (``context``)."""
        if name in self.about["folds"]:
            return self._folded(name, asked)
        graph = self._graphs[name]
        given = {each.name: self._input(each.name, each.shape, asked, name) for each in graph.get_inputs()}
        found: Array = graph.run(None, given)[0]
        return found

    def _folded(self, name: str, asked: Asked) -> Array:
        """Query vectors by least squares; see ``suisen.models.contract.Fold``.  d³ / 3 + n·d² multiply-adds for n
        items: a query at a time loses nothing.
        """
        settings, table = self.about["folds"][name], self._tables["item_vectors" if name == "query" else "item_states"]
        out = self._tables[f"{name}_stored"][self._known(asked)]
        items, ends = asked.history.values, asked.history.offsets
        for row in np.flatnonzero(np.diff(ends)):
            taken = table[np.unique(items[ends[row] : ends[row + 1]])].astype(np.float64)  # (n, d)
            scale = settings["l2"] * (len(taken) + settings["unobserved"] * settings["items"]) ** settings["power"]
            system = self._grams[name] + taken.T @ taken + scale * np.eye(taken.shape[1])
            out[row] = np.linalg.solve(system, taken.sum(0))
        return out

    def _known(self, asked: Asked) -> Array:
        """(B,) users that train has events of; 0 for the others."""
        return np.where(self._tables["user_trained"][asked.user], asked.user, 0)

    def _input(self, name: str, shape: Sequence[Any], asked: Asked, graph: str) -> Array:
        """One input of a graph."""
        rows, width = len(asked.user), shape[1] if len(shape) > 1 and isinstance(shape[1], int) else None
        if name == "user":
            return self._known(asked)
        if name == "time":
            return np.full(rows, asked.at, dtype=np.int64)
        if name in ("history", "history_time"):
            return (asked.history if name == "history" else asked.history_time).box(self.about["graphs"][graph], width)
        if name.startswith("context_"):  # of the moment nothing is known
            return np.zeros((rows, width or 1), dtype=np.float32 if name.endswith("numeric") else np.int64)
        if "_multi_" in name:
            return Rows(self._tables[name], self._tables[f"{name}_offsets"]).take(asked.user).box(None, width)
        return np.asarray(self._tables[name][asked.user])

    def _dense_of(self, kind: str, ids: Sequence[str | None]) -> Array:
        """(n,) dense numbers; 0 for what is not known."""
        table = self._dense[kind]
        if f"{kind}_ids_offsets" not in self._tables:  # whole numbers: "007" is 7
            ids = [str(int(one)) if one and WHOLE.fullmatch(one) else one for one in ids]
        return np.array([table.get(one, 0) if one else 0 for one in ids], dtype=np.int64)

    def _texts(self, kind: str) -> list[str]:
        """Ids by their dense number, as text; "" for 0."""
        raw, ends = self._tables[f"{kind}_ids"], self._tables.get(f"{kind}_ids_offsets")
        if ends is None:
            return ["", *map(str, raw.tolist())]
        held, cuts = raw.tobytes(), ends.tolist()
        return ["", *(held[start:end].decode("utf-8") for start, end in pairwise(cuts))]


def pair_features(scores: Array, known: Array) -> Array:
    """(B, C, 2): see ``suisen.recommending.engine.pair_features``."""
    count = np.maximum(known.sum(1, keepdims=True), 1).astype(np.float32)
    held = np.where(known, scores, 0).astype(np.float32)
    apart = np.where(known, held - held.sum(1, keepdims=True) / count, 0)
    spread = np.sqrt(np.square(apart).sum(1, keepdims=True) / count)
    rank = -np.log2(np.arange(1, scores.shape[1] + 1, dtype=np.float32)) / 8
    both = [apart / np.maximum(spread, 1e-6), np.broadcast_to(rank, apart.shape)]
    return np.stack(both, 2).astype(np.float32)


def _best(scores: Array, k: int, exclude: Rows) -> tuple[Array, Array]:
    """(B, min(k, n)) items and scores of the largest of (B, n), column j being item j + 1; 0 and -inf where there is
    none.  One number holds score (reversed) and column, so that equal scores need no thought.
    """
    scores[exclude.places(), exclude.values - 1] = -np.inf
    k = min(k, scores.shape[1])
    bits = (scores + np.float32(0)).view(np.uint32)  # + 0 turns -0 into 0
    falling = np.where(bits & SIGN, bits, ~bits & ~SIGN).astype(np.uint64)
    keys = (falling << np.uint64(32)) | np.arange(scores.shape[1], dtype=np.uint64)
    if 0 < k < scores.shape[1]:
        keys = np.partition(keys, k - 1, axis=1)
    keys = np.sort(keys[:, :k], axis=1)
    columns = (keys & np.uint64(0xFFFF_FFFF)).astype(np.int64)
    best = np.take_along_axis(scores, columns, 1)
    return np.where(best > -np.inf, columns + 1, 0), best


def _places(texts: Sequence[str]) -> dict[str, int]:
    return {text: at for at, text in enumerate(texts) if at}


def _some(asked: Asked, rows: Array) -> Asked:
    return Asked(asked.user[rows], asked.history.take(rows), asked.history_time.take(rows), asked.at)


def _loaded(path: Path) -> Array:
    mapped = path.stat().st_size > MAPPED
    found: Array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    return found
