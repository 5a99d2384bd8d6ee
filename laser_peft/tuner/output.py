"""What a Bi-Tuning model returns.

Axes: B users, N items in the catalogue, E experts, X width of text vectors, R recommendation
width.
"""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class BiTuningOutput(ModelOutput):
    """What the model returns for a batch of users.

    Args:
        loss: scalar, next-item cross-entropy plus the weighted router balance; with ``labels``.
        user_vectors: ``(B, R)`` float.
        logits: ``(B, N)`` float, column ``j`` scores item id ``j + 1``; with ``return_logits``.
        correction: ``(B, X)`` float, what the head adds to the text reader's part of fused user
            vectors, before it is weighed; None without a text reader.
        router_probs: ``(B, E)`` float, each row sums to one; None without a router, and where the
            language model's reading counts nothing: the M-Former is then not run.
        router_chosen: ``(B, E)`` bool, True for the experts picked; None as ``router_probs``.
        aux_loss: scalar, the router balance term before its weight; None as ``router_probs``.
        reading_loss: scalar, the part of the loss that the text reader learns from at all
            positions of the histories; None where it does not.
    """

    loss: Tensor | None = None
    user_vectors: Tensor | None = None
    logits: Tensor | None = None
    correction: Tensor | None = None
    router_probs: Tensor | None = None
    router_chosen: Tensor | None = None
    aux_loss: Tensor | None = None
    reading_loss: Tensor | None = None
