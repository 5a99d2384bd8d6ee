"""What a whole run may take, or what is left of it."""

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from transformers import AutoConfig

from laser_peft.data import PromptBuilder
from laser_peft.experiment import Experiment
from laser_peft.processes import processes
from laser_peft.training import LaserSettings, SASRecSettings, phases_of, twin_settings
from laser_peft.training.checkpoints import last_checkpoint
from laser_peft.training.twin import ENCODER, FINISHED, READER
from laser_peft.tuner import BiTuningConfig

from .adapter import AdapterPlan, estimate_adapter
from .encoder import estimate_encoder
from .memory import device_of_training, free_memory, process_bytes
from .words import Estimate, StageEstimate


class EncoderTraining(Protocol):
    """What decides how long a SASRec trains."""

    @property
    def sasrec(self) -> SASRecSettings:
        """Its sizes and schedule."""

    @property
    def max_items(self) -> int:
        """Longest history in items."""


class AdapterTraining(EncoderTraining, Protocol):
    """What decides beside that how long an adapter trains."""

    @property
    def llm(self) -> str:
        """Folder or Hub id of the language model."""

    @property
    def encoder(self) -> str | None:
        """Folder or Hub id of a trained encoder; None if a SASRec is trained."""

    @property
    def laser(self) -> LaserSettings:
        """The schedule."""


def estimate_encoder_run(experiment: Experiment, output: Path, run: EncoderTraining) -> Estimate:
    """Measures a few steps of a SASRec, unless its training is finished.

    Args:
        experiment: what is learnt from.
        output: the folder of the run, which may not be there yet.
        run: what is trained.
    """
    device, limit = _limit()
    return _estimate(_encoder_stages(experiment, output, run), device, limit)


def estimate_train_run(
    experiment: Experiment,
    output: Path,
    run: AdapterTraining,
    adapter: BiTuningConfig,
    dtype: str,
    prompts: PromptBuilder,
) -> Estimate:
    """Measures a few steps of each training that is not finished in the folder of the run.

    Args:
        experiment: what is learnt from.
        output: the folder, which may not be there yet.
        run: what is trained.
        adapter: its configuration, without an encoder.
        dtype: precision in which the language model is loaded.
        prompts: says histories in tokens.
    """
    device, limit = _limit()
    stages = [] if run.encoder else _encoder_stages(experiment, output, run)
    if not (output / "recommender").is_dir():
        plan = AdapterPlan(
            llm=run.llm,
            dtype=dtype,
            adapter=adapter,
            encoder=run.encoder,
            sasrec=run.sasrec,
            twin=_twin(run),
            laser=run.laser,
            max_items=run.max_items,
        )
        split, num_items = experiment.split, len(experiment.catalogue)
        phases = phases_of(adapter, run.laser, len(split.train_histories), plan.twin)
        names = [*(phase.name for phase in phases), ENCODER, READER]
        done = {name: done_steps(output / "checkpoints" / name) for name in names}
        finished = output / "checkpoints" / FINISHED
        if phases[-1].twin is not None and not finished.is_dir():
            twin = estimate_encoder(
                split.before_last(),
                num_items,
                phases[-1].twin,
                max_items=run.max_items,
                done_steps=done[ENCODER],
            )
            stages.append(replace(twin, name="SASRec's twin", test_seconds=0.0))
        stages.append(estimate_adapter(plan, split, prompts, num_items, done_steps=done))
        gc.collect()  # the model refers to itself, and the next one is as large
    return _estimate(stages, device, limit)


def _encoder_stages(
    experiment: Experiment, output: Path, run: EncoderTraining
) -> list[StageEstimate]:
    if (output / "sasrec").is_dir():
        return []
    done = done_steps(output / "checkpoints" / "sasrec")
    split, num_items = experiment.split, len(experiment.catalogue)
    settings, max_items = run.sasrec, run.max_items
    return [estimate_encoder(split, num_items, settings, max_items=max_items, done_steps=done)]


def _twin(run: AdapterTraining) -> SASRecSettings | None:
    """Returns how a twin of the encoder would be trained."""
    if run.encoder is None:
        return run.sasrec
    return twin_settings(AutoConfig.from_pretrained(run.encoder), run.sasrec)


def _limit() -> tuple[torch.device, int | None]:
    """Returns the device that will train and the bytes there that this process can have."""
    device = device_of_training()
    free = free_memory(device)
    return device, None if free is None else process_bytes(device) + free


def _estimate(stages: list[StageEstimate], device: torch.device, limit: int | None) -> Estimate:
    on_accelerator, count = device.type != "cpu", processes().num_processes
    shared = tuple(stage.shared_by(count) for stage in stages)
    return Estimate(stages=shared, on_accelerator=on_accelerator, limit_bytes=limit)


def done_steps(checkpoints: Path) -> int:
    """Returns how many optimizer steps the newest whole checkpoint has behind it."""
    newest = last_checkpoint(checkpoints)
    if newest is None:
        return 0
    return int(json.loads((Path(newest) / "trainer_state.json").read_bytes())["global_step"])
