"""``where``: the items whose attributes in the item table are as asked for."""

from collections.abc import Mapping
from typing import Any

import polars as pl
import torch
from torch import Tensor

from suisen.data.encode import pieces
from suisen.errors import InputError, unknown
from suisen.recommending.store import Store


def items_where(store: Store, where: Mapping[str, Any]) -> Tensor:
    """(m,) dense items, rising, that meet every condition; see ``RecommendOptions.where``.

    Raises InputError for a column or a value that the item table does not hold, and where no item meets all of them.
    """
    frame, between = store.item_frame, separators(store)
    fits = pl.repeat(True, frame.height, dtype=pl.Boolean, eager=True)
    for name, wanted in where.items():
        if not frame.width:
            raise InputError(f"where: {name!r} asks for an attribute, and the data had no item table; train with one")
        if name not in frame.columns:
            raise unknown("where: column", name, frame.columns)
        fits = fits & _meets(name, frame[name], wanted, between.get(name))
    mask = torch.from_numpy(fits.to_numpy().copy())
    mask[0] = False
    if where and not bool(mask.any()):
        said = " and ".join(f"{name} = {wanted!r}" for name, wanted in where.items())
        raise InputError(f"where: no item has {said}; drop a condition")
    return mask.nonzero().squeeze(1)


def separators(store: Store, owner: str = "item") -> dict[str, str]:
    """Column → what stands between the values of one text, of the multi-valued ones of a table."""
    return {column.name: column.separator for column in store.encoders[owner].columns if column.kind == "multi"}


def _meets(name: str, values: pl.Series, wanted: Any, separator: str | None) -> pl.Series:
    """(n,) bool: rows that hold one of the values wanted, or lie between the two ends of a pair."""
    if isinstance(wanted, tuple):
        return _between(name, values, wanted)
    asked = list(wanted) if isinstance(wanted, (list, set, frozenset)) else [wanted]
    if not asked:
        raise InputError(f"where: {name} = [] asks for no value; give at least one")
    if values.dtype.is_numeric():
        return values.cast(pl.Float64).is_in([_number(name, value) for value in asked]).fill_null(value=False)
    rows = _texts(values, separator)
    held = set(rows.explode().drop_nulls().to_list())
    texts = [str(value).lower() if values.dtype == pl.Boolean else str(value) for value in asked]
    for text in texts:
        if text not in held:
            raise unknown(f"where: {name}", text, sorted(held))
    return pl.select(rows.list.eval(pl.element().is_in(texts)).list.any()).to_series().fill_null(value=False)


def _texts(values: pl.Series, separator: str | None) -> pl.Series:
    """One list of texts per row."""
    if values.dtype in (pl.List, pl.Array):
        return values.cast(pl.List(pl.String))
    texts = values.cast(pl.String)
    if separator is not None:
        return pieces(texts, separator)
    return texts.to_frame("v").select(pl.concat_list("v"))["v"]


def _between(name: str, values: pl.Series, ends: tuple[Any, ...]) -> pl.Series:
    if len(ends) != 2:
        raise InputError(f"where: {name} = {ends!r}; give a pair (least, most), None for an open end, or a list")
    bounds: list[Any]
    if values.dtype.is_temporal():  # as text, ISO 8601 has the order of time
        values, bounds = values.cast(pl.String), [None if end is None else str(end) for end in ends]
    elif values.dtype.is_numeric():
        bounds = [None if end is None else _number(name, end) for end in ends]
    else:
        raise InputError(f"where: {name} holds text and has no order; ask for a value or a list of values")
    least, most = bounds
    fits = values.is_not_null()
    fits = fits if least is None else fits & (values >= least)
    return (fits if most is None else fits & (values <= most)).fill_null(value=False)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"where: {name} holds numbers and {value!r} is none; give a number") from None


__all__ = ["items_where", "separators"]
