"""The command ``laser-peft``; one file a command, each thin."""

from . import baselines, compare, download, evaluate, prepare, recommend, train
from .base import app

__all__ = [
    "app",
    "baselines",
    "compare",
    "download",
    "evaluate",
    "prepare",
    "recommend",
    "train",
]
