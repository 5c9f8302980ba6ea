"""The statistical world: laws that units' metrics are drawn from, many experiments at once, with their true values.

``lift`` makes the treatment: the value of the metric is (1 + lift) times the control's; the units' values are scaled,
but for the normal law, which is moved, and the counted laws, which are others of their family.  These are drawn from a
population of 65,536 equally likely units that is made from the law once, so that a draw is a look-up and the truth is
the population's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from suisen.errors import InputError, unknown

Floats = npt.NDArray[np.float64]
Shape = tuple[int, ...]
Family = Literal["share", "ratio", "mean"]
POPULATION = 2**16
BUYERS = 3277 / POPULATION
"""Five in a hundred, as near as the population allows."""


class Units(NamedTuple):
    """The metric of units, (..., n)."""

    y: Floats
    d: Floats | None = None
    """Denominators, where the metric is a ratio."""
    x: Floats | None = None
    """The same metric before the experiment."""

    def value(self) -> Floats:
        """(..., n): y, or y/d: a unit's own value."""
        return self.y if self.d is None else self.y / self.d


@dataclass(frozen=True)
class Law:
    """A law of a metric."""

    name: str
    title: str
    family: Family
    draw: Callable[[np.random.Generator, Shape, float], Units]
    """Generator, shape (..., n), lift."""
    value: Callable[[float], float]
    """The true value of the metric under a lift."""


# -- laws that go on --------------------------------------------------------------------------------------------------


def _lognormal(sigma: float, rng: np.random.Generator, shape: Shape, lift: float) -> Units:
    z = rng.standard_normal(shape)
    z *= sigma
    return Units(_times(np.exp(z, out=z), lift))


def _pareto(alpha: float, rng: np.random.Generator, shape: Shape, lift: float) -> Units:
    e = rng.standard_exponential(shape)
    e /= alpha
    return Units(_times(np.exp(e, out=e), lift))


def _buyers(share: float, sigma: float, rng: np.random.Generator, shape: Shape, lift: float) -> Units:
    """A share of the units spends; the others have 0."""
    spent = np.zeros(shape)
    buys = rng.integers(POPULATION, size=shape, dtype=np.uint16) < round(share * POPULATION)
    spent[buys] = np.exp(sigma * rng.standard_normal(int(buys.sum())))
    return Units(_times(spent, lift))


def _before(rho: float, rng: np.random.Generator, shape: Shape, lift: float) -> Units:
    """Normal, mean 1 and spread 1, with a covariate of correlation rho; a lift moves the mean and not the spread."""
    x = rng.standard_normal(shape)
    y = rng.standard_normal(shape)
    y *= np.sqrt(1 - rho**2)
    y += rho * x
    y += 1 + lift
    return Units(y, None, x)


def _times(values: Floats, lift: float) -> Floats:
    return values if lift == 0 else values * (1 + lift)


# -- laws that are counted --------------------------------------------------------------------------------------------


@cache
def _population(law: str, lift: float) -> tuple[Floats, Floats | None]:
    """The units of a counted law: y and d, (65536,)."""
    if law == "conversion":
        return _spread({1: 0.1 * (1 + lift), 0: 1 - 0.1 * (1 + lift)}), None
    if law == "counts":
        k = np.arange(400)
        return _spread(dict(zip(k.tolist(), stats.nbinom(1, 1 / (1 + 3 * (1 + lift))).pmf(k), strict=True))), None
    pairs = {}
    for d in range(1, 46):
        clicks = np.arange(d + 1)
        mass = stats.poisson(9).pmf(d - 1) * stats.betabinom(d, 1 + lift, 9 - lift).pmf(clicks)
        pairs.update({(y, d): float(p) for y, p in zip(clicks.tolist(), mass, strict=True)})
    places = _spread(dict(enumerate(pairs.values()))).astype(np.int64)
    both = np.array(list(pairs), dtype=np.float64)[places]
    return both[:, 0].copy(), both[:, 1].copy()


def _spread(masses: Mapping[int, float]) -> Floats:
    """(65536,) values, each as often as its mass says, to the nearest unit (largest remainders)."""
    values, mass = np.array(list(masses), dtype=np.float64), np.array(list(masses.values()))
    exact = mass / mass.sum() * POPULATION
    counts = np.floor(exact).astype(np.int64)
    most = np.argsort(-(exact - counts), kind="stable")[: POPULATION - int(counts.sum())]
    counts[most] += 1
    return np.repeat(values, counts)


def _counted(law: str, rng: np.random.Generator, shape: Shape, lift: float) -> Units:
    y, d = _population(law, lift)
    who = rng.integers(POPULATION, size=shape, dtype=np.uint16)
    return Units(y[who], None if d is None else d[who])


def _counted_value(law: str, lift: float) -> float:
    y, d = _population(law, lift)
    return float(y.mean() if d is None else y.sum() / d.sum())


# -- the list ---------------------------------------------------------------------------------------------------------


def _law(name: str, title: str, draw: Callable[..., Units], mean: float) -> Law:
    return Law(name, title, "mean", draw, lambda lift: mean * (1 + lift))


def _discrete(name: str, title: str, family: Family) -> Law:
    return Law(name, title, family, partial(_counted, name), partial(_counted_value, name))


LAWS = {
    law.name: law
    for law in (
        _discrete("ctr", "clicks of Beta(1, 9) users over Poisson(9) + 1 impressions", "ratio"),
        _discrete("conversion", "one unit in ten", "share"),
        _discrete("counts", "counts of a gamma-Poisson law, mean 3, variance 12", "mean"),
        _law("lognormal-1", "lognormal, sigma 1", partial(_lognormal, 1.0), float(np.exp(0.5))),
        _law("lognormal-2", "lognormal, sigma 2", partial(_lognormal, 2.0), float(np.exp(2.0))),
        _law("buyers", "5 % buyers, lognormal, sigma 1", partial(_buyers, BUYERS, 1.0), BUYERS * float(np.exp(0.5))),
        _law("pareto", "Pareto, alpha 2.5", partial(_pareto, 2.5), 2.5 / 1.5),
        _law("before", "normal, with a covariate of correlation 0.7", partial(_before, 0.7), 1.0),
    )
}


def law(name: str) -> Law:
    """A law by name."""
    if name not in LAWS:
        raise unknown("law", name, LAWS)
    return LAWS[name]


def correlated(rho: float) -> Law:
    """A normal metric with a covariate of correlation ``rho``."""
    if not -1 < rho < 1:
        raise InputError(f"rho = {rho!r}; give a correlation between -1 and 1")
    return _law(f"before-{rho:g}", f"normal, with a covariate of correlation {rho:g}", partial(_before, rho), 1.0)
