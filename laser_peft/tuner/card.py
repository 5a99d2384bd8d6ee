"""Says in a saved adapter's model card what it is and how to load it."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard

if TYPE_CHECKING:
    from .config import BiTuningConfig

TAGS = ("bituning", "recommendation", "sequential-recommendation")
HEADING = "# A Bi-Tuning adapter"
INTRODUCTION = """It turns the frozen causal language model {base} into a sequential recommender.
Virtual *prefix* tokens carry what a frozen collaborative encoder knows about a user, virtual
*suffix* tokens follow the text of the user's history, and a head reads the language model's states
there as a user vector that scores every item of a catalogue (Bi-Tuning,
[arXiv 2409.01605](https://arxiv.org/abs/2409.01605)). The language model's weights are not part of
this repository and are not changed."""
TEXT = """{heading}

{introduction}

## How to load it

```python
import laser_peft  # registers BITUNING with PEFT
from peft import PeftModel
from transformers import AutoModelForCausalLM

llm = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(llm, "<this repository>")
# prompt: a tokenizer's input_ids and attention_mask; history: (users, items) item ids, oldest
# first, 0 = padding
output = model(**prompt, history=history, return_logits=True)
output.logits  # (users, items): column j scores item id j + 1
```

## Settings

```json
{settings}
```
"""


def describe_adapter(folder: str | Path, config: "BiTuningConfig") -> None:
    """Rewrites the text of a model card that has just been filled in from a template.

    A card that somebody has written, or none, is left alone.

    Args:
        folder: where the adapter was saved; its ``README.md`` is changed.
        config: the adapter's configuration.
    """
    path = Path(folder) / "README.md"
    if not path.is_file():
        return
    card = ModelCard.load(path)
    if "[More Information Needed]" not in card.text:
        return
    base = config.base_model_name_or_path
    card.data["library_name"] = "peft"
    card.data["tags"] = sorted({*(card.data.get("tags") or []), *TAGS})
    if base and not Path(base).exists():
        card.data["base_model"] = base
    base = base or "the base model"
    card.text = TEXT.format(
        heading=HEADING,
        introduction=INTRODUCTION.format(base=f"`{base}`"),
        base=base,
        settings=settings_of(config),
    )
    card.save(path)


def settings_of(config: "BiTuningConfig", *, without: Collection[str] = ()) -> str:
    """Returns what decides an adapter, but for the fields named, as indented JSON."""
    left_out = {"collaborative_encoder_config", "inference_mode", *without}
    settings = {
        name: value
        for name, value in config.to_dict().items()
        if value is not None and name not in left_out
    }
    return json.dumps(settings, indent=2, default=str)
