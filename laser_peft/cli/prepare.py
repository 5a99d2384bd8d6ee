"""``laser-peft prepare``."""

from pathlib import Path
from typing import Annotated

import typer

from laser_peft.data import LogSource

from .base import (
    app,
    console,
    reads_a_log,
    says_what_is_wrong,
)
from .config_file import takes_a_config_file


@app.command()
@says_what_is_wrong
@takes_a_config_file
@reads_a_log
def prepare(
    source: LogSource,
    output: Annotated[Path, typer.Option(help="New folder for the prepared files.")],
    items: Annotated[
        str | None,
        typer.Option(
            help="Items, one row each, in the same formats; without it, those of the log."
        ),
    ] = None,
    min_user_events: Annotated[
        int, typer.Option(min=1, help="Events that every user must keep (k-core).")
    ] = 1,
    min_item_events: Annotated[
        int, typer.Option(min=1, help="Events that every item must keep (k-core).")
    ] = 1,
) -> None:
    """Check and filter a log once and for all.

    Example:
    laser-peft prepare --interactions logs/ --items items.csv --output prepared

    Writes interactions.parquet, catalogue.parquet and report.json, which says
    what was found and left out.
    """
    from laser_peft import data

    from .reports import print_report

    prepared = data.prepare(
        source,
        items,
        output,
        min_user_events=min_user_events,
        min_item_events=min_item_events,
    )
    print_report(*prepared)
    console.print(f"Saved: {output}", soft_wrap=True)
    if source.time_column is None:
        console.print("It has no times: read it with --time-column ''")
