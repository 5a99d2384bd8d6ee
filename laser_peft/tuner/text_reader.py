"""What a history's item texts say of the next item's text, without the language model.

Axes: B users, L items in a history, w positions wanted, X width of text vectors.
"""

import torch
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
        weights = torch.sigmoid(self.decay) ** age.clamp(min=0)
        weights = weights.masked_fill(~mask[:, None, :] | (age < 0), 0)
        summed = weights @ texts.to(weights.dtype)
        if wanted is not None:
            summed = summed[wanted]
        return self.projection(self.dropout(summed)) * self.log_scale.exp()
