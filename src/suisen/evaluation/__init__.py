"""Metrics, protocols, intervals and paired comparisons: any scorer in, a report with its protocol out."""

from suisen.evaluation.contract import Scorer, TileScorer
from suisen.evaluation.frames import evaluate_frame
from suisen.evaluation.metric import Facts, Metric
from suisen.evaluation.metrics import METRICS
from suisen.evaluation.protocols import evaluate
from suisen.evaluation.ranks import UNRANKED
from suisen.evaluation.report import Comparison, Comparisons, Report, Score, compare
from suisen.evaluation.segments import Segments, segments
