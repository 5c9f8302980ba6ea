"""What to believe of an effect: a normal prior and a normal likelihood give a normal posterior.

The prior N(μ, τ²) says what effects of such changes were before this one: the spread of past experiments' true effects,
or a guess made before the data.  With the estimate e and its standard error s (Gelman et al. 2013, section 2.5):

    1/sd² = 1/τ² + 1/s²        mean = sd² (μ/τ² + e/s²)        P(effect > 0) = Φ(mean / sd)

Estimates are pulled towards μ, the less sure the more.  If true effects come from the prior, these probabilities hold
among all experiments that say them, whenever one looks; with another prior they do not, and a p-value has none.
"""

from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from suisen.errors import InputError
from suisen.experiments.means import check_level


class Posterior(NamedTuple):
    """An effect as it is believed to be after the data."""

    mean: float
    sd: float
    low: float
    high: float
    """Central interval."""
    positive: float
    """P(effect > 0)."""
    loss_if_shipped: float
    """Expected loss of taking the treatment: E max(0, −effect), where higher is better."""
    loss_if_kept: float
    """Expected loss of keeping the control: E max(0, effect)."""
    prior_mean: float
    prior_sd: float

    def says(self, scale: str) -> str:
        """In words, for an effect that is "relative" or "absolute"."""
        by, unit = (100.0, " %") if scale == "relative" else (1.0, "")
        prior = f"prior of {by * self.prior_mean:.3g} ± {by * self.prior_sd:.3g}{unit}"
        ends = f"[{by * self.low:.3g}, {by * self.high:.3g}]"
        losses = f"{by * self.loss_if_shipped:.2g}{unit} if shipped, {by * self.loss_if_kept:.2g}{unit} if not"
        return (
            f"with a {prior} (standard deviation) the effect is {by * self.mean:+.3g}{unit} {ends}, above 0 with "
            f"probability {self.positive:.4g}; expected loss {losses}"
        )


def posterior(
    value: float,
    se: float,
    *,
    prior_sd: float,
    prior_mean: float = 0.0,
    better: Literal["higher", "lower"] = "higher",
    level: float = 0.95,
) -> Posterior:
    """The posterior of an effect that was estimated as ``value`` with the standard error ``se``, both on one scale.

    Raises InputError for a prior or an error that is no positive number: an improper prior is none.
    """
    check_level(level)
    for name, given in {"prior_sd": prior_sd, "se": se}.items():
        if not 0 < given < np.inf:
            raise InputError(f"{name} = {given!r} should be a number above 0")
    weight = prior_sd**2 / (prior_sd**2 + se**2)  # of the data
    mean, sd = prior_mean + weight * (value - prior_mean), se * weight**0.5
    half = float(special.ndtri((1 + level) / 2)) * sd
    gain, loss = _above(mean, sd), _above(-mean, sd)
    shipped, kept = (loss, gain) if better == "higher" else (gain, loss)
    positive = float(special.ndtr(mean / sd))
    return Posterior(mean, sd, mean - half, mean + half, positive, shipped, kept, prior_mean, prior_sd)


def _above(mean: float, sd: float) -> float:
    """E max(0, X) of a normal X."""
    z = mean / sd
    return float(sd * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) + mean * special.ndtr(z))
