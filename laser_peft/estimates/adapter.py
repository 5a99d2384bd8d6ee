"""What the training of an adapter may take, with the real language model on real prompts."""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.trainer_pt_utils import get_length_grouped_indices

from laser_peft.collaborative import SASRecModel
from laser_peft.data import PromptBuilder, Split
from laser_peft.evaluation import ranks_of_targets
from laser_peft.training import LaserSettings, PromptDataset, SASRecSettings, phases_of
from laser_peft.training.datasets import PlacesCollator, PlacesDataset
from laser_peft.training.laser import training_dataset
from laser_peft.training.phases import Phase
from laser_peft.training.ranking_trainer import with_negatives
from laser_peft.training.reading import BATCH_SIZE as READING_BATCH_SIZE
from laser_peft.training.twin import READER
from laser_peft.tuner import BiTuningConfig

from .measuring import Measured, measure, random_state_kept
from .memory import device_of_training, held_bytes, process_bytes
from .reading import seconds_of_a_step
from .words import StageEstimate, say_count

SAMPLE = 400  # prompts whose tokens are counted
RANKED_AT_ONCE = 64
SORTED_TOGETHER = 50  # batches, by the Trainer


@dataclass(frozen=True, kw_only=True)
class AdapterPlan:
    """What decides how long an adapter trains.

    Args:
        llm: folder or Hub id of the language model.
        dtype: precision in which it is loaded.
        adapter: the adapter's configuration, without its encoder.
        encoder: folder or Hub id of the trained encoder; None if a SASRec is still to be trained.
        sasrec: of that SASRec.
        twin: of a twin of the encoder, for the adapter to learn beside; None if it can have none.
        laser: the schedule.
        max_items: longest history in items.
    """

    llm: str
    dtype: str
    adapter: BiTuningConfig
    encoder: str | None
    sasrec: SASRecSettings
    twin: SASRecSettings | None = None
    laser: LaserSettings
    max_items: int


def estimate_adapter(
    plan: AdapterPlan,
    split: Split,
    prompts: PromptBuilder,
    num_items: int,
    *,
    done_steps: Mapping[str, int] | None = None,
) -> StageEstimate:
    """Times steps of a new adapter on prompts of middle length.

    Args:
        plan: what is trained, and how.
        split: what it will learn from.
        prompts: says histories in tokens.
        num_items: items in the catalogue.
        done_steps: optimizer steps that an interrupted run has taken, by the name of the phase.
    """
    settings, device = plan.laser, device_of_training()
    every_phase = phases_of(plan.adapter, settings, len(split.train_histories), plan.twin)
    phases = [phase for phase in every_phase if not phase.reads_texts]
    epochs = sum(phase.settings.epochs for phase in phases)
    held = process_bytes(device)
    with random_state_kept(), _new_model(plan, num_items) as model:
        model.to(device)
        examples = training_dataset(model, split, prompts, settings, max_items=plan.max_items)
        steps_an_epoch = math.ceil(len(examples) / settings.batch_size)
        epochs_left = _epochs_left(phases, done_steps or {}, steps_an_epoch)
        left = epochs_left / max(epochs, 1)
        virtual = plan.adapter.num_prefix_tokens + plan.adapter.num_suffix_tokens
        collate = PlacesCollator(prompts.ending)
        learning = _Users(examples, collate, virtual, settings.batch_size)
        tested = PromptDataset(split.test, prompts, max_items=plan.max_items, ranked=True)
        testing = _Users(tested, collate, virtual)
        size = min(settings.batch_size, len(examples))
        texts_seconds = _texts_seconds(model, plan, split, every_phase, done_steps or {})
        step = Measured(0.0, 0.0)
        if epochs:
            step = measure(_Learning(model, learning, settings), size, model)
        else:
            model.requires_grad_(False)
            if plan.adapter.has_text_skip:  # what has learnt nothing is not read
                model.set_view_weights(correction=0.0)
        ranked = min(RANKED_AT_ONCE, len(split.test))
        ranking = measure(_Ranking(model, testing, bf16=settings.bf16), ranked, model)
        kept = (
            step.step_bytes * learning.longest / learning.positions
        )  # batches of long ones are worst
        memory = held + held_bytes(model) + kept
        reads = model.base_model.layer.active.counts_correction
    every = math.ceil(steps_an_epoch / settings.evaluations_per_epoch)
    # The last is at the end.
    validations = left * math.ceil(epochs * steps_an_epoch / every) if epochs else 1.0
    validations += every_phase[-1].twin is not None  # what was weighed beside it is weighed anew
    validated = min(settings.validation_users or len(split.validation), len(split.validation))
    # Items are read as users are, but for the length of their prompts.
    share = (_mean_item_prompt(prompts, num_items) + virtual) / testing.positions
    reading = num_items * share * ranking.seconds / ranked
    work = "0 epochs" if reads else "0 epochs; no prompt is read"
    if epochs:
        tokens_a_second = size * learning.tokens / step.seconds
        work = (
            f"{say_count(len(examples), 'example')} x {say_count(epochs, 'epoch')}, "
            f"{learning.tokens:.0f} tokens each; {tokens_a_second:,.0f} tokens/s measured"
        )
    return StageEstimate(
        name="adapter",
        work=work,
        training_seconds=texts_seconds
        + epochs_left * len(examples) * step.seconds / size
        + math.ceil(max(epochs_left - settings.epochs, 0.0)) * reading,
        validations=math.ceil(validations),
        validation_seconds=validations * validated * ranking.seconds / ranked,
        test_seconds=len(split.test) * ranking.seconds / ranked,
        memory_bytes=round(memory),
    )


def _texts_seconds(
    model: PeftModel, plan: AdapterPlan, split: Split, phases: list[Phase], done: Mapping[str, int]
) -> float:
    """Estimates what is left of a text reader's own phase, and its twin's, and freezes it."""
    if not phases[0].reads_texts:
        return 0.0
    users = sum(len(history) > 1 for history in split.train_histories)
    steps = phases[0].settings.epochs * math.ceil(users / READING_BATCH_SIZE)
    left = max(steps - done.get(phases[0].name, 0), 0)
    if phases[-1].twin is not None:
        left += max(steps - done.get(READER, 0), 0)
    elif done.get(phases[1].name):
        left = 0
    a_step = seconds_of_a_step(model, split, max_items=plan.max_items) if left else 0.0
    model.base_model.layer.bituning_adapters["default"].text_reader.requires_grad_(False)
    return left * a_step


def _epochs_left(phases: list[Phase], done: Mapping[str, int], steps_an_epoch: int) -> float:
    """Counts what is left of all phases; one that was begun ends those before it."""
    left = 0.0
    for phase in reversed(phases):
        steps = done.get(phase.name, 0)
        left += max(phase.settings.epochs - steps / steps_an_epoch, 0.0)
        if steps:
            break
    return left


def _mean_item_prompt(prompts: PromptBuilder, num_items: int) -> float:
    """Returns how many tokens the prompt of a history of one item has."""
    drawn = np.random.default_rng(0).permutation(num_items)[:SAMPLE] + 1
    return float(np.mean([len(prompts([item])) for item in drawn]))


class _Users:
    """Users whose prompts are about as long as those of a middling batch are padded to.

    Args:
        dataset: to draw from.
        collate: makes a batch of them.
        virtual: tokens that come to a prompt's own, at each position that is read.
        batch_size: of batches that the Trainer groups by length; None: all in order of length.
    """

    def __init__(
        self,
        dataset: PlacesDataset | PromptDataset,
        collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]],
        virtual: int,
        batch_size: int | None = None,
    ) -> None:
        drawn = np.random.default_rng(0).permutation(len(dataset))[:SAMPLE]
        rows = [dataset[int(place)] for place in drawn]
        lengths = np.array(
            [len(row["input_ids"]) + virtual * np.size(row["labels"]) for row in rows]
        )
        padded = float(lengths.mean())
        if batch_size is not None:
            padded = padded_length(lengths, batch_size, len(dataset))
        self.tokens = float(lengths.mean())  # a user's, on average
        self.positions = padded  # with padding
        self.longest = int(lengths.max())
        self._collate = collate
        order = np.abs(lengths - padded).argsort(kind="stable")
        self._rows: list[dict[str, Any]] = [rows[place] for place in order]

    def batch(self, size: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Makes a batch of so many, some of them more than once where they are few."""
        rows = [self._rows[place % len(self._rows)] for place in range(size)]
        return {name: values.to(device) for name, values in self._collate(rows).items()}


def padded_length(lengths: np.ndarray, batch_size: int, count: int) -> float:
    """Returns to what length examples are padded on average where batches are grouped by length.

    The Trainer sorts within up to 50 batches, fewer where the examples are few: then long and
    short ones come together.

    Args:
        lengths: ``(sampled,)`` of a sample of the examples.
        batch_size: examples a batch.
        count: of all examples.
    """
    count = min(count, 4 * SORTED_TOGETHER * batch_size)
    drawn = np.random.default_rng(0).choice(lengths, count)
    order = get_length_grouped_indices(drawn.tolist(), batch_size)
    starts = np.arange(0, count, batch_size)
    longest = np.maximum.reduceat(drawn[order], starts)
    return float(np.average(longest, weights=np.diff([*starts, count])))


class _Learning:
    """An optimizer step."""

    def __init__(self, model: PeftModel, users: _Users, settings: LaserSettings) -> None:
        self.model = model
        self.users = users
        self.settings = settings
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learnt)

    def __call__(self, size: int) -> None:
        self.model.train()
        batch = self.users.batch(size, self.model.device)
        batch = with_negatives(batch, self.settings.num_negatives, self.model.num_items)
        with _precision(self.model, self.settings.bf16):
            loss = self.model(**batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class _Ranking:
    """The ranking of a batch of users, as a validation or the test does it."""

    def __init__(self, model: PeftModel, users: _Users, *, bf16: bool) -> None:
        self.model = model
        self.users = users
        self.bf16 = bf16

    @torch.no_grad()
    def __call__(self, size: int) -> None:
        self.model.eval()
        batch = self.users.batch(size, self.model.device)
        targets, seen = batch.pop("labels"), batch.pop("seen")
        with _precision(self.model, self.bf16):
            users = self.model(**batch).user_vectors
        ranks_of_targets(users, self.model.item_vectors(), targets, seen)


def _precision(model: PeftModel, bf16: bool) -> torch.autocast:
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16)


@contextmanager
def _new_model(plan: AdapterPlan, num_items: int) -> Iterator[PeftModel]:
    """Builds the model as the training will, with an untrained SASRec where there is none yet."""
    llm = AutoModelForCausalLM.from_pretrained(plan.llm, dtype=plan.dtype)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        encoder = plan.encoder
        if encoder is None:
            encoder = folder
            sizes = plan.sasrec.model_config(num_items=num_items, max_items=plan.max_items)
            SASRecModel(sizes).save_pretrained(folder)
        # A copy: PEFT fills in a configuration.
        model = get_peft_model(llm, replace(plan.adapter, collaborative_encoder=encoder))
    config = model.peft_config["default"]
    if config.item_vectors != "collaborative":
        model.set_item_text_vectors(torch.randn(num_items, config.item_text_dim))
    yield model
