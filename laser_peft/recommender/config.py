"""What a recommender needs beside the adapter and the catalogue."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from laser_peft.data import Catalogue, PromptBuilder, PromptTemplate


@dataclass(frozen=True)
class RecommenderConfig:
    """What a recommender needs beside the adapter and the catalogue.

    Args:
        max_tokens: longest prompt in tokens.
        max_items: newest items of a history that prompt and collaborative encoder read; at least 1.
        prompt: what a prompt says around and about the items.
        dtype: precision in which the language model is loaded, a torch dtype's name.
        reads_items: the adapter's item vectors are its own readings of the items as histories of
            one (``item_vectors="text"``, see :mod:`laser_peft.item_encoding`); new items are then
            read so too.

    Raises:
        ValueError: if ``max_items`` is below one.
    """

    max_tokens: int = 512
    max_items: int = 50
    prompt: PromptTemplate = PromptTemplate()
    dtype: str = "float32"
    reads_items: bool = False

    def __post_init__(self) -> None:
        if self.max_items < 1:
            raise ValueError(
                f"RecommenderConfig: max_items must be at least 1, got {self.max_items}"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RecommenderConfig":
        """Makes a configuration of what JSON holds."""
        return cls(**values | {"prompt": PromptTemplate.from_dict(values.get("prompt", {}))})

    def prompt_builder(
        self, tokenizer: PreTrainedTokenizerBase, catalogue: Catalogue, *, lazy: bool = False
    ) -> PromptBuilder:
        """Makes the prompts these limits describe; raises what :class:`PromptBuilder` raises."""
        return PromptBuilder(
            tokenizer,
            catalogue,
            max_tokens=self.max_tokens,
            max_items=self.max_items,
            template=self.prompt,
            lazy=lazy,
        )
