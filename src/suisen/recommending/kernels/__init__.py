"""Kernels of the fast answer: int8 tables of vectors, their scan, and which instructions of the processor run it."""

from suisen.recommending.kernels.paths import PATHS, path_of, paths_here
from suisen.recommending.kernels.quantised import Quantised
from suisen.recommending.kernels.search import Agreement, agreement, candidates

__all__ = ["PATHS", "Agreement", "Quantised", "agreement", "candidates", "path_of", "paths_here"]
