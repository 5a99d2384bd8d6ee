"""Trains an adapter in its phases.

Follows arXiv 2409.01605 where an adapter reads its items as it reads its users: in a first phase
the table of item vectors is read anew before every epoch, in a second one it stays as it was at the
best step of the first. With fused item vectors, where the texts' part of the table never changes,
the text reader learns in the first phase and stays as it is in the second, in which the adapter
learns beside a twin of both where it can (:mod:`.twin`).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from laser_peft.data import PromptBuilder, Split
from laser_peft.item_encoding import encode_items
from laser_peft.tuner import BiTuningConfig

from .checkpoints import last_checkpoint
from .epoch_order import is_within_an_epoch
from .laser import LaserSettings, train_laser
from .reading import kept_as_it_is, train_reading
from .sasrec import SASRecSettings
from .twin import beside_twin

FIRST, LAST = "laser-phase-1", "laser"


class Phase(NamedTuple):
    """A part of an adapter's training.

    Args:
        name: of its checkpoints' folder.
        settings: how it trains; ``epochs`` are its own.
        reads_items: whether the table of item vectors is read anew before every epoch.
        reads_texts: whether the text reader learns by itself, and nothing else does.
        twin: of the twin's SASRec, if the adapter learns beside one.
    """

    name: str
    settings: LaserSettings
    reads_items: bool = False
    reads_texts: bool = False
    twin: SASRecSettings | None = None


def phases_of(
    config: BiTuningConfig,
    settings: LaserSettings,
    num_users: int,
    twin: SASRecSettings | None = None,
) -> list[Phase]:
    """Lists the phases in which an adapter is trained.

    Args:
        config: of the adapter.
        settings: of the whole training.
        num_users: users to learn from.
        twin: how a twin of its SASRec is trained; None where it can have none.
    """
    last = Phase(LAST, settings)
    if epochs := settings.item_epochs_of(config.item_vectors):
        return [Phase(FIRST, replace(settings, epochs=epochs), reads_items=True), last]
    if epochs := settings.reading_epochs_of(config.has_text_skip, num_users):
        first = Phase(FIRST, replace(settings, epochs=epochs), reads_texts=True)
        return [first, last._replace(twin=twin if settings.wants_twin(config) else None)]
    return [last]


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
    twin: SASRecSettings | None = None,
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
            ``laser-phase-1`` where there are two, and those of a twin.
        settings: see there.
        max_items: see there.
        seed: see there.
        twin: how a twin of the adapter's SASRec is trained (:func:`.twin.twin_settings`), for it to
            learn beside if the settings want one; None where it can have none.
        callbacks_of: gives the Trainer's further callbacks by the name of the phase.
    """
    config = model.peft_config[model.active_adapter]
    if not split.before_last().num_training_pairs:
        twin = None
    phases = phases_of(config, settings, len(split.train_histories), twin)
    found = [last_checkpoint(checkpoints / phase.name) for phase in phases]
    # A checkpoint of a later phase holds all that the ones before it have learnt.
    start = max((place for place, checkpoint in enumerate(found) if checkpoint), default=0)
    if phases[-1].twin is not None:
        start = 0  # that of the last holds the twin's reader
    of_data: dict[str, Any] = dict(max_items=max_items, seed=seed)
    for phase, checkpoint in list(zip(phases, found, strict=True))[start:]:
        folder, callbacks = checkpoints / phase.name, [*callbacks_of(phase.name)]
        going_on = of_data | {"resume_from_checkpoint": checkpoint}
        if phase.reads_texts:
            epochs = phase.settings.epochs
            train_reading(model, split, folder, epochs, callbacks=callbacks, **going_on)
            continue
        if phase.reads_items:
            callbacks = [ReadsItems(prompts), *callbacks]
        beside: AbstractContextManager[None] = nullcontext()
        if phase.twin is not None:
            epochs = phases[0].settings.epochs
            beside = beside_twin(
                model, split, checkpoints, phase.twin, epochs, callbacks_of=callbacks_of, **of_data
            )
        elif any(earlier.reads_texts for earlier in phases):
            beside = kept_as_it_is(model)
        with beside:
            train_laser(
                model, split, prompts, folder, phase.settings, callbacks=callbacks, **going_on
            )
        if phase.twin is not None:  # what was weighed beside it
            weigh = replace(phase.settings, epochs=0)
            train_laser(model, split, prompts, folder, weigh, **of_data)
