"""The command ``laser-peft``; one file a command, each thin."""

# In the order of the help: what comes first is done first.
from . import download  # isort: skip
from . import prepare  # isort: skip
from . import train_encoder  # isort: skip
from . import train  # isort: skip
from . import evaluate  # isort: skip
from . import baselines  # isort: skip
from . import compare  # isort: skip
from . import recommend  # isort: skip
from . import recommend_many  # isort: skip
from . import serve  # isort: skip
from . import inspect  # isort: skip
from .base import app

__all__ = [
    "app",
    "baselines",
    "compare",
    "download",
    "evaluate",
    "inspect",
    "prepare",
    "recommend",
    "recommend_many",
    "serve",
    "train",
    "train_encoder",
]
