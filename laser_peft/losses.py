"""The terms of the training losses, as functions of tensors.

Axes: B users, N items, E experts, R recommendation width.
Follows arXiv 2409.01605: next-item softmax over the catalogue plus the router's balance term.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from .catalogue_softmax import catalogue_losses, scores_at_a_time

TORCH_HAS_CHUNKS = hasattr(F, "linear_cross_entropy")  # 2.13 and later
ROWS_IN_A_CHUNK = 128
# A table that learns: below so many scores memory costs less than care does, and with so few users
# even below four times as many; above so many items blocks are faster than torch's chunks.
FEW_SCORES = 2**20
FEW_ROWS = 64
MANY_ITEMS = 2**15


def catalogue_cross_entropy(user_vectors: Tensor, item_vectors: Tensor, labels: Tensor) -> Tensor:
    """Mean softmax cross-entropy of the next item against the whole catalogue.

    The ``(B, N)`` scores are all in memory only where they are few; else they are worked through in
    blocks, without second derivatives. Autocast does not reach them. What does is
    ``torch.set_float32_matmul_precision("medium")``: the products are then of bfloat16 where the
    processor has it, sums stay float32, and a user's gradient is off by some thousandths at most.

    Args:
        user_vectors: ``(B, R)`` float, divided by the temperature if there is one.
        item_vectors: ``(N, R)`` float, row ``j`` is item id ``j + 1``. Frozen, it is read once;
            one that asks for a gradient costs about twice as much.
        labels: ``(B,)`` int64 item ids in ``1..N`` (0 is padding and never a label).

    Returns:
        Scalar float32, in nats.

    Raises:
        ValueError: if a label on the CPU is out of range.
        RuntimeError: on the way back through blocks, if a graph of the gradients is asked for.
    """
    _check_ids("labels", labels, item_vectors.size(0))
    form = _fastest_form(user_vectors, item_vectors)
    return form(user_vectors.float(), item_vectors, labels.long() - 1)


def _fastest_form(users: Tensor, items: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if torch.compiler.is_compiling():  # a loop over blocks would be written out
        return _in_chunks if TORCH_HAS_CHUNKS else _at_once
    num_users, num_items = len(users), len(items)
    if not (torch.is_grad_enabled() and items.requires_grad):
        few = num_users * num_items <= scores_at_a_time(users.device)
        return _at_once if few else _in_blocks
    if num_users * num_items <= FEW_SCORES * (4 if num_users < FEW_ROWS else 1):
        return _at_once
    return _in_chunks if TORCH_HAS_CHUNKS and num_items <= MANY_ITEMS else _in_blocks


def _at_once(users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    with _full_precision(users):
        return F.cross_entropy(users @ items.float().T, targets)


def _in_chunks(users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions(
        batch_chunk_size=ROWS_IN_A_CHUNK, allow_retain_graph=True
    )
    with _full_precision(users):
        return F.linear_cross_entropy(users, items.float(), targets, options=options)


def _in_blocks(users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    return catalogue_losses(users, items, targets).mean()


def _full_precision(vectors: Tensor) -> AbstractContextManager[None]:
    """Keeps autocast from computing scores in half precision; left out, where it is off."""
    device = vectors.device.type
    return (
        torch.autocast(device, enabled=False)
        if torch.is_autocast_enabled(device)
        else nullcontext()
    )


def next_item_loss(
    user_vectors: Tensor, item_vectors: Tensor, labels: Tensor, negatives: Tensor | None
) -> Tensor:
    """:func:`catalogue_cross_entropy`, or with negatives :func:`sampled_cross_entropy`."""
    if negatives is None:
        return catalogue_cross_entropy(user_vectors, item_vectors, labels)
    return sampled_cross_entropy(user_vectors, item_vectors, labels, negatives)


def sampled_cross_entropy(
    user_vectors: Tensor,
    item_vectors: Tensor,
    labels: Tensor,
    negatives: Tensor,
    seen: Tensor | None = None,
) -> Tensor:
    """Mean softmax cross-entropy of the next item against a sample of the catalogue.

    The sample stands for the other ``N - 1`` items: its scores are raised by
    ``log((N - 1) / K)`` (the logQ correction of a uniform sample), so that the sum of their
    exponentials estimates that of the whole catalogue. A label that was drawn too is left out of
    its own row's sample; so is what the user has had, if ``seen`` tells it: the sample then stands
    for the items that are neither.

    Args:
        user_vectors: ``(B, R)`` float.
        item_vectors: ``(N, R)`` float, row ``j`` is item id ``j + 1``.
        labels: ``(B,)`` int64 item ids in ``1..N``.
        negatives: ``(K,)`` int64 item ids in ``1..N``, drawn uniformly with replacement and
            shared by all users.
        seen: ``(B, S)`` int64 item ids that compete with no label, 0 = padding; a label that is
            among them still counts as the label. None: every item competes.

    Returns:
        Scalar float32, in nats.

    Raises:
        ValueError: if a label or a negative on the CPU is out of range.
    """
    _check_ids("labels", labels, item_vectors.size(0))
    _check_ids("negatives", negatives, item_vectors.size(0))
    user_vectors, item_vectors = user_vectors.float(), item_vectors.float()
    left_out = negatives == labels[:, None]  # (B, K)
    num_others: int | Tensor = item_vectors.size(0) - 1
    if seen is not None:
        seen = seen.masked_fill(seen == labels[:, None], 0)
        left_out = left_out | _are_among(negatives, seen)
        num_others = num_others - _count_distinct(seen)
    stands_for = num_others / (~left_out).sum(1, keepdim=True).clamp(min=1)
    with _full_precision(user_vectors):
        others = user_vectors @ item_vectors[negatives - 1].T + stands_for.log()
    wanted = (user_vectors * item_vectors[labels - 1]).sum(1, keepdim=True)
    scores = torch.cat([wanted, others.masked_fill(left_out, -torch.inf)], dim=1)  # (B, 1 + K)
    return (scores.logsumexp(1) - wanted[:, 0]).mean()


def _are_among(items: Tensor, seen: Tensor) -> Tensor:
    """Tells which of ``(K,)`` items are among ``(B, S)`` ids, 0 = padding: ``(B, K)`` bool."""
    distinct, places = items.unique(return_inverse=True)
    found = torch.searchsorted(distinct, seen).clamp(max=len(distinct) - 1)
    nowhere = len(distinct)
    found = found.masked_fill(distinct[found] != seen, nowhere)
    among = torch.zeros(len(seen), nowhere + 1, dtype=torch.bool, device=seen.device)
    return among.scatter_(1, found, True)[:, places]


def _count_distinct(seen: Tensor) -> Tensor:
    """Counts the different ids of each row of ``(B, S)``, 0 = padding: ``(B, 1)`` int64."""
    ordered = F.pad(seen.sort(1).values, (1, 0))
    return (ordered[:, 1:] != ordered[:, :-1]).sum(1, keepdim=True)


def router_balance_loss(router_probs: Tensor, router_chosen: Tensor) -> Tensor:
    """Asks the router to spread users over the experts: ``E * sum_e f_e * P_e`` (Switch form).

    ``f_e`` is the share of all choices that fell on expert ``e`` and ``P_e`` its mean
    probability. The value is 1 when both are uniform and ``E`` when one expert takes everything;
    only ``P_e`` carries gradient.

    Args:
        router_probs: ``(B, E)`` float, each row summing to one.
        router_chosen: ``(B, E)`` bool, True where the expert was among the user's top k; or
            ``(E,)`` int64, how often each was, where the choices of more users count.

    Returns:
        Scalar float.

    Example:
        >>> probs = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
        >>> router_balance_loss(probs, probs > 0.5).item()  # 2 * (0.5 * 0.5 + 0.5 * 0.5)
        1.0
    """
    chosen = router_chosen.to(router_probs.dtype)
    chosen = chosen.sum(0) if chosen.ndim > 1 else chosen
    share = chosen / chosen.sum().clamp(min=1)
    return router_probs.size(1) * (share * router_probs.mean(0)).sum()


def _check_ids(name: str, ids: Tensor, num_items: int) -> None:
    # Elsewhere the check would wait for the device, or break a compiled graph.
    if ids.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if not ids.numel():
        return
    lowest, highest = map(int, ids.aminmax())
    if lowest < 1 or highest > num_items:
        bad = ids[(ids < 1) | (ids > num_items)]
        raise ValueError(
            f"{name} must be item ids in 1..{num_items} (0 is padding), got "
            f"{bad[:5].tolist()}; were they numbered with another catalogue?"
        )
