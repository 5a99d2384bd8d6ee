"""The main jobs: raw logs to a SASRec, to an adapter that reads it, to an honest table.

A run's folder holds ``run.json`` (settings, versions, data counts and hash), ``sasrec/``,
``recommender/``, ``evaluation/`` (the ranks of both, user by user), ``metrics.json``,
``seconds.json`` (how long the training took), ``history/`` (losses and validations, step by step),
``log.txt`` and the Trainer's ``checkpoints/``.

Every process of several does the whole job, and of what is trained and ranked its share; the main
one writes.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from peft import get_peft_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    set_seed,
)

from laser_peft import numbering
from laser_peft.baselines import Encoder
from laser_peft.collaborative import SASRecModel, check_encoder
from laser_peft.comparison import evaluate, evaluate_encoder
from laser_peft.data import Catalogue, LogReport, LogSource, PromptTemplate
from laser_peft.estimates import Estimate, estimate_encoder_run, estimate_train_run
from laser_peft.evaluation import Evaluation, compare
from laser_peft.experiment import Experiment
from laser_peft.full_disk import says_when_the_disk_is_full
from laser_peft.history import HistoryFile
from laser_peft.processes import by_one, of_one, refuse_shards
from laser_peft.recommender import LaserRecommender, RecommenderConfig, RunFacts, prompt_limit
from laser_peft.run_log import keeps_a_log, start_log
from laser_peft.run_texts import give_run_texts
from laser_peft.runs import (
    adds_seconds,
    check_output,
    check_same,
    save_whole,
    seconds_of,
    start_or_check,
)
from laser_peft.training import (
    LaserSettings,
    SASRecSettings,
    train_in_phases,
    train_sasrec,
    twin_settings,
)
from laser_peft.training.checkpoints import last_checkpoint
from laser_peft.tuner import BiTuningConfig
from laser_peft.whole import write_json

logger = logging.getLogger(__name__)
OnData = Callable[[LogReport, dict[str, Any]], None]
OnEstimate = Callable[[Estimate], None]


@dataclass(frozen=True, kw_only=True)
class EncoderRun:
    """Everything that decides the training of a SASRec."""

    interactions: LogSource
    items: str
    seed: int = 0
    max_items: int = 50  # longest history that the encoder reads
    sasrec: SASRecSettings = SASRecSettings()

    def __post_init__(self) -> None:
        """Checks what no other settings check.

        Raises:
            ValueError: if the seed is not one.
        """
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..{2**32 - 1}, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class TrainRun(EncoderRun):
    """Everything that decides the training of an adapter, and of the SASRec that it reads."""

    llm: str
    encoder: str | None = None  # a trained one, a folder or Hub id; None: a SASRec is trained
    max_tokens: int | None = None  # longest prompt; None: 512, or what the LM has room for
    prompt: PromptTemplate = PromptTemplate()
    chat_template: bool = False  # put the prompt into the tokenizer's chat template
    adapter: dict[str, Any] = field(default_factory=dict)  # fields of BiTuningConfig
    laser: LaserSettings = LaserSettings()


@says_when_the_disk_is_full
@keeps_a_log
def train_encoder(
    run: EncoderRun,
    output: str | Path,
    *,
    resume: bool = False,
    on_data: OnData | None = None,
    on_estimate: OnEstimate | None = None,
) -> Evaluation:
    """Trains a SASRec alone and tests it once.

    Args:
        run: what to train on and how.
        output: folder of the run; must be new or empty unless resuming.
        resume: go on with an interrupted run of the same settings on the same data.
        on_data: told what was found in the log and the counts, before any training.
        on_estimate: told then how long it may take and how much memory it may need; None measures
            nothing. What it raises stops the run before anything is written.

    Returns:
        The test, which ``evaluation/sasrec/`` of the folder holds too.

    Raises:
        FileExistsError: if the folder holds something and ``resume`` is False.
        FileNotFoundError: if an input file is missing.
        ValueError: for settings or input that cannot work, a run that differs from the one to
            resume, or a launcher that shards models.
    """
    refuse_shards()
    output = Path(output)
    check_output(output, resume=resume)
    catalogue = Catalogue.read(run.items, item_column=run.interactions.item_column)
    experiment = Experiment.read(run.interactions, catalogue)
    measure = partial(estimate_encoder_run, experiment, output, run)
    _start(run, experiment, output, on_data, on_estimate, measure)
    sasrec = SASRecModel.from_pretrained(_sasrec(run, experiment, output))
    started = time.monotonic()
    evaluation = evaluate_encoder(sasrec, experiment.judge, max_items=run.max_items)
    by_one(evaluation.save, output / "evaluation" / evaluation.name)
    seconds = seconds_of(output) | {"test": round(time.monotonic() - started, 1)}
    by_one(write_json, output / "metrics.json", evaluation.summary() | {"seconds": seconds})
    return evaluation


@says_when_the_disk_is_full
@keeps_a_log
def train(
    run: TrainRun,
    output: str | Path,
    *,
    resume: bool = False,
    on_data: OnData | None = None,
    on_estimate: OnEstimate | None = None,
) -> dict[str, Any]:
    """Runs the whole path; returns what :func:`laser_peft.evaluation.compare` says of the test.

    Args:
        run: what to train on and how.
        output: folder of the run; must be new or empty unless resuming.
        resume: go on with an interrupted run of the same settings on the same data.
        on_data: told what was found in the log and the counts, before any training.
        on_estimate: told then how long it may take and how much memory it may need; None measures
            nothing. What it raises stops the run before anything is written.

    Raises:
        FileExistsError: if the folder holds something and ``resume`` is False.
        FileNotFoundError: if an input file is missing.
        ValueError: for settings or input that cannot work, a run that differs from the one to
            resume, or a launcher that shards models.
    """
    refuse_shards()
    output = Path(output)
    check_output(output, resume=resume)
    # All that cannot work is found here, before a SASRec is trained for nothing.
    reads = {"collaborative_encoder": run.encoder or str(output / "sasrec")}
    adapter = BiTuningConfig(**run.adapter | reads)
    run = replace(
        run,
        llm=absolute_if_local(run.llm),
        encoder=run.encoder and absolute_if_local(run.encoder),
    )
    max_tokens = prompt_limit(run.llm, adapter, run.max_tokens)
    tokenizer = AutoTokenizer.from_pretrained(run.llm)
    config = RecommenderConfig(
        max_tokens=max_tokens,
        max_items=run.max_items,
        prompt=run.prompt.in_chat(tokenizer) if run.chat_template else run.prompt,
        dtype="bfloat16" if run.laser.bf16 else "float32",
        reads_items=run.laser.item_epochs_of(adapter.item_vectors) > 0,
    )
    catalogue = Catalogue.read(run.items, item_column=run.interactions.item_column)
    experiment = Experiment.read(run.interactions, catalogue)
    if run.encoder is not None:
        _check_encoder(run.encoder, catalogue)
    prompts = config.prompt_builder(tokenizer, catalogue)
    measure = partial(estimate_train_run, experiment, output, run, adapter, config.dtype, prompts)
    _start(run, experiment, output, on_data, on_estimate, measure)

    encoder = run.encoder or str(_sasrec(run, experiment, output))
    folder = output / "recommender"
    if folder.is_dir():
        recommender = LaserRecommender.from_pretrained(folder)
    else:
        with adds_seconds(output, "laser"):
            set_seed(run.seed)
            llm = AutoModelForCausalLM.from_pretrained(run.llm, dtype=config.dtype)
            model = get_peft_model(llm, replace(adapter, collaborative_encoder=encoder))
            whitening = give_run_texts(
                model,
                tokenizer,
                experiment,
                run.prompt,
                output / "checkpoints" / "texts",
                reads_items=config.reads_items,
            )
            train_in_phases(
                model,
                experiment.split,
                prompts,
                output / "checkpoints",
                run.laser,
                max_items=run.max_items,
                seed=run.seed,
                twin=twin_settings(model.base_model.collaborative_encoder.config, run.sasrec),
                callbacks_of=lambda phase: [HistoryFile(output / "history" / f"{phase}.jsonl")],
            )
        recommender = LaserRecommender(model, tokenizer, catalogue, config, whitening=whitening)
        by_one(save_whole, recommender, folder)
    started = time.monotonic()
    evaluations = evaluate(recommender, experiment.judge)
    for evaluation in evaluations:
        by_one(evaluation.save, output / "evaluation" / evaluation.name)
    metrics = compare(*evaluations)
    metrics["seconds"] = seconds_of(output) | {"test": round(time.monotonic() - started, 1)}
    by_one(write_json, output / "metrics.json", metrics)
    recommender.facts = RunFacts(experiment.data, metrics)
    by_one(recommender.save_card, folder)
    return metrics


def _start(
    run: EncoderRun,
    experiment: Experiment,
    output: Path,
    on_data: OnData | None,
    on_estimate: OnEstimate | None,
    measure: Callable[[], Estimate],
) -> None:
    """Starts the folder of a run, once what it learns from is known to be enough."""
    experiment.check_trainable()
    told = experiment.data | {"log": experiment.report.to_dict()}
    check_same(output, run, told)
    if on_data is not None:
        on_data(experiment.report, experiment.data)
    if on_estimate is not None:
        estimate = of_one(measure)
        logger.info("estimate: %s", " ".join(estimate.lines()))
        on_estimate(estimate)
    start_or_check(output, run, told)
    start_log(output)


def _sasrec(run: EncoderRun, experiment: Experiment, output: Path) -> Path:
    """Trains the SASRec, unless an interrupted run had finished it, and returns its folder."""
    folder = output / "sasrec"
    if folder.is_dir():
        return folder
    checkpoints = output / "checkpoints" / "sasrec"
    with adds_seconds(output, "sasrec"):
        sasrec: SASRecModel = train_sasrec(
            experiment.split,
            len(experiment.catalogue),
            checkpoints,
            run.sasrec,
            max_items=run.max_items,
            seed=run.seed,
            resume_from_checkpoint=last_checkpoint(checkpoints),
            callbacks=[HistoryFile(output / "history" / "sasrec.jsonl")],
        )
    numbering.sign(sasrec.config, experiment.catalogue.item_ids)
    by_one(save_whole, sasrec, folder)
    return folder


def _check_encoder(name: str, catalogue: Catalogue) -> None:
    """Makes sure that a trained encoder can be read by an adapter for these items."""
    model = AutoModel.from_pretrained(name)
    check_encoder(model)
    Encoder(model, len(catalogue))  # checks the number of items
    numbering.check(model.config, catalogue.item_ids)


def absolute_if_local(name: str) -> str:
    """Makes a folder's name good from everywhere: the adapter remembers its LM by it."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name
