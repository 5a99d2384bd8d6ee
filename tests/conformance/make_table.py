"""Writes docs/models.md: ``python tests/conformance/make_table.py docs/models.md``."""

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import peft
import torch
import transformers
from checks import NOT_BUILT, REFUSED, WORKS, Outcome, check
from tiny_models import Family, causal_lm_families

from laser_peft import SASRecConfig, SASRecModel

HEADER = """# Language models

Made by `python tests/conformance/make_table.py docs/models.md` with transformers {transformers},
peft {peft} and torch {torch}; `tests/conformance` checks every row again.

Every class of transformers' `MODEL_FOR_CAUSAL_LM_MAPPING` is built tiny and random, and taken
through: `get_peft_model`; one training step (every part of the adapter moves, the language model
does not); equal users with padding on the left, on the right, in the middle and none, alone and
in a batch; save, reload on a fresh model, equal scores to the last bit; greedy text with the
prefix equal to that of plain forwards, and to that of a left-padded batch, wherever the class
without an adapter has these equalities.

{works} of the {buildable} classes that can be built work ({share:.1%}). {refused} are refused by
`get_peft_model` with a reason; {not_built} could not be built here.

| model type | class | |
|---|---|---|
"""


def row(family: Family, outcome: Outcome) -> str:
    """Says how one class fared, as a line of the table."""
    reason = outcome.reason.split(": ", 1)[-1].replace("|", "/")
    said = f"{outcome.status}: {reason}" if reason else outcome.status
    return f"| {family.model_type} | `{family.model_class.__name__}` | {said} |"


def table(outcomes: Iterable[tuple[Family, Outcome]]) -> str:
    """Builds the whole page."""
    outcomes = list(outcomes)
    counts = {
        status: sum(outcome.status == status for _, outcome in outcomes)
        for status in (WORKS, REFUSED, NOT_BUILT)
    }
    buildable = len(outcomes) - counts[NOT_BUILT]
    header = HEADER.format(
        transformers=transformers.__version__,
        peft=peft.__version__,
        torch=torch.__version__.split("+")[0],
        works=counts[WORKS],
        buildable=buildable,
        share=counts[WORKS] / buildable,
        refused=counts[REFUSED],
        not_built=counts[NOT_BUILT],
    )
    return header + "\n".join(row(*pair) for pair in outcomes) + "\n"


def main(path: str) -> None:
    """Checks all classes and writes the page."""
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        encoder = SASRecModel(SASRecConfig(num_items=23, hidden_size=16))
        encoder.save_pretrained(folder)
        outcomes = [(family, check(family, folder)) for family in causal_lm_families()]
    Path(path).write_text(table(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
