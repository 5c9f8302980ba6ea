"""Columns of the catalogue as codes: a comparison with a value is a look-up of each item's code in a small table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from suisen.arguments import shown
from suisen.data.durations import instant
from suisen.data.encode import pieces
from suisen.data.ragged import Ragged, offsets_of
from suisen.errors import InputError, unknown
from suisen.recommending.attributes import separators
from suisen.recommending.rules.language import Sign
from suisen.recommending.store import Store

Kind = Literal["numbers", "texts", "truth values", "times"]
Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int32]
Key = range | tuple[int, ...]
"""The codes that a comparison lets pass."""
NONE = -1
"""The code of an item without a value."""
MOST_VALUES = 256
"""Of a list that a request brings: each is looked up."""
TRUTHS = {"true": True, "false": False}
MENDS = {
    "numbers": "give a number",
    "texts": 'give text, like "7"',
    "truth values": "give true or false",
    "times": 'give a time, like "2024-05-01"',
}


def listed(value: Any, said: str) -> list[Any]:
    """The values behind ``in``, without missing ones.  Raises InputError for what is no list, and for a long one."""
    if not isinstance(value, list | tuple | set | frozenset):
        raise InputError(f"{said} = {shown(value)} is no list; give a list")
    if len(value) > MOST_VALUES:
        raise InputError(f"{said} holds {len(value):,} values; give at most {MOST_VALUES}")
    return [one for one in value if one is not None]


def as_number(value: Any) -> Any:
    """The number that a text spells, as command lines and forms bring it; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


class Truth(NamedTuple):
    """Where an expression is true and where it is false; it is neither where a value is missing (Kleene's logic)."""

    yes: Bools
    """(n_items,), or () where all items are alike."""
    no: Bools


@dataclass(frozen=True, eq=False)
class Coded:
    """A column of the item table.  Memory: 4 bytes per item or value, and the different values once."""

    name: str
    kind: Kind
    values: npt.NDArray[np.float64]
    """(m,) the different numbers, times (microseconds since 1970 UTC) or truth values, rising; empty for texts."""
    texts: Mapping[str, int]
    """Text → code, of a column of texts."""
    codes: Codes
    """(n_items,) places among the different values, ``NONE`` where there is none; of a column of several values per
    item those of all items, one behind the other."""
    known: Bools
    """(n_items,) where there is a value."""
    lengths: npt.NDArray[np.int64] | None = None
    """(n_items,) values of each item; None: one."""

    @property
    def several(self) -> bool:
        """Whether an item may have several values."""
        return self.lengths is not None

    @cached_property
    def rows(self) -> Ragged:
        """The codes of each item."""
        lengths = np.ones(len(self.codes), dtype=np.int64) if self.lengths is None else self.lengths
        return Ragged(torch.from_numpy(self.codes), offsets_of(torch.from_numpy(lengths)))

    @cached_property
    def _items(self) -> npt.NDArray[np.int64]:
        """(values,) the item that each code of a column of several values belongs to."""
        return self.rows.rows().numpy()

    def of(self, items: npt.NDArray[np.int64]) -> Codes:
        """(…, V) the codes of items of any shape, V the most that one of them has; ``NONE`` pads."""
        if self.lengths is None:
            return self.codes[items][..., None]
        padded = self.rows.take(torch.from_numpy(items.ravel())).padded(fill=NONE)
        return padded.numpy().reshape(*items.shape, padded.shape[1])

    # -- comparisons ------------------------------------------------------------------------------------------------

    def check(self, sign: Sign, where: str) -> None:
        """Raises InputError for a comparison by order of what has none."""
        if sign in ("==", "in"):
            return
        if self.several:
            raise InputError(f"{where}: {self.name} holds several values per item and has no order; use in or ==")
        if self.kind not in ("numbers", "times"):
            raise InputError(f"{where}: {self.name} holds {self.kind} and has no order; use == or in")

    def key(self, sign: Sign, value: Any, said: str) -> Key:
        """The codes that pass a comparison with a value.  ``said`` names the value in messages.  O(log m).

        Raises InputError for a value of another type.
        """
        if sign == "in":
            return tuple(sorted({self._place(one, said) for one in listed(value, said)} - {NONE}))
        if sign == "==":
            place = self._place(value, said)
            return () if place == NONE else (place,)
        number = self._number(value, said)
        left = int(np.searchsorted(self.values, number, "left"))
        right = int(np.searchsorted(self.values, number, "right"))
        ends = {"<": (0, left), "<=": (0, right), ">": (right, len(self.values)), ">=": (left, len(self.values))}
        return range(*ends[sign])

    def truth(self, key: Key) -> Truth:
        """Where an item has one of these codes.  One look-up per item, or per value of a column of several."""
        fits = np.zeros(self.different + 1, dtype=np.bool_)  # the last one answers NONE
        if isinstance(key, range):
            fits[key.start : key.stop] = True
        else:
            fits[list(key)] = True
        holds = fits[self.codes]
        if self.lengths is not None:
            holds = np.bincount(self._items[holds], minlength=len(self.lengths)) > 0
        return Truth(holds, self.known & ~holds)

    @property
    def different(self) -> int:
        """Number of different values."""
        return len(self.texts) if self.kind == "texts" else len(self.values)

    def _place(self, value: Any, said: str) -> int:
        """The code of a value; NONE where no item has it."""
        if self.kind == "texts":
            if not isinstance(value, str):
                raise self._unfit(value, said)
            return self.texts.get(value, NONE)
        number = self._number(value, said)
        place = int(np.searchsorted(self.values, number))
        return place if place < len(self.values) and self.values[place] == number else NONE

    def _number(self, value: Any, said: str) -> float:
        """A value in the numbers of ``values``."""
        if self.kind == "times":
            return float(instant(said, value))
        meant = TRUTHS.get(value) if self.kind == "truth values" and isinstance(value, str) else as_number(value)
        if isinstance(meant, bool) != (self.kind == "truth values") or not isinstance(meant, bool | int | float):
            raise self._unfit(value, said)
        if meant != meant:  # noqa: PLR0124 - NaN
            raise self._unfit(value, said)
        return float(meant)

    def _unfit(self, value: Any, said: str) -> InputError:
        return InputError(f"{said} = {shown(value)}, and {self.name} holds {self.kind}; {MENDS[self.kind]}")


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a catalogue, coded when they are first asked for."""

    store: Store
    made: dict[str, Coded] = field(default_factory=dict)

    def of(self, name: str, where: str) -> Coded:
        """A column.  ``where`` opens the message.  Raises InputError where the item table has none of this name."""
        frame = self.store.item_frame
        if not frame.width:
            raise InputError(f"{where}: reads the column {name!r}, and the data had no item table; train with one")
        if name not in frame.columns:
            raise unknown(f"{where}: column", name, frame.columns)
        if name not in self.made:
            self.made[name] = _coded(name, frame[name], separators(self.store).get(name), where)
        return self.made[name]


def _coded(name: str, column: pl.Series, separator: str | None, where: str) -> Coded:
    if separator is not None and column.dtype == pl.String:
        column = pieces(column, separator)
    if column.dtype not in (pl.List, pl.Array):
        kind, different, texts, codes = _codes(name, column, where)
        return Coded(name, kind, different, texts, codes, codes != NONE)
    known = column.is_not_null().to_numpy().copy()
    lists = column.cast(pl.List(column.dtype.inner))  # type: ignore[attr-defined]
    lengths = lists.list.len().fill_null(0)
    flat = lists.filter(lengths > 0).explode()
    return Coded(name, *_codes(name, flat, where), known, lengths.cast(pl.Int64).to_numpy().copy())


def _codes(name: str, values: pl.Series, where: str) -> tuple[Kind, npt.NDArray[np.float64], Mapping[str, int], Codes]:
    """Kind, different values and codes."""
    kind: Kind = "numbers"
    if values.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        texts = values.cast(pl.String)
        different = texts.drop_nulls().unique().sort()
        places = pl.int_range(different.len(), dtype=pl.Int32, eager=True)
        codes = texts.replace_strict(different, places, default=NONE, return_dtype=pl.Int32)
        return "texts", np.zeros(0), {text: at for at, text in enumerate(different.to_list())}, codes.to_numpy().copy()
    if values.dtype == pl.Boolean:
        kind, values = "truth values", values.cast(pl.Int8)
    elif values.dtype in (pl.Date, pl.Datetime):
        kind, values = "times", values.cast(pl.Datetime("us")).cast(pl.Int64)
    elif not values.dtype.is_numeric():
        raise InputError(f"{where}: {name} holds {values.dtype}, which no rule compares; give numbers, text or times")
    numbers = values.cast(pl.Float64).fill_nan(None)
    missing = numbers.is_null().to_numpy()
    filled = numbers.fill_null(0.0).to_numpy()
    found = np.unique(filled[~missing])
    codes_ = np.searchsorted(found, filled).astype(np.int32)
    codes_[missing] = NONE
    return kind, found, {}, codes_
