"""Lets a correction learn beside an encoder and a text reader that do not know the answers.

An encoder has learnt from the very items that an adapter learns to foresee, so its states give them
away and its scores are far surer of them than of anything new. Here the adapter reads a twin of its
encoder and of its text reader instead, both trained without the last training item of each user,
and learns from that item (docs/lab.md); afterwards it reads its own again.

Axes: M users to fit on, C collaborative width, X width of text vectors.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PretrainedConfig, TrainerCallback

from laser_peft.collaborative import SASRecConfig, SASRecModel
from laser_peft.data import PaddingCollator, Split
from laser_peft.data.sequences import Example, training_events
from laser_peft.losses import sampled_cross_entropy
from laser_peft.masking import newest_state
from laser_peft.processes import by_one
from laser_peft.runs import save_whole
from laser_peft.tuner.adapter import PartFactors
from laser_peft.tuner.layer import ActiveAdapter

from .checkpoints import last_checkpoint
from .reading import kept_as_it_is, train_reading
from .sasrec import SASRecSettings, train_sasrec

logger = logging.getLogger(__name__)
ENCODER, READER, FINISHED = "twin-sasrec", "twin-reading", "twin"
FITTED_ON, DRAWN = 2048, 2048  # users, and items that stand for the catalogue
AT_A_TIME = 256


def twin_settings(encoder: PretrainedConfig, settings: SASRecSettings) -> SASRecSettings | None:
    """Returns how to train a twin of an encoder; None where only its owner knows.

    Args:
        encoder: the encoder's configuration.
        settings: schedule of our own SASRecs.
    """
    if not isinstance(encoder, SASRecConfig):
        return None
    return replace(
        settings,
        hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.num_hidden_layers,
        num_attention_heads=encoder.num_attention_heads,
        dropout=encoder.dropout,
    )


@contextmanager
def beside_twin(
    model: PeftModel,
    split: Split,
    checkpoints: Path,
    settings: SASRecSettings,
    reading_epochs: int,
    *,
    max_items: int,
    seed: int = 0,
    callbacks_of: Callable[[str], Sequence[TrainerCallback]] = lambda phase: (),
) -> Iterator[None]:
    """Lets the active adapter read a twin within, trained first; what it learns there is kept.

    Within, that reader stays as it is, and the parts of the scores count in training what the last
    training items, which the twin has not seen, make most likely (:func:`part_factors`).

    Args:
        model: a causal LM with a Bi-Tuning adapter of fused item vectors, with a text skip and a
            collaborative one, whose text vectors are set and whose text reader has learnt.
        split: as ``train_laser`` takes it; the twin is trained without the last training items.
        checkpoints: folder in which those of the twin are, ``twin-sasrec`` and ``twin-reading``,
            and its finished encoder, ``twin``.
        settings: of the twin's SASRec.
        reading_epochs: of its text reader.
        max_items: longest history in items.
        seed: of both trainings.
        callbacks_of: gives the Trainers' further callbacks by the name of the twin's part.
    """
    adapter = model.base_model.layer.bituning_adapters[model.active_adapter]
    frozen = model.base_model.layer.encoder_of(model.active_adapter)
    before = split.before_last()
    own = frozen.model
    state = {name: value.clone() for name, value in adapter.text_reader.state_dict().items()}
    events, from_text = adapter.items.events, adapter.items.from_text.clone()
    going_on: dict[str, Any] = dict(max_items=max_items, seed=seed)
    twin = _encoder(before, len(events), checkpoints, settings, callbacks_of(ENCODER), going_on)
    counted = training_events(before.train_histories, len(events))[1:]
    try:
        frozen.model = twin.to(own.device).requires_grad_(False)
        adapter.items.events = torch.from_numpy(counted).to(events)
        adapter.items.fit_from_text(frozen.item_vectors())
        adapter.text_reader.reset_parameters()
        train_reading(
            model,
            before,
            checkpoints / READER,
            reading_epochs,
            resume_from_checkpoint=last_checkpoint(checkpoints / READER),
            callbacks=callbacks_of(READER),
            **going_on,
        )
        held_out = split.training_examples(every_prefix=False)
        adapter.part_factors = part_factors(model, held_out, max_items=max_items, seed=seed)
        logger.info("beside the twin: %s", adapter.part_factors)
        with kept_as_it_is(model):
            yield
    finally:
        frozen.model = own
        adapter.items.events = events
        adapter.items.from_text.copy_(from_text)
        adapter.text_reader.load_state_dict(state)
        adapter.part_factors = None


def _encoder(
    before: Split,
    num_items: int,
    checkpoints: Path,
    settings: SASRecSettings,
    callbacks: Sequence[TrainerCallback],
    going_on: dict[str, Any],
) -> SASRecModel:
    """Trains the twin of the encoder, unless an interrupted run had finished it."""
    folder = checkpoints / FINISHED
    if folder.is_dir():
        return SASRecModel.from_pretrained(folder)
    twin = train_sasrec(
        before,
        num_items,
        checkpoints / ENCODER,
        settings,
        resume_from_checkpoint=last_checkpoint(checkpoints / ENCODER),
        callbacks=callbacks,
        **going_on,
    )
    by_one(save_whole, twin, folder)
    return twin


def part_factors(
    model: PeftModel, examples: Sequence[Example], *, max_items: int, seed: int = 0
) -> PartFactors:
    """Fits by how much the encoder's and the text reader's scores are to be multiplied.

    They maximise the likelihood of the targets, of which neither must know anything.

    Args:
        model: as :func:`beside_twin` takes it.
        examples: histories and targets; of more than 2,048 so many are drawn.
        max_items: longest history in items.
        seed: of what is drawn.
    """
    active = model.base_model.layer.active
    active.adapter.eval()
    random = np.random.default_rng(seed)
    places = random.choice(len(examples), min(len(examples), FITTED_ON), replace=False)
    chosen = [examples[int(place)] for place in places]
    items = active.adapter.items(active.encoder.item_vectors()).detach()
    drawn = 1 + random.choice(len(items), min(len(items), DRAWN), replace=False)
    negatives = torch.from_numpy(drawn).to(items.device)
    encoded, read, targets = _parts(active, chosen, max_items)
    logs = torch.zeros(2, device=items.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([logs], line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        users = torch.cat([logs[0].exp() * encoded, logs[1].exp() * read], 1)
        users = users / active.config.temperature
        value = sampled_cross_entropy(users, items, targets, negatives)
        value.backward()
        return value

    optimizer.step(loss)
    return PartFactors(*logs.detach().exp().tolist())


@torch.no_grad()
def _parts(
    active: ActiveAdapter, examples: Sequence[Example], max_items: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns users by encoder ``(M, C)`` and by text reader ``(M, X)``, and their targets."""
    device = active.adapter.items.text.device
    batches = []
    for start in range(0, len(examples), AT_A_TIME):
        batch = PaddingCollator()(
            [
                {"history": example.history[-max_items:], "labels": example.target}
                for example in examples[start : start + AT_A_TIME]
            ]
        )
        history = batch["history"].to(device)
        states, mask = active.states(
            history=history, history_mask=None, history_states=None, like=history
        )
        query = active.newest_text_query(history, None)
        assert query is not None, "the adapter has a text skip"
        batches.append((newest_state(states, mask), query, batch["labels"]))
    encoded, read, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return encoded, read, targets.to(device)
