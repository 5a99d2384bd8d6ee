r"""Trains a SASRec on a log and tests it over the whole catalogue.

Command (after the two commands of examples/README.md that make a shop and a language model):

    python examples/01_train_sasrec.py

and on your own log:

    python examples/01_train_sasrec.py --interactions interactions.csv.gz \
        --items items.jsonl.gz --output runs/mine/sasrec

Hardware: any CPU; a GPU is used if there is one, which was not tried.
Time: 51 seconds for the demo's shop, one thread of a busy 2-core x86 machine.
Expected output, without the Trainer's progress:

    17,766 rows, 2,000 users, 600 of 600 items
    to learn from: 11,766 pairs of items that follow each other
    unmasked: HR@10 0.3250, NDCG@10 0.1999
    masked: HR@10 0.3595, NDCG@10 0.2442
    saved: runs/examples/sasrec
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from laser_peft import numbering
from laser_peft.comparison import evaluate_encoder
from laser_peft.data import (
    Catalogue,
    Histories,
    describe_data,
    leave_one_out,
    read_interactions,
)
from laser_peft.judge import Judge
from laser_peft.training import SASRecSettings, train_sasrec

MAX_ITEMS = 50  # longest history that the encoder reads


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interactions", default="runs/demo/shop/interactions.csv.gz")
    parser.add_argument("--items", type=Path, default="runs/demo/shop/items.jsonl.gz")
    parser.add_argument("--output", type=Path, default="runs/examples/sasrec")
    parser.add_argument("--epochs", type=int, help="at most so many; by default 24 or more")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the example."""
    args = read_arguments(argv)

    # Read. Rows that cannot be used are an error that shows the first of them, unless
    # on_bad_rows="drop" is said; whatever else was found is in the report.
    catalogue = Catalogue.read(args.items)
    log = read_interactions(args.interactions, catalogue=catalogue)
    report = log.report
    print(
        f"{report.rows:,} rows, {report.users:,} users, {report.items:,} of {len(catalogue)} items"
    )
    for finding in report.findings:
        print(f"  {finding.counted} {finding.action}: {finding.kind}")

    # Split. A user's last item is for the test, the one before chooses the best epoch.
    histories = Histories.from_interactions(log, catalogue)
    split = leave_one_out(histories)
    data = describe_data(catalogue, histories, split)
    print(f"to learn from: {split.num_training_pairs:,} pairs of items that follow each other")

    # Train.
    encoder = train_sasrec(
        split,
        len(catalogue),
        args.output / "checkpoints",
        SASRecSettings(epochs=args.epochs),
        max_items=MAX_ITEMS,
        seed=args.seed,
    )
    # An adapter that meets this encoder with another catalogue will say so.
    numbering.sign(encoder.config, catalogue.item_ids)
    encoder.save_pretrained(args.output)

    # Test: every item of the catalogue competes, and once without what the user has had.
    judge = Judge.of_test(catalogue, histories, split, data["sha256"])
    evaluation = evaluate_encoder(encoder, judge, max_items=MAX_ITEMS)
    for protocol, metrics in evaluation.summary()["metrics"].items():
        print(f"{protocol}: HR@10 {metrics['hr@10']:.4f}, NDCG@10 {metrics['ndcg@10']:.4f}")
    print(f"saved: {args.output}")


if __name__ == "__main__":
    main()
