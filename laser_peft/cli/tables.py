"""Results as tables on the console."""

from typing import Any

from rich.table import Table

from .base import console


def print_metrics(metrics: dict[str, Any]) -> None:
    """Prints both protocols side by side, then what of the difference is not luck."""
    models = metrics["models"]
    table = Table("metric", title=f"Test, {metrics['users']} users, whole catalogue")
    for protocol in metrics["difference"]:
        for model in models:
            table.add_column(f"{protocol}\n{model}", justify="right")
    for name in models["laser"]["unmasked"]:
        values = (
            models[model][protocol][name] for protocol in metrics["difference"] for model in models
        )
        table.add_row(name, *(f"{value:.4f}" for value in values))
    console.print(table)
    for protocol, differences in metrics["difference"].items():
        for name, difference in differences.items():
            console.print(
                f"{protocol} {name}: laser - sasrec = {difference['mean']:+.4f} "
                f"(95 % interval over users {difference['low']:+.4f} .. {difference['high']:+.4f})"
            )
