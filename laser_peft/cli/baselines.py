"""``laser-peft baselines``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from laser_peft.data import LogSource
from laser_peft.runs import check_new

from .base import (
    Items,
    app,
    console,
    let_one_speak,
    reads_a_log,
    says_what_is_wrong,
)
from .config_file import takes_a_config_file
from .reports import print_report, save_evaluations
from .tables import print_evaluations


@app.command()
@says_what_is_wrong
@takes_a_config_file
@reads_a_log
def baselines(
    source: LogSource,
    items: Items,
    output: Annotated[Path, typer.Option(help="New folder; each baseline gets one in it.")],
    llm: Annotated[
        str | None,
        typer.Option(help="Language model for nearest neighbours of the items' texts."),
    ] = None,
    sasrec: Annotated[
        str | None, typer.Option(help="Folder of a trained SASRec to test beside them.")
    ] = None,
) -> None:
    """Test what any model has to beat: popularity, co-occurrence, text neighbours, a SASRec.

    Example:
    laser-peft baselines --interactions logs/ --items items.csv --output base

    Writes a folder for each baseline with every user's ranks and the metrics,
    and run.json.
    """
    from laser_peft.baselines import run_baselines
    from laser_peft.data import Catalogue
    from laser_peft.experiment import Experiment
    from laser_peft.processes import by_one

    let_one_speak()
    check_new(output)
    catalogue = Catalogue.read(items, item_column=source.item_column)
    experiment = Experiment.read(source, catalogue)
    print_report(experiment.report, experiment.data)
    judge = experiment.judge
    evaluations, seconds = [], {}
    started = time.monotonic()
    for tested in run_baselines(catalogue, experiment.split, judge, llm=llm, sasrec=sasrec):
        evaluations.append(tested)
        seconds[tested.name] = round(time.monotonic() - started, 1)
        started = time.monotonic()
    told = {"data": experiment.data, "llm": llm, "sasrec": sasrec, "seconds": seconds}
    by_one(save_evaluations, evaluations, output, told)
    print_evaluations(evaluations)
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    console.print(f"Time: {times}. Saved: {output}", soft_wrap=True)
