"""Says a history as a prompt: an instruction, then the items oldest first, numbered.

Item ids never enter the text: within one day many logs are sorted by id, so ids leak order.
Each item's text is tokenised once; a prompt is put together from the pieces.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from .catalogue import TITLE, Catalogue

INSTRUCTION = (
    "A shopper's purchases, oldest first. Summarise the shopper's taste into the next tokens.\n"
)
SHORTEST_ITEM = 16  # tokens that a prompt must leave for its only item
# Attributes whose column name is no good label in a sentence about one item.
LABELS = {"categories": "category"}


def describe_item(attributes: Mapping[str, str]) -> str:
    """Says an item in words; what is not known leaves no trace.

    Args:
        attributes: texts by name, none of them empty.

    Example:
        >>> describe_item({"title": "Red Shatter", "brand": "OPI", "categories": "Nails, Polish"})
        'Red Shatter (brand: OPI; category: Nails, Polish)'
        >>> describe_item({"brand": "OPI"})
        'brand: OPI'
        >>> describe_item({})
        'unnamed item'
    """
    labelled = [
        f"{LABELS.get(name, name)}: {text}" for name, text in attributes.items() if name != TITLE
    ]
    details = "; ".join(labelled)
    title = attributes.get(TITLE, "")
    if title and details:
        return f"{title} ({details})"
    return title or details or "unnamed item"


class PromptBuilder:
    """Makes token ids from histories of dense item ids.

    Args:
        tokenizer: the language model's tokenizer.
        catalogue: the items; their texts are tokenised here, once.
        max_tokens: longest prompt in tokens.
        max_items: longest history in items, None for no limit.
        instruction: text before the items.

    Raises:
        ValueError: if ``max_tokens`` cannot hold the instruction and a short item.

    Warns:
        UserWarning: if an item alone is longer than a prompt; its text is cut to fit.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        catalogue: Catalogue,
        *,
        max_tokens: int = 512,
        max_items: int | None = None,
        instruction: str = INSTRUCTION,
    ) -> None:
        def encode(texts: list[str]) -> list[list[int]]:
            return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

        self.max_tokens = max_tokens
        self.max_items = max_items
        self._encode = encode
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self._opening = start + encode([instruction])[0]
        texts = [f" {describe_item(attributes)}\n" for attributes in catalogue.attributes()]
        self._number_tokens: list[list[int]] = [[]]
        needed = len(self._opening) + len(self._numbers(1)[1])
        room = max_tokens - needed
        if room < SHORTEST_ITEM:
            raise ValueError(
                f"max_tokens ({max_tokens}) must hold the instruction and the first number "
                f"({needed} tokens) and an item; use at least {needed + SHORTEST_ITEM}"
            )
        items = encode(texts)
        too_long = sum(len(tokens) > room for tokens in items)
        if too_long:
            warnings.warn(
                f"{too_long} items have more than the {room} tokens that a prompt has room for; "
                "their texts are cut; raise max_tokens, or leave long attributes out of the items",
                stacklevel=2,
            )
        self._item_tokens = [[], *(tokens[:room] for tokens in items)]  # row 0: padding

    def __call__(self, history: Sequence[int] | np.ndarray) -> list[int]:
        """Builds a prompt; too long a history loses its oldest items, always whole ones.

        Args:
            history: dense item ids, oldest first; may be empty.

        Returns:
            Token ids, at most ``max_tokens``, ending with the newest item.
        """
        kept = self._newest_that_fit(history)
        numbers = self._numbers(len(kept))
        tokens = list(self._opening)
        for place, item in enumerate(kept, start=1):
            tokens += numbers[place]
            tokens += self._item_tokens[item]
        return tokens

    def _newest_that_fit(self, history: Sequence[int] | np.ndarray) -> Sequence[int] | np.ndarray:
        if self.max_items is not None:
            history = history[-self.max_items :]
        numbers = self._numbers(len(history))
        room = self.max_tokens - len(self._opening)
        count = 0
        for item in reversed(history):
            # The kept items are numbered from 1, so one more item costs the next number.
            room -= len(self._item_tokens[item]) + len(numbers[count + 1])
            if room < 0:
                break
            count += 1
        return history[len(history) - count :]

    def _numbers(self, count: int) -> list[list[int]]:
        """Returns the tokens of ``1.`` .. ``count.``, by number."""
        known = len(self._number_tokens)
        self._number_tokens += self._encode([f"{place}." for place in range(known, count + 1)])
        return self._number_tokens
