"""transformers' Trainer whose steps are the same in any number of processes."""

import warnings
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from laser_peft.processes import refuse_shards, summed

from .epoch_order import STANDS_IN, SharedBatches, StandIn
from .item_dropout import IGNORE_INDEX


class SharedSteps(Trainer):
    """Trainer of which every process takes its share of a step.

    Which examples a step has, its loss and its gradients are those of one process with as large a
    step, but for what dropout draws.

    Args:
        *args: as of transformers' Trainer.
        split_batches: as Accelerate names it: ``per_device_train_batch_size`` counts the examples
            of a step in all processes together, and not in each.
        **kwargs: as of transformers' Trainer.

    Raises:
        ValueError: if no process holds the whole model.
    """

    # Our losses are means; Trainer would otherwise take them for sums under accumulation.
    loss_is_scaled_for_ga = False

    def __init__(self, *args: Any, split_batches: bool = False, **kwargs: Any) -> None:
        refuse_shards()
        super().__init__(*args, **kwargs)
        self.split_batches = split_batches
        self.model_accepts_loss_kwargs = False

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as transformers' Trainer does."""
        if self.accelerator.num_processes > 1:  # no two drop the same; the first as if alone
            set_seed(self.args.seed, device_specific=True)
        with warnings.catch_warnings():
            # torch's, of an argument for which transformers knows no other.
            warnings.filterwarnings("ignore", ".broadcast_buffers. is deprecated", FutureWarning)
            return super().train(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """Returns what this process reads: its share of every step (:class:`SharedBatches`)."""
        state, dataset = self.accelerator, self.train_dataset
        batches = SharedBatches(
            self._get_train_sampler(),
            self._step_size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            process_index=state.process_index,
            num_processes=state.num_processes,
        )
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=StandIn(self.data_collator, dataset),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        # Shared out already.
        return prepare_data_loader(
            loader, state.device, num_processes=1, process_index=0, put_on_device=True
        )

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        """Returns the examples of an optimizer step."""
        return self._step_size * args.gradient_accumulation_steps

    @property
    def _step_size(self) -> int:
        processes = 1 if self.split_batches else self.accelerator.num_processes
        return self._train_batch_size * processes

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Computes the model's loss, so that its mean over processes is that over all labels.

        Each process's is a mean over its own labels, of which it may have more than others or none.
        """
        inputs = dict(inputs)
        stands_in = inputs.pop(STANDS_IN, False)
        labels = inputs["labels"]
        loss, output = super().compute_loss(model, inputs, return_outputs=True)
        if self.accelerator.num_processes > 1:
            inputs["labels"] = labels.new_empty(0) if stands_in else labels
            parts = self.parts_of_loss(loss, output, inputs)
            counts = torch.stack([count for _, count in parts])
            shares = counts * self.accelerator.num_processes / summed(counts).clamp(min=1)
            loss = (torch.stack([mean for mean, _ in parts]) * shares).sum()
        return (loss, output) if return_outputs else loss

    def parts_of_loss(
        self, loss: Tensor, output: Any, inputs: dict[str, Any]
    ) -> list[tuple[Tensor, Tensor]]:
        """Takes a loss apart into means, each with the int64 count of what it is the mean of.

        Args:
            loss: of this process.
            output: the model's.
            inputs: of the model; without any labels where the batch counts for nothing.
        """
        return [(loss, (inputs["labels"] != IGNORE_INDEX).sum())]
