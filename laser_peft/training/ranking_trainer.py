"""transformers' Trainer for models that score a catalogue; it evaluates by ranking all of it.

A model here maps a batch to an output with ``user_vectors (B, R)``, gives ``item_vectors() (N, R)``
and, with ``labels``, a ``loss`` that is a mean.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, SequentialSampler, Subset
from transformers import (
    EvalPrediction,
    ProgressCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from laser_peft.data import PaddingCollator
from laser_peft.evaluation import PROTOCOLS, ranks_of_targets, summarise
from laser_peft.out_of_memory import says_what_to_lower

from .checkpoints import Checkpoints
from .epoch_order import generator_of
from .progress import ShortProgress
from .shared_steps import SharedSteps

LOWER = (
    "lower the batch size (--batch-size) or the longest prompt (--max-tokens), or take a machine "
    "with more"
)


def metrics_of_ranks(prediction: EvalPrediction) -> dict[str, float]:
    """Names the metrics of both protocols, like ``unmasked_ndcg@10``."""
    return {
        f"{protocol}_{name}": value
        for column, protocol in enumerate(PROTOCOLS)
        for name, value in summarise(prediction.predictions[:, column]).items()
    }


def ranking_arguments(output_dir: str | Path, **arguments: Any) -> TrainingArguments:
    """Returns the Trainer's arguments with what every run of ours has in common."""
    on_accelerator = torch.accelerator.is_available()
    return TrainingArguments(
        str(output_dir),
        use_cpu=not on_accelerator,  # else bf16 asks for a GPU
        remove_unused_columns=False,  # `seen` is no argument of a model's forward
        label_names=["labels"],
        dataloader_pin_memory=on_accelerator,
        ddp_find_unused_parameters=False,  # every step reads all that learns
        ddp_broadcast_buffers=False,  # tables of item vectors, which no step changes
        report_to="none",
        **arguments,
    )


def best_checkpoint_arguments(metric: str = "unmasked_ndcg@10") -> dict[str, Any]:
    """Returns the arguments that keep the newest checkpoint and go back to the best one."""
    return {
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,  # early stopping goes on counting
    }


def with_negatives(
    inputs: dict[str, Any], num_negatives: int, num_items: int, *, seed: int = 0, step: int = 0
) -> dict[str, Any]:
    """Adds ``negatives (K,)`` to a batch, drawn uniformly with replacement; none where K is 0.

    Seed and step alone decide: all processes draw the same, and so does a resumed run.
    """
    if not num_negatives:
        return inputs
    generator = generator_of(seed, step)
    drawn = torch.randint(1, num_items + 1, (num_negatives,), generator=generator)
    return inputs | {"negatives": drawn.to(inputs["labels"].device)}


class RankingTrainer(SharedSteps):
    """Trainer whose predictions are ranks ``(users, 2)``, a column for each protocol.

    A process uses one GPU, and the model is after each training, evaluation and prediction as it
    was before, without what mixed precision puts around it.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, **kwargs: Any) -> None:
        kwargs.setdefault("data_collator", PaddingCollator())
        kwargs.setdefault("compute_metrics", metrics_of_ranks)
        super().__init__(model, args, **kwargs)
        self._use_one_gpu()
        self.add_callback(Checkpoints())
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ShortProgress())

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor, Tensor]:
        """Ranks the targets of a batch; the model is called without them.

        Returns:
            No loss, ranks ``(B, 2)`` int64, targets ``(B,)`` int64.
        """
        inputs = dict(self._prepare_inputs(inputs))
        targets, seen = inputs.pop("labels"), inputs.pop("seen")
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs)
        item_vectors = self.accelerator.unwrap_model(model).item_vectors()
        return None, self.ranks(output, item_vectors, targets, seen), targets

    def ranks(self, output: Any, item_vectors: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
        """Ranks the targets; see :func:`laser_peft.evaluation.ranks_of_targets`.

        Args:
            output: the model's, with ``user_vectors (B, R)``.
            item_vectors: ``(N, R)`` float.
            targets: ``(B,)`` int64.
            seen: ``(B, L)`` int64, 0 = padding.
        """
        return ranks_of_targets(output.user_vectors, item_vectors, targets, seen)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Trains, and leaves the model ready for use.

        Args:
            resume_from_checkpoint: a checkpoint folder to go on from. Where training had stopped
                by then, early or at its end, only the best checkpoint is loaded.
            kwargs: as of transformers' Trainer.

        Raises:
            MemoryError: if memory does not suffice for a step.
            ValueError: if the loss is no finite number any more.
        """
        if resume_from_checkpoint is not None:
            self._stay_stopped(Path(resume_from_checkpoint))
        with says_what_to_lower("a step of training", LOWER):
            output = super().train(resume_from_checkpoint, **kwargs)
        self._take_off_mixed_precision()
        self.model.eval()
        return output

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Takes a step; one whose loss is no number ends the training, before it spoils more."""
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {loss.item()} in step {self.state.global_step + 1} of "
                f"{self.state.max_steps}: training stops, and what was saved before stays in "
                f"{self.args.output_dir}; lower learning_rate ({self.args.learning_rate}), leave "
                "bfloat16 out, and see whether a vector that was given is no finite number"
            )
        return loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates or predicts, as transformers' Trainer does."""
        with says_what_to_lower("ranking a batch of users", LOWER):
            output = super().evaluation_loop(*args, **kwargs)
        if not self.is_in_train:
            self._take_off_mixed_precision()
        return output

    def rank(self, dataset: Dataset) -> np.ndarray:
        """Ranks every target of a dataset, read in order of length.

        Returns:
            Ranks in the order of the dataset, as :meth:`ranks` makes them.
        """
        ordered = by_length(dataset)
        predictions = self.predict(ordered).predictions
        ranks = np.empty_like(predictions)
        ranks[ordered.indices] = predictions
        return ranks

    def _take_off_mixed_precision(self) -> None:
        """Takes off what Accelerate leaves on a model; the next use puts it on again."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        # Without these it would pass for wrapped.
        self.model.__dict__.pop("_is_accelerate_prepared", None)
        self.accelerator._models.clear()

    def _use_one_gpu(self) -> None:
        """Keeps transformers from splitting batches: not all their tensors have a row a user."""
        if self.args.n_gpu > 1:
            warnings.warn(
                f"one of {self.args.n_gpu} GPUs is used: a batch is not split within a process; to "
                "use all, start a process for each with `accelerate launch`, as example 3 does, "
                "and to hide this set CUDA_VISIBLE_DEVICES to one",
                stacklevel=4,
            )
            self.args._n_gpu = 1
            self._train_batch_size = self.args.train_batch_size

    def _stay_stopped(self, checkpoint: Path) -> None:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        control = state.stateful_callbacks["TrainerControl"]["args"]
        # The Trainer forgets that it had stopped, but takes no step beyond the last.
        if control["should_training_stop"]:
            self.args.max_steps = state.global_step

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler:
        # In order whatever the training order is: ranks of two models are compared user by user.
        return SequentialSampler(eval_dataset)


def by_length(dataset: Dataset) -> Subset:
    """Orders a dataset by the length of its ``input_ids``, longest first."""
    lengths = [len(dataset[index]["input_ids"]) for index in range(len(dataset))]
    return Subset(dataset, np.argsort(lengths, kind="stable")[::-1].tolist())


def rank_dataset(model: nn.Module, dataset: Dataset, *, batch_size: int) -> np.ndarray:
    """Ranks every target of a dataset over the whole catalogue.

    Args:
        model: see the head of this file.
        dataset: examples with ``input_ids``, ``labels`` and ``seen``.
        batch_size: examples at a time; the catalogue is scored for so many in chunks.

    Returns:
        ``(users, 2)`` int64 ranks in the order of the dataset, a column for each protocol.
    """
    with tempfile.TemporaryDirectory() as folder:
        args = ranking_arguments(folder, per_device_eval_batch_size=batch_size)
        return RankingTrainer(model, args).rank(dataset)
