"""Looks inside a recommender: its parts, who uses which expert, what its queries attend to."""

from .attention import HistoryView, attention_weights, look_at_history
from .experts import ExpertLoad, expert_load
from .parts import Part, parts_of, view_weights
from .plots import plot

__all__ = [
    "ExpertLoad",
    "HistoryView",
    "Part",
    "attention_weights",
    "expert_load",
    "look_at_history",
    "parts_of",
    "plot",
    "view_weights",
]
