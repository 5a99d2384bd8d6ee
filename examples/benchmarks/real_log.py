"""A real log with a language model, and adapters over them as ``laser-peft train`` makes them.

What the encoder and the text vectors hold is random unless an encoder is given: nothing that is
timed depends on it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from made_up import random_adapter
from peft import PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from laser_peft import BiTuningConfig
from laser_peft.cli.train import PREFIX_TOKENS
from laser_peft.data import Catalogue, LogSource, PromptBuilder, Split
from laser_peft.experiment import Experiment
from laser_peft.recommender import RecommenderConfig

MAX_ITEMS = 50


@dataclass(frozen=True)
class RealLog:
    """What benchmarks over real histories start from.

    Args:
        llm: folder or Hub id of the language model.
        tokenizer: its own.
        catalogue: all items.
        split: of all users, with one of them to validate on.
        prompts: says their histories, as ``laser-peft train`` does.
        limits: of prompts.
        encoder: folder or Hub id of a SASRec; None: a random one.
        prefix_tokens: of an adapter.
    """

    llm: str
    tokenizer: PreTrainedTokenizerBase
    catalogue: Catalogue
    split: Split
    prompts: PromptBuilder
    limits: RecommenderConfig
    encoder: str | None
    prefix_tokens: int

    @classmethod
    def read(cls, arguments: argparse.Namespace) -> "RealLog":
        """Reads the log."""
        catalogue = Catalogue.read(arguments.items)
        split = Experiment.read(LogSource(arguments.interactions), catalogue).split
        tokenizer = AutoTokenizer.from_pretrained(arguments.llm)
        limits = RecommenderConfig(max_tokens=arguments.max_tokens, max_items=MAX_ITEMS)
        return cls(
            arguments.llm,
            tokenizer,
            catalogue,
            # Validation is not what is timed.
            replace(split, validation=split.validation[:1]),
            limits.prompt_builder(tokenizer, catalogue),
            limits,
            arguments.encoder,
            arguments.prefix_tokens,
        )

    def adapted(self, dtype: torch.dtype, **fields: object) -> PeftModel:
        """Loads the language model and gives it an adapter, in training mode.

        Args:
            dtype: in which the language model is kept.
            **fields: of :class:`BiTuningConfig`; without any those of ``laser-peft train``.
        """
        return self.adapt(AutoModelForCausalLM.from_pretrained(self.llm, dtype=dtype), **fields)

    def adapt(self, lm: PreTrainedModel, **fields: object) -> PeftModel:
        """Gives a language model an adapter, in training mode; see :meth:`adapted`."""
        shipped = {"layout": "text_first", "item_vectors": "fused"}
        fields = {"num_prefix_tokens": self.prefix_tokens} | (fields or shipped)
        if self.encoder is None:
            model = random_adapter(lm, len(self.catalogue), **fields)
        else:
            config = BiTuningConfig(collaborative_encoder=self.encoder, **fields)
            model = get_peft_model(lm, config).train()
        config = model.peft_config[model.active_adapter]
        if config.item_vectors != "collaborative":
            texts = torch.randn(len(self.catalogue), config.item_text_dim)
            model.set_item_text_vectors(torch.nn.functional.normalize(texts, dim=1))
        return model

    @property
    def counts(self) -> str:
        """What was read, in words."""
        users, pairs = len(self.split.train_histories), self.split.num_training_pairs
        return f"{users} users with {pairs} training pairs, {len(self.catalogue)} items"


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a real log."""
    parser.add_argument("--interactions", required=True, help="the log")
    parser.add_argument("--items", required=True, help="its items")
    parser.add_argument("--llm", required=True, help="causal language model, folder or Hub id")
    parser.add_argument("--encoder", help="trained SASRec, folder or Hub id; else a random one")
    parser.add_argument("--max-tokens", type=int, default=512, help="longest prompt")
    parser.add_argument(
        "--prefix-tokens",
        type=int,
        default=PREFIX_TOKENS,
        help="virtual tokens of the prefix, and of a peer's prompt",
    )


def at_even_ranks(values: Sequence[float], count: int) -> list[int]:
    """Picks places whose values stand for all: at even ranks of the values in order.

    Args:
        values: at least one.
        count: how many, of fewer values all.

    Example:
        >>> at_even_ranks([50, 10, 40, 20, 30, 60], 3)
        [3, 2, 5]
    """
    count = min(count, len(values))
    ranks = (np.arange(count) + 0.5) * len(values) / count
    return np.argsort(values, kind="stable")[ranks.astype(np.int64)].tolist()


def grouped_batches(
    lengths: Sequence[int], batch_size: int, count: int, seed: int
) -> list[list[int]]:
    """Makes an epoch's batches as the Trainer groups them by length, and keeps some of all lengths.

    Few users by themselves would be grouped worse than all are.

    Args:
        lengths: tokens of each example.
        batch_size: examples of a batch; a smaller last one is left out.
        count: how many batches are kept.
        seed: of the epoch's order.

    Returns:
        Places of examples, batch by batch.

    Raises:
        ValueError: if the examples do not fill a batch.
    """
    if len(lengths) < batch_size:
        raise ValueError(
            f"{len(lengths)} examples do not fill a batch of {batch_size}; use a smaller batch size"
        )
    draws = torch.Generator().manual_seed(seed)
    order = list(LengthGroupedSampler(batch_size, lengths=list(lengths), generator=draws))
    batches = [
        order[first : first + batch_size]
        for first in range(0, len(order) - batch_size + 1, batch_size)
    ]
    longest = [max(lengths[place] for place in batch) for batch in batches]
    return [batches[place] for place in at_even_ranks(longest, count)]
