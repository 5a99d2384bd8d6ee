"""Item vectors: from the collaborative encoder, from text, or both side by side.

Axes: N items in the catalogue, N_c of them in the encoder's table, C width of that table, X width
of text vectors, R recommendation width (C + X where both are used).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RARE = 1  # events after which an item is half as rare as one that was never seen
OFTEN = 2**31  # events of an item where nobody counted: its text counts once
# Of the map from texts to the encoder's vectors: its decay, and after how many events an item's
# vector counts half as much in it as one of countless events.
DECAY, FEW = 1.0, 5
ROWS_AT_A_TIME = 2**16  # in double precision


class ItemVectors(nn.Module):
    """Turns the encoder's table and a table of text vectors into the vectors that are scored.

    The text table is not trained; it is saved with the adapter. Fused vectors are the encoder's,
    and beside them the text vector. For an item that the encoder never saw a linear map of its
    text stands in for the encoder's own vector (``from_text``). The encoder scores rare items low,
    for they were rarely the answer; outside of training the text of an item that it saw n times
    therefore counts ``1 + rarity / (1 + n)``.

    Args:
        source: ``"collaborative"``, ``"text"`` or ``"fused"``.
        num_text_items: rows of the text table, 0 until it is set.
        text_dim: width X of the text vectors.
        collaborative_dim: width C of the encoder's table.
    """

    def __init__(
        self, source: str, *, num_text_items: int, text_dim: int, collaborative_dim: int
    ) -> None:
        super().__init__()
        self.source = source
        self.text_dim = text_dim
        self.text: Tensor
        self.events: Tensor
        if source == "collaborative":
            return
        # Until its file fills it, the table must not pass for one that was computed.
        self.register_buffer("text", torch.full((num_text_items, text_dim), torch.nan))
        self.register_buffer("events", torch.full((num_text_items,), OFTEN))
        self.from_text: Tensor
        if source == "fused":  # (1 + X, C), the first row for what all texts have in common
            self.register_buffer("from_text", torch.zeros(1 + text_dim, collaborative_dim))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        if self.source == "fused" and f"{prefix}text" in state_dict:
            # Adapters saved before there was a map gave such items no vector.
            zeros = torch.zeros(self.from_text.shape)
            state_dict.setdefault(f"{prefix}from_text", zeros)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def set_text(self, vectors: Tensor, events: Tensor | None = None) -> None:
        """Replaces the text table.

        Args:
            vectors: ``(N, X)`` finite float, row ``j`` is item id ``j + 1``.
            events: ``(N,)`` int64, how often the encoder saw each item in its training. None:
                often.

        Raises:
            ValueError: if the adapter has no text table, or shapes or values are wrong.
        """
        self._check_text(vectors)
        if events is None:
            events = torch.full((vectors.size(0),), OFTEN)
        elif events.shape != vectors.shape[:1] or events.dtype != torch.int64:
            raise ValueError(
                f"events must be an int64 tensor of shape ({vectors.size(0)},), got "
                f"{events.dtype} of shape {tuple(events.shape)}"
            )
        elif len(events) and events.min() < 0:
            raise ValueError(f"events are counts, got {int(events.min())}")
        device = self.text.device
        self.text = vectors.detach().to(device, torch.float32, copy=True)
        self.events = events.to(device, copy=True)

    def _check_text(self, vectors: Tensor) -> None:
        if self.source == "collaborative":
            raise ValueError(
                "this adapter's item vectors come from the encoder alone; set "
                "BiTuningConfig(item_vectors='text') or 'fused' to use text vectors"
            )
        if vectors.ndim != 2 or vectors.size(0) == 0 or vectors.size(1) != self.text_dim:
            raise ValueError(
                f"text vectors must have the shape (items, {self.text_dim}), "
                f"got {tuple(vectors.shape)}"
            )
        if not vectors.isfinite().all():
            row = int((~vectors.isfinite().all(1)).nonzero()[0])
            raise ValueError(
                f"text vectors must be finite numbers; that of item id {row + 1} is not"
            )

    @torch.no_grad()
    def add_text(self, vectors: Tensor) -> None:
        """Adds ``(n, X)`` text vectors of items that the encoder never saw behind those there are.

        Raises:
            ValueError: as :meth:`set_text`.
        """
        self._check_text(vectors)
        never = self.events.new_zeros(len(vectors))
        self.text = torch.cat([self.text, vectors.detach().to(self.text)])
        self.events = torch.cat([self.events, never])

    def take_back_text(self, count: int) -> None:
        """Takes the last ``count`` items away again that :meth:`add_text` added."""
        kept = len(self.text) - count
        self.text, self.events = self.text[:kept], self.events[:kept]

    @torch.no_grad()
    def fit_from_text(self, collaborative: Tensor) -> None:
        """Learns by ridge regression what the encoder's vector of an item may be, from its text.

        Vectors of items that the encoder saw often count more.

        Args:
            collaborative: ``(N_c, C)`` float, the encoder's table.
        """
        count = min(len(collaborative), len(self.events))
        square = DECAY * torch.eye(1 + self.text_dim, dtype=torch.float64)
        product = torch.zeros(self.from_text.shape, dtype=torch.float64)
        for start in range(0, count, ROWS_AT_A_TIME):
            rows = slice(start, min(start + ROWS_AT_A_TIME, count))
            seen = self.events[rows].cpu().double()
            texts = F.pad(self.text[rows].cpu().double(), (1, 0), value=1.0)
            weighed = texts * (seen / (seen + FEW))[:, None]
            square += weighed.T @ texts
            product += weighed.T @ collaborative[rows].cpu().double()
        self.from_text.copy_(torch.linalg.solve(square, product))

    def _encoded(self, collaborative: Tensor, text: Tensor, events: Tensor) -> Tensor:
        """Gives ``(N, C)``: the encoder's vectors, of what it never saw those that texts stand for.

        Args:
            collaborative: ``(N_c, C)`` float.
            text: ``(N, X)`` float.
            events: ``(N,)`` int64.
        """
        own = F.pad(collaborative.to(text), (0, 0, 0, len(text) - len(collaborative)))
        never = events == 0
        never[len(collaborative) :] = True
        # How many there are is no constant of a graph, and to be waited for on an accelerator.
        if torch.compiler.is_compiling() or text.device.type != "cpu":
            guessed = self.from_text[0] + text @ self.from_text[1:]
            return torch.where(never[:, None], guessed, own)
        rows = never.nonzero()[:, 0]
        guessed = self.from_text[0] + text[rows] @ self.from_text[1:]
        return own.index_put((rows,), guessed)

    def forward(
        self,
        collaborative: Tensor | None,
        rarity: Tensor | None = None,
        rows: slice | None = None,
    ) -> Tensor:
        """Gives the vectors of items ``1..N``, or of some of them.

        Args:
            collaborative: ``(N_c, C)`` float, the encoder's table; None without an encoder.
            rarity: scalar float, with fused vectors: how much more the text of an item counts that
                the encoder never saw. None: no more.
            rows: which of the N, from a first to a last one. None: all.

        Returns:
            ``(N, R)`` float, or those rows of it.

        Raises:
            ValueError: if the table that is needed is missing.
        """
        rows = rows or slice(None)
        if self.source == "collaborative":
            if collaborative is None:
                raise ValueError(
                    "this adapter has no collaborative encoder and so no item vectors; pass "
                    "item_vectors=(N, R) to forward"
                )
            return collaborative[rows]
        if self.source == "text":
            return self.of_text()[rows]
        assert collaborative is not None, "the configuration asks for an encoder"
        text = self.of_text()
        if len(text) < len(collaborative):
            raise ValueError(
                f"there are text vectors of {len(text)} items and the encoder knows "
                f"{len(collaborative)}; every item needs one"
            )
        text, events = text[rows], self.events[rows]
        encoded = self._encoded(collaborative[rows], text, events)
        if not self.training and rarity is not None:
            text = text * (1 + rarity.to(text) * _rare(events))[:, None]
        return torch.cat([encoded, text], 1)

    def rare(self) -> Tensor:
        """Tells how rare each item is: ``(N,)`` float32, 1 if never seen, towards 0 if often."""
        return _rare(self.events)

    def texts_of(self, history: Tensor) -> Tensor:
        """Looks up the text vectors of ``(B, L)`` item ids: ``(B, L, X)``, zero for id 0.

        Raises:
            ValueError: if the text table is not set.
        """
        history = history.to(self.text.device)
        return self.of_text()[(history - 1).clamp(min=0)] * (history > 0).unsqueeze(-1)

    def of_text(self) -> Tensor:
        """Gives the ``(N, X)`` text vectors.

        Raises:
            ValueError: if they are not set.
        """
        if len(self.text) == 0:
            raise ValueError(
                f"item_vectors={self.source!r} needs the items' text vectors, and none are set; "
                "call set_item_text_vectors first"
            )
        return self.text


def _rare(events: Tensor) -> Tensor:
    return RARE / (RARE + events.float())
