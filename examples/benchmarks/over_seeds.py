"""Means and spreads over runs that differ in their seed only, as tables for docs/results.md.

    laser-peft train-encoder --interactions LOG --items ITEMS --output runs/sasrec-0 --seed 0
    laser-peft train-encoder --interactions LOG --items ITEMS --output runs/sasrec-1 --seed 1
    python examples/benchmarks/over_seeds.py runs/sasrec-*/evaluation/sasrec

and of whole runs, of what Laser has over the very SASRec it reads:

    laser-peft train --interactions LOG --items ITEMS --llm LM --output runs/beauty-0 --seed 0
    laser-peft train --interactions LOG --items ITEMS --llm LM --output runs/beauty-1 --seed 1
    python examples/benchmarks/over_seeds.py runs/beauty-*

The spread is the standard deviation of a sample, one run a seed. The interval of a difference is
over users, each with the mean over seeds.
"""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

from laser_peft.evaluation import PROTOCOLS, Evaluation, compare_over_seeds

SLICE_METRICS = ("hr@10", "ndcg@10")


def main(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders with ranks.parquet and metrics.json, or of finished runs of laser-peft "
            "train, which hold two of them."
        ),
    ],
) -> None:
    """Print mean ± standard deviation over the runs: every metric, then those of the slices."""
    whole = [folder for folder in folders if (folder / "evaluation").is_dir()]
    if not whole:
        _print_models(folders)
    elif len(whole) == len(folders):
        _print_differences(folders)
    else:
        raise typer.BadParameter(
            f"{whole[0]} is a whole run and {next(f for f in folders if f not in whole)} is not; "
            "give runs only, or folders of one evaluation each"
        )


def _print_models(folders: list[Path]) -> None:
    summaries = [Evaluation.load(folder).summary() for folder in folders]
    data = {summary["data_sha256"] for summary in summaries}
    if len(data) > 1:
        raise typer.BadParameter(f"these runs were tested on {len(data)} different data sets")
    users = summaries[0]["users"]
    print(f"{len(folders)} runs, {users} users, data {data.pop()}\n")
    _print_head("", PROTOCOLS)
    for name in summaries[0]["metrics"][PROTOCOLS[0]]:
        _print_means(name, [summary["metrics"] for summary in summaries], (name,))
    _print_head(
        "slice (users)",
        [f"{protocol} {name}" for name in SLICE_METRICS for protocol in PROTOCOLS],
    )
    for name, part in summaries[0]["slices"].items():
        if part["users"]:
            parts = [summary["slices"][name]["metrics"] for summary in summaries]
            _print_means(f"{name} ({part['users']})", parts, SLICE_METRICS)


def _print_means(title: str, metrics: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    values = [
        [of_run[protocol][name] for of_run in metrics] for name in names for protocol in PROTOCOLS
    ]
    _print_row(title, [_spread(mean(of_runs), _std(of_runs)) for of_runs in values])


def _print_differences(folders: list[Path]) -> None:
    told = [_read_metrics(folder) for folder in folders]
    names = list(told[0]["models"])
    tests = [
        [Evaluation.load(folder / "evaluation" / name) for folder in folders] for name in names
    ]
    found = compare_over_seeds(*tests)
    print(f"{len(folders)} runs, {found['users']} users, data {tests[0][0].data_hash}\n")
    seconds = [of_run["seconds"] for of_run in told]
    for stage in {stage: None for of_run in seconds for stage in of_run}:
        taken = [of_run[stage] for of_run in seconds if stage in of_run]
        each = ", ".join(f"{value:.0f}" for value in taken)
        spread = f" ± {stdev(taken):.0f}" if len(taken) > 1 else ""
        print(f"* seconds of {stage}: {mean(taken):.0f}{spread} ({each})")
    print()
    _print_head("", [f"{protocol} {name}" for protocol in PROTOCOLS for name in names])
    for metric in found["difference"][PROTOCOLS[0]]:
        models = [found["models"][name][protocol] for protocol in PROTOCOLS for name in names]
        _print_row(metric, [_spread(**of_model[metric]) for of_model in models])
    print(f"\n{names[1]} minus {names[0]}, with 95 % intervals over users:\n")
    for protocol in PROTOCOLS:
        for metric in SLICE_METRICS:
            relative = _relative(found, names[0], protocol, metric)
            interval = _interval(found["difference"][protocol][metric])
            print(f"* {protocol} {metric}: {interval}{relative}")
    for protocol in PROTOCOLS:
        for metric in SLICE_METRICS:
            _print_slices(found, names, protocol, metric)


def _print_slices(found: dict[str, Any], names: list[str], protocol: str, metric: str) -> None:
    _print_head(f"{protocol} {metric} by slice (users)", [*names, "difference"])
    for name, part in found["slices"].items():
        if part["users"]:
            spreads = [_spread(**part["models"][model][protocol][metric]) for model in names]
            interval = _interval(part["difference"][protocol][metric])
            _print_row(f"{name} ({part['users']})", [*spreads, interval])


def _read_metrics(run: Path) -> dict[str, Any]:
    file = run / "metrics.json"
    told = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if "models" not in told:
        raise typer.BadParameter(
            f"{run} holds no finished run of laser-peft train: "
            + ("it tested a SASRec alone" if told else "there is no metrics.json")
            + f"; give a finished one, or {run}/evaluation/NAME for the table of one model"
        )
    return told


def _relative(found: dict[str, Any], first: str, protocol: str, metric: str) -> str:
    before = found["models"][first][protocol][metric]["mean"]
    gain = found["difference"][protocol][metric]["mean"]
    return f", {gain / before:+.1%}" if before else ""


def _std(values: list[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _spread(mean: float, std: float | None) -> str:
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"


def _interval(difference: dict[str, float]) -> str:
    return f"{difference['mean']:+.4f} ({difference['low']:+.4f} .. {difference['high']:+.4f})"


def _print_head(title: str, columns: list[str] | tuple[str, ...]) -> None:
    if title:
        print()  # between two tables
    print(f"| {title} | {' | '.join(columns)} |".replace("|  |", "| |"))
    print(f"|{'---|' * (1 + len(columns))}")


def _print_row(title: str, cells: list[str]) -> None:
    print(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    typer.run(main)
