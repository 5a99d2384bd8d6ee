"""Language models, adapters and users of random values: how long a step takes, they tell too.

Axes: B users, T text tokens, L items in a history, N items in the catalogue.
"""

import tempfile
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from laser_peft import BiTuningConfig, SASRecConfig, SASRecModel
from laser_peft.data import PaddingCollator

# Hidden width, layers, inner width: by millions of parameters without the embeddings.
SIZES = {"25m": (512, 8, 1408), "5m": (256, 6, 704), "tiny": (32, 2, 43)}
HEAD_WIDTH = 64
ENCODER_WIDTH, MAX_ITEMS = 64, 50
# Tokens of a history's text as real ones are spread: mean 157, few long ones.
MEAN_LOG, STD_LOG, SHORTEST, LONGEST = 4.87, 0.6, 32, 415


def random_lm(size: str, vocabulary: int, seed: int = 0) -> PreTrainedModel:
    """Makes a Llama of one of :data:`SIZES`."""
    width, layers, inner = SIZES[size]
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=max(width // HEAD_WIDTH, 1),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def random_adapter(
    lm: PreTrainedModel, num_items: int, *, is_random: bool = True, **fields: Any
) -> PeftModel:
    """Gives a language model an adapter that reads a random SASRec; in training mode.

    Args:
        lm: the language model.
        num_items: of the catalogue.
        is_random: what begins at zero begins at random, so that gradients reach every part.
        **fields: of :class:`BiTuningConfig`.
    """
    sasrec = SASRecConfig(
        num_items=num_items, hidden_size=ENCODER_WIDTH, max_position_embeddings=MAX_ITEMS
    )
    with tempfile.TemporaryDirectory() as folder:
        SASRecModel(sasrec).save_pretrained(folder)
        config = BiTuningConfig(collaborative_encoder=folder, init_weights=not is_random, **fields)
        model = get_peft_model(lm, config)
    return model.train()


def draw_lengths(random: np.random.Generator, count: int, tokens: int | None) -> np.ndarray:
    """Draws how many tokens each user's text has; all ``tokens`` of them, if that is given."""
    if tokens is not None:
        return np.full(count, tokens)
    drawn = random.lognormal(MEAN_LOG, STD_LOG, count).astype(np.int64)
    return drawn.clip(SHORTEST, LONGEST)


def draw_users(
    random: np.random.Generator, lengths: np.ndarray, *, vocabulary: int, num_items: int
) -> dict[str, Tensor]:
    """Draws a padded batch of users, as ``BiTuningModel.forward`` takes it.

    Args:
        random: what draws.
        lengths: ``(B,)`` tokens of each text; an item has about 16.
        vocabulary: tokens that there are.
        num_items: items N that there are.
    """
    return PaddingCollator()(
        [
            {
                "input_ids": random.integers(3, vocabulary, length),
                "history": random.integers(1, num_items + 1, max(length // 16, 1))[-MAX_ITEMS:],
                "labels": int(random.integers(1, num_items + 1)),
            }
            for length in lengths
        ]
    )
