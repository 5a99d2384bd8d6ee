"""Bi-Tuning for Hugging Face PEFT: any frozen causal LM becomes a sequential recommender."""

from .collaborative import SASRecConfig, SASRecModel
from .recommender import LaserRecommender, Recommendation
from .tuner import BiTuningConfig, BiTuningModel, BiTuningOutput, TextMemory

__version__ = "0.1.0.dev0"

__all__ = [
    "BiTuningConfig",
    "BiTuningModel",
    "BiTuningOutput",
    "LaserRecommender",
    "Recommendation",
    "SASRecConfig",
    "SASRecModel",
    "TextMemory",
]
