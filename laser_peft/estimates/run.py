"""What a whole run may take, or what is left of it."""

import json
from pathlib import Path

from laser_peft.data import PromptBuilder
from laser_peft.experiment import Experiment
from laser_peft.runs import last_checkpoint
from laser_peft.training import SASRecSettings

from .adapter import AdapterPlan, estimate_adapter
from .encoder import estimate_encoder
from .memory import device_of_training, free_memory, process_bytes
from .words import Estimate, StageEstimate


def estimate_run(
    experiment: Experiment,
    output: Path,
    *,
    sasrec: SASRecSettings | None,
    max_items: int,
    plan: AdapterPlan | None = None,
    prompts: PromptBuilder | None = None,
) -> Estimate:
    """Measures a few steps of each training that is not finished in the folder of the run.

    Args:
        experiment: what is learnt from.
        output: the folder, which may not be there yet.
        sasrec: the SASRec to train; None if there is one.
        max_items: longest history in items.
        plan: the adapter to train; None for an encoder alone.
        prompts: of the adapter.
    """
    device = device_of_training()
    free = free_memory(device)
    limit = None if free is None else process_bytes(device) + free
    split, num_items = experiment.split, len(experiment.catalogue)
    stages: list[StageEstimate] = []
    if sasrec is not None and not (output / "sasrec").is_dir():
        done = done_steps(output / "checkpoints" / "sasrec")
        stages.append(
            estimate_encoder(split, num_items, sasrec, max_items=max_items, done_steps=done)
        )
    if plan is not None and prompts is not None and not (output / "recommender").is_dir():
        done = done_steps(output / "checkpoints" / "laser")
        stages.append(estimate_adapter(plan, split, prompts, num_items, done_steps=done))
    return Estimate(stages=tuple(stages), on_accelerator=device.type != "cpu", limit_bytes=limit)


def done_steps(checkpoints: Path) -> int:
    """Returns how many optimizer steps the newest whole checkpoint has behind it."""
    newest = last_checkpoint(checkpoints)
    if newest is None:
        return 0
    return int(json.loads((Path(newest) / "trainer_state.json").read_bytes())["global_step"])
