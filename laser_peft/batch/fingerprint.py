"""Whether two recommenders are the same, wherever their files lie."""

import hashlib
import json
from dataclasses import asdict

import torch
from torch import Tensor

from laser_peft.recommender import LaserRecommender

VALUES_A_TENSOR = 4096  # spread evenly over it: training changes nearly all
PROMPTS = 64  # items whose prompts are looked at: they tell tokenizers apart


def fingerprint(recommender: LaserRecommender) -> str:
    """Hashes limits, items, prompts and weights, of large weights a sample.

    Returns:
        64 hexadecimal digits, the same for a copy; another for another adapter, catalogue,
        language model or precision.
    """
    digest = hashlib.sha256()
    told = [
        asdict(recommender.config),
        recommender.removed,
        recommender.index,
        recommender.catalogue.item_ids,
        recommender.catalogue.titles,
        [recommender.prompts([1 + row]) for row in range(min(PROMPTS, len(recommender.catalogue)))],
    ]
    for part in told:
        digest.update(json.dumps(part, sort_keys=True).encode())
    model = recommender.model
    # Scores are of these, and they may be stored in another precision.
    vectors = ("item vectors", recommender.item_vectors)
    for name, tensor in (vectors, *model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_sample(tensor))
    return digest.hexdigest()


def _sample(tensor: Tensor) -> bytes:
    if tensor.is_meta:
        return b""  # kept elsewhere: its name and shape have to do
    flat = tensor.detach().flatten()
    sample = flat[:: max(len(flat) // VALUES_A_TENSOR, 1)].cpu().contiguous()
    return sample.view(torch.uint8).numpy().tobytes() if len(sample) else b""
