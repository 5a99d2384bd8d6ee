r"""Times several targets of a user learnt from in one pass beside one pass for each.

    python examples/benchmarks/targets.py --size 5m --targets 6

A user's text has items of 16 tokens; the targets follow the last ones of them. One pass each reads
the text up to its own target, in either layout; one pass for all reads the text once, without
gradients, and each target's prefix and suffix behind its own beginning of it (text first). The loss
is the mean over all targets, and the gradients of both ways of text first are equal (tests).
"""

import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from interleaved import common_parser, finish, in_turns, repeated, start
from made_up import MAX_ITEMS, SIZES, random_adapter, random_lm
from peft import PeftModel
from torch import Tensor

from laser_peft.data import PaddingCollator
from laser_peft.training.datasets import PlacesCollator

ITEM_TOKENS = 16
APART, APART_TEXT_FIRST, TOGETHER = (
    *("prefix first, one pass each", "text first, one pass each"),
    "text first, one pass for all",
)
Batch = dict[str, Tensor]


def draw_shoppers(
    random: np.random.Generator, users: int, tokens: int, targets: int, sizes: dict[str, int]
) -> list[dict]:
    """Draws users, each with a text and the last places in it that something follows.

    Args:
        random: what draws.
        users: how many.
        tokens: of each text.
        targets: places K of each.
        sizes: ``vocabulary`` and ``num_items``.
    """
    ends = np.arange(ITEM_TOKENS, tokens + 1, ITEM_TOKENS)
    if not 1 <= targets <= len(ends):
        raise ValueError(
            f"targets must lie in 1..{len(ends)}, the items of {tokens} tokens, got {targets}"
        )
    shoppers = []
    for _ in range(users):
        items = random.integers(1, sizes["num_items"] + 1, len(ends) + 1)
        places = range(len(ends) - targets + 1, len(ends) + 1)
        shoppers.append(
            {
                "input_ids": random.integers(3, sizes["vocabulary"], tokens),
                "text_lengths": ends[-targets:],
                "history": [items[max(place - MAX_ITEMS, 0) : place] for place in places],
                "labels": items[places.start :],
            }
        )
    return shoppers


def apart(shoppers: Sequence[dict]) -> list[Batch]:
    """Returns a batch of all users for each of their targets, in turn."""
    return [
        PaddingCollator()(
            [
                {
                    "input_ids": shopper["input_ids"][: shopper["text_lengths"][place]],
                    "history": shopper["history"][place],
                    "labels": int(shopper["labels"][place]),
                }
                for shopper in shoppers
            ]
        )
        for place in range(len(shoppers[0]["labels"]))
    ]


def together(shoppers: Sequence[dict]) -> list[Batch]:
    """Returns one batch of all users with all their targets."""
    return [PlacesCollator()(shoppers)]


def gradients(model: PeftModel, batches: Sequence[Batch], dtype: torch.dtype) -> float:
    """Adds up the gradients of the mean loss over batches of equal size, and returns the loss."""
    total = 0.0
    for batch in batches:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(**batch).loss / len(batches)
        loss.backward()
        total += float(loss.detach())
    return total


def step(
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    dtype: torch.dtype,
) -> None:
    """Takes one step on all targets."""
    gradients(model, batches, dtype)
    optimizer.step()
    optimizer.zero_grad()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common_parser(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="5m", help="parameters of the LM")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--users", type=int, default=8, help="of a step")
    parser.add_argument("--tokens", type=int, default=256, help="of each text")
    parser.add_argument("--targets", type=int, default=6, help="of each user")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parse(argv)
    start(arguments)
    dtype = getattr(torch, arguments.dtype)
    random = np.random.default_rng(arguments.seed)
    sizes = {"vocabulary": arguments.vocabulary, "num_items": arguments.items}
    shoppers = draw_shoppers(random, arguments.users, arguments.tokens, arguments.targets, sizes)
    ways = {
        APART: ("prefix_first", apart(shoppers)),
        APART_TEXT_FIRST: ("text_first", apart(shoppers)),
        TOGETHER: ("text_first", together(shoppers)),
    }
    variants = {}
    for name, (layout, batches) in ways.items():
        lm = random_lm(arguments.size, arguments.vocabulary, arguments.seed).to(dtype)
        model = random_adapter(lm, arguments.items, layout=layout)
        learnt = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(learnt, lr=1e-4, fused=True)
        variants[name] = repeated(partial(step, model, optimizer, batches, dtype))
    taken = in_turns(variants, arguments.rounds)
    finish(arguments, taken, APART, f"step of {arguments.users} users")


if __name__ == "__main__":
    main()
