"""Kernels of the fast answer: int8 tables of vectors and of a ranker, and what runs them on this processor."""

from suisen.recommending.kernels.cells import partitioned
from suisen.recommending.kernels.paths import PATHS, path_of, paths_here
from suisen.recommending.kernels.quantised import Quantised
from suisen.recommending.kernels.ranks import RankTables, Sample
from suisen.recommending.kernels.search import PRECISE, Agreement, Speed, agreement, candidates, ranked, two_stage

__all__ = [
    "PATHS",
    "PRECISE",
    "Agreement",
    "Quantised",
    "RankTables",
    "Sample",
    "Speed",
    "agreement",
    "candidates",
    "partitioned",
    "path_of",
    "paths_here",
    "ranked",
    "two_stage",
]
