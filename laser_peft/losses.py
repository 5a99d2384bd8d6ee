"""The two terms of the training loss, as functions of tensors.

Axes: B users, N items, E experts, R recommendation width.
Follows arXiv 2409.01605: next-item softmax over the catalogue plus the router's balance term.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS_AT_A_TIME = 128


def catalogue_cross_entropy(user_vectors: Tensor, item_vectors: Tensor, labels: Tensor) -> Tensor:
    """Mean softmax cross-entropy of the next item against the whole catalogue.

    With gradients, torch 2.13 and later work through the users in chunks, so that the ``(B, N)``
    scores are never all in memory (2 to 3 times faster on a CPU at 12,000 items); earlier ones
    compute the same plainly.

    Args:
        user_vectors: ``(B, R)`` float, divided by the temperature if there is one.
        item_vectors: ``(N, R)`` float, row ``j`` is item id ``j + 1``.
        labels: ``(B,)`` int64 item ids in ``1..N`` (0 is padding and never a label).

    Returns:
        Scalar float32, in nats.

    Raises:
        ValueError: if a label on the CPU is out of range.
    """
    # Elsewhere the check would wait for the device, or break a compiled graph.
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        num_items = item_vectors.size(0)
        bad = labels[(labels < 1) | (labels > num_items)]
        if bad.numel():
            raise ValueError(
                f"labels must be item ids in 1..{num_items} (0 is padding), got "
                f"{bad[:5].tolist()}; were they numbered with another catalogue?"
            )
    user_vectors, item_vectors = user_vectors.float(), item_vectors.float()
    targets = labels.long() - 1
    if user_vectors.requires_grad and hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions(
            batch_chunk_size=ROWS_AT_A_TIME, allow_retain_graph=True
        )
        return F.linear_cross_entropy(user_vectors, item_vectors, targets, options=options)
    return F.cross_entropy(user_vectors @ item_vectors.T, targets)


def router_balance_loss(router_probs: Tensor, router_chosen: Tensor) -> Tensor:
    """Asks the router to spread users over the experts: ``E * sum_e f_e * P_e`` (Switch form).

    ``f_e`` is the share of all choices that fell on expert ``e`` and ``P_e`` its mean
    probability. The value is 1 when both are uniform and ``E`` when one expert takes everything;
    only ``P_e`` carries gradient.

    Args:
        router_probs: ``(B, E)`` float, each row summing to one.
        router_chosen: ``(B, E)`` bool, True where the expert was among the user's top k.

    Returns:
        Scalar float.

    Example:
        >>> probs = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
        >>> router_balance_loss(probs, probs > 0.5).item()  # 2 * (0.5 * 0.5 + 0.5 * 0.5)
        1.0
    """
    chosen = router_chosen.to(router_probs.dtype)
    share = chosen.sum(0) / chosen.sum().clamp(min=1)
    return router_probs.size(1) * (share * router_probs.mean(0)).sum()
