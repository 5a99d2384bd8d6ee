"""What every command shares: the app, the console, common options, and how errors are said."""

import functools
import inspect
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from laser_peft.full_disk import says_when_the_disk_is_full

from .errors import one_line_errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"laser-peft {version('laser-peft')}")
        raise typer.Exit


@app.callback()
def _options_of_all(
    asked: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_tell_version),
    ] = False,
) -> None:
    """Turn a frozen causal language model into a sequential recommender.

    First laser-peft download, or your own logs; then laser-peft train.
    COMMAND --help shows an example of each and says what it writes.
    """


# No markup: square brackets and colons in a user's titles and names are no style.
console = Console(markup=False, emoji=False)


def let_one_speak() -> None:
    """Silences the console of every process but the main one, where there are several."""
    from laser_peft.processes import processes

    console.quiet = not processes().is_main_process


Interactions = Annotated[
    str,
    typer.Option(
        help="Log of interactions, one row each: .csv, .jsonl, .json (also .gz, .zst) or .parquet; "
        "a file, a folder of parts, a quoted glob, or hf://datasets/owner/name#split."
    ),
]
OptionalInteractions = Annotated[
    str | None, typer.Option(help="Log of interactions, as the other commands take it.")
]
Items = Annotated[
    str, typer.Option(help="Items, one row each: an id, a title and any further attributes.")
]
Seed = Annotated[int, typer.Option(help="Makes the run repeatable on one machine.")]
NumNegatives = Annotated[
    int,
    typer.Option(
        help="0: softmax over the whole catalogue; else over so many items drawn anew each step, "
        "for very large catalogues."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
UserColumn = Annotated[str, typer.Option(help="Column of the log that says who.")]
ItemColumn = Annotated[str, typer.Option(help="Column of log and items that says what.")]
TimeColumn = Annotated[
    str,
    typer.Option(help="Column of the log that says when; '' if rows are in order already."),
]
TimeUnit = Annotated[
    Literal["s", "ms", "us", "ns"],
    typer.Option(help="What times that are numbers count since 1970."),
]
DropBadRows = Annotated[
    bool,
    typer.Option(
        "--drop-bad-rows",
        help="Leave out and count rows without a user, an item or a readable time, and rows of "
        "items that the items file does not have; without it they are an error.",
    ),
]
DropDuplicates = Annotated[
    bool,
    typer.Option(
        "--drop-duplicates", help="Leave out and count rows with equal user, item and time."
    ),
]


# Option by option: its name, type and default (none: must be given), and the field of a LogSource.
LOG_OPTIONS: tuple[tuple[str, Any, Any, str], ...] = (
    ("interactions", Interactions, inspect.Parameter.empty, "path"),
    ("user_column", UserColumn, "user_id", "user_column"),
    ("item_column", ItemColumn, "item_id", "item_column"),
    ("time_column", TimeColumn, "timestamp", "time_column"),
    ("time_unit", TimeUnit, "s", "time_unit"),
    ("drop_bad_rows", DropBadRows, False, "drop_bad_rows"),
    ("drop_duplicates", DropDuplicates, False, "drop_duplicates"),
)


def reads_a_log(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that describe a log, and calls it with the ``source`` of them."""
    return _with_log_options(command, required=True)


def may_read_a_log(command: Callable[..., None]) -> Callable[..., None]:
    """Does so for a command that can do without: its ``source`` may be None."""
    return _with_log_options(command, required=False)


def _with_log_options(command: Callable[..., None], *, required: bool) -> Callable[..., None]:
    @functools.wraps(command)
    def wrapped(**options: Any) -> None:
        from laser_peft.data import LogSource

        fields = {field: options.pop(name) for name, _, _, field in LOG_OPTIONS}
        fields["time_column"] = fields["time_column"] or None
        source = None if fields["path"] is None else LogSource(**fields)
        command(source=source, **options)

    signature = inspect.signature(command)
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, keyword_only, default=default, annotation=kind)
        for name, kind, default, _ in LOG_OPTIONS
    ]
    if not required:
        added[0] = added[0].replace(default=None, annotation=OptionalInteractions)
    kept = [
        parameter.replace(kind=keyword_only)
        for name, parameter in signature.parameters.items()
        if name != "source"
    ]
    wrapped.__signature__ = signature.replace(parameters=[*added, *kept])  # type: ignore[attr-defined]
    return wrapped


def says_what_is_wrong(command: Callable[..., None]) -> Callable[..., None]:
    """Turns an error of the user's input into one line on stderr and exit status 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        # A note of transformers to peft, which a user can do nothing about.
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated")
        with one_line_errors():
            says_when_the_disk_is_full(command)(*args, **kwargs)

    return wrapped
