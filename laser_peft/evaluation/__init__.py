"""Ranks over the whole catalogue, the metrics made of them, and what chance explains."""

from .metrics import hr_at, mrr_at, ndcg_at, summarise
from .ranking import PROTOCOLS, ranks_of_targets
from .significance import PairedDifference, paired_bootstrap

__all__ = [
    "PROTOCOLS",
    "PairedDifference",
    "hr_at",
    "mrr_at",
    "ndcg_at",
    "paired_bootstrap",
    "ranks_of_targets",
    "summarise",
]
