"""The Trainer's checkpoints: which are whole, and where the best one lies."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from laser_peft.checksums import CHECKSUMS, check_checksums, write_checksums

logger = logging.getLogger(__name__)
NAME = "checkpoint-"
BY_EACH = "rng_state_"  # what each of several processes writes, at its own time


def last_checkpoint(folder: Path) -> str | None:
    """Returns the newest whole checkpoint; the Trainer writes ``trainer_state.json`` last.

    A damaged one is warned of in the log: training goes on from an older one, or begins anew.
    """
    found = folder.glob(f"{NAME}*/{TRAINER_STATE_NAME}")
    by_step = {int(file.parent.name.removeprefix(NAME)): file for file in found}
    for step in sorted(by_step, reverse=True):
        try:
            json.loads(by_step[step].read_bytes())
            check_checksums(by_step[step].parent, advice="it is left out")
        except (ValueError, OSError) as error:
            logger.warning("%s is damaged, and not gone on from: %s", by_step[step].parent, error)
            continue
        return str(by_step[step].parent)
    return None


class Checkpoints(TrainerCallback):
    """Keeps checksums of every checkpoint, and finds the best one again."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes the checksums of the checkpoint that has just been written."""
        if not state.is_world_process_zero:
            return
        folder = _folder(args, state.global_step)
        names = [path.name for path in folder.iterdir() if path.is_file()]
        kept = [name for name in names if name != CHECKSUMS and not name.startswith(BY_EACH)]
        write_checksums(folder, kept, may_change=())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Looks for the best checkpoint in the folder of the run, which may have been moved.

        Raises:
            FileNotFoundError: if the best checkpoint is not there.
            ValueError: if it is damaged.
        """
        if not state.best_global_step:
            return
        best = _folder(args, state.best_global_step)
        advice = f"restore it, or delete {args.output_dir} to train from the start"
        if not best.is_dir():
            raise FileNotFoundError(f"{best}, the best checkpoint so far, is missing; {advice}")
        check_checksums(best, advice=advice)
        state.best_model_checkpoint = str(best)


def _folder(args: TrainingArguments, step: int) -> Path:
    return Path(str(args.output_dir)) / f"{NAME}{step}"
