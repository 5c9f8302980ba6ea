"""A ranker as tables: its items' parts in float32 and, for a deep net, in int8, and the net's layers in both.

What is here comes from a ``Form``; see there for the score.  In int8:

* An item's part of the first layer, one step per column; a context's part in the same unit, in int16; pair features in
  1/4,096, times weights in int16.  Their sum, 0 to 255, is a level of the first layer's activations.
* The other layers: weights in int8 with a step per output; their activations, levels with a step per column.
* The inner product: int16 on both sides, as many levels as its sums in int32 can hold.
* The cut: one vector over the first layer's levels that says most of what the net says, fitted by ridge regression to
  the net's own scores in sample lists (each list's mean aside, the best hundred of a list weighing ten times more).

Steps of activations come from the same lists: 5 in 10,000 activations of a column lie above its largest level.
An item's record is as few cache lines as hold its bytes: h₁ of the first layer, β, and the inner product's int16.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from suisen.errors import BundleError, InputError
from suisen.files import replacing
from suisen.models.form import Form
from suisen.recommending.kernels.pairs import PAIRS, features_of
from suisen.recommending.kernels.quantised import ITEMS, aligned, mapped
from suisen.retrieval.contract import Floats, Ints

PAIR_LEVELS = 4096
"""Levels of 1 in a pair feature."""
LARGEST_PAIR = 7.99
"""Where pair features saturate in int16."""
CONTEXT_TOP = 16_383
"""Largest level of a context in the first layer."""
HEAD = 4
"""int16 numbers that a record's second part begins with: two β in float32."""
TOP, SIGNED = 255, 127
"""Largest levels of an activation, and of a weight."""
CLIPPED = 0.0005
"""Share of a column's activations that may lie above its largest level."""
HEAVY, LIGHT, HEADS = 1.0, 0.1, 100
"""Weights of a list's first ``HEADS`` candidates and of the others, where the cut is fitted."""
RIDGE = 1e-2
SAMPLE = 32_768
"""Pairs of context and candidate that scales and the cut are made from."""
CHUNK = 65_536


class Sample(NamedTuple):
    """Lists that int8 scales and the cut are fitted to."""

    contexts: Floats
    """(S, inner + p + h₁) rows."""
    positions: Ints
    """(S, C) candidates in retrieval order; -1 behind them."""
    scores: Floats
    """(S, C) retrieval scores, falling."""


@dataclass(frozen=True, eq=False)
class RankTables:
    """A ranker over n items; not to be written to.  Columns are padded to whole tiles of 64."""

    rows: Floats
    """(n, inner + p + h₁) items' rows."""
    records: npt.NDArray[np.uint8]
    """(n, bytes): h₁ int8, two β in float32, ``inner`` int16, whole cache lines; no row where there is no net."""
    shape: Ints
    """(3,): inner, p, h₁."""
    widths: Ints
    """(layers,) columns of each layer, padded; h₁ is the first."""
    gamma: Floats
    """(2, 2), upper triangle."""
    from_pair: Floats
    """(2, h₁)."""
    float_tiles: Floats
    """Weights of the layers behind the first, tile by tile: (inputs, 64)."""
    biases: Floats
    """Of the same."""
    out: Floats
    """(1, h_n)."""
    columns: Floats
    """(h₁,): levels of 1 in a column of the first layer."""
    pair_weights: npt.NDArray[np.int16]
    """(2, h₁)."""
    steps: Floats
    """(inner,): what a level of an item's number in the inner product is worth."""
    readout: npt.NDArray[np.int8]
    """(h₁,) the cut."""
    worth: Floats
    """(1,): what a unit of the read-out is worth."""
    tiles: npt.NDArray[np.uint8]
    """Bytes of int8 weights of the layers behind the first, tile by tile: (inputs / 4, 64, 4)."""
    units: Floats
    """(2, columns of the same): factor and summand that turn sums into levels, of the last layer into activations."""

    @classmethod
    def of(cls, form: Form, item_rows: Floats, sample: Sample) -> "RankTables":
        """Tables of a form and its items' rows; ``item_rows`` is kept where it is contiguous and writable.

        Bytes: about h₁ + 2·inner + 8 per item beside the rows.  Raises InputError for a form of more than two pair
        features, for rows of another width, and for a sample without a candidate where there is a net.
        """
        p, h = len(form.gamma), len(form.from_pair)
        if p > PAIRS:
            raise InputError(f"form has {p} pair features; the compiled ranker knows {PAIRS}: rank on torch")
        if item_rows.dtype != np.float32 or item_rows.shape[1] != form.inner + p + h:
            what = f"{item_rows.dtype} of shape {item_rows.shape}"
            raise InputError(f"item_rows is {what}; give float32 with {form.inner + p + h} columns")
        net = _Net(form, item_rows, sample)
        return cls(
            rows=np.require(item_rows, requirements=["C", "A", "W"]),
            shape=np.array([form.inner, p, h], dtype=np.int64),
            widths=np.array([_padded(width) for width in net.widths], dtype=np.int64),
            gamma=_wide(_array(form.gamma), (PAIRS, PAIRS)),
            from_pair=_wide(_array(form.from_pair).T, (PAIRS, _padded(h))),
            **net.floats(),
            **net.integers(),
        )

    @cached_property
    def numbers(self) -> tuple[int, int, int, int]:
        """inner, p, where the net's part of a row begins, and ``short_top``: what compiled code takes."""
        inner, p, _ = self.shape.tolist()
        return inner, p, inner + p, self.short_top

    @cached_property
    def short_bytes(self) -> int:
        """Bytes of a record's second part."""
        return _short_bytes(int(self.shape[0]))

    @cached_property
    def short_top(self) -> int:
        """Largest level on either side of the inner product: its sums stay below 2^31."""
        return _short_top(int(self.shape[0]))

    def compiled(self, levels: npt.DTypeLike) -> Any:
        """Tables of integers and of float32 as compiled code takes them; ``levels``: int8, or int16 for AVX2."""
        return self._compiled[np.dtype(levels).itemsize - 1]

    @cached_property
    def _compiled(self) -> list[Any]:
        betas = self.records.view(np.float32)  # β stand at h₁ / 4 and behind it
        floats = (self.rows, self.gamma, self.from_pair, (self.float_tiles, self.biases, self.out))
        shared = self.records, betas, self.columns, self.pair_weights
        order = _interleaved(int(self.widths[0]))
        tiles = self.tiles.copy()
        if len(self.widths) > 1:
            first = tiles[: self.widths[0] * self.widths[1]].reshape(-1, self.widths[0] // 4, ITEMS, 4)
            first[:] = _quads(_rows(first)[:, order])
        kinds = (self.readout[order], tiles), (self.readout.astype(np.int16), self.tiles)
        return [
            ((*shared, readout, self.worth, self.steps, weights, self.units, self.gamma, self.out[0]), floats)
            for readout, weights in kinds
        ]

    def save(self, folder: Path) -> None:
        """Writes a .npy file for each table; ``folder`` is made where it is missing."""
        for field in fields(self):
            with replacing(folder / f"{field.name}.npy") as path:
                np.save(path, getattr(self, field.name), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, n: int) -> "RankTables":
        """Maps what ``save`` wrote into memory, for a catalogue of n items: pages are shared between processes.

        Raises BundleError for a file that is missing, damaged or another ranker's.
        """
        shape = mapped(folder / "shape.npy", (3,), np.int64)
        widths = mapped(folder / "widths.npy", None, np.int64)
        inner, p, h = shape.tolist()
        if not (min(inner, p, h) >= 0 and p <= PAIRS and widths.ndim == 1 and len(widths)):
            raise BundleError(f"{folder / 'shape.npy'} holds {shape.tolist()}; save the tables again")
        if widths[0] != _padded(h) or (widths % ITEMS).any() or (widths < 0).any():
            raise BundleError(f"{folder / 'widths.npy'} holds {widths.tolist()}; save the tables again")
        first, last, upper = int(widths[0]), int(widths[-1]), int(widths[1:].sum())
        weights = int((widths[1:] * widths[:-1]).sum())
        kinds: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
            "rows": ((n, inner + p + h), np.float32),
            "records": ((n if first else 0, first + _short_bytes(inner)), np.uint8),
            "gamma": ((PAIRS, PAIRS), np.float32),
            "from_pair": ((PAIRS, first), np.float32),
            "float_tiles": ((weights,), np.float32),
            "biases": ((upper,), np.float32),
            "out": ((1, last), np.float32),
            "columns": ((first,), np.float32),
            "pair_weights": ((PAIRS, first), np.int16),
            "steps": ((inner,), np.float32),
            "readout": ((first,), np.int8),
            "worth": ((1,), np.float32),
            "tiles": ((weights,), np.uint8),
            "units": ((2, upper), np.float32),
        }
        read = {name: mapped(folder / f"{name}.npy", *kind) for name, kind in kinds.items()}
        return cls(shape=shape, widths=widths, **read)


class _Net:
    """The deep net of a form, on NumPy, and what a sample of lists says of it."""

    def __init__(self, form: Form, item_rows: Floats, sample: Sample) -> None:
        self.form, self.items = form, item_rows
        self.start = form.inner + len(form.gamma)
        self.layers = [(_array(weight), _array(bias)) for weight, bias in form.layers]
        self.out = _array(form.out)
        self.widths = [len(form.from_pair), *(len(bias) for _, bias in self.layers)]
        lists = max(1, SAMPLE // max(sample.positions.shape[1], 1))
        self.sample = Sample(sample.contexts[:lists], sample.positions[:lists], sample.scores[:lists])
        if self.widths[0] and not (self.sample.positions >= 0).any():
            raise InputError("sample holds no candidate; give lists that the int8 layers can be fitted to")

    def floats(self) -> dict[str, Any]:
        """The tables of float32."""
        tiles = [_tiled(weight, np.float32) for weight, _ in self.layers]
        biases = [_wide(bias, (_padded(len(bias)),)) for _, bias in self.layers]
        return {
            "float_tiles": _flat(tiles, np.float32),
            "biases": _flat(biases, np.float32),
            "out": _wide(self.out[None], (1, _padded(len(self.out)))),
        }

    def integers(self) -> dict[str, Any]:
        """The tables of integers and what goes with them."""
        h, inner = self.widths[0], self.form.inner
        first = _padded(h)
        lists, features, x = self.sampled()
        activations = [x]
        for weight, bias in self.layers:
            activations.append(np.maximum(activations[-1] @ weight.T + bias, 0))
        step = np.maximum(np.abs(self.items[:, self.start :]).max(axis=0, initial=0) / SIGNED, _step(x))
        step = np.where(step > 0, step, 1).astype(np.float32)
        given, tiles, units = step, [], []
        for depth, (weight, bias) in enumerate(self.layers, start=1):
            scaled = weight * given
            size = np.abs(scaled).max(axis=1, initial=0) / SIGNED
            size = np.where(size > 0, size, 1)
            tiles.append(_packed(np.rint(scaled / size[:, None])))
            above = depth == len(self.layers)
            given = np.ones(len(bias)) if above else _step(activations[depth])
            given = np.where(given > 0, given, 1)
            unit = np.stack([size / given, bias / given + (0 if above else 0.5)])
            units.append(_wide(unit, (2, _padded(len(bias)))))
        readout, worth = self.cut(lists, features, x, activations[-1] @ self.out, step)
        short = np.abs(self.items[:, :inner]).max(axis=0, initial=0) / _short_top(inner)
        short = np.where(short > 0, short, 1).astype(np.float32)
        weights = np.rint(_array(self.form.from_pair).T / step * (2**15 / PAIR_LEVELS))
        return {
            "records": self.records(step, short),
            "columns": _wide(1 / step, (first,)),
            "pair_weights": _wide(np.clip(weights, -(2**15) + 1, 2**15 - 1), (PAIRS, first), np.int16),
            "steps": short,
            "readout": _wide(readout, (first,), np.int8),
            "worth": np.array([worth], dtype=np.float32),
            "tiles": _flat(tiles, np.uint8),
            "units": np.concatenate([np.zeros((2, 0), np.float32), *units], axis=1),
        }

    def sampled(self) -> tuple[Ints, Floats, Floats]:
        """Of every candidate in the sample: its list (m,), pair features (m, p), and first activations (m, h₁)."""
        lists, places = np.nonzero(self.sample.positions >= 0)
        features = features_of(self.sample.scores, (self.sample.positions >= 0).sum(axis=1))[lists, places]
        features = features[:, : len(self.form.gamma)]
        items = self.items[self.sample.positions[lists, places], self.start :]
        x = self.sample.contexts[lists, self.start :] + items + features @ _array(self.form.from_pair).T
        return lists, features, np.maximum(x, 0)

    def cut(self, lists: Ints, features: Floats, x: Floats, deep: Floats, step: Floats) -> tuple[Floats, float]:
        """(h₁,) levels of the read-out, and what its unit is worth."""
        vector = self.out if not self.layers else _ridge(x, deep, lists, self.scores(lists, features, deep))
        scaled = vector * step
        worth = float(np.abs(scaled).max(initial=0)) / SIGNED or 1.0
        return np.rint(scaled / worth).astype(np.float32), worth

    def scores(self, lists: Ints, features: Floats, deep: Floats) -> Floats:
        """(m,) the ranker's scores of the sample."""
        inner, start = self.form.inner, self.start
        own = self.sample.contexts[lists]
        items = self.items[self.sample.positions[self.sample.positions >= 0]]
        pairs = features * (own[:, inner:start] + items[:, inner:start] + features @ _array(self.form.gamma).T)
        score: Floats = deep + (own[:, :inner] * items[:, :inner]).sum(axis=1) + pairs.sum(axis=1)
        return score

    def records(self, step: Floats, short: Floats) -> npt.NDArray[np.uint8]:
        """(n, bytes) items' records."""
        n, inner, first = len(self.items), self.form.inner, _padded(self.widths[0])
        out = aligned((n if first else 0, first + _short_bytes(inner)), np.uint8)
        for begin in range(0, len(out), CHUNK):
            rows, part = self.items[begin : begin + CHUNK], out[begin : begin + CHUNK]
            levels = np.rint(rows[:, self.start :] / step)
            part.view(np.int8)[:, : self.widths[0]] = np.clip(levels, -SIGNED, SIGNED)
            part[:, first:].view(np.float32)[:, : self.start - inner] = rows[:, inner : self.start]
            part[:, first:].view(np.int16)[:, HEAD : HEAD + inner] = np.rint(rows[:, :inner] / short)
        return out


def _ridge(x: Floats, deep: Floats, lists: Ints, scores: Floats) -> Floats:
    """(h₁,) the weights of x (m, h₁) that come nearest to the differences of ``deep`` (m,) inside each list."""
    order = np.lexsort((-scores, lists))
    rank = np.empty(len(lists), dtype=np.int64)
    rank[order] = np.arange(len(lists)) - np.searchsorted(lists, lists)  # lists are numbered in their order
    weights = np.where(rank < HEADS, HEAVY, LIGHT)
    mass = np.bincount(lists, weights)
    away = [np.bincount(lists, weights * column) for column in (deep, *x.T)]
    means = (np.stack(away, axis=1) / np.where(mass > 0, mass, 1)[:, None])[lists]  # (m, 1 + h₁)
    centred, target = x - means[:, 1:], deep - means[:, 0]
    gram = (centred * weights[:, None]).T @ centred + RIDGE * np.eye(x.shape[1])
    solved: Floats = np.linalg.solve(gram, (centred * weights[:, None]).T @ target).astype(np.float32)
    return solved


def _step(x: Floats) -> Floats:
    """(h,) what a level of (m, h) activations is worth."""
    if not x.size:
        return np.zeros(x.shape[1], dtype=np.float32)
    place = min(len(x) - 1, int(np.ceil((1 - CLIPPED) * len(x))))
    kth: Floats = np.partition(x, place, axis=0)[place] / TOP
    return kth


def _array(tensor: Any) -> Floats:
    array: Floats = tensor.detach().float().cpu().numpy()
    return array


def _padded(width: int) -> int:
    return -(-width // ITEMS) * ITEMS


def _short_bytes(inner: int) -> int:
    """Bytes of a record's second part: whole cache lines."""
    return _padded(2 * (HEAD + inner))


def _short_top(inner: int) -> int:
    return min(2**15 - 1, int(((2**31 - 1) / max(inner, 1)) ** 0.5))


def _wide(array: Any, shape: tuple[int, ...], kind: npt.DTypeLike = np.float32) -> Any:
    """An array with zeros behind it, on cache lines."""
    out = aligned(shape, kind)
    out[tuple(slice(0, size) for size in array.shape)] = array
    return out


def _flat(parts: list[Any], kind: npt.DTypeLike) -> Any:
    whole = np.concatenate([np.zeros(0, kind), *(part.ravel() for part in parts)])
    return _wide(whole, whole.shape, kind)


def _tiled(weight: Floats, kind: npt.DTypeLike) -> Any:
    """(outputs / 64, inputs, 64) of (outputs, inputs)."""
    outputs, inputs = weight.shape
    wide = _wide(weight, (_padded(outputs), _padded(inputs)), kind)
    return wide.reshape(-1, ITEMS, wide.shape[1]).transpose(0, 2, 1)


def _packed(levels: Floats) -> Any:
    """(outputs / 64, inputs / 4, 64, 4) bytes of (outputs, inputs) levels with a sign."""
    return _quads(_tiled(levels, np.int8).astype(np.int8).view(np.uint8))


def _quads(rows: Any) -> Any:
    """(tiles, inputs / 4, 64, 4) of (tiles, inputs, 64)."""
    return rows.reshape(len(rows), -1, 4, ITEMS).transpose(0, 1, 3, 2)


def _rows(quads: Any) -> Any:
    """(tiles, inputs, 64) of (tiles, inputs / 4, 64, 4)."""
    return quads.transpose(0, 1, 3, 2).reshape(len(quads), -1, ITEMS)


def _interleaved(width: int) -> Ints:
    """(width,) the column at each place where AVX-512 packs two vectors of 32 int16 into 64 bytes: eights in turn."""
    eights = np.arange(width).reshape(-1, 2, 4, 8)
    return eights.transpose(0, 2, 1, 3).ravel()
