"""``laser-peft recommend``."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .base import app, console, says_what_is_wrong
from .showing import harmless


@app.command()
@says_what_is_wrong
def recommend(
    recommender: Annotated[str, typer.Argument(help="Folder of a recommender, or a Hub id.")],
    history: Annotated[
        list[str] | None, typer.Argument(help="Item ids, oldest first; none for a new user.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many items.")] = 10,
    exclude_seen: Annotated[bool, typer.Option(help="Leave out items of the history.")] = True,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Recommend only these: an item id, or @FILE with an id a line. Repeat."),
    ] = None,
    deny: Annotated[
        list[str] | None,
        typer.Option(help="Never recommend these: an item id, or @FILE with an id a line. Repeat."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recommend what may come next after a history of item ids."""
    from laser_peft.recommender import LaserRecommender

    # Files are read before a language model is.
    allowed, denied = _ids(allow), _ids(deny)
    loaded = LaserRecommender.from_pretrained(recommender)
    found = loaded.recommend(
        history or [], k, exclude_seen=exclude_seen, allow=allowed, deny=denied
    )
    if as_json:
        typer.echo(json.dumps([item._asdict() for item in found], indent=2))
        return
    table = Table("", "item", "title", "score")
    for place, item in enumerate(found, start=1):
        # As Text: square brackets in a title are no markup.
        table.add_row(str(place), *map(Text, map(harmless, item[:2])), f"{item.score:.3f}")
    console.print(table)


def _ids(values: list[str] | None) -> list[str] | None:
    """Returns the ids that are named, and those in the files that are; None if none is named.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is not text.
    """
    if not values:
        return None
    ids: list[str] = []
    for value in values:
        ids += _lines(Path(value[1:])) if value.startswith("@") else [value]
    return ids


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}; @FILE names a text file with an id a line")
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}") from error
    return [line.removesuffix("\r") for line in lines if line.strip()]
