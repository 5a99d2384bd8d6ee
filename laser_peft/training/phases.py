"""Trains an adapter in one phase, or in two where it reads its items as it reads its users.

Follows arXiv 2409.01605: in a first phase the table of item vectors is read anew before every
epoch, in a second one it stays as it was at the best step of the first.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from laser_peft.data import PromptBuilder, Split
from laser_peft.item_encoding import encode_items
from laser_peft.runs import last_checkpoint

from .epoch_order import is_within_an_epoch
from .laser import LaserSettings, train_laser

FIRST, LAST = "laser-phase-1", "laser"


class Phase(NamedTuple):
    """A part of an adapter's training.

    Args:
        name: of its checkpoints' folder.
        settings: how it trains.
        reads_items: whether the table of item vectors is read anew before every epoch.
    """

    name: str
    settings: LaserSettings
    reads_items: bool


def phases_of(item_vectors: str, settings: LaserSettings) -> list[Phase]:
    """Lists the phases in which an adapter is trained.

    Args:
        item_vectors: of its configuration; only with ``"text"`` there are two.
        settings: of the whole training.
    """
    last = Phase(LAST, settings, reads_items=False)
    epochs = settings.item_epochs_of(item_vectors)
    if not epochs:
        return [last]
    return [Phase(FIRST, replace(settings, epochs=epochs), reads_items=True), last]


class ReadsItems(TrainerCallback):
    """Reads the table of item vectors anew before every epoch.

    Args:
        prompts: says histories in tokens.
    """

    def __init__(self, prompts: PromptBuilder) -> None:
        self.prompts = prompts

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: PeftModel,
        **kwargs: Any,
    ) -> None:
        """Sets the table, unless training goes on within the epoch: a checkpoint brings its own."""
        if is_within_an_epoch(state):
            return
        tuner = model.base_model
        events = tuner.layer.bituning_adapters[model.active_adapter].items.events
        items = range(1, tuner.num_items + 1)
        vectors = encode_items(
            model, self.prompts, items, batch_size=args.per_device_eval_batch_size
        )
        tuner.set_item_text_vectors(vectors, events)


def train_in_phases(
    model: PeftModel,
    split: Split,
    prompts: PromptBuilder,
    checkpoints: Path,
    settings: LaserSettings,
    *,
    max_items: int,
    seed: int = 0,
    callbacks_of: Callable[[str], Sequence[TrainerCallback]] = lambda phase: (),
) -> None:
    """Trains the active adapter in place, each phase from the best step of the one before.

    With checkpoints of an interrupted training in the folder it goes on from there, and ends with
    the same weights. Text vectors, where the adapter uses them, must be set; those that are read
    anew may be of any values.

    Args:
        model: a causal LM with a Bi-Tuning adapter that has a collaborative encoder.
        split: as :func:`train_laser` takes it, and the following ones.
        prompts: see there.
        checkpoints: folder with a folder for each phase: ``laser``, and before it
            ``laser-phase-1`` where there are two.
        settings: see there.
        max_items: see there.
        seed: see there.
        callbacks_of: gives the Trainer's further callbacks by the name of the phase.
    """
    config = model.peft_config[model.active_adapter]
    phases = phases_of(config.item_vectors, settings)
    found = [last_checkpoint(checkpoints / phase.name) for phase in phases]
    # A checkpoint of a later phase holds all that the ones before it have learnt.
    start = max((place for place, checkpoint in enumerate(found) if checkpoint), default=0)
    for phase, checkpoint in list(zip(phases, found, strict=True))[start:]:
        callbacks = [ReadsItems(prompts)] if phase.reads_items else []
        train_laser(
            model,
            split,
            prompts,
            checkpoints / phase.name,
            phase.settings,
            max_items=max_items,
            seed=seed,
            resume_from_checkpoint=checkpoint,
            callbacks=[*callbacks, *callbacks_of(phase.name)],
        )
