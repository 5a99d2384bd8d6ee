"""Results as tables on the console."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table

from laser_peft.evaluation import PROTOCOLS, Evaluation

from .base import console

SLICE_METRICS = ("hr@10", "ndcg@10")


def print_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """Prints every metric of every model in both protocols, then the slices' metrics at 10."""
    told = [evaluation.summary() for evaluation in evaluations]
    names = [summary["name"] for summary in told]
    users = told[0]["users"]
    table = _narrow_table(f"Test, {users} users, whole catalogue", "/".join(PROTOCOLS), *names)
    for metric in told[0]["metrics"][PROTOCOLS[0]]:
        table.add_row(metric, *(_both(summary["metrics"], metric) for summary in told))
    console.print(table)
    for metric in SLICE_METRICS:
        table = _narrow_table(f"{metric} by slice", "/".join(PROTOCOLS), *names)
        for name, part in told[0]["slices"].items():
            parts = [summary["slices"][name].get("metrics") for summary in told]
            table.add_row(f"{name}: {part['users']}", *(_both(part, metric) for part in parts))
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
    table = Table("protocol", "metric", title=title, box=box.SIMPLE_HEAD)
    # Names, of folders maybe, are what gives way where the console is narrow.
    for name in comparison["models"]:
        table.add_column(name, overflow="fold")
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


def _narrow_table(title: str, *columns: str) -> Table:
    """Makes a table in which four models fit into 80 characters."""
    return Table(*columns, title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _both(metrics: dict[str, dict[str, float]] | None, name: str) -> str:
    if metrics is None:
        return "-"
    return "/".join(f"{metrics[protocol][name]:.4f}" for protocol in PROTOCOLS)


def _interval(difference: dict[str, float]) -> str:
    return f"{difference['mean']:+.4f} ({difference['low']:+.4f} .. {difference['high']:+.4f})"


def _print_absent(told: dict[str, Any]) -> None:
    for name, reason in told["absent_slices"].items():
        console.print(f"The slice {name!r} is left out: {reason}.", soft_wrap=True)
