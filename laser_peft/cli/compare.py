"""``laser-peft compare``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from laser_peft.whole import write_json

from .base import app, says_what_is_wrong
from .tables import print_comparison


@app.command()
@says_what_is_wrong
def compare(
    first: Annotated[Path, typer.Argument(help="Folder with ranks.parquet and metrics.json.")],
    second: Annotated[Path, typer.Argument(help="Another, of a test on the same data.")],
    output: Annotated[
        Path | None, typer.Option(help="New JSON file for all that is printed.")
    ] = None,
) -> None:
    """Compare two saved tests user by user: second minus first, and what of it is luck.

    Example:
    laser-peft compare run-a/evaluation/laser run-b/evaluation/laser

    Writes, with --output, all that it prints into a JSON file.
    """
    from laser_peft.evaluation import Evaluation
    from laser_peft.evaluation import compare as compare_both

    if output is not None and output.exists():
        raise FileExistsError(f"{output} is there already; choose another file")
    before, after = Evaluation.load(first), Evaluation.load(second)
    if before.name == after.name:
        before, after = replace(before, name=str(first)), replace(after, name=str(second))
    comparison = compare_both(before, after)
    if output is not None:
        write_json(output, comparison)
    print_comparison(comparison)
