r"""Times what ``laser-peft train`` takes for a training position beside PEFT's prompt tuning.

    python examples/benchmarks/headline.py --interactions $DATA/interactions.csv.gz \
        --items $DATA/items.jsonl.gz --llm $LM --positions last
    python examples/benchmarks/headline.py ... --positions every

A position is an item of a real history that is learnt from. ``last``: the last training item of
each user, the correction's epoch; ``every``: every item that follows another, as with
``--every-prefix``, and as the text reader learns them, which is all that is trained with
``--epochs 0`` (the language model is then read once for each item's text, not in training).

Ours are epochs of the Trainers of ``laser-peft train``, from their begin to their last step. The
peers are bare loops over random batches of one target a pass, padded to their longest text, in
float32: PEFT's prompt tuning as its documentation has it, a causal language model with labels on
the words of the next item, and our own objective written plainly (plainly.py). A round of ours is
some batches of an epoch over all users, a round of a peer some positions; both are picked at even
ranks of their length, so that few stand for all.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from functools import partial
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from interleaved import Clock, Seconds, Variant, common_parser, finish, in_turns, start, timed
from peft import PeftModel, PromptTuningConfig, TaskType, get_peft_model
from plainly import written_plainly
from real_log import RealLog, add_log_options, at_even_ranks, grouped_batches
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.utils import logging

from laser_peft.data import PaddingCollator
from laser_peft.data.sequences import Examples
from laser_peft.item_texts import describe_items, lm_text_vectors
from laser_peft.training import LaserSettings, LaserTrainer, PromptDataset
from laser_peft.training.datasets import PlacesCollator
from laser_peft.training.laser import laser_arguments, training_dataset
from laser_peft.training.reading import kept_as_it_is, train_reading

PROMPT_TUNING = "PEFT prompt tuning, float32"
IGNORE_INDEX = -100
TEXTS = 256  # of items, read once to say how long the whole catalogue takes
MEASURED = 4096  # positions whose lengths a peer's are picked by
Batch = dict[str, Tensor]


class EpochClock(TrainerCallback):
    """Reads a clock where a Trainer's epoch begins and after each of its steps."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        """Starts it."""
        self.clock.start()

    def on_step_end(self, *_: object, **__: object) -> None:
        """Stops it, at last before the validation and the checkpoint."""
        self.clock.stop()


def ours(log: RealLog, every: bool, dtype: torch.dtype, arguments: argparse.Namespace) -> Variant:
    """Returns some steps of the adapter's epoch, its text reader kept as it is."""
    model = log.adapted(dtype)
    settings = LaserSettings(every_prefix=every, bf16=dtype == torch.bfloat16)
    limit = log.limits.max_items
    dataset = training_dataset(model, log.split, log.prompts, settings, max_items=limit)
    lengths = [len(dataset[place]["input_ids"]) for place in range(len(dataset))]
    size, count = settings.batch_size, arguments.batches
    size = min(size, len(dataset))

    def epoch(place: int) -> Seconds:
        batches = grouped_batches(lengths, size, count, arguments.seed + place)
        part = Subset(dataset, [place for batch in batches for place in batch])
        callback = EpochClock()
        with TemporaryDirectory() as folder, redirect_stdout(StringIO()), kept_as_it_is(model):
            args = laser_arguments(folder, settings, len(part), seed=arguments.seed)
            args.train_sampling_strategy = "sequential"  # they are in the epoch's order already
            args.eval_strategy = args.save_strategy = "no"
            collate = PlacesCollator(log.prompts.ending)
            LaserTrainer(
                model, args, data_collator=collate, train_dataset=part, callbacks=[callback]
            ).train()
        positions = sum(np.size(example["labels"]) for example in part)
        return callback.clock.taken.per(positions)

    return epoch


def text_reader(log: RealLog, seed: int) -> Variant:
    """Returns an epoch of the text reader over all users."""
    model = log.adapted(torch.float32)

    def epoch(place: int) -> Seconds:
        callback, limit = EpochClock(), log.limits.max_items
        with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            train_reading(
                model,
                log.split,
                folder,
                1,
                max_items=limit,
                seed=seed + place,
                callbacks=[callback],
            )
        return callback.clock.taken.per(log.split.num_training_pairs)

    return epoch


class NextItemText:
    """Batches of prompts, each followed by the words of the next item, which are the labels.

    Args:
        log: what it is about.
    """

    def __init__(self, log: RealLog) -> None:
        self.prompts = log.prompts
        texts = describe_items(log.catalogue, log.limits.prompt)
        self.words = log.tokenizer(texts, add_special_tokens=False)["input_ids"]
        self.end = [log.tokenizer.eos_token_id]

    def __call__(self, examples: Sequence[Any]) -> Batch:
        """Pads on the right; labels are -100 on prompts and padding."""
        rows = []
        for example in examples:
            prompt = self.prompts(example.history)
            answer = self.words[example.target - 1] + self.end
            rows.append(
                {"input_ids": prompt + answer, "labels": [IGNORE_INDEX] * len(prompt) + answer}
            )
        batch = PaddingCollator()(rows)
        return batch | {"attention_mask": batch["attention_mask"].long()}


def prompt_tuning(log: RealLog) -> tuple[PeftModel, Callable[[Sequence[Any]], Batch]]:
    """Returns PEFT's model and what makes its batches."""
    lm = AutoModelForCausalLM.from_pretrained(log.llm, dtype=torch.float32)
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=log.prefix_tokens)
    return get_peft_model(lm, config).train(), NextItemText(log)


def plainly(log: RealLog) -> tuple[PeftModel, Callable[[Sequence[Any]], Batch]]:
    """Returns an adapter of ours, to be read plainly, and what makes its batches."""

    def collate(examples: Sequence[Any]) -> Batch:
        dataset = PromptDataset(examples, log.prompts, max_items=log.limits.max_items)
        return PaddingCollator()([dataset[place] for place in range(len(dataset))])

    return log.adapted(torch.float32), collate


def bare_loop(
    log: RealLog,
    model: PeftModel,
    collate: Callable[[Sequence[Any]], Batch],
    examples: Examples,
    arguments: argparse.Namespace,
    within: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Variant:
    """Returns a loop over some of the examples in random order, with batches made within it."""
    random = np.random.default_rng(arguments.seed)
    drawn = random.permutation(len(examples))[:MEASURED].tolist()
    lengths = [len(log.prompts(examples[place].history)) for place in drawn]
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-3)

    def epoch(place: int) -> Seconds:
        chosen = [drawn[rank] for rank in at_even_ranks(lengths, arguments.peer_positions)]
        chosen = Subset(examples, random.permutation(chosen).tolist())

        def learn() -> None:
            for batch in DataLoader(chosen, arguments.batch_size, collate_fn=collate):
                model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        with within():
            return timed(learn).per(len(chosen))

    return epoch


@contextmanager
def plain_and_kept(model: PeftModel, *, with_head: bool = True) -> Iterator[None]:
    """As our own epochs: the text reader stays as it is."""
    with kept_as_it_is(model), written_plainly(with_head=with_head):
        yield


def variants_of(log: RealLog, arguments: argparse.Namespace) -> dict[str, Variant]:
    """Makes all variants for the positions that are asked for."""
    every = arguments.positions == "every"
    examples = log.split.training_examples(every_prefix=every)
    adapter, batches = plainly(log)
    within = partial(plain_and_kept, adapter)
    name = "ours, every position of a text in one pass" if every else "ours, one target a user"
    variants = {
        PROMPT_TUNING: bare_loop(log, *prompt_tuning(log), examples, arguments),
        "our objective plainly, float32": bare_loop(
            log, adapter, batches, examples, arguments, within
        ),
        f"{name}, float32": ours(log, every, torch.float32, arguments),
        f"{name}, bfloat16": ours(log, every, torch.bfloat16, arguments),
    }
    if every:
        variants["ours, the text reader (--epochs 0)"] = text_reader(log, arguments.seed)
    return variants


def time_of_texts(log: RealLog) -> float:
    """Returns the processor's seconds for reading 1,000 items' texts, once a run."""
    texts = describe_items(log.catalogue, log.limits.prompt)[:TEXTS]
    model = log.adapted(torch.float32)
    took = timed(lambda: lm_text_vectors(model, log.tokenizer, texts))
    return 1000 * took.per(len(texts)).processor


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common_parser(__doc__.splitlines()[0])
    parser.set_defaults(rounds=3)
    add_log_options(parser)
    parser.add_argument("--batches", type=int, default=8, help="of ours in a round")
    parser.add_argument("--positions", choices=("last", "every"), default="last")
    parser.add_argument("--peer-positions", type=int, default=64, help="of a peer in a round")
    parser.add_argument("--batch-size", type=int, default=32, help="of the peers; ours: 32 too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parse(argv)
    start(arguments)
    logging.set_verbosity_error()
    log = RealLog.read(arguments)
    print(log.counts)
    seconds = time_of_texts(log)
    print(f"reading 1,000 items' texts once a run, float32: {seconds:.2f} s of processor")
    # Many steps a turn: what happens once a process weighs little, and warming up would take long.
    taken = in_turns(variants_of(log, arguments), arguments.rounds, warm_up=0)
    finish(arguments, taken, PROMPT_TUNING, "position", seconds_of_1000_texts=seconds)


if __name__ == "__main__":
    main()
