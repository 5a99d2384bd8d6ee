r"""Times batches of real histories as the Trainer groups them beside padded random ones.

    python examples/benchmarks/ragged.py --interactions $DATA/interactions.csv.gz \
        --items $DATA/items.jsonl.gz --llm $LM

One target a user, an adapter of a ``BiTuningConfig`` with its defaults, forward, backward and
optimizer. The grouped batches are some of an epoch over all users, of all lengths; the random ones
are of the same users, read as one would write it (padded on the left, masked, the backbone's
states) and as ours reads them (packed, without a mask).
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from interleaved import Seconds, common_parser, finish, in_turns, start, timed
from peft import PeftModel
from plainly import written_plainly
from real_log import RealLog, add_log_options, grouped_batches
from torch import Tensor

from laser_peft.data import PaddingCollator
from laser_peft.training import PromptDataset

PLAIN, PACKED, GROUPED = (
    *("random batches, padded and masked", "random batches, packed"),
    "grouped by length, packed",
)
Batch = dict[str, Tensor]


def learn(model: PeftModel, batches: Iterable[Batch], dtype: torch.dtype) -> None:
    """Takes a step on each batch."""
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-4, fused=True)
    for batch in batches:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def batches_of(dataset: PromptDataset, places: Sequence[Sequence[int]]) -> list[Batch]:
    """Pads examples, given by their places, to batches."""
    return [PaddingCollator()([dataset[place] for place in batch]) for batch in places]


def shuffled(places: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
    """Returns batches of the same sizes and the same examples, at random."""
    order = iter(np.random.default_rng(seed).permutation([p for batch in places for p in batch]))
    return [[int(next(order)) for _ in batch] for batch in places]


def waste(batches: Sequence[Batch]) -> float:
    """Returns how many text tokens are read for each real one."""
    read = sum(batch["input_ids"].numel() for batch in batches)
    return read / sum(int(batch["attention_mask"].sum()) for batch in batches)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common_parser(__doc__.splitlines()[0])
    add_log_options(parser)
    parser.add_argument("--batches", type=int, default=8, help="of a round")
    parser.add_argument("--layout", choices=("prefix_first", "text_first"), default="prefix_first")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parse(argv)
    start(arguments)
    log, dtype = RealLog.read(arguments), getattr(torch, arguments.dtype)
    print(log.counts)
    model = log.adapted(dtype, layout=arguments.layout)
    examples = log.split.training_examples(every_prefix=False)
    dataset = PromptDataset(examples, log.prompts, max_items=log.limits.max_items)
    lengths = [len(dataset[place]["input_ids"]) for place in range(len(dataset))]

    def grouped(seed: int) -> list[list[int]]:
        return grouped_batches(lengths, arguments.batch_size, arguments.batches, seed)

    def at_random(seed: int) -> list[list[int]]:
        return shuffled(grouped(seed), seed)

    def epoch(make: Callable[[int], list[list[int]]], place: int) -> Seconds:
        batches = batches_of(dataset, make(arguments.seed + place))
        users = sum(len(batch["labels"]) for batch in batches)
        return timed(lambda: learn(model, batches, dtype)).per(users)

    def plain(place: int) -> Seconds:
        with written_plainly(with_head=False):
            return epoch(at_random, place)

    variants = {PLAIN: plain, PACKED: partial(epoch, at_random), GROUPED: partial(epoch, grouped)}
    ways = {PACKED: at_random, GROUPED: grouped}
    wasted = {name: waste(batches_of(dataset, make(arguments.seed))) for name, make in ways.items()}
    for name, value in wasted.items():
        print(f"{name}: {value:.3f} text tokens read for each real one")
    taken = in_turns(variants, arguments.rounds)
    finish(arguments, taken, PLAIN, "user", text_tokens_read_a_real_one=wasted)


if __name__ == "__main__":
    main()
