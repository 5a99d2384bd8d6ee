"""Two common ways to train a SASRec, written plainly: every history padded to all positions.

Axes: B rows of a batch, L positions, C width, N items.

Written from the schemes as published, without their code. ``targets_epoch`` is RecBole's: every
prefix of a history is a sample of its own, padded on the right, its one target scored against all
items. ``binary_epoch`` is that of the paper (arXiv 1808.09781) and of the usual PyTorch versions:
a history a row, padded on the left, every item against one that the user has not had. Both encode
with ``torch.nn.TransformerEncoder``.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from interleaved import Clock
from torch import Tensor, nn

TARGETS_A_STEP = 2048  # RecBole's own default


class PaddedSASRec(nn.Module):
    """A causal transformer over padded histories of one length.

    Args:
        num_items: items N.
        positions: L.
        width: C.
        blocks: of the transformer.
        heads: a block.
        dropout: probability.
        feed_forward: width within a block.
        pre_norm: normalise before each part of a block, and not after.
        activation: within a block.
    """

    def __init__(
        self,
        num_items: int,
        *,
        positions: int,
        width: int,
        blocks: int,
        heads: int,
        dropout: float,
        feed_forward: int,
        pre_norm: bool,
        activation: str,
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, width, padding_idx=0)
        self.positions = nn.Embedding(positions, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        block = nn.TransformerEncoderLayer(
            width,
            heads,
            feed_forward,
            dropout,
            activation,
            batch_first=True,
            norm_first=pre_norm,
        )
        self.blocks = nn.TransformerEncoder(block, blocks, enable_nested_tensor=False)
        later = torch.ones(positions, positions, dtype=torch.bool).triu(1)
        self.later: Tensor
        self.register_buffer("later", later)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encodes ``(B, L)`` int64 ids, 0 = padding, to ``(B, L, C)``."""
        states = self.dropout(self.items(input_ids) + self.positions.weight)
        return self.norm(self.blocks(states, mask=self.later, is_causal=True))


def targets_epoch(
    histories: Sequence[np.ndarray], num_items: int, seed: int, **sizes: Any
) -> Clock:
    """Trains for an epoch on one sample a target, softmax over all items; see ``PaddedSASRec``."""
    positions = sizes["positions"]
    ends = [(row, end) for row, history in enumerate(histories) for end in range(1, len(history))]
    samples = np.zeros((len(ends), positions), dtype=np.int64)
    for sample, (row, end) in zip(samples, ends, strict=True):
        read = histories[row][max(end - positions, 0) : end]
        sample[: len(read)] = read
    targets = torch.tensor([int(histories[row][end]) for row, end in ends])
    input_ids = torch.from_numpy(samples)

    def loss(model: PaddedSASRec, rows: Tensor) -> Tensor:
        read = input_ids[rows]
        states = model(read)[torch.arange(len(rows)), (read != 0).sum(1) - 1]
        return F.cross_entropy(states @ model.items.weight.T, targets[rows])

    torch.manual_seed(seed)
    model = PaddedSASRec(num_items, pre_norm=False, activation="gelu", **sizes)
    return _timed_epoch(model, len(ends), TARGETS_A_STEP, loss)


def binary_epoch(
    histories: Sequence[np.ndarray], num_items: int, seed: int, *, batch_size: int, **sizes: Any
) -> Clock:
    """Trains for an epoch on items against one not had, each by itself; see ``PaddedSASRec``."""
    positions = sizes["positions"]
    taught = [history[-(positions + 1) :] for history in histories if len(history) > 1]
    had = [set(history.tolist()) for history in histories if len(history) > 1]
    draw = random.Random(seed).randint

    def not_had(row: int) -> int:
        while (item := draw(1, num_items)) in had[row]:
            pass
        return item

    def loss(model: PaddedSASRec, rows: Tensor) -> Tensor:
        batch = np.zeros((3, len(rows), positions), dtype=np.int64)
        for place, row in enumerate(rows.tolist()):
            history = taught[row]
            start = positions - len(history) + 1
            batch[0, place, start:], batch[1, place, start:] = history[:-1], history[1:]
            batch[2, place, start:] = [not_had(row) for _ in history[1:]]
        read, positives, negatives = torch.from_numpy(batch)
        states = model(read)
        real = positives != 0
        wanted = (states * model.items(positives)).sum(-1)[real]
        other = (states * model.items(negatives)).sum(-1)[real]
        return F.binary_cross_entropy_with_logits(
            wanted, torch.ones_like(wanted)
        ) + F.binary_cross_entropy_with_logits(other, torch.zeros_like(other))

    torch.manual_seed(seed)
    model = PaddedSASRec(
        num_items, pre_norm=True, activation="relu", feed_forward=sizes["width"], **sizes
    )
    return _timed_epoch(model, len(taught), batch_size, loss)


def _timed_epoch(
    model: PaddedSASRec,
    count: int,
    batch_size: int,
    loss: Callable[[PaddedSASRec, Tensor], Tensor],
) -> Clock:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    clock = Clock()
    clock.start()
    for rows in _batches(count, batch_size):
        optimizer.zero_grad()
        loss(model, rows).backward()
        optimizer.step()
    clock.stop()
    return clock


def _batches(count: int, batch_size: int) -> Iterator[Tensor]:
    yield from torch.randperm(count).split(batch_size)
