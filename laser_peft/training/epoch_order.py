"""The order of the examples of an epoch, the same when training goes on in the middle of it."""

import base64
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


def is_within_an_epoch(state: TrainerState) -> bool:
    """Tells, where an epoch begins, whether a resumed training has taken steps of it already."""
    return state.global_step % (state.max_steps // state.num_train_epochs) > 0


class EpochOrder(TrainerCallback, ExportableState):
    """Keeps with every checkpoint the random state from which its epoch's order was drawn.

    The Trainer brings back that of the checkpoint, after it has drawn the order: another one from
    the second epoch on, in which some examples would come twice and others not at all.

    Args:
        drawn_from: torch's random state where the epoch began, in base64.
    """

    def __init__(self, drawn_from: str | None = None) -> None:
        self.drawn_from = drawn_from

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"args": {"drawn_from": self.drawn_from}, "attributes": {}}

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remembers the random state, or goes back to it within an epoch."""
        if is_within_an_epoch(state) and self.drawn_from is not None:
            values = np.frombuffer(base64.b64decode(self.drawn_from), dtype=np.uint8)
            torch.set_rng_state(torch.from_numpy(values.copy()))
        else:
            values = torch.get_rng_state().numpy()
            self.drawn_from = base64.b64encode(values.tobytes()).decode("ascii")
