r"""Bi-tunes a frozen language model with transformers' Trainer and saves a recommender.

Command (after 01_train_sasrec.py):

    python examples/02_bi_tune_with_trainer.py

and on your own log, with the SASRec that 01_train_sasrec.py made of it:

    python examples/02_bi_tune_with_trainer.py --interactions interactions.csv.gz \
        --items items.jsonl.gz --encoder runs/mine/sasrec --llm HuggingFaceTB/SmolLM2-135M \
        --output runs/mine/recommender

Hardware: any CPU; a GPU is used if there is one, which was not tried.
Time: 4 minutes for the demo's shop, one thread of a busy 2-core x86 machine.
Expected output, without the Trainer's progress:

    trainable params: 205,632 || all params: 981,056 || trainable%: 20.9603
    the first prompt:
    <s>A shopper's purchases, oldest first. Summarise the shopper's taste into the next tokens.
    ...
    sasrec, unmasked: HR@10 0.3250, NDCG@10 0.1999
    sasrec, masked: HR@10 0.3595, NDCG@10 0.2442
    laser, unmasked: HR@10 0.3270, NDCG@10 0.2005
    laser, masked: HR@10 0.3615, NDCG@10 0.2434
    difference, unmasked: NDCG@10 +0.0006 (95 % interval -0.0024 .. +0.0036)
    difference, masked: NDCG@10 -0.0008 (95 % interval -0.0040 .. +0.0023)
    saved: runs/examples/recommender
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from peft import get_peft_model
from torch.utils.data import Subset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    set_seed,
)

from laser_peft import BiTuningConfig, LaserRecommender
from laser_peft.comparison import evaluate
from laser_peft.data import Catalogue, LogSource
from laser_peft.evaluation import compare
from laser_peft.experiment import Experiment
from laser_peft.recommender import RecommenderConfig
from laser_peft.training import LaserTrainer, PromptDataset, ranking_arguments


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interactions", default="runs/demo/shop/interactions.csv.gz")
    parser.add_argument("--items", type=Path, default="runs/demo/shop/items.jsonl.gz")
    parser.add_argument("--llm", default="runs/demo/lm", help="folder or Hub id")
    parser.add_argument("--encoder", default="runs/examples/sasrec", help="folder or Hub id")
    parser.add_argument("--output", type=Path, default="runs/examples/recommender")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=400, help="longest prompt")
    parser.add_argument("--validation-users", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the example."""
    args = read_arguments(argv)
    set_seed(args.seed)
    catalogue = Catalogue.read(args.items)
    experiment = Experiment.read(LogSource(args.interactions), catalogue)

    # The language model stays as it is; the adapter is all that learns.
    llm = AutoModelForCausalLM.from_pretrained(args.llm)
    tokenizer = AutoTokenizer.from_pretrained(args.llm)
    model = get_peft_model(
        llm, BiTuningConfig(collaborative_encoder=args.encoder, layout="text_first")
    )
    model.print_trainable_parameters()

    # An example is a history and the item that came next: the history as a prompt and as item ids.
    limits = RecommenderConfig(max_tokens=args.max_tokens, max_items=50)
    prompts = limits.prompt_builder(tokenizer, catalogue)
    examples = experiment.split.training_examples(every_prefix=False)
    train = PromptDataset(examples, prompts, max_items=limits.max_items)
    validation = PromptDataset(
        experiment.split.validation, prompts, max_items=limits.max_items, ranked=True
    )
    drawn = np.random.default_rng(args.seed).permutation(len(validation))
    print(f"the first prompt:\n{tokenizer.decode(train[0]['input_ids'])}")

    trainer = LaserTrainer(
        model,
        # TrainingArguments that keep the column `seen`, which is for ranking and no argument of
        # the model, and name the labels.
        ranking_arguments(
            args.output / "checkpoints",
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=2 * args.batch_size,
            learning_rate=1e-3,
            warmup_steps=0.05,
            eval_strategy="epoch",
            save_strategy="epoch",
            logging_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="unmasked_ndcg@10",
            train_sampling_strategy="group_by_length",  # less padding
            seed=args.seed,
        ),
        train_dataset=train,
        eval_dataset=Subset(validation, drawn[: args.validation_users].tolist()),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    trainer.train()

    # The adapter's folder, with the catalogue, the tokenizer and the limits beside it.
    recommender = LaserRecommender(model, tokenizer, catalogue, limits)
    recommender.save_pretrained(args.output)

    # The test: the adapter beside the very SASRec that it reads, on the same users.
    compared = compare(*evaluate(recommender, experiment.judge))
    for name, protocols in compared["models"].items():
        for protocol, metrics in protocols.items():
            ndcg = metrics["ndcg@10"]
            print(f"{name}, {protocol}: HR@10 {metrics['hr@10']:.4f}, NDCG@10 {ndcg:.4f}")
    for protocol, differences in compared["difference"].items():
        d = differences["ndcg@10"]
        interval = f"{d['low']:+.4f} .. {d['high']:+.4f}"
        print(f"difference, {protocol}: NDCG@10 {d['mean']:+.4f} (95 % interval {interval})")
    print(f"saved: {args.output}")


if __name__ == "__main__":
    main()
