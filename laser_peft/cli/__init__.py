"""The command ``laser-peft``; one file a command, each thin."""

from . import download, evaluate, recommend, train
from .base import app

__all__ = ["app", "download", "evaluate", "recommend", "train"]
