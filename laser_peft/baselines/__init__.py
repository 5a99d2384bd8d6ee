"""Simple recommenders under the same judge: what a model has to beat."""

from .cooccurrence import Cooccurrence
from .encoder import Encoder
from .popularity import Popularity
from .ranking import Baseline, rank_examples
from .run import run_baselines
from .text import TextNeighbours

__all__ = [
    "Baseline",
    "Cooccurrence",
    "Encoder",
    "Popularity",
    "TextNeighbours",
    "rank_examples",
    "run_baselines",
]
