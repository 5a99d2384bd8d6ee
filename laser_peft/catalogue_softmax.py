"""Softmax over a big catalogue, block by block: the scores are never all in memory.

Axes: B users, N items, R recommendation width.
Follows the online softmax of FlashAttention (arXiv 2205.14135). To a frozen table the loss is one
attention call, with the users as queries and the items as keys and values: what comes back is the
softmax's mean item, and the gradient of a user is that mean less the wanted item.
"""

from typing import Any

import torch
from torch import Tensor

# How many scores a block holds: what a core's cache keeps, and what fills an accelerator.
SCORES_AT_A_TIME = 2**18
SCORES_AT_A_TIME_ELSEWHERE = 2**23
ROWS_AT_A_TIME = 1024


def scores_at_a_time(device: torch.device) -> int:
    """Returns how many scores a block holds at most, on such a device."""
    return SCORES_AT_A_TIME if device.type == "cpu" else SCORES_AT_A_TIME_ELSEWHERE


def catalogue_losses(user_vectors: Tensor, item_vectors: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each user's wanted item against the whole catalogue.

    Autocast does not reach it, and it has no second derivatives. For a table that asks for a
    gradient the scores are computed again on the way back.

    Args:
        user_vectors: ``(B, R)`` float32 or float64.
        item_vectors: ``(N, R)`` float of any precision, ``N`` at least 1; read in the users'.
        targets: ``(B,)`` int64 rows of the table, in ``0..N - 1``.

    Returns:
        ``(B,)`` of the users' type, in nats.

    Raises:
        RuntimeError: on the way back, if a graph of the gradients is asked for.
    """
    if torch.is_grad_enabled() and item_vectors.requires_grad:
        return _TrainedTable.apply(user_vectors, item_vectors, targets)
    if torch.is_grad_enabled() and user_vectors.requires_grad:
        return _FrozenTable.apply(user_vectors, item_vectors, targets)
    largest, total, _ = _read_catalogue(user_vectors, item_vectors, wants_mean=False)
    return _losses(user_vectors, item_vectors[targets], largest, total)


class _FrozenTable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        """Gives ``(B,)`` losses of ``(B, R)`` users, ``(N, R)`` items and ``(B,)`` rows of them."""
        largest, total, mean = _read_catalogue(users, items, wants_mean=True)
        wanted = items[targets]
        ctx.save_for_backward(mean.sub_(wanted))
        return _losses(users, wanted, largest, total)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None, None]:
        _refuse_second_derivatives()
        return weights[:, None] * ctx.saved_tensors[0], None, None


class _TrainedTable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        """Gives ``(B,)`` losses of ``(B, R)`` users, ``(N, R)`` items and ``(B,)`` rows of them."""
        largest, total, _ = _read_catalogue(users, items, wants_mean=False)
        ctx.save_for_backward(users, items, targets, largest, total)
        return _losses(users, items[targets], largest, total)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, Tensor, None]:
        _refuse_second_derivatives()
        users, items, targets, largest, total = ctx.saved_tensors
        weights = weights[:, None]
        of_users, of_items = _gradients(users, items, largest, weights / total)
        of_users.sub_(weights * items[targets])
        of_items.index_add_(0, targets, weights * users, alpha=-1)
        return of_users, of_items.to(items.dtype), None


def _refuse_second_derivatives() -> None:
    # once_differentiable would let a penalty on these gradients pass, as a constant.
    if torch.is_grad_enabled():
        raise RuntimeError(
            "gradients of the catalogue softmax were asked for with create_graph=True, and it has "
            "no second derivatives where scores are read in blocks; leave create_graph out, or "
            "use torch.nn.functional.cross_entropy(user_vectors @ item_vectors.T, labels - 1)"
        )


def _losses(users: Tensor, wanted: Tensor, largest: Tensor, total: Tensor) -> Tensor:
    # The two large numbers first: a small loss would drown in largest + log(total).
    return (largest[:, 0] - (users * wanted).sum(1)) + total[:, 0].log()


def _read_catalogue(
    users: Tensor, items: Tensor, *, wants_mean: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns each user's largest score, the sum of ``exp(score - largest)``, and the mean item.

    ``(B, 1)``, ``(B, 1)`` and ``(B, R)``, the last all zero unless it is wanted.
    """
    largest = users.new_full((len(users), 1), -torch.inf)
    total, mean = torch.zeros_like(largest), torch.zeros_like(users)
    num_rows, num_items = _block_of(users)
    with torch.autocast(users.device.type, enabled=False):
        for first in range(0, len(users), num_rows):
            user, top, mass, middle = (
                whole[first : first + num_rows] for whole in (users, largest, total, mean)
            )
            for item in items.split(num_items):
                item = item.to(users.dtype)
                scores = user @ item.T
                new_top = torch.maximum(top, scores.amax(1, keepdim=True))
                shrink = (top - new_top).exp_()
                shares = scores.sub_(new_top).exp_()
                mass.mul_(shrink).add_(shares.sum(1, keepdim=True))
                if wants_mean:
                    middle.mul_(shrink).addmm_(shares, item)
                top.copy_(new_top)
    return largest, total, mean.div_(total)


def _gradients(
    users: Tensor, items: Tensor, largest: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the gradients ``(B, R)``, ``(N, R)`` of the weighted sum of ``exp(score - largest)``.

    ``weights`` is ``(B, 1)``.
    """
    of_users = torch.zeros_like(users)
    of_items = torch.zeros(items.shape, dtype=users.dtype, device=items.device)
    num_rows, num_items = _block_of(users)
    with torch.autocast(users.device.type, enabled=False):
        weighted = users * weights
        for first in range(0, len(users), num_rows):
            rows = slice(first, first + num_rows)
            for start in range(0, len(items), num_items):
                block = slice(start, start + num_items)
                item = items[block].to(users.dtype)
                shares = (users[rows] @ item.T).sub_(largest[rows]).exp_()
                of_users[rows].addmm_(shares, item)
                of_items[block].addmm_(shares.T, weighted[rows])
    return of_users.mul_(weights), of_items


def _block_of(users: Tensor) -> tuple[int, int]:
    """Returns how many users and how many items are scored at a time."""
    num_rows = min(max(len(users), 1), ROWS_AT_A_TIME)
    return num_rows, max(scores_at_a_time(users.device) // num_rows, 1)
