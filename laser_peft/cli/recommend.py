"""``laser-peft recommend``."""

import json
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .asking import (
    LLM,
    Allow,
    Count,
    Deny,
    Device,
    Dtype,
    ExcludeSeen,
    Recommender,
    load_on,
    read_allowed,
    read_ids,
)
from .base import app, console, says_what_is_wrong
from .showing import harmless


@app.command()
@says_what_is_wrong
def recommend(
    recommender: Recommender,
    history: Annotated[
        list[str] | None, typer.Argument(help="Item ids, oldest first; none for a new user.")
    ] = None,
    k: Count = 10,
    exclude_seen: ExcludeSeen = True,
    allow: Allow = None,
    deny: Deny = None,
    llm: LLM = None,
    dtype: Dtype = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recommend what may come next after a history of item ids.

    Example:
    laser-peft recommend run/recommender ITEM_ID ITEM_ID -k 5

    Prints the best items, best first, with title and score; with --json the
    same as JSON.
    """
    # Files are read before a language model is.
    allowed, denied = read_allowed(allow), read_ids(deny)
    loaded = load_on(recommender, llm, dtype, device)
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
    if not found:
        console.print("Nothing is left that may be recommended.")
