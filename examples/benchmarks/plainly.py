"""Bi-Tuning's objective as one would write it on top of transformers, to measure against.

Texts are padded on the left and masked, the causal language model is called as it is (with its
vocabulary head, for its hidden states), one target a pass, and the catalogue's scores are a plain
product with a softmax. Loss and gradients are those of :mod:`laser_peft` (tests/examples).

Axes: B users, X tokens, N items, S suffix tokens, P prefix tokens, R recommendation width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from laser_peft.tuner import recommending
from laser_peft.tuner.base_model import backbone_of
from laser_peft.tuner.joining import join
from laser_peft.tuner.layer import ActiveAdapter
from laser_peft.tuner.reading import UserTexts


@contextmanager
def written_plainly(*, with_head: bool = True) -> Iterator[None]:
    """Lets adapters read users and score the catalogue plainly within.

    Args:
        with_head: whether the vocabulary head runs too, as it does in the whole language model.
    """
    reading = partial(user_states, with_head=with_head)
    with ExitStack() as stack:
        stack.enter_context(patch.object(recommending, "user_states", reading))
        stack.enter_context(patch.object(recommending, "next_item_loss", next_item_loss))
        yield


def user_states(
    call: Callable[..., Any],
    lm: PreTrainedModel,
    active: ActiveAdapter,
    texts: UserTexts,
    prefix: Tensor,
    memories: Sequence[None] = (),
    *,
    with_head: bool,
) -> Tensor:
    """Reads ``(B, S, H)`` states of the suffix; see :func:`laser_peft.tuner.reading.user_states`.

    Raises:
        ValueError: if users share texts: that is not one target a pass.
    """
    if texts.rows is not None:
        raise ValueError("users who share texts are read in one pass; give each a text of its own")
    suffix = active.adapter.suffix()
    text_first = active.config.layout == "text_first"
    joined = join(
        prefix, texts.embedded, suffix, texts.is_real, pads_first=True, text_first=text_first
    )
    run = call if with_head else backbone_of(lm)
    output = run(
        inputs_embeds=joined.inputs_embeds,
        attention_mask=joined.is_real.long(),
        position_ids=(joined.is_real.cumsum(1) - 1).clamp(min=0),
        output_hidden_states=True,
        use_cache=False,
    )
    return output.hidden_states[-1][:, -len(suffix) :]


def next_item_loss(
    user_vectors: Tensor, item_vectors: Tensor, labels: Tensor, negatives: Tensor | None
) -> Tensor:
    """Scores all items at once, ``(B, N)``; see :func:`laser_peft.losses.next_item_loss`.

    Raises:
        ValueError: if there are negatives: it is the softmax over the whole catalogue.
    """
    if negatives is not None:
        raise ValueError("the plain loss is over the whole catalogue; leave negatives out")
    with torch.autocast(user_vectors.device.type, enabled=False):
        return F.cross_entropy(user_vectors.float() @ item_vectors.float().T, labels - 1)
