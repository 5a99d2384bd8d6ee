"""A fast look at the whole catalogue: in which few groups of items a user's best ones can be.

Axes: B users, M items on the shelf, R recommendation width, G items in a group, C groups of them,
W groups of a user that are kept.

Every score is computed in float32, and of each group the largest is kept. With the operands rounded
by at most r and sums in float32, in whatever order, a product of vectors is off by no more than
``(2r + R * 2^-24) * |u| * |v|``, but for terms of second order (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, §3.1). k groups whose largest scores are at least s hold k items that
are truly worth s less that error; a group whose largest is below s by more than twice the error
holds nothing that is worth as much.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP = 32  # items: fewer make more groups to choose from, more make more items to score again
CHUNK = 2**16  # items scored at a time, at most
CHUNK_SCORES = 2**20  # scores at a time, of all users together: they stay near the processor
CONVERTED = 2**18  # numbers of another precision that are converted at a time, for the same reason
# What is lost below float32's smallest numbers, of a product or of a norm, stays under the error of
# vectors of this length.
SHORTEST = 1e-15
# Vectors whose lengths multiply to less have scores that are finite, and finite sums on the way.
LARGEST = 1e38


class Scan(NamedTuple):
    """What the look has found.

    Args:
        maxima: ``(B, C)`` float32, a group's largest score; -inf where nothing may be found.
        error: ``(B,)`` float64, how far at most a score is off the true one.
    """

    maxima: Tensor
    error: Tensor

    def groups(self, rows: Tensor, k: int, width: int) -> tuple[Tensor, Tensor]:
        """Chooses the groups of the largest scores.

        Args:
            rows: ``(B',)`` int64, of which users.
            k: how many items are looked for, at most ``width``.
            width: how many groups W to choose, less than all.

        Returns:
            ``(B', W)`` int64 groups, and ``(B',)`` bool: True where they hold every item that can
            be among a user's best k, and every one that has their last one's score.
        """
        values, groups = self.maxima[rows].topk(width + 1, dim=1)
        bound = values[:, k - 1].double() - 2 * self.error[rows]
        following = values[:, width]
        return groups[:, :width], (following < bound) | (following == -torch.inf)


def longest(vectors: Tensor) -> float:
    """Returns the largest Euclidean length of ``(M, R)`` vectors, 0 of none; NaN if one has a NaN.

    It is computed in float32: infinite where a length is above about 1e19.
    """
    lengths = [torch.linalg.vector_norm(part.float(), dim=1) for part in vectors.split(CHUNK)]
    return float(torch.cat(lengths).max()) if len(vectors) else 0.0


def scan(
    users: Tensor,
    vectors: Tensor,
    longest_vector: float,
    is_open: Tensor | None,
    left_out: tuple[Tensor, Tensor],
) -> Scan | None:
    """Scores all items of a shelf in float32.

    Args:
        users: ``(B, R)`` float.
        vectors: ``(M, R)`` float, on the same device.
        longest_vector: their :func:`longest`.
        is_open: ``(M,)`` bool, False for what must not be found; None: all may.
        left_out: ``(n,)`` int64 rows of users and ``(n,)`` int64 places, what each must not find.

    Returns:
        None if scores may be infinite or no numbers: they have to be looked at one by one.
    """
    users = users.float()
    lengths = torch.linalg.vector_norm(users.double(), dim=1) + SHORTEST
    bound = lengths * (longest_vector + SHORTEST)
    if not (bound < LARGEST).all():
        return None
    chunk = min(CHUNK, CHUNK_SCORES // max(len(users), 1))
    if vectors.dtype != torch.float32:
        chunk = min(chunk, CONVERTED // max(users.size(1), 1))
    chunk = max(chunk // GROUP, 1) * GROUP
    rows, places = left_out
    maxima = users.new_empty(len(users), -(-len(vectors) // GROUP))
    for start in range(0, len(vectors), chunk):
        part = vectors[start : start + chunk].float()
        with torch.autocast(users.device.type, enabled=False):
            scores = users @ part.T  # (B, at most chunk)
        if is_open is not None:
            scores.masked_fill_(~is_open[start : start + chunk], -torch.inf)
        if len(places):
            within = (places >= start) & (places < start + chunk)
            scores[rows[within], places[within] - start] = -torch.inf
        if len(part) % GROUP:
            scores = F.pad(scores, (0, -len(part) % GROUP), value=-torch.inf)
        first = start // GROUP
        largest = scores.unflatten(1, (-1, GROUP)).amax(2)
        maxima[:, first : first + largest.size(1)] = largest
    return Scan(maxima, _error(users.size(1)) * bound)


def _error(width: int) -> float:
    """Bounds a score's error, as a part of the product of the lengths of its two vectors."""
    rounding = 0.0 if _in_full_precision() else 2**-8  # of operands to bfloat16, or finer
    # Twice the bound, and 8 more roundings: of vectors to float32, of lengths, and of exact scores.
    return 2 * (2 * rounding + (width + 8) * 2**-24)


def _in_full_precision() -> bool:
    """Says whether torch has not been allowed to round the operands of float32 products."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set for each backend by itself
        return False
