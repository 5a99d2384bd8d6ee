"""Means and spreads over runs that differ in their seed only, as tables for docs/results.md.

    laser-peft train-encoder --interactions LOG --items ITEMS --output runs/sasrec-0 --seed 0
    laser-peft train-encoder --interactions LOG --items ITEMS --output runs/sasrec-1 --seed 1
    python examples/benchmarks/over_seeds.py runs/sasrec-*/evaluation/sasrec

The spread is the standard deviation of a sample, one run a seed.
"""

from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import typer

from laser_peft.evaluation import PROTOCOLS, Evaluation

SLICE_METRICS = ("hr@10", "ndcg@10")


def main(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders with ranks.parquet and metrics.json.")
    ],
) -> None:
    """Print mean ± standard deviation over the runs: every metric, then those of the slices."""
    summaries = [Evaluation.load(folder).summary() for folder in folders]
    data = {summary["data_sha256"] for summary in summaries}
    if len(data) > 1:
        raise typer.BadParameter(f"these runs were tested on {len(data)} different data sets")
    users = summaries[0]["users"]
    print(f"{len(folders)} runs, {users} users, data {data.pop()}\n")
    print(f"| | {' | '.join(PROTOCOLS)} |\n|---|---|---|")
    for name in summaries[0]["metrics"][PROTOCOLS[0]]:
        _row(name, [summary["metrics"] for summary in summaries], (name,))
    columns = [f"{protocol} {name}" for name in SLICE_METRICS for protocol in PROTOCOLS]
    print(f"\n| slice (users) | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for name, part in summaries[0]["slices"].items():
        if part["users"]:
            parts = [summary["slices"][name]["metrics"] for summary in summaries]
            _row(f"{name} ({part['users']})", parts, SLICE_METRICS)


def _row(title: str, metrics: list[dict[str, dict[str, float]]], names: tuple[str, ...]) -> None:
    cells = []
    for name in names:
        for protocol in PROTOCOLS:
            values = [of_run[protocol][name] for of_run in metrics]
            spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.4f}{spread}")
    print(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    typer.run(main)
