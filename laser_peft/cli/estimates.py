"""How long it may take and how much memory it may need, on the console."""

from collections.abc import Callable
from typing import Annotated

import typer

from laser_peft.estimates import Estimate

from .base import console

EstimateOnly = Annotated[
    bool,
    typer.Option(
        "--estimate-only", help="Say how long it may take and how much memory, then stop."
    ),
]


def tells_estimate(only: bool) -> Callable[[Estimate], None]:
    """Returns what prints an estimate, with its warning if there is one.

    Args:
        only: end the command there.
    """

    def tell(estimate: Estimate) -> None:
        for line in estimate.lines():
            console.print(line, soft_wrap=True)
        if estimate.warning is not None and not console.quiet:
            typer.echo(f"Warning: {estimate.warning}", err=True)
        if only:
            raise typer.Exit

    return tell
