"""The command ``laser-peft``; one file a command, each thin."""

from . import evaluate, prepare, recommend, train
from .base import app

__all__ = ["app", "evaluate", "prepare", "recommend", "train"]
