"""What a history's item texts say of the next item's text, without the language model.

Axes: B users, L items in a history, w positions wanted, N items in the catalogue, X width of text
vectors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_LOG_SCALE = 2.0  # text vectors have length one, and scores of up to 1 tell little apart


class TextReader(nn.Module):
    """Sums the text vectors of a history, newer items counting more, and maps the sum.

    To begin with the map is the identity: items of similar text to the newest ones score highest.

    Args:
        text_dim: width X.
        dropout: dropout probability on the sum.
    """

    def __init__(self, text_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.empty(()))  # of an item's weight from one to the next
        self.log_scale = nn.Parameter(torch.empty(()))
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(text_dim, text_dim, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Makes it what it is to begin with."""
        nn.init.zeros_(self.decay)
        nn.init.constant_(self.log_scale, INITIAL_LOG_SCALE)
        nn.init.eye_(self.projection.weight)

    def forward(self, texts: Tensor, mask: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Reads every history up to each of its items.

        Args:
            texts: ``(B, L, X)`` float text vectors, oldest item first.
            mask: ``(B, L)`` bool, True where an item is real.
            wanted: ``(B, L)`` bool, the w positions to read; None: all.

        Returns:
            ``(B, L, X)`` float, for each item what it and the items before it say of the next;
            ``(w, X)`` of the wanted ones.
        """
        places = mask.cumsum(1)
        age = places[:, :, None] - places[:, None, :]  # (B, L, L), of items seen from items
        weights = self._weights(age, mask[:, None, :] & (age >= 0))
        summed = weights @ texts.to(weights.dtype)
        if wanted is not None:
            summed = summed[wanted]
        return self._mapped(summed)

    def read_whole(self, history: Tensor, mask: Tensor, table: Tensor) -> Tensor:
        """Reads every whole history, on most devices without a copy of its texts.

        Args:
            history: ``(B, L)`` int64 in ``1..N`` where an item is real, oldest item first.
            mask: ``(B, L)`` bool, True where an item is real.
            table: ``(N, X)`` float text vectors, row ``j`` is item id ``j + 1``.

        Returns:
            ``(B, X)`` float, as of each user's newest item; zero where a user has none.
        """
        if history.size(1) == 0:
            return table.new_zeros(len(history), table.size(1))
        age = mask.sum(1, keepdim=True) - mask.cumsum(1)  # (B, L), real items after each
        weights = self._weights(age, mask)
        rows = (history - 1).masked_fill(~mask, 0)
        if table.device.type == "mps" or table.is_inference():
            # There is no such kernel, or autograd keeps no such table.
            summed = (weights[:, None] @ table[rows].to(weights.dtype))[:, 0]
        else:
            counted = weights.to(table.dtype)
            summed = F.embedding_bag(rows, table, mode="sum", per_sample_weights=counted)
        return self._mapped(summed.to(weights.dtype))

    def _weights(self, age: Tensor, counts: Tensor) -> Tensor:
        return (torch.sigmoid(self.decay) ** age.clamp(min=0)).masked_fill(~counts, 0)

    def _mapped(self, summed: Tensor) -> Tensor:
        return self.projection(self.dropout(summed)) * self.log_scale.exp()
