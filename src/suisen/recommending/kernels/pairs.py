"""Pair features of sorted lists on NumPy, in the order of additions that compiled code has."""

import numpy as np
import numpy.typing as npt

from suisen.retrieval.contract import Floats, Ints

PAIRS = 2
"""Most pair features: ``engine.PAIR``."""
FLOAT = np.float32


def features_of(scores: Floats, counts: Ints) -> Floats:
    """(B, C, 2) of (B, C) retrieval scores, falling, of which each list has (B,): as ``engine.pair_features``."""
    out = np.zeros((*scores.shape, PAIRS), dtype=FLOAT)
    for row, count in enumerate(counts):
        if count:
            mean, spread = moments(scores[row, :count])
            out[row, :count, 0] = (scores[row, :count].astype(np.float64) - mean) / spread
    out[:, :, 1] = falling(scores.shape[1])
    return out


def falling(count: int) -> Floats:
    """(count,) −log₂(rank) / 8."""
    ranks: Floats = (-np.log2(np.arange(1, count + 1, dtype=FLOAT)) / FLOAT(8)).astype(FLOAT)
    return ranks


def moments(scores: Floats) -> tuple[float, float]:
    """Mean and standard deviation, at least 1e-6, of a list's scores; float64, every fourth number into one sum."""

    def total(numbers: npt.NDArray[np.float64]) -> float:
        padded = np.zeros(-(-len(numbers) // 4) * 4)
        padded[: len(numbers)] = numbers
        a, b, c, d = np.cumsum(padded.reshape(-1, 4), axis=0)[-1]
        return float((a + b) + (c + d))

    wide = scores.astype(np.float64)
    mean = total(wide) / len(wide)
    return mean, max(float(np.sqrt(total((wide - mean) ** 2) / len(wide))), 1e-6)
