"""Results as tables on the console."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table

from laser_peft.evaluation import PROTOCOLS, Evaluation

from .base import console

SLICE_METRICS = ("hr@10", "ndcg@10")


def print_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """Prints every metric of every model in both protocols, then those of each slice."""
    told = [evaluation.summary() for evaluation in evaluations]
    both = " / ".join(PROTOCOLS)
    table = Table(
        f"{both}",
        *(summary["name"] for summary in told),
        title=f"Test, {told[0]['users']} users, whole catalogue",
        box=box.SIMPLE_HEAD,
    )
    for name in told[0]["metrics"][PROTOCOLS[0]]:
        table.add_row(name, *(_both(summary["metrics"], name) for summary in told))
    console.print(table)
    table = Table(
        "users",
        both,
        *(summary["name"] for summary in told),
        title="By slice",
        box=box.SIMPLE_HEAD,
    )
    for name, part in told[0]["slices"].items():
        for place, metric in enumerate(SLICE_METRICS):
            table.add_row(
                "" if place else f"{name}: {part['users']}",
                metric,
                *(_both(summary["slices"][name].get("metrics"), metric) for summary in told),
            )
    console.print(table)
    _print_absent(told[0])


def print_differences(comparison: dict[str, Any]) -> None:
    """Prints in a line each what of the difference at 10 is not luck."""
    first, second = comparison["models"]
    for protocol, differences in comparison["difference"].items():
        for name in SLICE_METRICS:
            console.print(
                f"{protocol} {name}: {second} - {first} = {_interval(differences[name])}",
                soft_wrap=True,
            )


def print_comparison(comparison: dict[str, Any]) -> None:
    """Prints two models and their difference: every metric, then those of each slice."""
    first, second = comparison["models"]
    title = f"Test, {comparison['users']} users, whole catalogue: {second} - {first}"
    console.print(_difference_table(title, comparison))
    for name, part in comparison["slices"].items():
        title = f"{name}: {part['users']} users"
        console.print(_difference_table(title, part) if part["users"] else title)
    _print_absent(comparison)


def _difference_table(title: str, comparison: dict[str, Any]) -> Table:
    table = Table("protocol", "metric", *comparison["models"], title=title, box=box.SIMPLE_HEAD)
    # Folder names are what gives way where the console is narrow.
    table.add_column("difference (95 % interval)", no_wrap=True)
    for cells in _rows(comparison):
        table.add_row(*cells)
    return table


def _rows(comparison: dict[str, Any]) -> Iterator[list[str]]:
    models = comparison["models"].values()
    for protocol, differences in comparison["difference"].items():
        for name, difference in differences.items():
            values = [f"{model[protocol][name]:.4f}" for model in models]
            yield [protocol, name, *values, _interval(difference)]


def _both(metrics: dict[str, dict[str, float]] | None, name: str) -> str:
    if metrics is None:
        return "-"
    return " / ".join(f"{metrics[protocol][name]:.4f}" for protocol in PROTOCOLS)


def _interval(difference: dict[str, float]) -> str:
    return f"{difference['mean']:+.4f} ({difference['low']:+.4f} .. {difference['high']:+.4f})"


def _print_absent(told: dict[str, Any]) -> None:
    for name, reason in told["absent_slices"].items():
        console.print(f"The slice {name!r} is left out: {reason}.", soft_wrap=True)
