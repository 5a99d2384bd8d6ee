"""Reads virtual tokens after beginnings of texts, each text once.

Axes: B texts, T text tokens, n users, K users of one text, V virtual tokens of a user, the
last S of which are read, D width of the LM's embeddings, H width of its last hidden states.

With the virtual tokens behind the text nothing that is learnt comes before it: the text is read
without gradients, and all users of a text (the same shopper at different times) share that reading.
Each user's virtual tokens are a block that sees its own beginning of the text and itself.
"""

import logging
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from laser_peft.eval_mode import in_eval_mode
from laser_peft.out_of_memory import is_of_memory

from .base_model import WINDOWS, backbone_of, some_tokens
from .devices import device_of
from .in_graphs import hooks_of, runs_again_in_graph
from .joining import read
from .trimming import only_at
from .trying import reads_alike, runs_layers_again

logger = logging.getLogger(__name__)

# By model: how it was when it was tried, and whether it read alike.
_OBEYS: WeakKeyDictionary[PreTrainedModel, tuple[tuple[object, ...], bool]] = WeakKeyDictionary()


def read_beginnings(
    lm: PreTrainedModel,
    text: Tensor,
    rows: Tensor,
    lengths: Tensor,
    tokens: Tensor,
    *,
    num_read: int,
    one_each: bool = False,
) -> Tensor:
    """Reads each user's virtual tokens after a beginning of a text.

    Args:
        lm: a language model that :func:`can_share` is True for.
        text: ``(B, T, D)`` float embedded tokens; where a text ends, pads follow.
        rows: ``(n,)`` int64, the text that each user reads.
        lengths: ``(n,)`` int64 in ``0..T``, how many of its tokens.
        tokens: ``(n, V, D)`` float, what follows them.
        num_read: S, how many of these are wanted, the last ones.
        one_each: whether ``rows`` are known to be different.

    Returns:
        ``(n, S, H)`` float, states of virtual tokens, as if each user had been read alone.
    """
    backbone = backbone_of(lm)
    # Some make no memory of their own while they are in training mode.
    memory = DynamicCache(config=lm.config.get_text_config(decoder=True))
    # Keys and values are all that is wanted; of no position at all some kernels cannot run.
    one = rows.new_zeros(len(text), min(text.size(1), 1))
    with torch.no_grad(), only_at(lm, one):
        backbone(inputs_embeds=text, past_key_values=memory, use_cache=True, return_dict=True)
    num_texts, num_tokens, num_virtual = len(text), text.size(1), tokens.size(1)
    if one_each:  # counting would wait for an accelerator
        places, most = torch.zeros_like(rows), 1
    else:
        places = _places_among(rows, num_texts)  # (n,), of a user among those of its text
        most = int(places.max()) + 1 if len(places) else 0
    blocks = tokens.new_zeros(num_texts, most, num_virtual, tokens.size(-1))
    blocks = blocks.index_put((rows, places), tokens).to(text.dtype)
    ends = lengths.new_zeros(num_texts, most).index_put((rows, places), lengths)
    steps = torch.arange(num_virtual, device=text.device)
    positions = (ends[:, :, None] + steps).flatten(1)  # (B, K V)
    ends_of_blocks = num_virtual * torch.arange(1, most + 1, device=text.device)
    wanted = (ends_of_blocks[:, None] + torch.arange(-num_read, 0, device=text.device)).flatten()
    wanted = wanted.expand(num_texts, -1)  # (B, K S)
    with only_at(lm, wanted, is_masked=True):
        output = backbone(
            inputs_embeds=blocks.flatten(1, 2),
            attention_mask=_mask(ends, num_tokens, num_virtual, text.dtype),
            position_ids=positions,
            past_key_values=memory,
            use_cache=True,
            return_dict=True,
        )
    states = read(output.last_hidden_state, wanted).unflatten(1, (most, num_read))
    return states[rows.to(states.device), places.to(states.device)]


def can_share(lm: PreTrainedModel, num_tokens: int) -> bool:
    """Tells whether the LM can read so, by trying it once on a few tokens.

    What an architecture does with a block mask and a memory is not declared anywhere; those
    without attention, or with positions of another kind, are told apart here.

    Args:
        lm: the language model.
        num_tokens: of the longest text with the virtual tokens of all its users: T + K V. Some
            mask by a token's place among all that is remembered.

    Raises:
        RuntimeError: if the memory does not suffice to try it.
    """
    backbone = backbone_of(lm)
    if not has_room(lm, num_tokens):
        return False
    if any(parameter.requires_grad for parameter in backbone.parameters()):
        return False
    if torch.compiler.is_compiling():  # where nothing can be tried
        hooks = hooks_of(backbone)
        tried = None if hooks is None else hooks.shares_with
        return tried == kernels_of(lm) and not runs_again_in_graph(backbone)
    return not runs_layers_again(lm) and tried_with(lm) is not None


def tried_with(lm: PreTrainedModel) -> tuple[object, ...] | None:
    """Returns :func:`kernels_of` the language model if it can share with them, else None.

    Raises:
        RuntimeError: if the memory does not suffice to try it.
    """
    if not has_room(lm, num_tokens=1):
        return None
    kernels = kernels_of(lm)
    known = _OBEYS.get(lm)
    if known is None or known[0] != kernels:
        known = _OBEYS[lm] = kernels, _reads_alike(lm)
        if not known[1]:
            logger.info("%s reads every beginning of a text by itself", type(lm).__name__)
    return kernels if known[1] else None


def has_room(lm: PreTrainedModel, num_tokens: int) -> bool:
    """Tells whether neither windows nor lengths that a model knows end before so many tokens."""
    config = lm.config.get_text_config(decoder=True)
    backbone = backbone_of(lm)
    looks_up_ids = getattr(config, "hidden_size_per_layer_input", None)  # Gemma 3n and 4
    windows = [getattr(config, name, None) or num_tokens for name in WINDOWS]
    rooms = [*windows, *_sizes_of_masks(backbone), *_lengths_that_switch(config)]
    return backbone is not lm and not looks_up_ids and min(rooms) >= num_tokens


def kernels_of(lm: PreTrainedModel) -> tuple[object, ...]:
    """Returns what decides how a language model attends: by what, in which precision, and where."""
    config, embeddings = lm.config.get_text_config(decoder=True), lm.get_input_embeddings()
    attention = getattr(config, "_attn_implementation", None)
    return attention, embeddings.weight.dtype, device_of(embeddings).type


def _lengths_that_switch(config: PretrainedConfig) -> Iterator[int]:
    """Gives from which length on all tokens of a call are turned by other angles, as Phi-3's."""
    parameters = getattr(config, "rope_parameters", None) or {}
    for each in (parameters, *parameters.values()):  # those of each kind of layer, in some models
        if isinstance(each, dict) and each.get("rope_type") == "longrope":
            first = each.get("original_max_position_embeddings")
            yield first or getattr(config, "original_max_position_embeddings", None) or 0


def _sizes_of_masks(backbone: nn.Module) -> Iterator[int]:
    """Gives for how many tokens there are masks that a model keeps, as GPT-Neo does."""
    for buffer in backbone.buffers():
        if buffer.dtype == torch.bool and buffer.ndim == 4:
            yield buffer.size(-1)


@torch.no_grad()
def _reads_alike(lm: PreTrainedModel) -> bool:
    """Reads two beginnings of a text both ways."""
    backbone = backbone_of(lm)
    text, tokens = some_tokens(lm, 10).split([6, 4])
    tokens = tokens.unflatten(0, (2, 2))
    lengths = torch.tensor([3, 6], device=text.device)
    with in_eval_mode(backbone), torch.autocast(text.device.type, enabled=False):
        alone = torch.cat(
            [
                backbone(
                    inputs_embeds=torch.cat([text[:length], own])[None],
                    use_cache=False,
                    return_dict=True,
                ).last_hidden_state[:, -2:]
                for length, own in zip(lengths, tokens, strict=True)
            ]
        )
        try:
            rows = torch.zeros_like(lengths)
            shared = read_beginnings(lm, text[None], rows, lengths, tokens, num_read=2)
        except Exception as error:  # of any kind: whatever a foreign forward makes of such a mask
            if is_of_memory(error):
                raise
            logger.info("%s cannot share a text: %s", type(lm).__name__, error)
            return False
    return reads_alike(shared, alone)


def _places_among(rows: Tensor, num_texts: int) -> Tensor:
    """Counts each user's place, from 0, among those of its text: ``(n,)`` int64."""
    order = rows.argsort(stable=True)
    users = torch.bincount(rows, minlength=num_texts)
    starts = users.cumsum(0) - users
    places = torch.arange(len(rows), device=rows.device) - starts[rows[order]]
    return torch.empty_like(rows).scatter(0, order, places)


def _mask(lengths: Tensor, num_tokens: int, num_virtual: int, dtype: torch.dtype) -> Tensor:
    """Shows each block its beginning of the text and, causally, itself.

    Args:
        lengths: ``(B, K)`` int64, of the beginnings.
        num_tokens: T, remembered.
        num_virtual: V.
        dtype: of the mask.

    Returns:
        ``(B, 1, K V, T + K V)``, 0 where a token may look and the lowest number elsewhere.
    """
    device, most = lengths.device, lengths.size(1)
    text = torch.arange(num_tokens, device=device) < lengths[:, :, None]  # (B, K, T)
    text = text.repeat_interleave(num_virtual, 1)  # (B, K V, T)
    own = torch.ones(num_virtual, num_virtual, dtype=torch.bool, device=device).tril()
    blocks = torch.block_diag(*[own] * most).bool()  # (K V, K V)
    may_look = torch.cat([text, blocks.expand(len(lengths), -1, -1)], 2)
    mask = torch.zeros(may_look.shape, dtype=dtype, device=device)
    return mask.masked_fill(~may_look, torch.finfo(dtype).min)[:, None]
