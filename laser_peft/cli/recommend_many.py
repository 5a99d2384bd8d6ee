"""``laser-peft recommend-many``."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from laser_peft.batch import BatchSettings, HistoryTable, Shard, Summary, recommend_table
from laser_peft.batch.memory import peak_mebibytes
from laser_peft.batch.output import PartFolder
from laser_peft.processes import processes

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
from .config_file import takes_a_config_file

SECONDS_BETWEEN_LINES = 10.0


@app.command()
@says_what_is_wrong
@takes_a_config_file
def recommend_many(
    recommender: Recommender,
    histories: Annotated[
        str,
        typer.Option(help="Parquet of histories, a row a user: a file, a folder or a quoted glob."),
    ],
    output: Annotated[
        Path, typer.Option(help="New folder of Parquet parts, or one to go on with.")
    ],
    k: Count = 10,
    exclude_seen: ExcludeSeen = True,
    allow: Allow = None,
    deny: Deny = None,
    user_column: Annotated[str, typer.Option(help="Column that says who.")] = "user_id",
    history_column: Annotated[
        str, typer.Option(help="Column of lists of item ids, oldest first.")
    ] = "history",
    unknown_items: Annotated[
        Literal["error", "skip"],
        typer.Option(help="Of items that the catalogue does not have: stop, or leave them out."),
    ] = "error",
    batch_size: Annotated[int, typer.Option(min=1, help="Users at a time, at most.")] = 32,
    rows_per_part: Annotated[
        int, typer.Option(min=1, help="Users of a file of the output.")
    ] = 2048,
    shard: Annotated[
        str | None,
        typer.Option(help="This process's share, as 2/8, the second of eight."),
    ] = None,
    llm: LLM = None,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Recommend for every history of a Parquet table.

    Example:
    laser-peft recommend-many run/recommender --histories histories.parquet
    --output recommended

    Writes Parquet parts of user_id, item_ids and scores, in the order of the
    histories. The same command goes on where it was broken off; started by
    accelerate launch, its processes share the work.
    """
    settings = BatchSettings(k, exclude_seen, unknown_items, batch_size, rows_per_part)
    # Files are looked at before a language model is loaded.
    allowed, denied = read_allowed(allow), read_ids(deny)
    table = HistoryTable.open(histories, user_column=user_column, history_column=history_column)
    PartFolder(output)
    state = processes(on_cpu=device == "cpu")
    own = _share(shard, Shard(state.process_index + 1, state.num_processes))
    loaded = load_on(recommender, llm, dtype, device or state.device)
    say = _line_of(own)
    try:
        summary = recommend_table(
            loaded,
            table,
            output,
            settings,
            shard=own,
            allow=allowed,
            deny=denied,
            progress=_telling(say),
        )
    except KeyboardInterrupt:
        typer.echo("laser-peft: interrupted; the same command goes on behind its parts", err=True)
        raise
    _say_summary(say, summary)
    state.destroy_process_group()


def _share(shard: str | None, launched: Shard) -> Shard:
    if shard is None:
        return launched
    if launched.count > 1:
        raise ValueError(
            f"--shard {shard} is for processes without a launcher, and a launcher has started "
            f"{launched.count}, which share the work by themselves; leave --shard out"
        )
    return Shard.parse(shard)


def _line_of(shard: Shard) -> Callable[[str], None]:
    name = f"Shard {shard.number}/{shard.count}: " if shard.count > 1 else ""
    return lambda text: console.print(name + text, soft_wrap=True)


def _telling(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Makes what tells how far it is, every ten seconds or so."""
    started = last = time.monotonic()

    def tell(done: int, to_do: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            speed = done / (now - started)
            left = (to_do - done) / speed
            say(f"{done:,} of {to_do:,} histories, {speed:.1f} a second, {left:,.0f} s left")

    return tell


def _say_summary(say: Callable[[str], None], summary: Summary) -> None:
    if summary.found:
        say(f"{summary.found:,} histories had been done before.")
    if summary.skipped:
        say(f"{summary.skipped:,} items of histories are not in the catalogue and were left out.")
    speed = f"{summary.histories / summary.seconds:.1f} a second" if summary.histories else ""
    say(
        f"{summary.histories:,} histories in {summary.seconds:.1f} s"
        f"{', ' if speed else ''}{speed}; peak memory {peak_mebibytes():.0f} MiB."
    )
    say("All parts are there." if summary.is_done else "Parts of other shards are still missing.")
