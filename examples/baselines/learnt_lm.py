"""Language models that learn in whole or in part: what the scripts beside this one do alike.

Axes: B rows, T tokens, H width of the last hidden states, V vocabulary.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, TaskType
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, ProgressCallback, Trainer, TrainingArguments

from laser_peft.data import PaddingCollator
from laser_peft.training import LaserSettings
from laser_peft.training.laser import laser_arguments
from laser_peft.training.progress import ShortProgress


def add_lm_options(
    parser: argparse.ArgumentParser, *, learning_rate: object, batch_size: int = 32
) -> None:
    """Adds the options of the schedule, of :func:`lora` and of prompts.

    Args:
        parser: of a script.
        learning_rate: what is said of the rate where none is given, which is then None.
        batch_size: examples a step.
    """
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=batch_size, help="examples a step")
    parser.add_argument("--learning-rate", type=float, help=f"by default {learning_rate}")
    parser.add_argument("--max-tokens", type=int, default=512, help="longest prompt, in all")
    parser.add_argument("--rank", type=int, default=8, help="of LoRA")
    parser.add_argument("--target-modules", help="of LoRA, or all-linear; by default PEFT's")


def lora(args: argparse.Namespace, task: TaskType) -> LoraConfig:
    """Makes a configuration of LoRA, on the attention's projections that PEFT knows of a model."""
    return LoraConfig(
        task_type=task,
        r=args.rank,
        lora_alpha=2 * args.rank,
        lora_dropout=0.05,
        target_modules=args.target_modules,
    )


class Learner(nn.Module):
    """A module of which checkpoints hold what learns, and nothing that is frozen or tied."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns what learns."""
        learning = {name for name, values in self.named_parameters() if values.requires_grad}
        whole = super().state_dict(*args, **kwargs)
        return {name: values for name, values in whole.items() if name in learning}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Loads what learns; the rest stays as it is."""
        return super().load_state_dict(super().state_dict() | dict(state_dict), *args, **kwargs)


class NextTokens(Learner):
    """A causal language model whose backbone and vocabulary head are called one by one.

    Of a long prompt only a few tokens are predicted: logits of the others are never computed.

    Args:
        lm: as it is, or with LoRA.
    """

    def __init__(self, lm: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.lm = lm

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The language model, LoRA's layers in it if there are any."""
        return self.lm.get_base_model() if isinstance(self.lm, PeftModel) else self.lm

    def states(self, **inputs: Any) -> Tensor:
        """Returns the last hidden states, ``(B, T, H)``."""
        return self.causal_lm.base_model(**inputs).last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        """Returns the logits ``(..., V)`` float32 of what follows ``(..., H)`` states."""
        return self.causal_lm.get_output_embeddings()(states).float()


class LMTrainer(Trainer):
    """transformers' Trainer for models that return a mean loss alone; the least one is kept."""

    loss_is_scaled_for_ga = False

    def __init__(
        self, model: nn.Module, args: TrainingArguments, learn: Dataset, validation: Dataset
    ) -> None:
        super().__init__(
            model,
            args,
            data_collator=PaddingCollator(),
            train_dataset=learn,
            eval_dataset=validation,
        )
        self.model_accepts_loss_kwargs = False
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ShortProgress())


def schedule(
    args: argparse.Namespace, num_examples: int, *, learning_rate: float, **arguments: Any
) -> TrainingArguments:
    """Returns the Trainer's arguments, those of ``laser-peft train`` for so many examples.

    Args:
        args: with ``output``, ``epochs``, ``batch_size``, ``bf16`` and ``seed``.
        num_examples: of an epoch.
        learning_rate: of AdamW at its highest.
        **arguments: further ones.
    """
    settings = LaserSettings(
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=learning_rate,
        bf16=args.bf16,
    )
    folder = Path(args.output) / "checkpoints"
    return laser_arguments(folder, settings, num_examples, seed=args.seed, **arguments)


def train(
    model: nn.Module,
    learn: Dataset,
    validation: Dataset,
    args: argparse.Namespace,
    learning_rate: float,
) -> list[dict[str, Any]]:
    """Trains as ``laser-peft train`` schedules it; the model ends at its least validation loss.

    Args:
        model: its forward returns ``loss``.
        learn: examples.
        validation: further ones, that choose the step.
        args: see :func:`schedule`.
        learning_rate: see there.

    Returns:
        The Trainer's log.
    """
    arguments = schedule(
        args,
        len(learn),
        learning_rate=learning_rate,
        prediction_loss_only=True,
        save_total_limit=1,
        load_best_model_at_end=True,
    )
    trainer = LMTrainer(model, arguments, learn, validation)
    trainer.train()
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model.eval()
    return trainer.state.log_history
