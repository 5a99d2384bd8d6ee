"""``laser-peft recommend``."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .base import app, console, says_what_is_wrong


@app.command()
@says_what_is_wrong
def recommend(
    recommender: Annotated[str, typer.Argument(help="Folder of a recommender, or a Hub id.")],
    history: Annotated[list[str], typer.Argument(help="Item ids, oldest first.")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many items.")] = 10,
    exclude_seen: Annotated[bool, typer.Option(help="Leave out items of the history.")] = True,
) -> None:
    """Recommend what may come next after a history of item ids."""
    from laser_peft.recommender import LaserRecommender

    loaded = LaserRecommender.from_pretrained(recommender)
    table = Table("", "item", "title", "score")
    for place, item in enumerate(loaded.recommend(history, k, exclude_seen=exclude_seen), start=1):
        # As Text: square brackets in a title are no markup.
        table.add_row(str(place), Text(item.item_id), Text(item.title), f"{item.score:.3f}")
    console.print(table)
