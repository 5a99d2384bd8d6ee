"""Raw logs and item texts in, padded batches out."""

from .catalogue import Catalogue
from .collator import PaddingCollator
from .interactions import read_interactions
from .prompt_template import PromptTemplate
from .prompts import PromptBuilder
from .sequences import Histories, Split, leave_one_out

__all__ = [
    "Catalogue",
    "Histories",
    "PaddingCollator",
    "PromptBuilder",
    "PromptTemplate",
    "Split",
    "leave_one_out",
    "read_interactions",
]
