"""transformers' Trainer for Bi-Tuning adapters.

Axes: B users, N items, C collaborative width, R recommendation width, W weights tried.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import EvalPrediction, TrainingArguments

from laser_peft.evaluation import PROTOCOLS, DotProducts
from laser_peft.losses import router_balance_loss
from laser_peft.processes import summed
from laser_peft.tuner.fusing import ViewWeights
from laser_peft.tuner.one_adapter import keep_one

from .ranking_trainer import RankingTrainer, metrics_of_ranks, with_negatives
from .weighing import WEIGHINGS, WEIGHINGS_OF_TWO, WeighedScores, best_weighing


class LaserTrainer(RankingTrainer):
    """Trains the active adapter of a model; evaluates by ranking the whole catalogue.

    Examples hold ``input_ids (T,)``, ``history (L,)`` and ``labels``, a target's id; those to
    evaluate also ``seen``, all that the user has had (see ``PromptDataset``). Metrics are named
    like ``unmasked_ndcg@10``; ``ndcg@10`` is the mean of both protocols.

    With fused item vectors, evaluating the trainer's own ``eval_dataset`` also weighs the parts,
    the head's correction of the text reader among them: it tries :data:`WEIGHINGS` and leaves the
    adapter with the one of the highest ``ndcg@10``. In training the encoder's part is no guide, for
    the encoder has seen the very events that are learnt from. Other data sets, a dictionary of
    several, and predictions leave the weights as they are. What is saved is that adapter alone.

    Args:
        model: a causal LM with a Bi-Tuning adapter.
        args: as :func:`ranking_arguments` makes them.
        num_negatives: 0 for a softmax over the whole catalogue; else over the next item and so
            many others, drawn uniformly for every step.
        **kwargs: of transformers' Trainer, but for what computes metrics; without a
            ``data_collator`` it is ``PaddingCollator``.
    """

    def __init__(
        self, model: PeftModel, args: TrainingArguments, *, num_negatives: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(model, args, compute_metrics=self._metrics, **kwargs)
        self.num_negatives = num_negatives
        self._tried: tuple[ViewWeights, ...] | None = None  # while it weighs

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Adds ``negatives (K,)`` if they are asked for, then computes the model's own loss."""
        of_step = dict(seed=self.args.seed, step=self.state.global_step)
        inputs = with_negatives(inputs, self.num_negatives, self._tuner.num_items, **of_step)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Saves the adapter that is trained as the only one: the Trainer loads no other again."""
        model = self.accelerator.unwrap_model(self.model)
        if [*model.peft_config] == ["default"] or not self.args.should_save:
            super()._save(output_dir, *args, **kwargs)
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as scratch:
            super()._save(scratch, *args, **kwargs)
            keep_one(Path(scratch), model.active_adapter, model.peft_config)
            shutil.copytree(scratch, folder, dirs_exist_ok=True)

    def parts_of_loss(
        self, loss: Tensor, output: Any, inputs: dict[str, Any]
    ) -> list[tuple[Tensor, Tensor]]:
        """Balances the router over the users of all processes; the model did over its own.

        Takes the text reader's part out, which is a mean over positions and not over users.
        """
        users = torch.tensor(len(inputs["labels"]), device=loss.device)
        if output.router_chosen is not None:
            chosen = summed(output.router_chosen[: int(users)].sum(0))
            balance = router_balance_loss(output.router_probs, chosen)
            loss = loss + self._config.router_balance_weight * (balance - output.aux_loss)
        reading = output.reading_loss
        if reading is None:
            return [(loss, users)]
        followed = (inputs["history"] != 0).sum(1).sub(1).clamp(min=0).sum() * (users > 0)
        return [(loss - reading, users), (reading, followed)]

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Returns the metrics; on the trainer's own data set, with the best weights, then set.

        Args:
            eval_dataset: examples to rank; None: the trainer's own.
            *args: as of transformers' Trainer.
            **kwargs: as of transformers' Trainer.
        """
        is_one = eval_dataset is None and not isinstance(self.eval_dataset, dict)
        if not is_one or not self._is_fused:
            return super().evaluate(eval_dataset, *args, **kwargs)
        before = self._tuner.view_weights
        self._tried = self._weighings()
        # All parts at their full length; a correction that is zero need not be read.
        self._tuner.set_view_weights(1.0, 1.0, 0.0, self._tried[-1].correction)
        try:
            metrics = super().evaluate(eval_dataset, *args, **kwargs)
        except BaseException:
            self._tuner.set_view_weights(*before)
            raise
        finally:
            self._tried = None
        return metrics

    def ranks(self, output: Any, item_vectors: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
        """Ranks the targets: ``(B, 2)`` int64, or ``(B, 2 W)`` under every weighing."""
        if self._tried is None:
            return super().ranks(output, item_vectors, targets, seen)
        width = item_vectors.size(1) - self._config.item_text_dim
        texts, correction = output.user_vectors[:, width:], output.correction
        corrections = None
        if correction is not None:
            texts = texts - correction
            corrections = DotProducts(correction, item_vectors[:, width:])
        scores = WeighedScores(
            DotProducts(output.user_vectors[:, :width], item_vectors[:, :width]),
            DotProducts(texts, item_vectors[:, width:]),
            corrections,
            self._tuner.rare_items().to(item_vectors.device),
            self._tried,
        )
        return scores.ranks(targets, seen)

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Names the metrics; while weighing, those of the best weighing, which is then set.

        Every process is given the ranks of all users, so all take the same one.
        """
        if self._tried is None:
            return _both_protocols(prediction)
        place, ranks = best_weighing(prediction.predictions)
        best = self._tried[place]
        self._tuner.set_view_weights(*best)
        metrics = _both_protocols(EvalPrediction(ranks, prediction.label_ids))
        weights = {"text_weight": best.text}
        if self._config.has_text_skip:
            weights["correction_weight"] = best.correction
        return metrics | weights

    def _weighings(self) -> tuple[ViewWeights, ...]:
        """What is to be tried, the highest weight of the correction last."""
        if not self._config.has_text_skip:
            return WEIGHINGS_OF_TWO
        tuner = self._tuner
        head = tuner.layer.bituning_adapters[tuner.active_adapters[0]].head.projection
        if head.weight.any() or head.bias.any():
            return WEIGHINGS
        return tuple(weighing for weighing in WEIGHINGS if weighing.correction == 0)

    @property
    def _tuner(self) -> Any:
        return self.accelerator.unwrap_model(self.model).base_model

    @property
    def _config(self) -> Any:
        return self._tuner.peft_config[self._tuner.active_adapters[0]]

    @property
    def _is_fused(self) -> bool:
        return self._config.item_vectors == "fused"


def _both_protocols(prediction: EvalPrediction) -> dict[str, float]:
    metrics = metrics_of_ranks(prediction)
    both = [metrics[f"{protocol}_ndcg@10"] for protocol in PROTOCOLS]
    return metrics | {"ndcg@10": float(np.mean(both))}
