"""transformers' Trainer for what learns the next item at every position of a history."""

from typing import Any

from torch import nn

from .item_dropout import leave_items_out
from .ranking_trainer import RankingTrainer, with_negatives


class NextItemTrainer(RankingTrainer):
    """Trains on histories; every step draws what it leaves out of them, and its own negatives.

    Args:
        *args: as of :class:`RankingTrainer`.
        num_items: items in the catalogue.
        num_negatives: 0 for a softmax over the whole catalogue; else how many are drawn.
        item_dropout: probability with which an item is left out of a history.
        **kwargs: as of :class:`RankingTrainer`.
    """

    def __init__(
        self,
        *args: Any,
        num_items: int,
        num_negatives: int,
        item_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.num_items = num_items
        self.num_negatives = num_negatives
        self.item_dropout = item_dropout

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Decays norms and biases too: the last norm's gain is the temperature of the scores."""
        return [name for name, _ in model.named_parameters()]

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Thins the histories, adds ``negatives (K,)``, then computes the model's own loss."""
        inputs = inputs | leave_items_out(inputs["input_ids"], inputs["labels"], self.item_dropout)
        of_step = dict(seed=self.args.seed, step=self.state.global_step)
        inputs = with_negatives(inputs, self.num_negatives, self.num_items, **of_step)
        return super().compute_loss(model, inputs, *args, **kwargs)
