"""Raw logs and item texts in, padded batches out."""

from .catalogue import Catalogue
from .collator import PaddingCollator
from .coring import k_core
from .description import describe_data
from .interactions import Interactions, read_interactions
from .logs import LogSource
from .preparing import prepare
from .prompt_template import PromptTemplate
from .prompts import PromptBuilder
from .reports import LogReport
from .sequences import Histories, Split
from .splitting import cuts_at, leave_one_out, time_split

__all__ = [
    "Catalogue",
    "Histories",
    "Interactions",
    "LogReport",
    "LogSource",
    "PaddingCollator",
    "PromptBuilder",
    "PromptTemplate",
    "Split",
    "cuts_at",
    "describe_data",
    "k_core",
    "leave_one_out",
    "prepare",
    "read_interactions",
    "time_split",
]
