"""``laser-peft train-encoder``."""

from pathlib import Path
from typing import Annotated

import typer

from laser_peft.data import LogSource
from laser_peft.training import SASRecSettings

from .base import (
    Items,
    NumNegatives,
    Resume,
    Seed,
    app,
    console,
    let_one_speak,
    reads_a_log,
    says_what_is_wrong,
)
from .config_file import takes_a_config_file
from .estimates import EstimateOnly, tells_estimate
from .reports import print_report
from .tables import print_evaluations

DEFAULT = SASRecSettings()


@app.command()
@says_what_is_wrong
@takes_a_config_file
@reads_a_log
def train_encoder(
    source: LogSource,
    items: Items,
    output: Annotated[Path, typer.Option(help="New folder for everything the run makes.")],
    hidden_size: Annotated[
        int, typer.Option(help="Width of item vectors and states.")
    ] = DEFAULT.hidden_size,
    layers: Annotated[int, typer.Option(help="Blocks.")] = DEFAULT.num_hidden_layers,
    heads: Annotated[int, typer.Option(help="Heads a block.")] = DEFAULT.num_attention_heads,
    dropout: Annotated[float, typer.Option(help="Probability of dropout.")] = DEFAULT.dropout,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="At most so many passes; the rate falls to zero over them. Default: 24, more "
            "where users are few."
        ),
    ] = DEFAULT.epochs,
    patience: Annotated[
        int, typer.Option(help="Validations without a better one before stopping.")
    ] = DEFAULT.patience,
    batch_size: Annotated[int, typer.Option(help="Users a step.")] = DEFAULT.batch_size,
    learning_rate: Annotated[
        float, typer.Option(help="Highest rate of AdamW.")
    ] = DEFAULT.learning_rate,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = DEFAULT.weight_decay,
    item_dropout: Annotated[
        float, typer.Option(help="Probability with which an item is left out of a history a pass.")
    ] = DEFAULT.item_dropout,
    num_negatives: NumNegatives = DEFAULT.num_negatives,
    max_items: Annotated[int, typer.Option(min=1, help="Longest history in items.")] = 50,
    seed: Seed = 0,
    resume: Resume = False,
    estimate_only: EstimateOnly = False,
) -> None:
    """Train the SASRec that an adapter reads, alone, and test it.

    The last item of every user is the test target, the one before chooses the
    best epoch.

    Example:
    laser-peft train-encoder --interactions logs/ --items items.csv --output run

    Writes sasrec/ (for train --encoder), evaluation/, metrics.json, run.json,
    log.txt, history/ and checkpoints/ (--resume goes on from there). It says
    first how long it may take.
    """
    from laser_peft import pipeline

    let_one_speak()
    run = pipeline.EncoderRun(
        interactions=source,
        items=items,
        seed=seed,
        max_items=max_items,
        sasrec=SASRecSettings(
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            dropout=dropout,
            epochs=epochs,
            patience=patience,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            item_dropout=item_dropout,
            num_negatives=num_negatives,
        ),
    )
    evaluation = pipeline.train_encoder(
        run,
        output,
        resume=resume,
        on_data=print_report,
        on_estimate=tells_estimate(estimate_only),
    )
    print_evaluations([evaluation])
    console.print(f"Saved: {output / 'sasrec'}", soft_wrap=True)
