"""transformers' Trainer for models that score a catalogue; it evaluates by ranking all of it.

A model here maps a batch to an output with ``user_vectors (B, R)``, gives ``item_vectors() (N, R)``
and, with ``labels``, a ``loss`` that is a mean.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, SequentialSampler, Subset
from transformers import EvalPrediction, Trainer, TrainingArguments

from laser_peft.data import PaddingCollator
from laser_peft.evaluation import PROTOCOLS, ranks_of_targets, summarise


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
        report_to="none",
        **arguments,
    )


def best_checkpoint_arguments() -> dict[str, Any]:
    """Returns the arguments that keep the newest checkpoint and go back to the best one."""
    return {
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "unmasked_ndcg@10",
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,  # early stopping goes on counting
    }


class RankingTrainer(Trainer):
    """Trainer whose predictions are ranks ``(users, 2)``, a column for each protocol."""

    # Our losses are means; Trainer would otherwise take them for sums under accumulation.
    loss_is_scaled_for_ga = False

    def __init__(self, model: nn.Module, args: TrainingArguments, **kwargs: Any) -> None:
        super().__init__(
            model,
            args,
            data_collator=PaddingCollator(),
            compute_metrics=metrics_of_ranks,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False

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
            user_vectors = model(**inputs).user_vectors
        item_vectors = self.accelerator.unwrap_model(model).item_vectors()
        return None, ranks_of_targets(user_vectors, item_vectors, targets, seen), targets

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains, then takes off the mixed-precision wrapper that Accelerate leaves on a model."""
        output = super().train(*args, **kwargs)
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.model.eval()
        return output

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
    ordered = by_length(dataset)
    with tempfile.TemporaryDirectory() as folder:
        args = ranking_arguments(folder, per_device_eval_batch_size=batch_size)
        predictions = RankingTrainer(model, args).predict(ordered).predictions
    ranks = np.empty_like(predictions)
    ranks[ordered.indices] = predictions
    return ranks
