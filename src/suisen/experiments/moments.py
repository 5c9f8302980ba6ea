"""Sufficient statistics: everything that means, ratios, CUPED and sequential tests need of the units of an arm.

A metric has four columns per unit: y and d (its numerator and denominator), x and w (the same before the experiment).
A mean is a ratio whose d is 1; a metric without a covariate has x = 0 and w = 1.  Of these are kept the number of
units, the means, and the centred sums of products and of cubes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt
import polars as pl

from suisen.errors import InputError

Floats = npt.NDArray[np.float64]
PARTS = ("y", "d", "x", "w")
DEFAULTS: Mapping[str, float] = {"d": 1.0, "x": 0.0, "w": 1.0}
"""Parts a metric need not have as a column."""


@dataclass(frozen=True)
class Moments:
    """Of any number of groups at once: leading axes are arms, strata, experiments."""

    n: Floats
    """(...): units."""
    mean: Floats
    """(..., 4): means of y, d, x, w."""
    products: Floats
    """(..., 4, 4): Σ (v − v̄)(u − ū)."""
    cubes: Floats
    """(..., 4): Σ (v − v̄)³."""

    @classmethod
    def of(
        cls,
        y: npt.ArrayLike,
        d: npt.ArrayLike | None = None,
        x: npt.ArrayLike | None = None,
        w: npt.ArrayLike | None = None,
    ) -> Moments:
        """Of arrays (..., n), the last axis the units."""
        first = np.asarray(y, dtype=np.float64)
        rest = {at: given for at, given in enumerate((d, x, w), 1) if given is not None}
        parts = {
            at: np.broadcast_to(np.asarray(v, dtype=np.float64), first.shape) for at, v in {0: first, **rest}.items()
        }
        shape = first.shape[:-1]
        mean = np.tile([0.0, *DEFAULTS.values()], (*shape, 1))
        products, cubes = np.zeros((*shape, 4, 4)), np.zeros((*shape, 4))
        centred = {}
        for i, part in parts.items():  # what is not given is constant
            mean[..., i] = part.mean(-1)
            centred[i] = part - mean[..., i, None]
            cubes[..., i] = np.einsum("...n,...n,...n->...", centred[i], centred[i], centred[i])
        for i, j in combinations_with_replacement(parts, 2):
            products[..., i, j] = products[..., j, i] = np.einsum("...n,...n->...", centred[i], centred[j])
        return cls(np.full(first.shape[:-1], float(first.shape[-1])), mean, products, cubes)

    @property
    def parts(self) -> tuple[Floats, Floats, Floats, Floats]:
        """The four arrays."""
        return self.n, self.mean, self.products, self.cubes

    @classmethod
    def stacked(cls, groups: Sequence[Moments], axis: int = -1) -> Moments:
        """Several as one, with a new leading axis; ``axis`` counts leading axes: -1 is the last of them."""
        place = groups[0].n.ndim + 1 + axis
        return cls(*(np.stack(same, place) for same in zip(*(group.parts for group in groups), strict=True)))

    def __getitem__(self, index: int | slice | tuple[int | slice, ...] | Floats) -> Moments:
        """Some of the groups, by their leading axes."""
        return Moments(*(part[index] for part in self.parts))

    def pooled(self) -> Moments:
        """The groups of the last leading axis put together, as if they had been one (Chan, Golub, LeVeque 1979)."""
        n = self.n.sum(-1)
        mean = np.einsum("...h,...hi->...i", self.n, self.mean) / _positive(n)[..., None]
        gap = self.mean - mean[..., None, :]
        products = self.products.sum(-3) + np.einsum("...h,...hi,...hj->...ij", self.n, gap, gap)
        own = np.diagonal(self.products, axis1=-2, axis2=-1)
        cubes = (self.cubes + 3 * gap * own + self.n[..., None] * gap**3).sum(-2)
        return Moments(n, mean, products, cubes)

    def within(self) -> Moments:
        """The groups of the last leading axis put together, each about its own mean: spread inside groups alone."""
        whole = self.pooled()
        return Moments(whole.n, whole.mean, self.products.sum(-3), self.cubes.sum(-2))

    @property
    def skewness(self) -> Floats:
        """(...): Σ(y−ȳ)³/n over (Σ(y−ȳ)²/n)^1.5; 0 where y does not vary."""
        square = self.products[..., 0, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.sqrt(self.n) * self.cubes[..., 0] / square**1.5
        return np.where(square > 0, value, 0.0)


def _positive(n: Floats) -> Floats:
    return np.where(n == 0, np.nan, n)


# -- from a frame of units --------------------------------------------------------------------------------------------


def aggregate(units: pl.DataFrame | pl.LazyFrame, metrics: Sequence[str], by: Sequence[str] = ("arm",)) -> pl.DataFrame:
    """One row per group, sorted by it: its sums of every metric, in one pass after one that finds the overall means.

    ``units`` has a column ``<metric>__y`` and may have ``__d``, ``__x``, ``__w``; a unit whose y is null is not counted
    for that metric.  Sums are of values less the overall mean, so that nothing cancels.
    """
    table = units.lazy()  # collected in memory: the streaming engine adds in any order, and the last digits differ
    names = table.collect_schema().names()
    for metric in metrics:
        if f"{metric}__y" not in names:
            raise InputError(f"metric {metric!r} has no column {metric}__y; known columns: {', '.join(names)}")
    parts = {metric: [part for part in PARTS if f"{metric}__{part}" in names] for metric in metrics}
    centres = table.select(
        _value(metric, part).mean().fill_null(0.0).alias(_name(metric, part))
        for metric in metrics
        for part in parts[metric]
    ).collect(engine="in-memory")
    centre = dict(zip(centres.columns, centres.row(0), strict=True)) if centres.width else {}
    sums = [each for metric in metrics for each in _sums(metric, parts[metric], centre)]
    grouped = table.group_by(*by).agg(pl.len().alias("units"), *sums).collect(engine="in-memory").sort(*by)
    return grouped.with_columns(pl.lit(value).alias(f"{name}__centre") for name, value in centre.items())


def _name(metric: str, *parts: str) -> str:
    return "__".join((metric, *parts))


def _value(metric: str, part: str) -> pl.Expr:
    value = pl.col(_name(metric, part)).cast(pl.Float64)
    return value if part == "y" else pl.when(pl.col(_name(metric, "y")).is_not_null()).then(value)


def _sums(metric: str, parts: Sequence[str], centre: Mapping[str, float]) -> list[pl.Expr]:
    shifted = {part: _value(metric, part) - centre[_name(metric, part)] for part in parts}
    out = [pl.col(_name(metric, "y")).is_not_null().sum().alias(_name(metric, "n"))]
    for i, part in enumerate(parts):
        out.append(shifted[part].sum().alias(_name(metric, part, "1")))
        out += [(shifted[part] * shifted[other]).sum().alias(_name(metric, part, other)) for other in parts[i:]]
    out.append((shifted["y"] ** 3).sum().alias(_name(metric, "y", "3")))
    return out


def moments(table: pl.DataFrame, metric: str) -> Moments:
    """The rows of ``aggregate`` as moments of one metric, (rows,) groups.  The third moment is kept of y alone."""
    n = table[_name(metric, "n")].cast(pl.Float64).to_numpy()
    parts = [part for part in PARTS if _name(metric, part, "1") in table.columns]
    counts = _positive(n)
    mean = np.tile([0.0, *DEFAULTS.values()], (n.size, 1))
    products, cubes = np.zeros((n.size, 4, 4)), np.zeros((n.size, 4))
    first = {part: table[_name(metric, part, "1")].to_numpy() for part in parts}
    for part in parts:
        mean[:, PARTS.index(part)] = table[_name(metric, part, "centre")].to_numpy() + first[part] / counts
        for other in parts[parts.index(part) :]:
            i, j = PARTS.index(part), PARTS.index(other)
            products[:, i, j] = products[:, j, i] = (
                table[_name(metric, part, other)].to_numpy() - first[part] * first[other] / counts
            )
    gap, square = first["y"] / counts, table[_name(metric, "y", "y")].to_numpy()
    cubes[:, 0] = table[_name(metric, "y", "3")].to_numpy() - 3 * gap * square + 2 * n * gap**3
    return Moments(
        n, mean, _clean(products, n, mean, {PARTS.index(part): first[part] / counts for part in parts}), cubes
    )


def _clean(products: Floats, n: Floats, mean: Floats, gaps: Mapping[int, Floats]) -> Floats:
    """Sums of squares that are rounding alone are 0, so that a column without variance is seen as such.

    ``gaps``: how far a group's mean is from the overall mean, by column; the sums are about the latter.
    """
    squares = np.diagonal(products, axis1=-2, axis2=-1)
    gap = np.stack([gaps.get(i, np.zeros(n.size)) for i in range(4)], -1)
    flat = squares <= n[:, None] * (1e-13 * gap**2 + 1e-26 * mean**2)
    return np.where(flat[:, :, None] | flat[:, None, :], 0.0, products)
