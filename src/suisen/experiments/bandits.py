"""Bandits that log how likely each decision was, so that any other policy can be judged on their log.

Thompson sampling (Thompson 1933; Chapelle and Li 2011) draws an arm with the probability α_k that it is the best, given
what was seen.  Top-two (Russo 2016) does so with probability ``top``, and else draws until another arm comes, of which
more is to be learnt.  A floor keeps every arm possible, so that weights of off-policy evaluation are at most 1/floor:

    α_k = P(θ_k is the largest) = ∫ f_k(t) Π_{j≠k} F_j(t) dt
    ψ_k = top α_k + (1 − top) Σ_{j≠k} α_j α_k / Σ_{i≠j} α_i
    p_k = floor + (1 − K floor) ψ_k

The integral is computed, not estimated from draws, and the arm is drawn from p: the logged propensity is the very
probability with which the arm was drawn.  Inverse propensity weights therefore make every mean over the log unbiased,
where the plain mean of an arm is too low: an arm that began badly is not asked again (Nie et al. 2018).  With top = 1
least is lost while it runs; with 1/2 the best arm is known sooner.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from suisen.errors import InputError

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
LEVELS = special.ndtr(np.arange(-6.0, 7.0))
"""Quantiles of every arm between which the integrand is smooth; what lies beyond them has probability 1e-9."""
NODES, WEIGHTS = special.roots_legendre(6)
ROWS_PER_CHUNK = 512


class Decisions(NamedTuple):
    """What was drawn, to be logged row by row."""

    arm: Longs
    """(n,) from 0."""
    propensity: Floats
    """(n,): the probability with which the arm was drawn."""
    chances: Floats
    """(n, K): of every arm; each row sums to 1."""


class _Bandit:
    """What both bandits share: from probabilities of being the best to decisions."""

    def __init__(self, arms: int, floor: float, top: float, seed: int) -> None:
        if arms < 2:
            raise InputError(f"arms = {arms!r}; a bandit chooses between at least 2")
        if not 0 < floor < 1 / arms:
            raise InputError(f"floor = {floor!r} should be above 0 and below 1/arms = {1 / arms:g}")
        if not 0 < top <= 1:
            raise InputError(f"top = {top!r} should be above 0 and at most 1")
        self.arms, self.floor, self.top = arms, floor, top
        self.rng = np.random.default_rng(seed)

    def _explored(self, best: Floats) -> Floats:
        """(n, K) probabilities of the draw from those of being the best."""
        rest = best[:, None, :] * (1 - np.eye(self.arms))  # (n, j, k): of k where j came first
        others = rest.sum(-1, keepdims=True)
        rest = np.where(others > 0, rest, 1 - np.eye(self.arms))  # j is surely the best: any other may come second
        second = rest / rest.sum(-1, keepdims=True)
        drawn = self.top * best + (1 - self.top) * np.einsum("nj,njk->nk", best, second)
        return np.asarray(self.floor + (1 - self.arms * self.floor) * drawn)

    def _decided(self, chances: Floats) -> Decisions:
        u = self.rng.random((len(chances), 1))
        arm = (u >= chances.cumsum(1)[:, :-1]).sum(1)
        return Decisions(arm, chances[np.arange(len(arm)), arm], chances)

    def _arms(self, arm: npt.ArrayLike, n: int) -> Longs:
        taken = np.atleast_1d(np.asarray(arm))
        if taken.shape != (n,) or taken.dtype.kind not in "iu" or bool(((taken < 0) | (taken >= self.arms)).any()):
            raise InputError(f"arm should hold {n} integers from 0 to {self.arms - 1}, one per reward")
        return taken.astype(np.int64)


class BernoulliBandit(_Bandit):
    """Rewards are 0 or 1; each arm's share has a Beta posterior.

    ``floor``: least probability of an arm.  ``top``: share of plain Thompson draws; 1: nothing else.  ``prior``: of
    every arm.  Raises InputError for fewer than two arms, and for a floor that leaves nothing to choose.
    """

    def __init__(
        self,
        arms: int,
        *,
        floor: float = 0.01,
        top: float = 0.5,
        prior: tuple[float, float] = (1.0, 1.0),
        seed: int = 0,
    ) -> None:
        super().__init__(arms, floor, top, seed)
        if not min(prior) > 0:
            raise InputError(f"prior = {prior!r} should be two numbers above 0, of a Beta distribution")
        self.posterior = np.tile(np.array(prior, dtype=np.float64)[:, None], arms)
        """(2, K): prior + ones, prior + zeros."""

    def best(self) -> Floats:
        """(K,) probability of each arm that its share is the largest."""
        a, b = self.posterior[:, :, None]
        scale = special.betaln(a, b)

        def density(x: Floats) -> Floats:
            x = np.clip(x, 1e-300, 1 - 1e-16)  # where a prior below 1 is infinite
            return np.asarray(np.exp(special.xlogy(a - 1, x) + special.xlog1py(b - 1, -x) - scale))

        return best_chances(special.betaincinv(a, b, LEVELS), lambda x: special.betainc(a, b, x), density)

    def chances(self) -> Floats:
        """(K,) probabilities of the next draw."""
        return np.asarray(self._explored(self.best()[None])[0])

    def decide(self, n: int = 1) -> Decisions:
        """``n`` draws by what has been learnt so far."""
        return self._decided(np.tile(self.chances(), (n, 1)))

    def learn(self, arm: npt.ArrayLike, reward: npt.ArrayLike) -> None:
        """From rewards (n,) of the arms taken (n,), in any order and of any age."""
        earned = np.atleast_1d(np.asarray(reward, dtype=np.float64))
        if earned.ndim != 1 or not np.isin(earned, (0, 1)).all():
            raise InputError("reward should hold 0 or 1, one per decision; use LinearBandit for other rewards")
        taken = self._arms(arm, len(earned))
        for row, counted in enumerate((earned, 1 - earned)):
            self.posterior[row] += np.bincount(taken, weights=counted, minlength=self.arms)


class LinearBandit(_Bandit):
    """Rewards are x·θ_k + noise, θ_k of each arm its own (Agrawal and Goyal 2013, with one θ per arm).

    ``features``: length of a context x, which needs a 1 for an intercept.  ``noise``: standard deviation of a reward
    about its expectation.  ``prior_sd``: θ is normal about 0 with it.  ``floor``, ``top``: as for BernoulliBandit.
    """

    def __init__(
        self,
        arms: int,
        features: int,
        *,
        noise: float,
        prior_sd: float = 1.0,
        floor: float = 0.01,
        top: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(arms, floor, top, seed)
        for name, value in {"features": features, "noise": noise, "prior_sd": prior_sd}.items():
            if not value > 0:
                raise InputError(f"{name} = {value!r} should be above 0")
        self.noise = noise
        self.precision = np.tile(np.eye(features) / prior_sd**2, (arms, 1, 1))
        """(K, d, d): inverse of the posterior's covariance."""
        self.shift = np.zeros((arms, features))
        """(K, d): precision times the posterior's mean."""

    def best(self, contexts: npt.ArrayLike) -> Floats:
        """(n, K) probability of each arm that its expected reward is the largest, for contexts (n, d)."""
        x = self._contexts(contexts)
        covariance = np.linalg.inv(self.precision)
        mean = np.einsum("nd,kde,ke->nk", x, covariance, self.shift)[..., None]
        sd = np.sqrt(np.einsum("nd,kde,ne->nk", x, covariance, x))[..., None]
        parts = (slice(at, at + ROWS_PER_CHUNK) for at in range(0, len(x), ROWS_PER_CHUNK))
        return np.concatenate([np.zeros((0, self.arms)), *(_best_normal(mean[part], sd[part]) for part in parts)])

    def chances(self, contexts: npt.ArrayLike) -> Floats:
        """(n, K) probabilities of the draws for contexts (n, d)."""
        return self._explored(self.best(contexts))

    def decide(self, contexts: npt.ArrayLike) -> Decisions:
        """One draw for each of the contexts (n, d), by what has been learnt so far."""
        return self._decided(self.chances(contexts))

    def learn(self, contexts: npt.ArrayLike, arm: npt.ArrayLike, reward: npt.ArrayLike) -> None:
        """From contexts (n, d), the arms taken (n,) and what they earned (n,)."""
        x, earned = self._contexts(contexts), np.atleast_1d(np.asarray(reward, dtype=np.float64))
        if earned.shape != (len(x),) or not np.isfinite(earned).all():
            raise InputError(f"reward should hold {len(x)} finite numbers, one per context")
        taken = self._arms(arm, len(x))
        for k in range(self.arms):
            mine = x[taken == k]
            self.precision[k] += mine.T @ mine / self.noise**2
            self.shift[k] += earned[taken == k] @ mine / self.noise**2

    def _contexts(self, contexts: npt.ArrayLike) -> Floats:
        x, features = np.asarray(contexts, dtype=np.float64), self.shift.shape[1]
        if x.ndim != 2 or x.shape[1] != features or not np.isfinite(x).all():
            raise InputError(f"contexts have shape {x.shape}; give (n, {features}) finite numbers")
        return x


def _best_normal(mean: Floats, sd: Floats) -> Floats:
    """(n, K) of normal arms, (n, K, 1) each.  Where no arm varies (a context of zeros) all are alike."""
    sd = np.maximum(sd, np.finfo(np.float64).tiny ** 0.5)

    def density(x: Floats) -> Floats:
        return np.asarray(np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi)))

    return best_chances(mean + sd * special.ndtri(LEVELS), lambda x: special.ndtr((x - mean) / sd), density)


def best_chances(edges: Floats, cdf: Callable[[Floats], Floats], pdf: Callable[[Floats], Floats]) -> Floats:
    """(..., K) probability of each of K independent variables that it is the largest.

    ``edges`` (..., K, L): quantiles of each, between which Gauss and Legendre's rule is applied.  ``cdf`` and ``pdf``
    take points (..., 1, M) and give (..., K, M).
    """
    ends = np.sort(edges.reshape(*edges.shape[:-2], 1, -1), axis=-1)
    width = np.diff(ends)
    x = (ends[..., :-1, None] + width[..., None] * (NODES + 1) / 2).reshape(*width.shape[:-1], -1)
    weight = (width[..., None] * WEIGHTS / 2).reshape(x.shape)
    below = np.log(np.maximum(cdf(x), 1e-300))
    mass = (weight * pdf(x) * np.exp(below.sum(-2, keepdims=True) - below)).sum(-1)
    return np.asarray(mass / mass.sum(-1, keepdims=True))
