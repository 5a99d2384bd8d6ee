"""The command ``laser-peft``: train, evaluate, recommend."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn a frozen causal language model into a sequential recommender.",
)
console = Console()

Interactions = Annotated[
    Path,
    typer.Option(help="Log of interactions, one row each: .csv, .jsonl (also .gz) or .parquet."),
]
UserColumn = Annotated[str, typer.Option(help="Column of the log that says who.")]
ItemColumn = Annotated[str, typer.Option(help="Column of log and items that says what.")]
TimeColumn = Annotated[
    str,
    typer.Option(help="Column of the log that says when; '' if rows are in order already."),
]


def says_what_is_wrong(command: Callable[..., None]) -> Callable[..., None]:
    """Turns an error of the user's input into one line on stderr and exit status 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        # A note of transformers to peft, which a user can do nothing about.
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated")
        try:
            command(*args, **kwargs)
        except (ValueError, OSError) as error:
            typer.echo(f"laser-peft: {error}", err=True)
            raise typer.Exit(2) from error

    return wrapped


@app.command()
@says_what_is_wrong
def train(
    interactions: Interactions,
    items: Annotated[
        Path,
        typer.Option(help="Items, one row each: an id, a title and any further attributes."),
    ],
    llm: Annotated[str, typer.Option(help="Causal language model: a folder or a Hub id.")],
    output: Annotated[Path, typer.Option(help="New folder for everything the run makes.")],
    user_column: UserColumn = "user_id",
    item_column: ItemColumn = "item_id",
    time_column: TimeColumn = "timestamp",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the examples.")] = 3,
    every_prefix: Annotated[
        bool,
        typer.Option(help="Learn from every item that follows another, not from one a user."),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Highest rate of AdamW.")] = 1e-3,
    validation_users: Annotated[
        int, typer.Option(min=0, help="Users on whom the best step is chosen; 0 for all.")
    ] = 2000,
    sasrec_epochs: Annotated[
        int, typer.Option(min=1, help="At most so many passes of the SASRec; it stops early.")
    ] = 40,
    prefix_tokens: Annotated[int, typer.Option(help="Virtual tokens before the text.")] = 16,
    suffix_tokens: Annotated[int, typer.Option(help="Virtual tokens after the text.")] = 1,
    experts: Annotated[int, typer.Option(help="Expert feed-forwards a block.")] = 4,
    experts_per_user: Annotated[int, typer.Option(help="Experts picked for a user.")] = 2,
    collaborative_skip: Annotated[
        bool, typer.Option(help="Start from the SASRec's own user vector and learn a correction.")
    ] = True,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Longest prompt; the oldest items are dropped, always whole. "
            "Default: 512, or what the language model has room for."
        ),
    ] = None,
    max_items: Annotated[int, typer.Option(min=1, help="Longest history in items.")] = 50,
    bf16: Annotated[bool, typer.Option(help="Compute in bfloat16 (GPU, or CPU with AMX).")] = False,
    seed: Annotated[int, typer.Option(help="Makes the run repeatable on one machine.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run.")] = False,
) -> None:
    """Train on a log: a SASRec first, then an adapter that reads it; then test both.

    The last item of every user is the test target, the one before chooses the best step.
    """
    from laser_peft import pipeline
    from laser_peft.training import LaserSettings, SASRecSettings

    run = pipeline.TrainRun(
        interactions=pipeline.LogSource(
            str(interactions), user_column, item_column, time_column or None
        ),
        items=str(items),
        llm=llm,
        seed=seed,
        adapter={
            "num_prefix_tokens": prefix_tokens,
            "num_suffix_tokens": suffix_tokens,
            "num_experts": experts,
            "num_experts_per_user": experts_per_user,
            "collaborative_skip": collaborative_skip,
        },
        max_tokens=max_tokens,
        max_items=max_items,
        sasrec=SASRecSettings(epochs=sasrec_epochs),
        laser=LaserSettings(
            epochs=epochs,
            every_prefix=every_prefix,
            batch_size=batch_size,
            learning_rate=learning_rate,
            validation_users=validation_users,
            bf16=bf16,
        ),
    )
    metrics = pipeline.train(run, output, resume=resume)
    print_metrics(metrics)
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in metrics["seconds"].items())
    console.print(f"Time: {seconds}. Saved: {output / 'recommender'}", soft_wrap=True)


@app.command()
@says_what_is_wrong
def evaluate(
    recommender: Annotated[str, typer.Argument(help="Folder of a recommender, or a Hub id.")],
    interactions: Interactions,
    user_column: UserColumn = "user_id",
    item_column: ItemColumn = "item_id",
    time_column: TimeColumn = "timestamp",
    batch_size: Annotated[int, typer.Option(min=1, help="Users at a time.")] = 64,
) -> None:
    """Rank every user's last item over the whole catalogue, beside the SASRec it reads."""
    from laser_peft import pipeline
    from laser_peft.comparison import evaluate as compare
    from laser_peft.data import leave_one_out
    from laser_peft.recommender import LaserRecommender

    loaded = LaserRecommender.from_pretrained(recommender)
    source = pipeline.LogSource(str(interactions), user_column, item_column, time_column or None)
    split = leave_one_out(source.histories(loaded.catalogue))
    print_metrics(compare(loaded, split, batch_size=batch_size))


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


def print_metrics(metrics: dict[str, Any]) -> None:
    """Prints both protocols side by side, then what of the difference is not luck."""
    models = metrics["models"]
    table = Table("metric", title=f"Test, {metrics['users']} users, whole catalogue")
    for protocol in metrics["difference"]:
        for model in models:
            table.add_column(f"{protocol}\n{model}", justify="right")
    for name in models["laser"]["unmasked"]:
        values = (
            models[model][protocol][name] for protocol in metrics["difference"] for model in models
        )
        table.add_row(name, *(f"{value:.4f}" for value in values))
    console.print(table)
    for protocol, differences in metrics["difference"].items():
        for name, difference in differences.items():
            console.print(
                f"{protocol} {name}: laser - sasrec = {difference['mean']:+.4f} "
                f"(95 % interval over users {difference['low']:+.4f} .. {difference['high']:+.4f})"
            )
