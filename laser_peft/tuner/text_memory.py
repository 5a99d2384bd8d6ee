"""What a language model remembers of one user's text, so that it need not be read again.

Axes: T tokens read so far, t that follow them.
"""

import copy

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from .base_model import backbone_of
from .joining import read
from .trimming import only_at


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

    def states_after(
        self, lm: PreTrainedModel, text: Tensor, tokens: Tensor, *, num_read: int
    ) -> Tensor:
        """Reads virtual tokens after the text, of which only what is new is read.

        Args:
            lm: a language model that ``can_share`` is True for.
            text: ``(1, T + t, D)`` float, the embedded tokens of :meth:`extended`.
            tokens: ``(1, V, D)`` float.
            num_read: S, how many of these are wanted, the last ones.

        Returns:
            ``(1, S, H)`` float states.
        """
        # Plain layers, which keep every token: can_share has seen to it that windows are wider.
        cache = DynamicCache() if self._cache is None else _branch(self._cache)
        new = torch.cat([text[:, cache.get_seq_length() :], tokens.to(text)], 1)
        backbone = backbone_of(lm)
        wanted = torch.arange(new.size(1) - num_read, new.size(1), device=new.device)[None]
        with only_at(lm, wanted):
            output = backbone(
                inputs_embeds=new, past_key_values=cache, use_cache=True, return_dict=True
            )
        for layer in cache.layers:
            layer.keys = layer.keys[..., : text.size(1), :].detach()
            layer.values = layer.values[..., : text.size(1), :].detach()
        self._cache = cache
        return read(output.last_hidden_state, wanted)


def _branch(cache: DynamicCache) -> DynamicCache:
    """Copies what may grow without the other: new keys replace a layer's old ones."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch
