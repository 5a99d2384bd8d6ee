"""``laser-peft evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from .base import (
    Interactions,
    ItemColumn,
    TimeColumn,
    UserColumn,
    app,
    check_new,
    says_what_is_wrong,
)
from .tables import print_differences, print_evaluations


@app.command()
@says_what_is_wrong
def evaluate(
    recommender: Annotated[str, typer.Argument(help="Folder of a recommender, or a Hub id.")],
    interactions: Interactions,
    output: Annotated[
        Path | None,
        typer.Option(help="New folder for the ranks of both, user by user; see `compare`."),
    ] = None,
    user_column: UserColumn = "user_id",
    item_column: ItemColumn = "item_id",
    time_column: TimeColumn = "timestamp",
    batch_size: Annotated[int, typer.Option(min=1, help="Users at a time.")] = 64,
) -> None:
    """Rank every user's last item over the whole catalogue, beside the SASRec it reads."""
    from laser_peft import pipeline
    from laser_peft.comparison import evaluate as evaluate_both
    from laser_peft.data import leave_one_out
    from laser_peft.evaluation import compare
    from laser_peft.judge import Judge
    from laser_peft.recommender import LaserRecommender

    if output is not None:
        check_new(output)
    loaded = LaserRecommender.from_pretrained(recommender)
    source = pipeline.LogSource(str(interactions), user_column, item_column, time_column or None)
    histories = source.histories(loaded.catalogue)
    split = leave_one_out(histories)
    data = pipeline.describe_data(loaded.catalogue, histories, split)
    judge = Judge.of_test(loaded.catalogue, histories, split, str(data["sha256"]))
    evaluations = evaluate_both(loaded, judge, batch_size=batch_size)
    if output is not None:
        for evaluation in evaluations:
            evaluation.save(output / evaluation.name)
    print_evaluations(evaluations)
    print_differences(compare(*evaluations))
