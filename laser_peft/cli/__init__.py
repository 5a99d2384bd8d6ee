"""The command ``laser-peft``; one file a command, each thin."""

from . import evaluate, recommend, train
from .base import app

__all__ = ["app", "evaluate", "recommend", "train"]
