r"""Tunes a language model to write the next item's title, and lets it write catalogue titles only.

    python examples/baselines/p5_like.py --output runs/p5 \
        --interactions interactions.csv.gz --items items.jsonl.gz --llm LM --encoder SASREC

Beam search over a trie of the catalogue's titles gives a list of items, the likeliest first. Items
of one title share a place, and all that no beam has written share the last: ties, which count
against the target.

Axes: B users, T tokens, N items.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from learnt_lm import NextTokens, add_lm_options, lora, train
from peft import TaskType, get_peft_model
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
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, set_seed

from laser_peft.baselines import rank_examples
from laser_peft.comparison import evaluate_encoder
from laser_peft.data import Catalogue, PromptBuilder
from laser_peft.data.pieces import PieceEncoder
from laser_peft.data.sequences import Example
from laser_peft.evaluation import Scores
from laser_peft.item_texts import describe_items
from laser_peft.runs import adds_seconds

INSTRUCTION, ENDING = "A shopper's purchases, oldest first.\n", "Next:"
LEARNING_RATES = {"lora": 1e-3, "full": 1e-4}
IGNORE_INDEX = -100


class Titles:
    """The catalogue's titles in tokens, and the trie of them.

    Args:
        tokenizer: the language model's.
        catalogue: the items.
        longest: tokens of a title, at most; what is beyond is cut.

    Raises:
        ValueError: if the tokenizer has no token that ends a text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, catalogue: Catalogue, longest: int
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token, by which a "
                "title ends; set its eos_token"
            )
        self.end = int(tokenizer.eos_token_id)
        said = describe_items(catalogue, title_template(catalogue))
        encoded = PieceEncoder(tokenizer).plain([f" {title}" for title in said])
        self.tokens = [[*tokens[:longest], self.end] for tokens in encoded]
        self.longest = max(map(len, self.tokens))
        self.items: dict[tuple[int, ...], list[int]] = defaultdict(list)  # places from 0
        self.trie: dict[int, Any] = {}
        for place, tokens in enumerate(self.tokens):
            self.items[tuple(tokens)].append(place)
            node = self.trie
            for token in tokens:
                node = node.setdefault(token, {})

    def allowed_after(self, start: int) -> Callable[[int, Tensor], list[int]]:
        """Returns what ``generate`` asks for a text's next tokens, of which a title begins there.

        Args:
            start: how many tokens of a row are its prompt, padding included.
        """

        def allowed(row: int, tokens: Tensor) -> list[int]:
            node = self.trie
            for token in tokens[start:].tolist():
                node = node.get(token, {})
            return list(node) or [self.end]  # behind a title's end only beams that are done with

        return allowed

    def named_by(self, tokens: Sequence[int]) -> list[int]:
        """Returns the places from 0 of the items of a title; none if it is no whole title."""
        if self.end not in tokens:
            return []
        return self.items.get(tuple(tokens[: tokens.index(self.end) + 1]), [])


class TitlesDataset(Dataset):
    """Histories as prompts, followed by the target's title.

    Args:
        examples: histories and targets.
        prompts: says a history.
        titles: of the catalogue.
    """

    def __init__(self, examples: Sequence[Example], prompts: PromptBuilder, titles: Titles) -> None:
        self.examples = examples
        self.prompts = prompts
        self.titles = titles

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns ``input_ids (T,)`` and ``labels (T,)``, the title alone."""
        example = self.examples[index]
        prompt, title = self.prompts(example.history), self.titles.tokens[example.target - 1]
        return {"input_ids": prompt + title, "labels": [IGNORE_INDEX] * len(prompt) + title}


class Writer(NextTokens):
    """A language model that writes what follows a prompt."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Any]:
        """Computes the loss.

        Args:
            input_ids: ``(B, T)`` int64, padded on the right, where no real token sees the pads.
            attention_mask: not needed.
            labels: ``(B, T)`` int64, each token's own id, -100 to skip it.

        Returns:
            ``loss``, a scalar in nats a token.
        """
        states = self.states(input_ids=input_ids, use_cache=False)[:, :-1]
        following = labels[:, 1:]
        wanted = following != IGNORE_INDEX
        return {"loss": F.cross_entropy(self.logits(states[wanted]), following[wanted])}

    @torch.inference_mode()
    def write(
        self, prompts: Sequence[Sequence[int]], titles: Titles, *, beams: int
    ) -> list[list[list[int]]]:
        """Writes titles by beam search.

        Args:
            prompts: B times the tokens of a prompt.
            titles: those that may be written.
            beams: how many are followed, and given back.

        Returns:
            For each prompt the tokens that follow it, the likeliest first.
        """
        lm = self.causal_lm
        longest = max(map(len, prompts))
        pads = [longest - len(prompt) for prompt in prompts]
        rows = [[titles.end] * pad + list(row) for pad, row in zip(pads, prompts, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in pads]
        written = lm.generate(
            torch.tensor(rows, device=lm.device),
            attention_mask=torch.tensor(mask, device=lm.device),
            prefix_allowed_tokens_fn=titles.allowed_after(longest),
            max_new_tokens=titles.longest,
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=0.0,  # the likelihood of the whole title
            do_sample=False,
            eos_token_id=titles.end,
            pad_token_id=titles.end,
        )
        return written[:, longest:].unflatten(0, (len(prompts), beams)).tolist()


class WrittenItems:
    """Scores items by the place of their title among those that were written.

    Args:
        writer: the tuned language model.
        prompts: says a history.
        titles: of the catalogue.
        beams: how many titles are written for a user.
        batch_size: users at a time.
    """

    def __init__(
        self,
        writer: Writer,
        prompts: PromptBuilder,
        titles: Titles,
        *,
        beams: int,
        batch_size: int,
    ) -> None:
        self.writer = writer
        self.prompts = prompts
        self.titles = titles
        self.beams = beams
        self.batch_size = batch_size
        self.num_items = len(titles.tokens)

    def scores(self, histories: Sequence[np.ndarray]) -> Scores:
        """Scores a batch; see :meth:`laser_peft.baselines.Baseline.scores`."""
        table = torch.zeros(len(histories), self.num_items)
        written = tqdm(self._written(histories), "Writing", len(histories), disable=None)
        for row, titles in zip(table, written, strict=True):
            for place, items in enumerate(titles):
                row[items] = row[items].clamp(min=self.beams - place)  # the first time counts
        return Table(table)

    def _written(self, histories: Sequence[np.ndarray]) -> Iterator[list[list[int]]]:
        """Yields for each history the items of each title."""
        for first in range(0, len(histories), self.batch_size):
            batch = [self.prompts(row) for row in histories[first : first + self.batch_size]]
            for titles in self.writer.write(batch, self.titles, beams=self.beams):
                yield [self.titles.named_by(tokens) for tokens in titles]


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common_parser(__doc__.splitlines()[0], "runs/baselines/p5-like", test_users=1000)
    parser.add_argument("--method", choices=LEARNING_RATES, default="lora")
    parser.add_argument("--encoder", help="a SASRec to test on the same users; none: without")
    add_lm_options(parser, learning_rate=LEARNING_RATES)
    parser.add_argument("--title-tokens", type=int, default=32, help="longest title, cut there")
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--test-batch-size", type=int, default=16, help="users at a time")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and tests."""
    args = read_arguments(argv)
    experiment = start(args)
    catalogue, judge = experiment.catalogue, judge_of(experiment, args.test_users)
    encoder = load_encoder(args.encoder, catalogue) if args.encoder else None
    split = part_to_learn_from(experiment, args)
    tokenizer = AutoTokenizer.from_pretrained(args.llm)
    titles = Titles(tokenizer, catalogue, args.title_tokens)
    room = args.max_tokens - titles.longest
    prompts = title_prompts(tokenizer, catalogue, room, instruction=INSTRUCTION, ending=ENDING)
    set_seed(args.seed)
    lm = AutoModelForCausalLM.from_pretrained(args.llm, dtype="float32")
    if args.method == "lora":
        lm = get_peft_model(lm, lora(args, TaskType.CAUSAL_LM))
    writer = Writer(lm)
    learn, validation = (
        TitlesDataset(examples, prompts, titles)
        for examples in (split.training_examples(every_prefix=False), split.validation)
    )
    rate = args.learning_rate or LEARNING_RATES[args.method]
    with adds_seconds(args.output, "train"):
        history = train(writer, learn, validation, args, rate)
    written = WrittenItems(
        writer, prompts, titles, beams=args.beams, batch_size=args.test_batch_size
    )
    device = writer.causal_lm.device.type
    with adds_seconds(args.output, "test"), torch.autocast(device, torch.bfloat16, args.bf16):
        ranks = rank_examples(written, judge.examples)
    evaluations = [judge.evaluation(f"p5-like-{args.method}", ranks)]
    if encoder is not None:
        evaluations.append(evaluate_encoder(encoder.model, judge, max_items=encoder.max_items))
    finish(args.output, writer, history, evaluations)


if __name__ == "__main__":
    main()
