"""The history of a training as a file: what was measured, step by step."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from laser_peft.whole import write_whole


class HistoryFile(TrainerCallback):
    """Keeps a file like the Trainer's own history: a JSON object a line, with its ``step``.

    A checkpoint carries the history up to its step, so what an interrupted run had logged after
    its last checkpoint gives way to what is measured when it goes on: no step is there twice.

    Args:
        file: written anew whenever something is logged, never half.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes all that was logged so far."""
        if not state.is_world_process_zero:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.file, "".join(f"{json.dumps(row)}\n" for row in state.log_history))
