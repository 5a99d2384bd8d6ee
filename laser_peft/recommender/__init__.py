"""Recommendations from a saved adapter: catalogue ids in, catalogue ids, titles and scores out."""

from .card import RunFacts
from .config import RecommenderConfig
from .prompt_limit import prompt_limit
from .recommender import LaserRecommender, Recommendation
from .session import Session

__all__ = [
    "LaserRecommender",
    "Recommendation",
    "RecommenderConfig",
    "RunFacts",
    "Session",
    "prompt_limit",
]
