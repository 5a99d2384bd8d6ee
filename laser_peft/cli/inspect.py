"""``laser-peft inspect``."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from laser_peft.data import LogSource
from laser_peft.inspection import (
    ExpertLoad,
    HistoryView,
    expert_load,
    look_at_history,
    parts_of,
    plot,
    view_weights,
)
from laser_peft.inspection.plots import figure_class
from laser_peft.recommender import LaserRecommender

from .asking import LLM, Device, Dtype, Recommender, load_on
from .base import app, console, may_read_a_log, says_what_is_wrong
from .showing import harmless


@app.command()
@says_what_is_wrong
@may_read_a_log
def inspect(
    recommender: Recommender,
    ids: Annotated[list[str] | None, typer.Argument(help="Further ids of --history.")] = None,
    source: LogSource | None = None,
    history: Annotated[
        list[str] | None,
        typer.Option(help="Item ids of a user, oldest first: what is done with them."),
    ] = None,
    users: Annotated[
        int, typer.Option(min=0, help="Users of the log who are drawn at random; 0 for all.")
    ] = 1000,
    plot_file: Annotated[
        Path | None,
        typer.Option("--plot", help="New picture of load and attention (needs matplotlib)."),
    ] = None,
    llm: LLM = None,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Look inside a recommender: its parts, who gets which expert, what it attends to.

    Example:
    laser-peft inspect run/recommender --interactions logs/ --history ID1 ID2

    Prints parts and parameters; with --interactions the experts' load over users
    of the log; with --history what is done with one. Writes, with --plot, a
    picture of both.
    """
    if plot_file is not None and plot_file.exists():
        raise FileExistsError(f"{plot_file} is there already; choose another file")
    if plot_file is not None and (source is not None or history or ids):
        figure_class()
    loaded = load_on(recommender, llm, dtype, device)
    _print_parts(loaded)
    load = view = None
    if source is not None:
        load = expert_load(loaded, _histories(source, loaded, users))
        _print_load(load, loaded)
    if history or ids:
        view = look_at_history(loaded, [*(history or []), *(ids or [])])
        _print_view(view)
    if plot_file is not None:
        plot(plot_file, load=load, view=view)
        console.print(f"Saved: {plot_file}", soft_wrap=True)


def _histories(source: LogSource, loaded: LaserRecommender, users: int) -> list[np.ndarray]:
    from laser_peft.data import Histories

    log = source.read(loaded.catalogue)
    histories = Histories.from_interactions(log, loaded.catalogue)
    drawn = np.random.default_rng(0).permutation(len(histories))[: users or None]
    return [histories[int(user)] for user in drawn]


def _print_parts(loaded: LaserRecommender) -> None:
    table = Table("part", "parameters", "learnt", "table entries", title="Parts")
    parts = parts_of(loaded)
    for part in parts:
        learnt = "yes" if part.learns else "no, frozen"
        entries = f"{part.table_entries:,}" if part.table_entries else ""
        table.add_row(part.name, f"{part.parameters:,}", learnt, entries)
    console.print(table)
    learnt_count = sum(part.parameters for part in parts if part.learns)
    share = learnt_count / sum(part.parameters for part in parts)
    console.print(f"{learnt_count:,} parameters learn, {share:.2%} of all.")
    weights = view_weights(loaded)
    if weights is None:
        console.print("Item vectors are of one kind; there are no view weights.")
    else:
        has_reader = loaded.model.peft_config[loaded.model.active_adapter].has_text_skip
        adds = "; within the texts' part, what the language model adds to their reader counts"
        console.print(
            f"In the scores the IDs count {weights.collaborative:.3g} and the texts "
            f"{weights.text:.3g}, those of new items {weights.text * (1 + weights.rarity):.3g}"
            + (f"{adds} {weights.correction:.3g}." if has_reader else ".")
        )


def _print_load(load: ExpertLoad | None, loaded: LaserRecommender) -> None:
    if load is None:
        console.print(_no_router(loaded))
        return
    title = f"Experts of {load.users:,} users"
    table = Table("expert", "share of users", "share of choices", "mean probability", title=title)
    for place, shares in enumerate(zip(load.chosen, load.choices, load.probability, strict=True)):
        table.add_row(str(place), *(f"{share:.1%}" for share in shares))
    console.print(table)
    for place in load.dead:
        typer.echo(
            f"Warning: expert {place} gets {load.choices[place]:.2%} of the choices, less than a "
            f"tenth of an equal share ({1 / len(load.chosen):.0%}): it is hardly used; fewer "
            "experts would do, or a higher router_balance_weight spreads users more evenly",
            err=True,
        )


def _no_router(loaded: LaserRecommender) -> str:
    config = loaded.model.peft_config["default"]
    if config.prefix_source == "plain":
        return "The prefix is plain, the same for every user: there are no experts."
    if config.prefix_source == "none":
        return "There is no prefix, so no M-Former and no experts."
    return "The M-Former has no mixture of experts (moe='none'): every user gets the same one."


def _print_view(view: HistoryView) -> None:
    if view.probability is None:
        console.print("No router: the history chooses no experts.")
    else:
        told = ", ".join(f"{place} ({view.probability[place]:.1%})" for place in view.chosen)
        console.print(f"This history gets the experts (with their probability): {told}.")
    weights = view.item_weights
    if weights is None:
        console.print("No M-Former: no query attends to the history.")
        return
    table = Table("item", "title", "weight", title="What the queries attend to, oldest item first")
    for row in zip(view.item_ids, view.titles, weights, strict=True):
        table.add_row(*map(Text, map(harmless, row[:2])), f"{row[2]:.1%}")
    console.print(table)
    console.print(f"The rest, {1 - sum(weights):.1%}, goes to the state that stands for no item.")
