"""Says a history as a prompt: an instruction, then the items oldest first, numbered.

Item ids never enter the text: within one day many logs are sorted by id, so ids leak order.
Each item's text is tokenised once; a prompt is put together from the pieces.
"""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from .catalogue import TITLE, Catalogue

INSTRUCTION = (
    "A shopper's purchases, oldest first. Summarise the shopper's taste into the next tokens.\n"
)
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
        ValueError: if ``max_tokens`` cannot hold the instruction and the longest single item.
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
        self._item_tokens: list[list[int]] = [[], *encode(texts)]  # row 0: padding
        self._number_tokens: list[list[int]] = [[]]
        longest = max(map(len, self._item_tokens))
        needed = len(self._opening) + len(self._numbers(1)[1]) + longest
        if needed > max_tokens:
            raise ValueError(
                f"max_tokens ({max_tokens}) must hold the instruction ({len(self._opening)} "
                f"tokens) and the longest item ({longest} tokens); use at least {needed}"
            )

    def __call__(self, history: Sequence[int]) -> list[int]:
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

    def _newest_that_fit(self, history: Sequence[int]) -> Sequence[int]:
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
