"""What was found in a log, on the console; and what came of a test, in a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from laser_peft.data import LogReport
from laser_peft.data.reports import say_row
from laser_peft.whole import new_whole, write_json

from .base import console
from .showing import harmless

if TYPE_CHECKING:
    from laser_peft.evaluation import Evaluation


def print_report(report: LogReport, data: dict[str, Any] | None = None) -> None:
    """Prints what was found row by row and, where given, the counts of what was kept."""
    console.print(
        f"Read {report.rows:,} rows: {report.events:,} interactions of {report.users:,} users "
        f"with {report.items:,} items.",
        soft_wrap=True,
    )
    for finding in report.findings:
        console.print(Text(f"  {finding.counted} {finding.action}: {finding.kind}"), soft_wrap=True)
        for row in finding.first:
            # As Text: square brackets in a value are no markup.
            console.print(Text(harmless(f"      {say_row(row)}")), soft_wrap=True)
    for name, value in (data or {}).items():
        console.print(f"{name}: {value}", soft_wrap=True)


def save_evaluations(
    evaluations: "Sequence[Evaluation]", folder: Path, told: dict[str, Any] | None = None
) -> None:
    """Saves evaluations by their names, and ``run.json`` of what is told; all or none."""
    with new_whole(folder) as unfinished:
        for evaluation in evaluations:
            evaluation.save(unfinished / evaluation.name)
        if told is not None:
            write_json(unfinished / "run.json", told)
