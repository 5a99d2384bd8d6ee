"""The Trainer's progress bar, with its time left, and a short line for what it logs."""

from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

# What is said of a log, by its key there: the Trainer's dictionaries of 20 metrics fill a console.
SAID = {
    "loss": "loss",
    "eval_unmasked_ndcg@10": "validation ndcg@10",
    "eval_unmasked_hr@10": "hr@10",
}


class ShortProgress(ProgressCallback):
    """Shows the bar as transformers does, and of what is logged the loss and two metrics."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes a line above the bar, or nothing."""
        line = short_line(logs or {})
        if line and state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(line)


def short_line(logs: dict[str, Any]) -> str:
    """Says what a log holds of the loss and the metrics that choose; empty where it has neither.

    Example:
        >>> short_line({"loss": 6.0312, "grad_norm": 1.1, "epoch": 0.25})
        'epoch 0.25: loss 6.031'
        >>> short_line({"eval_unmasked_hr@10": 0.125, "eval_unmasked_ndcg@10": 0.0612, "epoch": 1})
        'epoch 1: validation ndcg@10 0.0612, hr@10 0.125'
        >>> short_line({"train_runtime": 12.5, "epoch": 3})
        ''
    """
    told = [f"{name} {logs[key]:.4g}" for key, name in SAID.items() if key in logs]
    return f"epoch {logs.get('epoch', 0):.4g}: {', '.join(told)}" if told else ""
