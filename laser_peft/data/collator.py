"""Pads examples to batches.

Axes: B users, T text tokens, L items in a history.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What fills up each ragged column; a mask column is made for those named here.
PADDING = {"input_ids": 0, "history": 0, "seen": 0, "labels": -100}
MASKS = {"input_ids": "attention_mask", "history": "history_mask"}


class PaddingCollator:
    """Pads ragged columns on the right, to the longest row of the batch.

    The columns ``input_ids (B, T)`` and ``history (B, L)`` get a bool mask beside them,
    ``attention_mask`` and ``history_mask``, True where real. Columns of single numbers become
    ``(B,)``.
    """

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Makes one batch of int64 tensors and bool masks."""
        batch: dict[str, Tensor] = {}
        for name in examples[0]:
            values = [example[name] for example in examples]
            if np.ndim(values[0]) == 0:
                batch[name] = torch.tensor(values)
                continue
            lengths = torch.tensor([len(value) for value in values])
            longest = int(lengths.max())
            rows = torch.full((len(values), longest), PADDING[name], dtype=torch.int64)
            for row, value in zip(rows, values, strict=True):
                row[: len(value)] = torch.as_tensor(value)
            batch[name] = rows
            if name in MASKS:
                batch[MASKS[name]] = torch.arange(longest) < lengths[:, None]
        return batch
