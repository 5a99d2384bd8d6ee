"""What a recommender needs beside the adapter and the catalogue."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from laser_peft.data import Catalogue, PromptBuilder, PromptTemplate

KINDS = {"max_tokens": int, "max_items": int, "dtype": str, "reads_items": bool}


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
        TypeError: if a value is of another type.
        ValueError: if a limit is below one, or ``dtype`` is no torch dtype of floats.
    """

    max_tokens: int = 512
    max_items: int = 50
    prompt: PromptTemplate = PromptTemplate()
    dtype: str = "float32"
    reads_items: bool = False

    def __post_init__(self) -> None:
        for name, kind in KINDS.items():
            if type(getattr(self, name)) is not kind:
                raise TypeError(
                    f"RecommenderConfig: {name} must be of the type {kind.__name__}, got "
                    f"{getattr(self, name)!r}"
                )
        for name in ("max_tokens", "max_items"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"RecommenderConfig: {name} must be at least 1, got {getattr(self, name)}"
                )
        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(
                "RecommenderConfig: dtype must be the name of a torch dtype of floats, like "
                f"'float32' or 'bfloat16', got {self.dtype!r}"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RecommenderConfig":
        """Makes a configuration of what JSON holds.

        Raises:
            TypeError: if a value is of another type, or there is no such field.
            ValueError: see the class.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise TypeError(f"a recommender's configuration has no {unknown[:5]}; it has {known}")
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
