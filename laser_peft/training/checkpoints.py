"""The Trainer's checkpoints: which are whole, and where the best one lies."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from laser_peft.checksums import CHECKSUMS, check_checksums, write_checksums

logger = logging.getLogger(__name__)
NAME = "checkpoint-"
BY_EACH = "rng_state_"  # what each of several processes writes, at its own time


def last_checkpoint(folder: Path) -> str | None:
    """Returns the newest whole checkpoint; the Trainer writes ``trainer_state.json`` last.

    A damaged one is warned of in the log: training goes on from an older one, or begins anew.
    """
    by_step = _by_step(folder)
    for step in sorted(by_step, reverse=True):
        wrong = _what_is_wrong(by_step[step])
        if wrong is None:
            return str(by_step[step])
        if (by_step[step] / TRAINER_STATE_NAME).exists():
            logger.warning("%s is damaged, and not gone on from: %s", by_step[step], wrong)
    return None


def _by_step(folder: Path) -> dict[int, Path]:
    return {int(path.name.removeprefix(NAME)): path for path in folder.glob(f"{NAME}[0-9]*")}


def _what_is_wrong(checkpoint: Path) -> Exception | None:
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())
        check_checksums(checkpoint, advice="it is left out")
    except (ValueError, OSError) as error:
        return error
    return None


class Checkpoints(TrainerCallback):
    """Keeps the last step and checksums of every checkpoint, and finds the best one again."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Has the last step validated and saved by steps, which not every transformers does."""
        if state.global_step >= state.max_steps:
            is_late = args.eval_delay <= state.global_step
            control.should_evaluate |= is_late and args.eval_strategy == IntervalStrategy.STEPS
            control.should_save |= args.save_strategy == SaveStrategy.STEPS

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes the checksums of the checkpoint that has just been written."""
        if not state.is_world_process_zero:
            return
        folder = _folder(args, state.global_step)
        if not folder.is_dir():
            return  # the Trainer has chosen others to keep
        names = [path.name for path in folder.iterdir() if path.is_file()]
        kept = [name for name in names if name != CHECKSUMS and not name.startswith(BY_EACH)]
        write_checksums(folder, kept, may_change=())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Looks for the best checkpoint in the folder of the run, which may have been moved.

        What was cut off in writing, of a step that is still to come, goes: the Trainer would keep
        it, as the newest, in place of those it is about to write.

        Raises:
            FileNotFoundError: if the best checkpoint is not there.
            ValueError: if it is damaged.
        """
        if state.is_world_process_zero:
            for step, checkpoint in _by_step(Path(str(args.output_dir))).items():
                if step > state.global_step and _what_is_wrong(checkpoint):
                    shutil.rmtree(checkpoint)
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
