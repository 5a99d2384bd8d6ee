"""Ranks over the whole catalogue, the metrics made of them, and what chance explains."""

from .comparison import compare
from .metrics import hr_at, mrr_at, ndcg_at, per_user, summarise
from .over_seeds import compare_over_seeds
from .ranking import MISS, PROTOCOLS, ranks_of_scores, ranks_of_targets
from .saved import Evaluation
from .scores import DotProducts, Scores
from .significance import PairedDifference, paired_bootstrap
from .slices import SLICES, describe_targets, slices_of

__all__ = [
    "MISS",
    "PROTOCOLS",
    "SLICES",
    "DotProducts",
    "Evaluation",
    "PairedDifference",
    "Scores",
    "compare",
    "compare_over_seeds",
    "describe_targets",
    "hr_at",
    "mrr_at",
    "ndcg_at",
    "paired_bootstrap",
    "per_user",
    "ranks_of_scores",
    "ranks_of_targets",
    "slices_of",
    "summarise",
]
