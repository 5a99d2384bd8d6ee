"""``laser-peft train``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from laser_peft.data import LogSource
from laser_peft.training import LaserSettings, SASRecSettings

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
from .tables import print_differences, print_evaluations

# Nearly as good as the 16 of a BiTuningConfig, for less time: docs/results.md.
PREFIX_TOKENS = 8


@app.command()
@says_what_is_wrong
@takes_a_config_file
@reads_a_log
def train(
    source: LogSource,
    items: Items,
    llm: Annotated[str, typer.Option(help="Causal language model: a folder or a Hub id.")],
    output: Annotated[Path, typer.Option(help="New folder for everything the run makes.")],
    epochs: Annotated[
        int,
        typer.Option(
            min=0,
            help="Passes over the examples; 0: what the language model makes of a prompt is not "
            "learnt, and with --item-vectors fused texts are read without it.",
        ),
    ] = 1,
    item_epochs: Annotated[
        int,
        typer.Option(
            min=0,
            help="With --item-vectors text: passes of a first phase, before each of which the "
            "adapter reads all items anew; 0: their vectors stay the bare language model's.",
        ),
    ] = 1,
    reading_epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="With --item-vectors fused: passes of a first phase, in which what reads the "
            "texts learns by itself; 0: it learns with the rest. Default: 4, more where users "
            "are few.",
        ),
    ] = None,
    twin: Annotated[
        bool,
        typer.Option(
            help="Learn beside a twin of the SASRec, trained without the items that are learnt "
            "from, the last training item of each user; without it the SASRec knows the answers. "
            "Not with --every-prefix, --item-vectors collaborative or text, or an encoder of "
            "another kind."
        ),
    ] = True,
    every_prefix: Annotated[
        bool,
        typer.Option(help="Learn from every item that follows another, not from one a user."),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Highest rate of AdamW.")] = 1e-3,
    num_negatives: NumNegatives = 0,
    validation_users: Annotated[
        int, typer.Option(min=0, help="Users on whom the best step is chosen; 0 for all.")
    ] = 2000,
    sasrec_epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="At most so many passes of the SASRec; it stops early. Default: 24, more where "
            "users are few.",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of a trained encoder, from train-encoder or your own "
            "(docs/encoders.md), in place of a new SASRec."
        ),
    ] = None,
    layout: Annotated[
        Literal["text_first", "prefix_first"],
        typer.Option(
            help="Whether the prefix stands behind the text, which is then read without gradients "
            "and once for all positions, or before it (the paper's)."
        ),
    ] = "text_first",
    prefix_tokens: Annotated[
        int, typer.Option(help="Virtual tokens of the prefix.")
    ] = PREFIX_TOKENS,
    suffix_tokens: Annotated[int, typer.Option(help="Virtual tokens after the text.")] = 1,
    experts: Annotated[int, typer.Option(help="Expert feed-forwards a block.")] = 4,
    experts_per_user: Annotated[int, typer.Option(help="Experts picked for a user.")] = 2,
    item_vectors: Annotated[
        Literal["fused", "collaborative", "text"],
        typer.Option(
            help="What items are scored by: the SASRec's vectors beside the texts', the SASRec's "
            "alone, or what the adapter reads of each item's text (the paper's), by the cosine at "
            "temperature 0.05."
        ),
    ] = "fused",
    collaborative_skip: Annotated[
        bool,
        typer.Option(
            help="Start from the SASRec's own user vector and learn a correction; not with "
            "--item-vectors text."
        ),
    ] = True,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Longest prompt; the oldest items are dropped, always whole. "
            "Default: 512, or what the language model has room for."
        ),
    ] = None,
    max_items: Annotated[int, typer.Option(min=1, help="Longest history in items.")] = 50,
    prompt: Annotated[
        Path | None, typer.Option(help="JSON file of what a prompt says: docs/prompts.md.")
    ] = None,
    chat_template: Annotated[
        bool, typer.Option(help="Put the prompt into the chat template of an instruct model.")
    ] = False,
    bf16: Annotated[bool, typer.Option(help="Compute in bfloat16 (GPU, or CPU with AMX).")] = False,
    seed: Seed = 0,
    resume: Resume = False,
    estimate_only: EstimateOnly = False,
) -> None:
    """Train on a log: a SASRec first, then an adapter that reads it; then test both.

    The last item of every user is the test target, the one before chooses the
    best step.

    Example:
    laser-peft train --interactions logs/ --items items.csv --llm LM --output run

    Writes recommender/ (all that recommend, evaluate and inspect need beside the
    LM), sasrec/, evaluation/, metrics.json, run.json, log.txt, history/ and
    checkpoints/ (--resume goes on from there). It says first how long it may
    take and how much memory.
    """
    from laser_peft import pipeline
    from laser_peft.data import PromptTemplate
    from laser_peft.evaluation import Evaluation

    let_one_speak()
    run = pipeline.TrainRun(
        interactions=source,
        items=items,
        llm=llm,
        seed=seed,
        adapter={
            "num_prefix_tokens": prefix_tokens,
            "num_suffix_tokens": suffix_tokens,
            "num_experts": experts,
            "num_experts_per_user": experts_per_user,
            "layout": layout,
            "collaborative_skip": collaborative_skip and item_vectors != "text",
            "item_vectors": item_vectors,
            "similarity": "cosine" if item_vectors == "text" else "dot",
        },
        max_tokens=max_tokens,
        max_items=max_items,
        prompt=PromptTemplate() if prompt is None else PromptTemplate.read(prompt),
        chat_template=chat_template,
        sasrec=SASRecSettings(epochs=sasrec_epochs),
        encoder=encoder,
        laser=LaserSettings(
            epochs=epochs,
            item_epochs=item_epochs,
            reading_epochs=reading_epochs,
            twin=twin,
            every_prefix=every_prefix,
            batch_size=batch_size,
            learning_rate=learning_rate,
            num_negatives=num_negatives,
            validation_users=validation_users,
            bf16=bf16,
        ),
    )
    metrics = pipeline.train(
        run,
        output,
        resume=resume,
        on_data=print_report,
        on_estimate=tells_estimate(estimate_only),
    )
    tested = [Evaluation.load(output / "evaluation" / name) for name in metrics["models"]]
    print_evaluations(tested)
    print_differences(metrics)
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in metrics["seconds"].items())
    console.print(f"Time: {seconds}. Saved: {output / 'recommender'}", soft_wrap=True)
