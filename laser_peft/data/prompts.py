"""Says a history as a prompt: an instruction, then the items oldest first, numbered.

Item ids never enter the text: within one day many logs are sorted by id, so ids leak order.
Each item's text is tokenised once; a prompt is put together from the pieces.
"""

import copy
import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np
from transformers import PreTrainedTokenizerBase

from .catalogue import Catalogue
from .interactions import ITEM
from .item_tokens import ItemTokens
from .pieces import PieceEncoder
from .prompt_template import PromptTemplate

SHORTEST_ITEM = 16  # tokens that a prompt must leave for its only item


class PromptBuilder:
    """Makes token ids from histories of dense item ids.

    Args:
        tokenizer: the language model's tokenizer.
        catalogue: the items; their texts are tokenised once.
        max_tokens: longest prompt in tokens.
        max_items: longest history in items, at least 1; None for no limit.
        template: what a prompt says around and about the items.
        lazy: tokenise an item when a history first names it, which saves a big catalogue time and
            memory; False: all of them here, as processes that fork from this one need them.

    Raises:
        ValueError: if ``max_items`` is below one, ``max_tokens`` cannot hold the template's own
            words and a short item, or the template asks for attributes that the catalogue does
            not have.

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
        template: PromptTemplate | None = None,
        lazy: bool = False,
    ) -> None:
        if max_items is not None and max_items < 1:
            raise ValueError(f"max_items must be at least 1, or None for no limit, got {max_items}")
        self.max_tokens = max_tokens
        self.max_items = max_items
        self.template = template = template or PromptTemplate()
        template.check_attributes(name for name in catalogue.frame.columns if name != ITEM)
        self._pieces = PieceEncoder(tokenizer, template.instruction + template.ending)
        self._opening = self._pieces.first(template.instruction)
        bos = tokenizer.bos_token_id
        if template.add_bos and bos is not None and self._opening[:1] != [bos]:
            self._opening = [bos, *self._opening]
        self._ending = self._pieces.following(template.ending)
        self._number_tokens: list[list[int]] = [[]]
        needed = len(self._opening) + len(self._numbers(1)[1]) + len(self._ending)
        room = max_tokens - needed
        if room < SHORTEST_ITEM:
            raise ValueError(
                f"max_tokens ({max_tokens}) must hold the instruction, the first number and the "
                f"ending ({needed} tokens) and an item; use at least {needed + SHORTEST_ITEM}"
            )
        self._room = room
        self._item_tokens = ItemTokens(partial(self._say, catalogue), len(catalogue), room)
        if not lazy:
            self._warn_of_cut(self._item_tokens.get_ready(np.arange(len(catalogue) + 1)))

    def extended(self, more: Catalogue) -> "PromptBuilder":
        """Returns prompts that can say further items too, numbered behind those there are.

        Args:
            more: the further items alone.

        Warns:
            UserWarning: if one of them alone is longer than a prompt; its text is cut to fit.
        """
        other = copy.copy(self)
        tokens = self._say(more)
        self._warn_of_cut(sum(len(own) > self._room for own in tokens))
        other._item_tokens = self._item_tokens.with_more(tokens)
        return other

    def __call__(self, history: Sequence[int] | np.ndarray) -> list[int]:
        """Builds a prompt; too long a history loses its oldest items, always whole ones.

        Args:
            history: dense item ids, oldest first; may be empty.

        Returns:
            Token ids, at most ``max_tokens``, ending with the newest item and the ending.
        """
        return self.with_places(history)[0] + self._ending

    @property
    def ending(self) -> list[int]:
        """The tokens that a prompt ends with, whatever the history."""
        return list(self._ending)

    def with_places(self, history: Sequence[int] | np.ndarray) -> tuple[list[int], list[int]]:
        """Builds a prompt without its ending, and says where each item ends in it.

        Cut behind an item and with the ending, it is the prompt of the history up to there.

        Args:
            history: dense item ids, oldest first; may be empty.

        Returns:
            Token ids, and for each item that they hold, the newest ones of the history, how many
            of them there are up to its end.
        """
        if self.max_items is not None:
            history = history[-self.max_items :]
        self._warn_of_cut(self._item_tokens.get_ready(np.asarray(history, dtype=np.int64)))
        kept = self._newest_that_fit(history)
        numbers = self._numbers(len(kept))
        tokens, ends = list(self._opening), []
        for place, item in enumerate(kept, start=1):
            tokens += numbers[place]
            tokens += self._item_tokens[item]
            ends.append(len(tokens))
        return tokens, ends

    def _say(self, catalogue: Catalogue, rows: np.ndarray | None = None) -> list[list[int]]:
        """Says ``(n,)`` rows of a catalogue in tokens, None: all."""
        template = self.template
        told = catalogue.iter_attributes(rows)
        return self._pieces.plain([template.line(1, template.describe(texts))[1] for texts in told])

    def _warn_of_cut(self, count: int) -> None:
        if count:
            warnings.warn(
                f"{count} items have more than the {self._room} tokens that a prompt has room "
                "for; their texts are cut; raise max_tokens, or leave long attributes out of the "
                "items",
                stacklevel=3,
            )

    def _newest_that_fit(self, history: Sequence[int] | np.ndarray) -> Sequence[int] | np.ndarray:
        numbers = self._numbers(len(history))
        room = self.max_tokens - len(self._opening) - len(self._ending)
        count = 0
        for item in reversed(history):
            # The kept items are numbered from 1, so one more item costs the next number.
            room -= len(self._item_tokens[item]) + len(numbers[count + 1])
            if room < 0:
                break
            count += 1
        return history[len(history) - count :]

    def _numbers(self, count: int) -> list[list[int]]:
        """Returns what stands before the items, by their numbers up to ``count``."""
        numbers = self._number_tokens
        if len(numbers) <= count:
            places = [self.template.line(place, "")[0] for place in range(len(numbers), count + 1)]
            # A list of its own: another thread may be making one too.
            self._number_tokens = numbers = numbers + self._pieces.plain(places)
        return numbers
