r"""Tunes a language model to say whether a shopper buys a candidate; re-ranks a SASRec by it.

    python examples/baselines/tallrec_like.py --output runs/tallrec \
        --interactions interactions.csv.gz --items items.jsonl.gz --llm LM --encoder SASREC

The prompt says the titles of the history, a candidate's title and the question; the answer is the
token " Yes" or " No". It learns from each user's next item and one item drawn at random. To ask
about every item of a catalogue is out of reach, so the SASRec's first candidates are asked about
and put in order; all others keep the places that the SASRec gives them.

Axes: B users or prompts, T tokens, N items, K candidates of a user, V vocabulary.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from learnt_lm import NextTokens, add_lm_options, lora, train
from peft import PeftModel, TaskType, get_peft_model
from same_test import (
    Table,
    common_parser,
    finish,
    judge_of,
    load_encoder,
    part_to_learn_from,
    start,
    title_prompts,
    title_template,
)
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedTokenizerBase,
    set_seed,
)

from laser_peft.baselines import Encoder, rank_examples
from laser_peft.comparison import evaluate_encoder
from laser_peft.data import Catalogue, PaddingCollator
from laser_peft.data.pieces import PieceEncoder
from laser_peft.data.sequences import Example
from laser_peft.evaluation import Scores
from laser_peft.item_texts import describe_items
from laser_peft.masking import newest_state
from laser_peft.runs import adds_seconds

INSTRUCTION = "A shopper's purchases, oldest first.\n"
CANDIDATE, QUESTION = "Candidate:", "\nWill the shopper buy the candidate next?"
YES, NO = " Yes", " No"
LONGEST_CANDIDATE = 48  # tokens of its title; what is beyond is cut
LEARNING_RATE = 1e-3


class Questions:
    """Says a history and a candidate in tokens.

    Args:
        tokenizer: the language model's.
        catalogue: the items.
        max_tokens: longest prompt.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, catalogue: Catalogue, max_tokens: int
    ) -> None:
        pieces = PieceEncoder(tokenizer)
        yes, no = (pieces.following(QUESTION + answer) for answer in (YES, NO))
        # Where the two begin alike (a space of its own), that is part of the question.
        shared = next(
            place for place, pair in enumerate(zip(yes, no, strict=False)) if len(set(pair)) > 1
        )
        self.question, self.answers = yes[:shared], (no[shared], yes[shared])
        titles = describe_items(catalogue, title_template(catalogue))
        self.candidates = [
            tokens[:LONGEST_CANDIDATE] for tokens in pieces.plain([f" {title}" for title in titles])
        ]
        self.history = title_prompts(
            tokenizer,
            catalogue,
            max_tokens - LONGEST_CANDIDATE - len(self.question),
            instruction=INSTRUCTION,
            ending=CANDIDATE,
        )

    def about(self, item: int) -> list[int]:
        """Returns the tokens that follow a history: the candidate and the question."""
        return self.candidates[item - 1] + self.question


class AnswersDataset(Dataset):
    """Each example twice: with its target, to which the answer is yes, and with another item.

    Args:
        examples: histories and targets.
        questions: says them in tokens.
        num_items: items N, of which one that the user has not had is drawn.
        seed: of what is drawn, once and for all.
    """

    def __init__(
        self, examples: Sequence[Example], questions: Questions, num_items: int, seed: int
    ) -> None:
        self.examples = examples
        self.questions = questions
        random = np.random.default_rng(seed)
        self.others = [self._other(example, num_items, random) for example in examples]

    def __len__(self) -> int:
        return 2 * len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns ``input_ids (T,)`` and ``labels``, the token of the answer."""
        example, is_target = self.examples[index // 2], index % 2
        item = example.target if is_target else self.others[index // 2]
        tokens = self.questions.history(example.history) + self.questions.about(item)
        return {"input_ids": tokens, "labels": self.questions.answers[is_target]}

    @staticmethod
    def _other(example: Example, num_items: int, random: np.random.Generator) -> int:
        had = {example.target, *example.history.tolist()}
        while (item := int(random.integers(1, num_items + 1))) in had and len(had) < num_items:
            pass
        return item


class Answerer(NextTokens):
    """A language model whose next token is the answer; it must attend to a cache of others.

    Args:
        lm: with LoRA.
        answers: the tokens of no and of yes.
    """

    def __init__(self, lm: PeftModel, answers: tuple[int, int]) -> None:
        super().__init__(lm)
        self.answers = answers

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Computes the loss.

        Args:
            input_ids: ``(B, T)`` int64, padded on the right, where no real token sees the pads.
            attention_mask: ``(B, T)`` bool, True where real.
            labels: ``(B,)`` int64, the next token.

        Returns:
            ``loss``, a scalar in nats over the whole vocabulary.
        """
        states = self.states(input_ids=input_ids, use_cache=False)
        logits = self.logits(newest_state(states, attention_mask))
        return {"loss": F.cross_entropy(logits, labels)}

    @torch.inference_mode()
    def scores(self, text: Sequence[int], followings: Sequence[Sequence[int]]) -> Tensor:
        """Scores what may follow a text, which is read once.

        Args:
            text: tokens.
            followings: K times the tokens that follow them.

        Returns:
            ``(K,)`` float32, the log-odds of yes against no.
        """
        device = self.causal_lm.device
        cache = DynamicCache(config=self.causal_lm.config)
        told = torch.tensor([list(text)], device=device)
        self.states(input_ids=told, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(followings))
        batch = PaddingCollator()([{"input_ids": tokens} for tokens in followings])
        asked, real = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        states = self.states(input_ids=asked, past_key_values=cache, use_cache=True)
        logits = self.logits(newest_state(states, real))
        return logits[:, self.answers[1]] - logits[:, self.answers[0]]


class Reranker:
    """Puts an encoder's first items in the order of the answers, before all others.

    Asked about are the first ``num_candidates`` items that the user has not had, and those that
    the user has had which the encoder places among them: in both protocols they are the encoder's
    first ones, so that whatever is not among them keeps its place.

    Args:
        encoder: a trained one.
        answerer: the tuned language model.
        questions: says histories and candidates.
        num_candidates: K.
    """

    def __init__(
        self, encoder: Encoder, answerer: Answerer, questions: Questions, num_candidates: int
    ) -> None:
        self.encoder = encoder
        self.answerer = answerer
        self.questions = questions
        self.num_candidates = num_candidates
        self.num_items = encoder.num_items

    def scores(self, histories: Sequence[np.ndarray]) -> Scores:
        """Scores a batch; see :meth:`laser_peft.baselines.Baseline.scores`."""
        table = self.encoder.scores(histories).of_range(0, self.num_items).clone()
        for row, history in zip(
            table, tqdm(histories, desc="Re-ranking", disable=None), strict=True
        ):
            items = self._candidates(row, history)
            answers = self.answerer.scores(
                self.questions.history(history),
                [self.questions.about(item + 1) for item in items.tolist()],
            )
            # Places counted from the last; equal answers share one, and so count as ties.
            places = answers.unique(return_inverse=True)[1]
            row[items] = row.max() + 1 + places.to(row)
        return Table(table)

    def _candidates(self, scores: Tensor, history: np.ndarray) -> Tensor:
        """Picks of ``(N,)`` scores the places, from 0, of what is asked about."""
        order = scores.argsort(descending=True, stable=True)
        had = torch.as_tensor(history, device=order.device) - 1
        counted = (~torch.isin(order, had)).cumsum(0)
        return order[counted <= self.num_candidates]


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common_parser(__doc__.splitlines()[0], "runs/baselines/tallrec-like", test_users=1000)
    parser.add_argument("--encoder", default="runs/examples/sasrec", help="a trained SASRec")
    add_lm_options(parser, learning_rate=LEARNING_RATE, batch_size=64)  # 2 questions a user
    parser.add_argument("--candidates", type=int, default=100, help="asked about for a user")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and tests."""
    args = read_arguments(argv)
    experiment = start(args)
    catalogue, judge = experiment.catalogue, judge_of(experiment, args.test_users)
    encoder = load_encoder(args.encoder, catalogue)
    split = part_to_learn_from(experiment, args)
    tokenizer = AutoTokenizer.from_pretrained(args.llm)
    questions = Questions(tokenizer, catalogue, args.max_tokens)
    learn, validation = (
        AnswersDataset(examples, questions, len(catalogue), args.seed)
        for examples in (split.training_examples(every_prefix=False), split.validation)
    )
    set_seed(args.seed)
    lm = AutoModelForCausalLM.from_pretrained(args.llm, dtype="float32")
    answerer = Answerer(get_peft_model(lm, lora(args, TaskType.CAUSAL_LM)), questions.answers)
    with adds_seconds(args.output, "train"):
        rate = args.learning_rate or LEARNING_RATE
        history = train(answerer, learn, validation, args, rate)
    reranker = Reranker(encoder, answerer, questions, args.candidates)
    device = answerer.causal_lm.device.type
    with adds_seconds(args.output, "test"), torch.autocast(device, torch.bfloat16, args.bf16):
        ranks = rank_examples(reranker, judge.examples)
    evaluations = [
        judge.evaluation("tallrec-like", ranks),
        evaluate_encoder(encoder.model, judge, max_items=encoder.max_items),
    ]
    finish(args.output, answerer, history, evaluations)


if __name__ == "__main__":
    main()
