"""What a model says of users and items: user vectors, scores of given items, cosines.

Axes: B users in a batch, N items in the catalogue, R recommendation width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

from laser_peft.data import PaddingCollator, PromptBuilder
from laser_peft.eval_mode import in_eval_mode
from laser_peft.evaluation import DotProducts
from laser_peft.out_of_memory import says_what_to_lower
from laser_peft.portions import TOKENS_IN_CACHES, portions
from laser_peft.tuner import TextMemory

from .best import Shelf, best_items, check_finite

ROWS_AT_A_TIME = 2**16  # of vectors that are brought to length one

LOWER = "lower batch_size, or max_tokens of recommender_config.json"


@torch.inference_mode()
def user_vectors(
    model: PeftModel,
    prompts: PromptBuilder,
    histories: Sequence[np.ndarray],
    *,
    max_items: int,
    batch_size: int,
) -> Tensor:
    """Reads users, those with prompts of like length together, with dropout switched off.

    What is padded to the longest of a batch is padded less so.

    Args:
        model: a causal LM with a Bi-Tuning adapter.
        prompts: says histories in tokens.
        histories: for each user dense ids, oldest first; may be empty. At least one user.
        max_items: how many of the newest the collaborative encoder reads.
        batch_size: users at a time.

    Returns:
        ``(B, R)`` float, whose dot products with item vectors are the scores.
    """
    examples: list[dict[str, Any]] = [
        {"input_ids": prompts(history), "history": history[-max_items:]} for history in histories
    ]
    lengths = [len(example["input_ids"]) for example in examples]
    cut = list(portions(lengths, most_rows=batch_size))
    read = [_read(model, PaddingCollator()([examples[row] for row in rows])) for rows in cut]
    return _in_order(read, cut)


@torch.inference_mode()
def user_vectors_after(
    model: PeftModel,
    prompts: PromptBuilder,
    histories: Sequence[np.ndarray],
    memories: Sequence[TextMemory],
    *,
    max_items: int,
    batch_size: int,
) -> Tensor:
    """Reads users; of their prompts only what is not remembered.

    Args:
        model: as :func:`user_vectors` takes it and what follows.
        prompts: says histories in tokens.
        histories: for each user dense ids, oldest first; may be empty. At least one user.
        memories: of each user's prompts so far, which then hold these; one begins anew where the
            prompt does, as when it has lost its oldest items.
        max_items: how many of the newest the collaborative encoder reads.
        batch_size: users at a time, those who have like many tokens to read together.

    Returns:
        ``(B, R)`` float.
    """
    examples: list[dict[str, Any]] = [
        {
            "input_ids": _not_remembered(memory, prompts.with_places(history)[0]),
            "history": history[-max_items:],
        }
        for history, memory in zip(histories, memories, strict=True)
    ]
    ending = torch.tensor(prompts.ending, dtype=torch.int64)
    # Of new and known users in one batch, all would be padded to what the new ones are told.
    lengths = [len(example["input_ids"]) for example in examples]
    most_tokens = TOKENS_IN_CACHES if model.device.type == "cpu" else None
    cut = list(portions(lengths, most_tokens=most_tokens, most_rows=batch_size))
    read = []
    for rows in cut:
        batch = PaddingCollator()([examples[row] for row in rows]) | {"ending_ids": ending}
        read.append(_read(model, batch, text_memory=[memories[row] for row in rows]))
    return _in_order(read, cut)


def _not_remembered(memory: TextMemory, tokens: list[int]) -> list[int]:
    known = [] if memory.ids is None else memory.ids[0].tolist()
    if known != tokens[: len(known)]:
        memory.forget()
        known = []
    return tokens[len(known) :]


def _in_order(read: Sequence[Tensor], cut: Sequence[Sequence[int]]) -> Tensor:
    order = [row for rows in cut for row in rows]
    return torch.cat(list(read))[torch.tensor(order, device=read[0].device).argsort()]


def _read(model: PeftModel, batch: dict[str, Tensor], **others: list[TextMemory]) -> Tensor:
    _check_tokens(model, batch["input_ids"])
    batch = {name: values.to(model.device) for name, values in batch.items()}
    with in_eval_mode(model), says_what_to_lower("reading a batch of users", LOWER):
        users = model(**batch, **others, return_user_vectors=True).user_vectors
    return users / model.peft_config[model.active_adapter].temperature


def _check_tokens(model: PeftModel, input_ids: Tensor) -> None:
    rows = model.get_input_embeddings().num_embeddings
    if input_ids.numel() and input_ids.max() >= rows:
        raise ValueError(
            f"a prompt has the token {int(input_ids.max())} and the language model knows {rows}: "
            "the tokenizer is of another one; take the one that the adapter was trained with"
        )


def score_candidates(
    users: Tensor, vectors: Tensor, candidates: Sequence[np.ndarray]
) -> list[list[float]]:
    """Scores for each user other items.

    Args:
        users: ``(B, R)`` float.
        vectors: ``(N, R)`` float.
        candidates: for each user dense ids ``1..N``.

    Returns:
        For each user a score for each of its candidates.

    Raises:
        ValueError: if a score is not a finite number.
    """
    scored = []
    users = users.to(vectors.device)
    for user, ids in zip(users, candidates, strict=True):
        own = vectors[torch.from_numpy(ids - 1).to(vectors.device)]
        scores = DotProducts(user[None], own).of_range(0, len(ids))[0]
        scored.append(check_finite(scores).tolist())
    return scored


def similar(
    vectors: Tensor, dense: int, k: int, allowed: np.ndarray | None
) -> list[tuple[int, float]]:
    """Finds the items whose vectors have the largest cosine with an item's.

    Args:
        vectors: ``(N, R)`` float; the cosine with one of zeros is zero.
        dense: the item's dense id, which is left out.
        k: how many.
        allowed: ``(N,)`` bool, which items may be found; None: all.

    Returns:
        At most k pairs of dense id and cosine, nearest first.
    """
    own = F.normalize(vectors[dense - 1 : dense].float(), dim=1)
    best: list[tuple[int, float]] = []
    for start in range(0, len(vectors), ROWS_AT_A_TIME):  # no second table of them all
        part = slice(start, start + ROWS_AT_A_TIME)
        directions = F.normalize(vectors[part].float(), dim=1)
        shelf = Shelf.of(directions, None if allowed is None else allowed[part])
        is_here = start < dense <= start + len(directions)
        left_out = [np.array([dense - start])] if is_here else None
        (found,) = best_items(own, shelf, k, left_out=left_out)
        best += [(start + item, cosine) for item, cosine in found]
        best = sorted(best, key=lambda pair: (-pair[1], pair[0]))[:k]
    return best
