"""The table of an ablation, made of the tests that its runs have saved."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ablation_plan import REFERENCE
from safetensors import safe_open

from laser_peft.evaluation import PROTOCOLS, Evaluation, compare_over_seeds
from laser_peft.runs import seconds_of
from laser_peft.training import LaserSettings

ENCODER = "encoder alone"
METRICS = ("hr@10", "ndcg@10")
SHOWN_SLICES = ("1-5 events", "cold")
Tests = dict[int, Evaluation]  # by seed


def make_table(runs: Mapping[str, Mapping[int, Path]], head: dict[str, Any]) -> dict[str, Any]:
    """Gathers what the runs of every variant say.

    A variant's numbers are over the seeds that ``full`` has too.

    Args:
        runs: variant to seed to the folder of a finished run; ``full`` has one at least.
        head: what else the table says of itself.

    Returns:
        What ``table.json`` holds: the head, ``data_sha256``, ``users``, and by the name of a
        variant in ``variants``: ``seeds``, ``trainable_parameters``, ``seconds`` (of the
        adapter's training: ``mean`` and ``std``), ``metrics`` (protocol to metric to ``mean`` and
        ``std`` over seeds), ``slices`` (the same by slice) and ``difference`` to ``full``
        (protocol to metric to ``mean``, ``low`` and ``high``). The encoder that all read is a row
        of its own.

    Raises:
        ValueError: if not all were tested on the same data and users.
    """
    full = _tests(REFERENCE, runs[REFERENCE], "laser")
    encoders = _tests(ENCODER, runs[REFERENCE], None)
    rows = {ENCODER: _row(full, encoders, ENCODER)}
    rows[REFERENCE] = _row(encoders, full, REFERENCE) | _size(runs[REFERENCE])
    del rows[REFERENCE]["difference"]  # to the encoder: it is in the encoder's row
    for name, folders in runs.items():
        shared = {seed: folder for seed, folder in folders.items() if seed in full}
        if name != REFERENCE and shared:
            tests = _tests(name, shared, "laser")
            rows[name] = _row(full, tests, name) | _size(shared)
    first = next(iter(full.values()))
    about = {"data_sha256": first.data_hash, "users": first.targets.height}
    return head | about | {"variants": rows}


def as_markdown(table: dict[str, Any]) -> str:
    """Writes a table as ``table.md`` has it."""
    protocols = [
        f"{protocol} {column}"
        for protocol in PROTOCOLS
        for column in ("HR@10", "NDCG@10", f"NDCG@10 to {REFERENCE}")
    ]
    slices = [f"HR@10 of {name}, {'/'.join(PROTOCOLS)}" for name in SHOWN_SLICES]
    columns = ["variant", "seeds", "trainable parameters", "seconds", *protocols, *slices]
    rows = [_cells(name, row) for name, row in table["variants"].items()]
    seeds = ", ".join(map(str, table["seeds"]))
    lines = [
        "# Ablation",
        "",
        f"* Seeds {seeds}; {table['users']} users; data `{table['data_sha256']}`",
        f"* Commit {', '.join(table['commits'])}; table of {table['date']}",
        f"* `{table['command']}`",
        "",
        "Mean ± standard deviation over seeds; differences with 95 % intervals over users, each "
        "with the mean over seeds; seconds are of the adapter's training.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *rows]),
    ]
    return "\n".join(lines) + "\n"


def _row(others: Tests, tests: Tests, name: str) -> dict[str, Any]:
    """Takes of a comparison what it says of one model; over the seeds of its tests."""
    found = compare_over_seeds([others[seed] for seed in tests], list(tests.values()))
    return {
        "seeds": list(tests),
        "metrics": found["models"][name],
        "slices": {
            slice_name: {"users": part["users"]}
            | ({"metrics": part["models"][name]} if part["users"] else {})
            for slice_name, part in found["slices"].items()
        },
        "difference": found["difference"],
    }


def _tests(name: str, folders: Mapping[int, Path], of_model: str | None) -> Tests:
    """Loads the tests of one model, None: of the encoder, and calls them by one name."""
    tests = {}
    for seed, folder in folders.items():
        models = list(json.loads((folder / "metrics.json").read_text("utf-8"))["models"])
        loaded = Evaluation.load(folder / "evaluation" / (of_model or models[0]))
        tests[seed] = replace(loaded, name=name)
    return tests


def _size(folders: Mapping[int, Path]) -> dict[str, Any]:
    seconds = [seconds_of(folder)["laser"] for folder in folders.values()]
    return {
        "trainable_parameters": trainable_parameters(next(iter(folders.values()))),
        "seconds": {"mean": mean(seconds), "std": stdev(seconds) if seconds[1:] else None},
    }


def trainable_parameters(run: Path) -> int:
    """Counts what the adapter of a run has learnt: not its encoder, nor tables of vectors.

    Without epochs of its own, that is the text reader alone.
    """
    settings = json.loads((run / "run.json").read_text("utf-8"))["settings"]
    laser = LaserSettings(**settings["laser"])
    learns = laser.epochs or laser.item_epochs_of(settings["adapter"].get("item_vectors", ""))
    learnt = "" if learns else "text_reader."
    count = 0
    file = run / "recommender" / "adapter_model.safetensors"
    with safe_open(file, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
            _, of_adapter, part = name.partition(".bituning_adapters.")
            is_table = part.startswith(("items.", "view_weights"))
            if of_adapter and not is_table and part.startswith(learnt):
                count += math.prod(tensors.get_slice(name).get_shape())
    return count


def _cells(name: str, row: dict[str, Any]) -> list[str]:
    size = f"{row['trainable_parameters']:,}" if "trainable_parameters" in row else "-"
    seconds = _spread(row["seconds"], digits=0) if "seconds" in row else "-"
    cells = [name, str(len(row["seeds"])), size, seconds]
    for protocol in PROTOCOLS:
        cells += [_spread(row["metrics"][protocol][metric]) for metric in METRICS]
        cells.append(
            _interval(row["difference"][protocol]["ndcg@10"]) if "difference" in row else "-"
        )
    for slice_name in SHOWN_SLICES:
        metrics = row["slices"][slice_name].get("metrics")
        both = metrics and [_spread(metrics[protocol]["hr@10"]) for protocol in PROTOCOLS]
        cells.append(" / ".join(both) if both else "-")
    return cells


def _spread(value: dict[str, float | None], *, digits: int = 4) -> str:
    told = f"{value['mean']:.{digits}f}"
    return told if value["std"] is None else f"{told} ± {value['std']:.{digits}f}"


def _interval(difference: dict[str, float]) -> str:
    return f"{difference['mean']:+.4f} ({difference['low']:+.4f} .. {difference['high']:+.4f})"
