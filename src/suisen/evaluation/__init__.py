"""Metrics, protocols, intervals and paired comparisons: any scorer in, a report with its protocol out."""

from suisen.evaluation.contract import Scorer, TileScorer
from suisen.evaluation.metrics import NAMES, Facts
from suisen.evaluation.protocols import evaluate
from suisen.evaluation.ranks import UNRANKED
from suisen.evaluation.report import Comparison, Comparisons, Report, Score, compare

__all__ = [
    "NAMES",
    "UNRANKED",
    "Comparison",
    "Comparisons",
    "Facts",
    "Report",
    "Score",
    "Scorer",
    "TileScorer",
    "compare",
    "evaluate",
]
