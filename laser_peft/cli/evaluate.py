"""``laser-peft evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from laser_peft.data import LogSource
from laser_peft.runs import check_new

from .asking import LLM, Dtype, Recommender
from .base import app, console, let_one_speak, reads_a_log, says_what_is_wrong
from .config_file import takes_a_config_file
from .reports import print_report, save_evaluations
from .tables import print_differences, print_evaluations


@app.command()
@says_what_is_wrong
@takes_a_config_file
@reads_a_log
def evaluate(
    recommender: Recommender,
    source: LogSource,
    output: Annotated[
        Path | None,
        typer.Option(help="New folder for the ranks of both, user by user; see `compare`."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Users at a time.")] = 64,
    llm: LLM = None,
    dtype: Dtype = None,
) -> None:
    """Rank every user's last item over the whole catalogue, beside the SASRec it reads.

    Example:
    laser-peft evaluate run/recommender --interactions logs/ --output tested

    Prints both protocols, unmasked and masked. Writes, with --output, every
    user's ranks and the metrics of both models, a folder each, for compare.
    """
    from laser_peft.comparison import evaluate as evaluate_both
    from laser_peft.evaluation import compare
    from laser_peft.experiment import Experiment
    from laser_peft.processes import by_one
    from laser_peft.recommender import LaserRecommender

    let_one_speak()
    if output is not None:
        check_new(output)
    loaded = LaserRecommender.from_pretrained(recommender, llm=llm, dtype=dtype)
    experiment = Experiment.read(source, loaded.catalogue)
    print_report(experiment.report, experiment.data)
    evaluations = evaluate_both(loaded, experiment.judge, batch_size=batch_size)
    if output is not None:
        by_one(save_evaluations, evaluations, output)
    print_evaluations(evaluations)
    print_differences(compare(*evaluations))
    said = "Not saved: --output keeps every user's ranks" if output is None else f"Saved: {output}"
    console.print(said, soft_wrap=True)
