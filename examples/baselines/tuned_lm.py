r"""Tunes a language model itself (LoRA, all of it, or a prompt) to read a shopper's history.

    python examples/baselines/tuned_lm.py --method lora --output runs/lora \
        --interactions interactions.csv.gz --items items.jsonl.gz --llm LM --encoder SASREC

A learned token ends the prompt; a linear map of its last hidden state is the user's vector, which
scores the items by the text vectors that Laser scores them by. Writes the test of this model alone
and, with ``--encoder``, beside that SASRec's scores, weighed as Laser weighs its two views.

Axes: B users, T text tokens, N items, D and H widths of the language model, X of text vectors,
C of the encoder, W weighings.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from learnt_lm import Learner, add_lm_options, lora, schedule
from peft import PeftModel, PromptTuningConfig, TaskType, get_peft_model
from same_test import (
    MAX_ITEMS,
    common_parser,
    finish,
    judge_of,
    laser_text_vectors,
    load_encoder,
    part_to_learn_from,
    start,
)
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel, set_seed
from transformers.utils import ModelOutput

from laser_peft.baselines import Encoder
from laser_peft.baselines.text import load_lm
from laser_peft.comparison import evaluate_encoder
from laser_peft.data import PromptBuilder, Split
from laser_peft.data.sequences import training_events
from laser_peft.evaluation import DotProducts, ndcg_at
from laser_peft.losses import catalogue_cross_entropy
from laser_peft.runs import adds_seconds
from laser_peft.training import (
    PromptDataset,
    RankingTrainer,
    best_checkpoint_arguments,
    by_length,
)
from laser_peft.training.weighing import WEIGHINGS_OF_TWO, WeighedScores, best_weighing
from laser_peft.tuner.fusing import ViewWeights
from laser_peft.tuner.items import RARE
from laser_peft.tuner.joining import join, read

METHODS = ("lora", "full", "prompt")
ALONE = ViewWeights(0.0, 1.0, 0.0)
LEARNING_RATES = {"lora": 1e-3, "full": 1e-4, "prompt": 1e-2}  # of the language model's part
HEAD_LEARNING_RATE = 1e-3


@dataclass
class UserOutput(ModelOutput):
    """What a reading of users gives: their vectors ``(B, C + X)``, and a loss with labels."""

    loss: Tensor | None = None
    user_vectors: Tensor | None = None


class TunedLM(Learner):
    """A language model with a learned last token and a linear head, beside a frozen encoder.

    Args:
        backbone: without its vocabulary head; what of it requires gradients is trained.
        texts: ``(N, X)`` float, what items are scored by.
        encoder: a trained SASRec, left as it is; None: without.
        events: ``(N,)`` int64, how often the encoder saw each item in its training.
    """

    def __init__(
        self,
        backbone: PreTrainedModel | PeftModel,
        texts: Tensor,
        encoder: PreTrainedModel | None,
        events: Tensor,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        table = backbone.get_input_embeddings().weight
        self.suffix = nn.Parameter(torch.randn(1, table.size(1)) * table.detach().std().cpu())
        self.head = nn.Linear(backbone.config.get_text_config().hidden_size, texts.size(1))
        self.encoder = None if encoder is None else encoder.requires_grad_(False)
        for name, values in (("texts", texts), ("events", events)):
            self.register_buffer(name, values)

    def train(self, mode: bool = True) -> "TunedLM":
        """Switches all but the encoder, whose dropout stays off."""
        super().train(mode)
        if self.encoder is not None:
            self.encoder.eval()
        return self

    def item_vectors(self) -> Tensor:
        """Returns ``(N, C + X)`` vectors; the encoder's part is zero for what it never saw."""
        if self.encoder is None:
            return self.texts
        own = self.encoder.get_input_embeddings().weight[1:] * (self.events[:, None] > 0)
        return torch.cat([own, self.texts], 1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        history: Tensor,
        history_mask: Tensor,
        labels: Tensor | None = None,
    ) -> UserOutput:
        """Reads users.

        Args:
            input_ids: ``(B, T)`` int64, the prompt's tokens.
            attention_mask: ``(B, T)`` bool, True where real.
            history: ``(B, L)`` int64, item ids for the encoder, 0 = padding.
            history_mask: ``(B, L)`` bool, True where real.
            labels: ``(B,)`` int64, the next item; the loss is of the texts alone, for the encoder
                has seen these events.

        Returns:
            A :class:`UserOutput`.
        """
        text = self.backbone.get_input_embeddings()(input_ids)
        joined = join(text[:, :0], text, self.suffix, attention_mask)
        states = self.backbone(inputs_embeds=joined.inputs_embeds, use_cache=False)
        states = states.last_hidden_state
        before = states.size(1) - joined.inputs_embeds.size(1)  # a tuned prompt stands there
        state = read(states, before + joined.suffix_positions)[:, 0].float()
        # Autocast would round the user vectors to half precision, and so make ties.
        with torch.autocast(state.device.type, enabled=False):
            users = self.head(state)
            if labels is not None:
                return UserOutput(loss=catalogue_cross_entropy(users, self.texts, labels))
            if self.encoder is not None:
                encoded = self.encoder(input_ids=history, attention_mask=history_mask)
                users = torch.cat([encoded.user_vectors, users], 1)
        return UserOutput(user_vectors=users)


class WeighingTrainer(RankingTrainer):
    """Ranks under every one of ``weighings`` at once: predictions are ``(users, 2 W)``."""

    weighings: Sequence[ViewWeights] = (ALONE,)

    def ranks(
        self, output: ModelOutput, item_vectors: Tensor, targets: Tensor, seen: Tensor
    ) -> Tensor:
        """Ranks the targets: ``(B, 2 W)`` int64."""
        user_vectors = output.user_vectors
        model = self.accelerator.unwrap_model(self.model)
        width = item_vectors.size(1) - model.texts.size(1)
        return WeighedScores(
            DotProducts(user_vectors[:, :width], item_vectors[:, :width]),
            DotProducts(user_vectors[:, width:], item_vectors[:, width:]),
            None,
            RARE / (RARE + model.events.float()),
            self.weighings,
        ).ranks(targets, seen)


def metrics_of_weighings(prediction: EvalPrediction) -> dict[str, float]:
    """Picks the weighing as Laser does; says its place and its NDCG@10, the mean of protocols."""
    place, ranks = best_weighing(prediction.predictions)
    return {"ndcg@10": float(ndcg_at(10, ranks).mean()), "weighing": place}


def tuned(lm: PreTrainedModel, args: argparse.Namespace) -> PreTrainedModel | PeftModel:
    """Makes of a language model without its vocabulary head what is to be trained."""
    if args.method == "full":
        return lm
    task = TaskType.FEATURE_EXTRACTION
    if args.method == "prompt":
        return get_peft_model(
            lm, PromptTuningConfig(task_type=task, num_virtual_tokens=args.virtual_tokens)
        )
    return get_peft_model(lm, lora(args, task))


def make_trainer(
    model: TunedLM, prompts: PromptBuilder, split: Split, args: argparse.Namespace
) -> WeighingTrainer:
    """Makes a trainer with the schedule of ``laser-peft train``."""
    examples = split.training_examples(every_prefix=False)
    head = [model.suffix, *model.head.parameters()]
    inside = [values for values in model.backbone.parameters() if values.requires_grad]
    rate = args.learning_rate or LEARNING_RATES[args.method]
    groups = [{"params": inside, "lr": rate}, {"params": head, "lr": HEAD_LEARNING_RATE}]
    trainer = WeighingTrainer(
        model,
        schedule(args, len(examples), learning_rate=rate, **best_checkpoint_arguments("ndcg@10")),
        train_dataset=PromptDataset(examples, prompts, max_items=MAX_ITEMS),
        eval_dataset=by_length(
            PromptDataset(split.validation, prompts, max_items=MAX_ITEMS, ranked=True)
        ),
        optimizers=(torch.optim.AdamW(groups, weight_decay=0.01), None),
        compute_metrics=metrics_of_weighings,
    )
    trainer.weighings = (ALONE,) if model.encoder is None else WEIGHINGS_OF_TWO
    return trainer


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common_parser(__doc__.splitlines()[0], "runs/baselines/tuned-lm")
    parser.add_argument("--method", choices=METHODS, default="lora")
    parser.add_argument("--encoder", help="a trained SASRec to stand beside; none: alone only")
    add_lm_options(parser, learning_rate=LEARNING_RATES)
    parser.add_argument("--virtual-tokens", type=int, default=16, help="of the tuned prompt")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and tests."""
    args = read_arguments(argv)
    experiment = start(args)
    catalogue, judge = experiment.catalogue, judge_of(experiment, args.test_users)
    encoder: Encoder | None = args.encoder and load_encoder(args.encoder, catalogue)
    set_seed(args.seed)
    lm, tokenizer = load_lm(args.llm, "float32")
    with adds_seconds(args.output, "item texts"):
        texts = laser_text_vectors(lm, tokenizer, catalogue)
    events = training_events(experiment.split.train_histories, len(catalogue))[1:]
    model = TunedLM(tuned(lm, args), texts, encoder and encoder.model, torch.from_numpy(events))
    prompts = PromptBuilder(tokenizer, catalogue, max_tokens=args.max_tokens, max_items=MAX_ITEMS)
    trainer = make_trainer(model, prompts, part_to_learn_from(experiment, args), args)
    with adds_seconds(args.output, "train"):
        trainer.train()

    history, best_step = trainer.state.log_history, trainer.state.best_global_step
    names = [f"{args.method}-lm"]
    chosen = [ALONE]
    if encoder is not None:
        place = next(
            int(row["eval_weighing"])
            for row in history
            if row["step"] == best_step and "eval_weighing" in row
        )
        print(f"weighed on validation users: {WEIGHINGS_OF_TWO[place]}")
        names.append(f"{args.method}-lm-and-{encoder.model.config.model_type}")
        chosen.append(WEIGHINGS_OF_TWO[place])
    trainer.weighings = chosen
    test = PromptDataset(judge.examples, prompts, max_items=MAX_ITEMS, ranked=True)
    with adds_seconds(args.output, "test"):
        ranks = trainer.rank(test)
    evaluations = [
        judge.evaluation(name, ranks[:, 2 * place : 2 * place + 2])
        for place, name in enumerate(names)
    ]
    if encoder is not None:
        evaluations.append(evaluate_encoder(encoder.model, judge, max_items=encoder.max_items))
    finish(args.output, model, history, evaluations)


if __name__ == "__main__":
    main()
