"""What a language model remembers of one user's text, so that it need not be read again.

Axes: T tokens read so far, t that follow them.
"""

import copy

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from .beginnings import read_after, remember


class TextMemory:
    """One user's text as far as it has been read; grows with each call that it is given to.

    Nothing that is learnt comes before a text-first text, so what the language model makes of it
    does not change when the user goes on: a new item is read behind what is remembered. Where a
    model or a layout cannot do that, only the tokens are kept, and read anew each time.

    It belongs to one language model; not to be used by two threads at a time.
    """

    def __init__(self) -> None:
        self.ids: Tensor | None = None  # (1, T) int64
        self._cache: DynamicCache | None = None

    @property
    def num_tokens(self) -> int:
        """How many tokens T it holds."""
        return 0 if self.ids is None else self.ids.size(1)

    def forget(self) -> None:
        """Empties it."""
        self.ids = self._cache = None

    def extended(self, input_ids: Tensor | None) -> Tensor:
        """Returns its tokens and ``(1, t)`` further ones, ``(1, T + t)``; keeps nothing yet.

        Raises:
            ValueError: if they are of another shape, or there is no token at all.
        """
        if input_ids is not None and (input_ids.ndim != 2 or len(input_ids) != 1):
            raise ValueError(
                "a text_memory is of one user, whose further tokens input_ids must have the shape "
                f"(1, T), got {tuple(input_ids.shape)}"
            )
        given = [ids for ids in (self.ids, input_ids) if ids is not None]
        if not given:
            raise ValueError("text_memory is empty and there are no input_ids; give some")
        return torch.cat([ids.to(given[-1].device) for ids in given], 1)

    def states_after(self, lm: PreTrainedModel, text: Tensor, tokens: Tensor) -> Tensor:
        """Reads virtual tokens after the text, of which only what is new is read.

        Args:
            lm: a language model that ``can_share`` is True for.
            text: ``(1, T + t, D)`` float, the embedded tokens of :meth:`extended`.
            tokens: ``(1, V, D)`` float.

        Returns:
            ``(1, V, H)`` float states.
        """
        known = 0 if self._cache is None else self._cache.get_seq_length()
        self._cache = remember(lm, text[:, known:], self._cache)
        # What is read behind it is not remembered: a layer's new keys replace its old ones.
        branch = copy.copy(self._cache)
        branch.layers = [copy.copy(layer) for layer in self._cache.layers]
        row = torch.zeros(1, dtype=torch.int64, device=text.device)
        return read_after(lm, branch, row, row + text.size(1), tokens, num_texts=1)
