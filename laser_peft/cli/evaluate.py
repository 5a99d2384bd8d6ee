"""``laser-peft evaluate``."""

from typing import Annotated

import typer

from .base import (
    DropBadRows,
    DropDuplicates,
    Interactions,
    ItemColumn,
    TimeColumn,
    TimeUnit,
    UserColumn,
    app,
    says_what_is_wrong,
)
from .tables import print_metrics


@app.command()
@says_what_is_wrong
def evaluate(
    recommender: Annotated[str, typer.Argument(help="Folder of a recommender, or a Hub id.")],
    interactions: Interactions,
    user_column: UserColumn = "user_id",
    item_column: ItemColumn = "item_id",
    time_column: TimeColumn = "timestamp",
    time_unit: TimeUnit = "s",
    drop_bad_rows: DropBadRows = False,
    drop_duplicates: DropDuplicates = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Users at a time.")] = 64,
) -> None:
    """Rank every user's last item over the whole catalogue, beside the SASRec it reads."""
    from laser_peft.comparison import evaluate as compare
    from laser_peft.data import Histories, LogSource, leave_one_out
    from laser_peft.recommender import LaserRecommender

    from .reports import print_report

    loaded = LaserRecommender.from_pretrained(recommender)
    source = LogSource(
        interactions,
        user_column,
        item_column,
        time_column or None,
        time_unit,
        drop_bad_rows,
        drop_duplicates,
    )
    log = source.read(loaded.catalogue)
    print_report(log.report)
    split = leave_one_out(Histories.from_interactions(log, loaded.catalogue))
    print_metrics(compare(loaded, split, batch_size=batch_size))
