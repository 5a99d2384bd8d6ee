"""What a language model remembers of users' texts, so that they need not be read again.

Axes: B users, C tokens remembered, T tokens read when all new ones are, t new ones, V virtual
tokens behind them, the last S of which are read, D width of the LM's embeddings, H width of its
last hidden states.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from .base_model import backbone_of
from .few_lengths import rounded_up
from .joining import read
from .trimming import only_at

Piece = list[tuple[Tensor, Tensor]]
MOST_PIECES = 8  # each costs a copy of its own in every layer


class TextMemory:
    """One user's text as far as it has been read; grows with each call that it is given to.

    Nothing that is learnt comes before a text-first text, so what the language model makes of it
    does not change when the user goes on: a new item is read behind what is remembered. Where a
    model or a layout cannot do that, only the tokens are kept, and read anew each time.

    It belongs to one language model; not to be used by two threads at a time.
    """

    def __init__(self) -> None:
        self.ids: Tensor | None = None  # (1, T) int64
        # What calls have read of it: of each layer keys and values, (heads, tokens, width). All
        # together may be fewer tokens than the ids are, and more where a call has failed.
        self.pieces: list[Piece] = []

    @property
    def num_tokens(self) -> int:
        """How many tokens T it holds."""
        return 0 if self.ids is None else self.ids.size(1)

    @property
    def num_read(self) -> int:
        """How many of these tokens C there are keys and values of."""
        return min(sum(piece[0][0].size(1) for piece in self.pieces), self.num_tokens)

    def forget(self) -> None:
        """Empties it."""
        self.ids, self.pieces = None, []

    def add(self, piece: Piece, num_read: int) -> None:
        """Keeps what a call has read behind ``num_read`` tokens."""
        pieces = [*self.pieces, piece]
        is_too_long = sum(piece[0][0].size(1) for piece in self.pieces) > num_read
        if is_too_long or len(pieces) > MOST_PIECES:
            pieces = [_as_one(self.pieces, num_read), piece]
        self.pieces = pieces


def extended(
    memories: Sequence[TextMemory], input_ids: Tensor | None, attention_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Puts new tokens behind those that are remembered; keeps nothing yet.

    Args:
        memories: one a user, no two the same.
        input_ids: ``(B, t)`` int64. None: nothing is new.
        attention_mask: ``(B, t)``, nonzero where one is real. None: all are.

    Returns:
        ``(B, T)`` int64 tokens of the texts, followed by zeros, and ``(B, T)`` bool, which are
        tokens.

    Raises:
        ValueError: if they are of other shapes, a memory is there twice, there is none, or one
            is empty and there are no ``input_ids``.
    """
    if not memories:
        raise ValueError("text_memory must be of at least one user, got an empty list")
    if len({id(memory) for memory in memories}) < len(memories):
        raise ValueError("a text_memory is of one user; the same one was given for several")
    if input_ids is not None and (input_ids.ndim != 2 or len(input_ids) != len(memories)):
        raise ValueError(
            f"{len(memories)} text_memory need input_ids of the shape ({len(memories)}, T), a "
            f"user's further tokens each, got {tuple(input_ids.shape)}"
        )
    if attention_mask is not None and (
        input_ids is None or attention_mask.shape != input_ids.shape
    ):
        wanted = "no attention_mask" if input_ids is None else f"{tuple(input_ids.shape)}"
        raise ValueError(
            "attention_mask says which input_ids are real and has their shape: expected "
            f"{wanted}, got {tuple(attention_mask.shape)}"
        )
    texts = []
    for row, memory in enumerate(memories):
        given = [] if memory.ids is None else [memory.ids[0]]
        if input_ids is not None:
            new = input_ids[row]
            given.append(new if attention_mask is None else new[attention_mask[row].bool()])
        if not given:
            raise ValueError("text_memory is empty and there are no input_ids; give some")
        texts.append(torch.cat([ids.to(given[-1].device) for ids in given]))
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    lengths = torch.tensor([len(text) for text in texts], device=ids.device)
    return ids, torch.arange(ids.size(1), device=ids.device) < lengths[:, None]


def keep_ids(memories: Sequence[TextMemory], ids: Tensor, is_real: Tensor) -> None:
    """Remembers what :func:`extended` returned, now that it has been read."""
    for memory, row, real in zip(memories, ids, is_real, strict=True):
        memory.ids = row[real][None]


def states_after(
    lm: PreTrainedModel,
    memories: Sequence[TextMemory],
    text: Tensor,
    lengths: Sequence[int],
    tokens: Tensor,
    *,
    num_read: int,
) -> Tensor:
    """Reads virtual tokens after texts, of which only what is new is read, and remembered.

    Args:
        lm: a language model that ``can_share`` is True for.
        memories: one a user.
        text: ``(B, T, D)`` float, the embedded tokens of :func:`extended`.
        lengths: of each user's text, in tokens.
        tokens: ``(B, V, D)`` float.
        num_read: S, how many of these are wanted, the last ones.

    Returns:
        ``(B, S, H)`` float states.
    """
    known = [memory.num_read for memory in memories]
    new = [length - start for length, start in zip(lengths, known, strict=True)]
    most_known, most_new = max(known), max(new)
    starts = torch.tensor(known, device=text.device)
    places = (starts[:, None] + torch.arange(most_new, device=text.device)).clamp(
        max=text.size(1) - 1
    )
    own = torch.cat([read(text, places), tokens.to(text)], 1)
    length = own.size(1)
    if more := rounded_up(lm, own, num_known=most_known) - length:
        own = F.pad(own, (0, 0, 0, more))
    cache = _joined(memories, known)
    wanted = torch.arange(length - num_read, length, device=text.device).expand(len(own), -1)
    ragged = {}
    if len(set(known)) > 1 or len(set(new)) > 1:  # without pads no mask is needed
        ragged = _among_pads(
            starts, torch.tensor(lengths, device=text.device), own, most_new, most_known, length
        )
    with only_at(lm, wanted, is_masked=bool(ragged)):
        output = backbone_of(lm)(
            inputs_embeds=own, past_key_values=cache, use_cache=True, return_dict=True, **ragged
        )
    read_now = [layer.read for layer in cache.layers]
    if None not in read_now:  # as of layers that look at images alone
        for row, (memory, start, more) in enumerate(zip(memories, known, new, strict=True)):
            if more:
                memory.add([_of_user(pair, row, more) for pair in read_now], start)
    return read(output.last_hidden_state, wanted)


def tokens_at_once(memories: Sequence[TextMemory], lengths: Sequence[int]) -> int:
    """Returns how many places the texts of :func:`states_after` take up, pads among them."""
    known = [memory.num_read for memory in memories]
    return max(known) + max(length - start for length, start in zip(lengths, known, strict=True))


def can_remember(lm: PreTrainedModel) -> bool:
    """Tells whether all that a language model's layers remember are keys and values."""
    layers = DynamicCache(config=lm.config.get_text_config(decoder=True)).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _of_user(pair: tuple[Tensor, Tensor], row: int, num_new: int) -> tuple[Tensor, Tensor]:
    """Copies what is a user's, for the batch's is not kept."""
    keys, values = (tensor[row, :, :num_new].detach().clone() for tensor in pair)
    return keys, values


class _LayerOfUsers(DynamicLayer):
    """A layer of what several users remember, put together as it is read.

    Args:
        remembered: of each user pairs of keys and values, ``(heads, tokens, width)``.
        counts: how many of their tokens are read again, the first ones.
    """

    def __init__(
        self,
        remembered: Sequence[Sequence[tuple[Tensor, Tensor]]] = (),
        counts: Sequence[int] = (0,),
    ) -> None:
        super().__init__()
        self._remembered, self._counts = remembered, counts
        self.read: tuple[Tensor, Tensor] | None = None  # by this call, (B, heads, t + V, width)

    def get_seq_length(self) -> int:
        """Returns C, of the user who remembers most."""
        return max(self._counts)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Returns keys and values ``(B, heads, C + t + V, width)``, zeros behind shorter texts."""
        self.read, self.is_initialized = (key_states, value_states), True
        return self._behind(0, key_states), self._behind(1, value_states)

    def _behind(self, part: int, new: Tensor) -> Tensor:
        most = self.get_seq_length()
        if not most:
            return new
        length = most if new.requires_grad else most + new.size(2)
        whole = new.new_empty(new.size(0), new.size(1), length, new.size(3))
        for row, pieces, count in zip(whole, self._remembered, self._counts, strict=True):
            start = 0
            for piece in pieces:
                known = piece[part][:, : max(count - start, 0)]
                row[:, start : start + known.size(1)] = known
                start += known.size(1)
            row[:, start:most] = 0
        if new.requires_grad:
            return torch.cat([whole, new], 2)
        whole[:, :, most:] = new
        return whole


def _joined(memories: Sequence[TextMemory], counts: Sequence[int]) -> Cache:
    """Gives what all remember as one memory of a batch."""
    # Layers keep every token: can_share has seen to it that windows are wider.
    first = next((m for m, count in zip(memories, counts, strict=True) if count), None)
    if first is None:
        return Cache(layer_class_to_replicate=_LayerOfUsers)
    numbers = range(len(first.pieces[0]))
    of_layers = [[[piece[number] for piece in m.pieces] for m in memories] for number in numbers]
    return Cache(layers=[_LayerOfUsers(of_layer, counts) for of_layer in of_layers])


def _as_one(pieces: Sequence[Piece], num_read: int) -> Piece:
    def joined(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors), 1)[:, :num_read].clone()

    layers = ([zip(*of_layer, strict=True)] for of_layer in zip(*pieces, strict=True))
    return [(joined(keys), joined(values)) for ((keys, values),) in layers]


def _among_pads(
    known: Tensor, lengths: Tensor, own: Tensor, most_new: int, most_known: int, length: int
) -> dict[str, Tensor]:
    """Says where tokens stand, and that none sees a pad.

    Args:
        known: ``(B,)`` int64, how many tokens are remembered.
        lengths: ``(B,)`` int64, of the texts.
        own: ``(B, X, D)`` float, new tokens with pads behind them, virtual ones, and maybe pads.
        most_new: t.
        most_known: C.
        length: t + V.

    Returns:
        ``position_ids (B, X)`` int64 and ``attention_mask (B, 1, X, C + X)``, 0 where a token may
        look and the lowest number elsewhere.
    """
    num_users, num_own, _ = own.shape
    steps = torch.arange(num_own, device=own.device)
    new = (lengths - known)[:, None]
    is_virtual = steps >= most_new
    # A pad stands where the text ends: some models look positions up, or turn all by the last.
    virtual = new + steps.clamp(max=length - 1) - most_new
    places = torch.where(is_virtual, virtual, steps.minimum((new - 1).clamp(min=0)))
    positions = known[:, None] + places
    is_real = is_virtual | (steps < new)  # (B, t + V)
    causal = torch.ones(num_own, num_own, dtype=torch.bool, device=own.device).tril()
    remembered = torch.arange(most_known, device=own.device) < known[:, None]
    may_look = torch.cat(
        [
            remembered[:, None].expand(-1, num_own, -1),
            causal & is_real[:, None],
        ],
        2,
    )
    mask = own.new_zeros(may_look.shape).masked_fill(~may_look, torch.finfo(own.dtype).min)
    return {"position_ids": positions, "attention_mask": mask[:, None]}
