r"""Times batches of real histories as the Trainer groups them beside padded random ones.

    python examples/benchmarks/ragged.py --interactions $DATA/interactions.csv.gz \
        --items $DATA/items.jsonl.gz --llm $LM

One target a user, an adapter of a ``BiTuningConfig`` with its defaults, forward, backward and
optimizer over all users that were drawn. Random batches are read as one would write it (padded on
the left, masked, the backbone's states) and as ours reads them (packed, without a mask).
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from tempfile import TemporaryDirectory

import torch
from interleaved import Seconds, common_parser, finish, in_turns, start, timed
from peft import PeftModel
from plainly import written_plainly
from real_log import RealLog, add_log_options
from torch import Tensor
from torch.utils.data import DataLoader

from laser_peft.data import PaddingCollator
from laser_peft.training import LaserSettings, LaserTrainer, PromptDataset
from laser_peft.training.laser import laser_arguments

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


def random_batches(dataset: PromptDataset, batch_size: int, seed: int) -> list[Batch]:
    """Returns an epoch's batches in a random order, each padded to its longest text."""
    order = torch.Generator().manual_seed(seed)
    collate = PaddingCollator()
    return list(DataLoader(dataset, batch_size, shuffle=True, generator=order, collate_fn=collate))


def grouped_batches(
    model: PeftModel, dataset: PromptDataset, batch_size: int, seed: int
) -> list[Batch]:
    """Returns an epoch's batches as ``laser-peft train`` takes them."""
    settings = LaserSettings(batch_size=batch_size)
    with TemporaryDirectory() as folder:
        args = laser_arguments(folder, settings, len(dataset), seed=seed)
        trainer = LaserTrainer(model, args, train_dataset=dataset, eval_dataset=dataset)
        return list(trainer.get_train_dataloader())


def waste(batches: Sequence[Batch]) -> float:
    """Returns how many text tokens are read for each real one."""
    read = sum(batch["input_ids"].numel() for batch in batches)
    return read / sum(int(batch["attention_mask"].sum()) for batch in batches)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common_parser(__doc__.splitlines()[0])
    add_log_options(parser, users=256)
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
    at_random = partial(random_batches, dataset, arguments.batch_size)
    grouped = partial(grouped_batches, model, dataset, arguments.batch_size)

    def epoch(make: Callable[[int], list[Batch]], place: int) -> Seconds:
        batches = make(arguments.seed + place)
        return timed(lambda: learn(model, batches, dtype)).per(len(dataset))

    def plain(place: int) -> Seconds:
        with written_plainly(with_head=False):
            return epoch(at_random, place)

    variants = {PLAIN: plain, PACKED: partial(epoch, at_random), GROUPED: partial(epoch, grouped)}
    wasted = {PACKED: waste(at_random(0)), GROUPED: waste(grouped(0))}
    for name, value in wasted.items():
        print(f"{name}: {value:.3f} text tokens read for each real one")
    taken = in_turns(variants, arguments.rounds)
    finish(arguments, taken, PLAIN, "user", text_tokens_read_a_real_one=wasted)


if __name__ == "__main__":
    main()
