"""What a recommendation takes, told from plain use of the language model, and checked.

Axes: B texts, T text tokens, E tokens of an ending, n users, N items in the catalogue.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .text_memory import TextMemory, extended

# What says whose history it is, in a recommendation and in a text.
HISTORY_ARGUMENTS = ("history", "history_mask", "history_states")
# What says of which part of which text each user is told, where users share texts.
BEGINNING_ARGUMENTS = ("text_rows", "text_lengths", "ending_ids")
# What only a recommendation takes.
RECOMMENDATION_ARGUMENTS = (
    *HISTORY_ARGUMENTS,
    *BEGINNING_ARGUMENTS,
    "text_memory",
    *("item_vectors", "negatives", "return_logits", "return_user_vectors"),
)
# What Trainer, tokenizers and PEFT's task wrappers add to a call; none of it concerns us here.
IGNORED_ARGUMENTS = frozenset(
    {
        *("output_attentions", "output_hidden_states", "use_cache", "token_type_ids"),
        *("num_items_in_batch", "return_user_vectors"),
    }
)


TENSORS = (
    *(*HISTORY_ARGUMENTS, *BEGINNING_ARGUMENTS),
    *("item_vectors", "labels", "negatives", "input_ids", "inputs_embeds"),
)
INDICES = (*BEGINNING_ARGUMENTS, "input_ids", "history", "labels", "negatives")


class RecommendationInputs(NamedTuple):
    """What a recommendation takes; ``BiTuningModel.forward`` says what each is."""

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    inputs_embeds: Tensor | None = None
    history: Tensor | None = None
    history_mask: Tensor | None = None
    history_states: Tensor | None = None
    text_rows: Tensor | None = None
    text_lengths: Tensor | None = None
    ending_ids: Tensor | None = None
    text_memory: TextMemory | Sequence[TextMemory] | None = None
    item_vectors: Tensor | None = None
    labels: Tensor | None = None
    negatives: Tensor | None = None
    return_logits: bool = False
    return_dict: bool = True

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> "RecommendationInputs":
        """Takes them from the arguments of a call.

        Raises:
            TypeError: for an argument that is not among them.
            ValueError: for labels that are not item ids, or negatives without labels or of a wrong
                shape.
        """
        known = cls._fields
        unknown = sorted(
            name for name in arguments if name not in known and name not in IGNORED_ARGUMENTS
        )
        if unknown:
            raise TypeError(
                f"a recommendation does not take the arguments {unknown}; it takes "
                f"{', '.join(known)} and return_user_vectors"
            )
        _check_tensors(arguments, ("attention_mask",))  # the LM's own may be of another kind
        inputs = cls(**{name: arguments[name] for name in known if name in arguments})._remembered()
        for name in INDICES:
            values = getattr(inputs, name)
            if values is not None and (values.is_floating_point() or values.is_complex()):
                raise ValueError(f"{name} must hold whole numbers, got {values.dtype}")
        text = inputs.inputs_embeds if inputs.input_ids is None else inputs.input_ids
        _check_beginnings(inputs, text)
        users = text if inputs.text_rows is None else inputs.text_rows
        if inputs.labels is not None and users is not None:
            if inputs.labels.shape != users.shape[:1]:
                raise ValueError(
                    "labels of a recommendation are the next items' ids, one a user, of shape "
                    f"({len(users)},), got {tuple(inputs.labels.shape)}; for the loss of the text "
                    "set return_user_vectors=False and give labels of the text's shape"
                )
        _check_negatives(inputs)
        return inputs

    def _remembered(self) -> "RecommendationInputs":
        """Puts what is remembered of a text before what is given of it.

        Raises:
            ValueError: if the text comes in a way that a memory has no room for.
        """
        if self.text_memory is None:
            return self
        beside = [
            name
            for name in ("inputs_embeds", "text_rows", "text_lengths")
            if getattr(self, name) is not None
        ]
        if beside:
            raise ValueError(
                f"text_memory does not go with {beside[0]}: it continues each user's text by "
                "input_ids"
            )
        ids, is_real = extended(self.memories, self.input_ids, self.attention_mask)
        rows = torch.arange(len(ids), device=ids.device)
        return self._replace(
            input_ids=ids, attention_mask=is_real, text_rows=rows, text_lengths=is_real.sum(1)
        )

    @property
    def memories(self) -> list[TextMemory]:
        """What is remembered of each user's text; empty where nothing is to be.

        Raises:
            TypeError: if it is something else.
        """
        one_or_many = self.text_memory
        if one_or_many is None:
            return []
        given = one_or_many if isinstance(one_or_many, list | tuple) else [one_or_many]
        for one in given:
            if not isinstance(one, TextMemory):
                raise TypeError(
                    "text_memory must be a TextMemory of one user or a list of them, one a user, "
                    f"got {type(one).__name__}"
                )
        return list(given)

    @property
    def beginnings(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Which part of which text each user is told in, and what follows each part."""
        return self.text_rows, self.text_lengths, self.ending_ids


def wants_recommendation(arguments: dict[str, Any]) -> bool:
    """Tells a recommendation from plain use of the LM by the arguments of a call.

    Raises:
        ValueError: if an argument is no tensor, or labels of items are given to plain use.
    """
    _check_tensors(arguments, TENSORS)
    labels, asked = arguments.get("labels"), arguments.get("return_user_vectors")
    has_item_labels = labels is not None and labels.ndim == 1
    if asked is False and has_item_labels:
        raise ValueError(
            "labels of shape (B,) are item ids and return_user_vectors=False asks for the language "
            "model; leave one of them out"
        )
    if asked is not None:
        return bool(asked)
    if has_item_labels or arguments.get("return_logits"):
        return True
    if any(
        name in arguments
        for name in ("item_vectors", "negatives", "text_memory", *BEGINNING_ARGUMENTS)
    ):
        return True
    return labels is None and any(name in arguments for name in HISTORY_ARGUMENTS)


def _check_tensors(arguments: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if name in arguments and not isinstance(arguments[name], Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got {type(arguments[name]).__name__}")


def _check_beginnings(inputs: RecommendationInputs, text: Tensor | None) -> None:
    rows, lengths, ending = inputs.beginnings
    if rows is None and lengths is None and ending is None:
        return
    if rows is None or lengths is None:
        raise ValueError(
            "users who share texts need text_rows (n,), the text of each, and text_lengths (n,), "
            "how many of its tokens; give both"
        )
    if rows.ndim != 1 or rows.shape != lengths.shape or not len(rows):
        raise ValueError(
            "text_rows and text_lengths must have the same shape (n,), a text and a length for "
            f"each of at least one user, got {tuple(rows.shape)} and {tuple(lengths.shape)}"
        )
    if ending is not None and ending.ndim != 1:
        raise ValueError(
            f"ending_ids must have the shape (E,), the same for all, got {tuple(ending.shape)}"
        )
    # Elsewhere the check would wait for the device.
    if text is None or rows.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if rows.min() < 0 or rows.max() >= len(text):
        raise ValueError(
            f"text_rows must lie in 0..{len(text) - 1}, the rows of the text, got "
            f"{int(rows.min())}..{int(rows.max())}"
        )
    if lengths.min() < 0 or lengths.max() > text.size(1):
        raise ValueError(
            f"text_lengths must lie in 0..{text.size(1)}, the tokens of a text, got "
            f"{int(lengths.min())}..{int(lengths.max())}"
        )
    mask = inputs.attention_mask
    if mask is None or mask.shape != text.shape[:2] or mask.device.type != "cpu":
        return
    real = mask.bool().sum(1)[rows]
    if (lengths > real).any():
        user = int((lengths > real).nonzero()[0])
        raise ValueError(
            "text_lengths must be at most the real tokens of the text, for pads cannot be read: "
            f"text {int(rows[user])} has {int(real[user])}, and a user of it has "
            f"{int(lengths[user])}; count no pads"
        )


def _check_negatives(inputs: RecommendationInputs) -> None:
    negatives = inputs.negatives
    if negatives is None:
        return
    if inputs.labels is None:
        raise ValueError(
            "negatives are what the loss compares labels with, and there are no labels; give "
            "labels (B,), the next items' ids, or leave negatives out"
        )
    if negatives.ndim != 1 or not len(negatives):
        raise ValueError(
            "negatives must be the ids of at least one item, the same for all users, of shape "
            f"(K,), got {tuple(negatives.shape)}"
        )
