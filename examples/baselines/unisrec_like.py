r"""Trains a SASRec whose items are an id's vector plus what a small adapter makes of their texts.

    python examples/baselines/unisrec_like.py --output runs/unisrec \
        --interactions interactions.csv.gz --items items.jsonl.gz --llm LM

The texts' vectors are frozen and whitened, those that Laser scores items by. What is learnt does
not depend on the user, so that a trained one is saved as a plain SASRec, its item table added up.

Axes: N items, C width of the SASRec, X width of text vectors, G experts.
"""

import argparse
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from same_test import (
    MAX_ITEMS,
    common_parser,
    finish,
    judge_of,
    laser_text_vectors,
    part_to_learn_from,
    start,
)
from torch import Tensor, nn
from transformers import set_seed

from laser_peft import SASRecModel, numbering
from laser_peft.baselines import Encoder, rank_examples
from laser_peft.baselines.text import load_lm
from laser_peft.data import Split
from laser_peft.runs import adds_seconds
from laser_peft.training import SASRecSettings
from laser_peft.training.next_item_trainer import NextItemTrainer
from laser_peft.training.sasrec import sasrec_trainer


class TextAdapter(nn.Module):
    """Maps text vectors to items' vectors: experts, each a shift and a linear map, gated by text.

    Args:
        text_dim: width X.
        width: C.
        num_experts: G; with one it is a linear map.
        dropout: probability, on the text vectors.
    """

    def __init__(self, text_dim: int, width: int, *, num_experts: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(text_dim, num_experts)
        self.experts = nn.Linear(text_dim, num_experts * width)

    def forward(self, texts: Tensor) -> Tensor:
        """Maps ``(..., X)`` float to ``(..., C)``."""
        texts = self.dropout(texts)
        shares = self.gate(texts).softmax(-1)  # (..., G)
        answers = self.experts(texts).unflatten(-1, (shares.size(-1), -1))  # (..., G, C)
        return (shares.unsqueeze(-1) * answers).sum(-2)


class IdsAndTexts(nn.Module):
    """Stands in for a SASRec's item table; row 0 is padding.

    Args:
        ids: the table of ids, ``N + 1`` rows.
        texts: ``(N, X)`` float, frozen.
        adapter: of the texts.
    """

    def __init__(self, ids: nn.Embedding, texts: Tensor, adapter: TextAdapter) -> None:
        super().__init__()
        self.ids = ids
        self.adapter = adapter
        self.num_embeddings = ids.num_embeddings
        self.texts: Tensor
        self.register_buffer("texts", F.pad(texts, (0, 0, 1, 0)), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The whole table, ``(N + 1, C)``."""
        added = self.adapter(self.texts[1:])
        return self.ids.weight + F.pad(added, (0, 0, 1, 0))

    def forward(self, item_ids: Tensor) -> Tensor:
        """Looks up ``(...)`` item ids: ``(..., C)``, zero for id 0."""
        added = self.adapter(self.texts[item_ids]) * (item_ids > 0).unsqueeze(-1)
        return self.ids(item_ids) + added


def train(
    split: Split, texts: Tensor, args: argparse.Namespace
) -> tuple[SASRecModel, NextItemTrainer]:
    """Trains as :func:`laser_peft.training.train_sasrec` does, at its best epoch at the end."""
    settings = SASRecSettings(epochs=args.epochs)
    num_items = len(texts)
    set_seed(args.seed)
    model = SASRecModel(settings.model_config(num_items=num_items, max_items=MAX_ITEMS))
    model.item_embeddings = IdsAndTexts(
        model.item_embeddings,
        texts,
        TextAdapter(
            texts.size(1),
            settings.hidden_size,
            num_experts=args.experts,
            dropout=args.text_dropout,
        ),
    )
    trainer = sasrec_trainer(
        model,
        split,
        num_items,
        args.output / "checkpoints",
        settings,
        max_items=MAX_ITEMS,
        bf16=args.bf16,
        seed=args.seed,
    )
    trainer.train()
    return model, trainer


@torch.no_grad()
def as_plain_sasrec(model: SASRecModel) -> SASRecModel:
    """Returns a SASRec that gives the same scores, its item table added up."""
    plain = SASRecModel(model.config)
    table = model.eval().item_embeddings.weight
    rest = {
        name: values
        for name, values in model.state_dict().items()
        if not name.startswith("item_embeddings.")
    }
    plain.load_state_dict(rest | {"item_embeddings.weight": table})
    return plain.to(table.device).eval()


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common_parser(__doc__.splitlines()[0], "runs/baselines/unisrec-like")
    parser.set_defaults(validation_users=0)  # as the SASRec has it
    parser.add_argument("--epochs", type=int, help="at most so many; by default the SASRec's")
    parser.add_argument("--experts", type=int, default=8, help="1: a linear map")
    parser.add_argument("--text-dropout", type=float, default=0.2)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and tests."""
    args = read_arguments(argv)
    experiment = start(args)
    catalogue, judge = experiment.catalogue, judge_of(experiment, args.test_users)
    lm, tokenizer = load_lm(args.llm, "float32")
    with adds_seconds(args.output, "item texts"):
        texts = laser_text_vectors(lm, tokenizer, catalogue)
    del lm
    with adds_seconds(args.output, "train"):
        model, trainer = train(part_to_learn_from(experiment, args), texts, args)
    plain = as_plain_sasrec(model)
    numbering.sign(plain.config, catalogue.item_ids)
    plain.save_pretrained(args.output / "sasrec")
    with adds_seconds(args.output, "test"):
        encoder = Encoder(plain, len(catalogue), max_items=MAX_ITEMS)
        ranks = rank_examples(encoder, judge.examples)
    evaluation = judge.evaluation("unisrec-like", ranks)
    finish(args.output, model, trainer.state.log_history, [evaluation])


if __name__ == "__main__":
    main()
