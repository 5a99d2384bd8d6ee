"""What the scripts beside this one share: the data, the test and what a run is said to cost.

Every one of them learns from the same part of a log and is tested on the same users, so that
``laser-peft compare`` takes any two of their evaluations.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from laser_peft import numbering
from laser_peft.baselines import Encoder
from laser_peft.baselines.text import catalogue_vectors
from laser_peft.data import Catalogue, LogSource, PromptBuilder, PromptTemplate, Split
from laser_peft.evaluation import Evaluation
from laser_peft.experiment import Experiment
from laser_peft.judge import Judge
from laser_peft.runs import check_new, seconds_of
from laser_peft.tuner.sizes import MAX_TEXT_DIM
from laser_peft.whole import write_json

MAX_ITEMS = 50  # longest history that is read, as `laser-peft train` has it
DRAW = 0  # of the test users: the same whatever the seed of a run


def common_parser(description: str, output: str, *, test_users: int = 0) -> argparse.ArgumentParser:
    """Makes a parser of the options that every script has; 0 test users are all."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--interactions", default="runs/demo/shop/interactions.csv.gz")
    parser.add_argument("--items", default="runs/demo/shop/items.jsonl.gz")
    parser.add_argument("--time-column", default="timestamp", help="'' if rows are in order")
    parser.add_argument("--llm", default="runs/demo/lm", help="folder or Hub id")
    parser.add_argument("--output", type=Path, default=Path(output), help="new folder")
    parser.add_argument("--users", type=int, default=0, help="learn from so many; 0: from all")
    parser.add_argument("--validation-users", type=int, default=2000, help="0: all")
    parser.add_argument("--test-users", type=int, default=test_users, help="0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="autocast (GPU, or CPU with AMX)")
    return parser


def start(args: argparse.Namespace) -> Experiment:
    """Reads the data and starts the folder of a run, with ``run.json`` in it.

    Raises:
        FileExistsError: if the folder holds something.
        FileNotFoundError: if an input file is missing.
        ValueError: if the log cannot be read, or has nothing to learn from.
    """
    check_new(args.output)
    catalogue = Catalogue.read(args.items)
    source = LogSource(args.interactions, time_column=args.time_column or None)
    experiment = Experiment.read(source, catalogue)
    experiment.check_trainable()
    args.output.mkdir(parents=True, exist_ok=True)
    settings = {name: str(value) for name, value in vars(args).items()}
    write_json(args.output / "run.json", {"settings": settings, "data": experiment.data})
    return experiment


def draw(count: int, wanted: int, seed: int) -> list[int]:
    """Draws ``wanted`` of ``0 .. count - 1``, in rising order; all of them if that is 0.

    Example:
        >>> draw(3, 0, seed=1), len(draw(100, 7, seed=1))
        ([0, 1, 2], 7)
    """
    if not 0 < wanted < count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, wanted, replace=False).tolist())


def part_to_learn_from(experiment: Experiment, args: argparse.Namespace) -> Split:
    """Returns the split with as many users and validation users as a run asks for."""
    split = experiment.split
    users = draw(len(split.train_histories), args.users, args.seed)
    validation = draw(len(split.validation), args.validation_users, args.seed)
    return replace(
        split,
        train_histories=[split.train_histories[user] for user in users],
        validation=[split.validation[place] for place in validation],
    )


def judge_of(experiment: Experiment, test_users: int) -> Judge:
    """Returns the judge of so many test users, the same for every run; 0: of all."""
    judge = experiment.judge
    places = draw(len(judge.examples), test_users, DRAW)
    examples = [judge.examples[place] for place in places]
    return Judge(examples, judge.targets[places], judge.data_hash)


def load_encoder(name: str, catalogue: Catalogue) -> Encoder:
    """Loads a trained encoder to rank with.

    Raises:
        OSError: if there is none.
        ValueError: if it was trained on another catalogue.
    """
    encoder = Encoder.from_pretrained(name, len(catalogue))
    numbering.check(encoder.model.config, catalogue.item_ids)
    encoder.max_items = min(encoder.max_items or MAX_ITEMS, MAX_ITEMS)
    return encoder


def laser_text_vectors(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, catalogue: Catalogue
) -> Tensor:
    """Makes the text vectors that ``laser-peft train`` scores items by.

    Args:
        lm: a language model without its vocabulary head, not tuned yet, in eval mode.
        tokenizer: its tokenizer.
        catalogue: the items N.

    Returns:
        ``(N, X)`` float32 on the CPU, of length one.
    """
    return catalogue_vectors(lm, tokenizer, catalogue, MAX_TEXT_DIM)


def title_template(catalogue: Catalogue, **words: str) -> PromptTemplate:
    """Returns a prompt that says titles alone, or all there is where the catalogue has none."""
    titled = "title" in catalogue.frame.columns
    return PromptTemplate(attributes={"title": ""} if titled else None, **words)


def title_prompts(
    tokenizer: PreTrainedTokenizerBase, catalogue: Catalogue, max_tokens: int, **words: str
) -> PromptBuilder:
    """Returns the prompts of :func:`title_template`."""
    return PromptBuilder(
        tokenizer,
        catalogue,
        max_tokens=max_tokens,
        max_items=MAX_ITEMS,
        template=title_template(catalogue, **words),
    )


class Table:
    """Scores of B users held whole, ``(B, N)`` float."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def of_range(self, start: int, stop: int) -> Tensor:
        """See :class:`laser_peft.evaluation.Scores`."""
        return self.values[:, start:stop]

    def of_items(self, items: Tensor) -> Tensor:
        """See :class:`laser_peft.evaluation.Scores`."""
        return self.values.gather(1, items.to(self.values.device)[:, None] - 1)[:, 0]


def peak_bytes() -> int:
    """Returns the most memory held so far: allocated on the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 2**10  # Linux counts KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def finish(
    output: Path,
    model: nn.Module,
    history: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Evaluation],
) -> None:
    """Saves the evaluations, writes ``cost.json`` and prints both in short.

    Args:
        output: folder of the run, in whose ``seconds.json`` the stages ``train`` and ``test`` are.
        model: what was trained.
        history: the Trainer's log.
        evaluations: of the test.
    """
    seconds = seconds_of(output)
    epochs = max((float(row["epoch"]) for row in history), default=0.0)
    validation = sum(row.get("eval_runtime", 0.0) for row in history)
    cost = {
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": epochs,
        "train_seconds": seconds["train"],
        "validation_seconds": round(validation, 1),  # part of the former
        "seconds_per_epoch": round((seconds["train"] - validation) / epochs, 2) if epochs else None,
        "test_seconds": seconds["test"],
        "test_users": len(evaluations[0].ranks),
        "other_seconds": {k: v for k, v in seconds.items() if k not in ("train", "test")},
        "peak_bytes": peak_bytes(),
        "peak_of": "GPU, allocated" if torch.cuda.is_available() else "process, resident",
        "threads": torch.get_num_threads(),
    }
    write_json(output / "cost.json", cost)
    for evaluation in evaluations:
        evaluation.save(output / "evaluation" / evaluation.name)
        for protocol, metrics in evaluation.summary()["metrics"].items():
            print(
                f"{evaluation.name}, {protocol}: "
                f"HR@10 {metrics['hr@10']:.4f}, NDCG@10 {metrics['ndcg@10']:.4f}"
            )
    print(f"cost: {cost}\nsaved: {output}")
