r"""Trains on real histories with language models of real shapes, as one does on a GPU.

    python examples/benchmarks/large_lms.py --shape qwen3-8b --rounds 8 \
        --interactions $DATA/interactions.csv.gz --items $DATA/items.jsonl.gz --llm $LM

The language model has random weights in bfloat16: what a step takes they tell too. Texts are those
of the log in the tokens of ``--llm``. All ways learn from the same users and share the frozen
weights; a round is every ``--rounds``-th batch of one pass over all users, so that all rounds
together are that pass.

Ours are whole steps, as ``laser-peft train`` takes them: SASRec, M-Former, backbone, head, text
reader, softmax over the catalogue, AdamW, in batches grouped by length; *padded* is the same
prefix-first step in random batches, padded on the left and masked, as one would write it. LoRA is
PEFT's, as its documentation has it: a causal language model with labels on the words of the next
item. The floor is the frozen backbone, forward and backward to the embedded tokens, with neither.

The share of the ceiling counts what a step has to compute of real tokens: two operations a weight
of the linear layers forward, two backward where a gradient passes. Neither attention nor pads are
counted, nor, in ours, the last layer, most of which is not run. The ceiling is the fastest product
of two bfloat16 matrices of 8,192 rows and columns in this process.
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from headline import NextItemText, plain_and_kept
from interleaved import Seconds, common_parser, finish, in_turns, start, timed
from peft import LoraConfig, TaskType, get_peft_model
from real_log import RealLog, add_log_options, grouped_batches
from steps import floor_loss, recommendation_loss
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from laser_peft.data import PaddingCollator
from laser_peft.training import PromptDataset
from laser_peft.training.datasets import PlacesCollator, PlacesDataset
from laser_peft.training.reading import kept_as_it_is

# Of Qwen3: width, layers, inner width, heads, tokens, whether the head is their embedding.
SHAPES = {
    "qwen3-0.6b": (1024, 28, 3072, 16, 151_936, True),
    "qwen3-4b": (2560, 36, 9728, 32, 151_936, True),
    "qwen3-8b": (4096, 36, 12288, 32, 151_936, False),
    "tiny": (32, 2, 43, 8, 8192, True),
}
KEY_VALUE_HEADS, HEAD_WIDTH, POSITIONS = 8, 128, 40_960
LORA, FLOOR = "PEFT LoRA, r = 8, padded", "floor: frozen backbone, by length"
PREFIX_FIRST, PADDED = "ours, prefix first, by length", "ours, prefix first, padded"
TEXT_FIRST, EVERY = "ours, text first, by length", "ours, text first, every position"
WAYS = (LORA, FLOOR, PREFIX_FIRST, PADDED, TEXT_FIRST, EVERY)
CEILING_REPEATS = 10
GIB = 2**30
Batch = dict[str, Tensor]


@dataclass
class Way:
    """A way to learn from users.

    Args:
        step: learns from a batch.
        batches: of all users.
        weights: of the linear layers that a token meets.
        virtual: tokens that a user has beside the text's.
        text_learns: whether a gradient passes the tokens of the text.
        within: what holds while it runs.
    """

    step: Callable[[Batch], None]
    batches: Sequence[Batch]
    weights: int
    virtual: int = 0
    text_learns: bool = True
    within: Callable[[], AbstractContextManager[Any]] = nullcontext
    peak: int = field(default=0, init=False)  # bytes beyond what was there before

    def of_round(self, place: int, rounds: int) -> Sequence[Batch]:
        """Returns the batches of one of the rounds."""
        return self.batches[place::rounds]

    def seconds(self, place: int, rounds: int, device: torch.device) -> Seconds:
        """Learns from a round's batches, and says how long it took for a target."""
        batches = [_moved(batch, device) for batch in self.of_round(place, rounds)]
        before = _start_peak(device)
        with self.within():
            taken = timed(lambda: [self.step(batch) for batch in batches])
        if device.type == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated(device) - before)
        return taken.per(sum(map(_users_in, batches)))

    def tokens(self, place: int, rounds: int) -> int:
        """Counts a round's real tokens, the virtual ones among them."""
        return sum(_text_in(b) + self.virtual_in(b) for b in self.of_round(place, rounds))

    def virtual_in(self, batch: Batch) -> int:
        """Counts the tokens that stand behind or before the texts of a batch."""
        ending = len(batch.get("ending_ids", ()))
        return (self.virtual + ending) * _users_in(batch)

    def operations(self, place: int, rounds: int) -> float:
        """Counts what has to be computed in a round."""
        of_text = 4 if self.text_learns else 2
        return float(
            sum(
                self.weights * (of_text * _text_in(batch) + 4 * self.virtual_in(batch))
                for batch in self.of_round(place, rounds)
            )
        )


def _moved(batch: Batch, device: torch.device) -> Batch:
    # Which text a user reads is checked on the CPU, and the loader of a Trainer moves the rest.
    return {name: values.to(device) for name, values in batch.items()}


def _start_peak(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _users_in(batch: Batch) -> int:
    return len(batch["text_rows"] if "text_rows" in batch else batch["input_ids"])


def _text_in(batch: Batch) -> int:
    return int(batch["attention_mask"].sum())


def shaped_like(shape: str, device: torch.device) -> PreTrainedModel:
    """Makes a random language model of one of :data:`SHAPES` in bfloat16."""
    width, layers, inner, heads, tokens, is_tied = SHAPES[shape]
    config = Qwen3Config(
        vocab_size=tokens,
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=KEY_VALUE_HEADS,
        head_dim=HEAD_WIDTH,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=is_tied,
    )
    with device:
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return lm.eval().requires_grad_(False)


def sharing_weights(lm: PreTrainedModel) -> PreTrainedModel:
    """Returns a language model of modules of its own and the same weights."""
    tensors = [*lm.parameters(), *lm.buffers()]
    return copy.deepcopy(lm, {id(tensor): tensor for tensor in tensors})


def linear_weights(part: nn.Module) -> int:
    """Counts the weights of linear layers."""
    return sum(each.weight.numel() for each in part.modules() if isinstance(each, nn.Linear))


def learning(
    model: nn.Module, compute: Callable[[Batch], Tensor], device: torch.device
) -> Callable[[Batch], None]:
    """Returns a step under autocast to bfloat16, with AdamW if anything learns."""
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-4, fused=True) if learnt else None

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = compute(batch)
        loss.backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    return step


@dataclass
class Users:
    """Some users of a log, and the batches that each way to learn makes of them.

    Args:
        log: what it is about.
        count: users.
        batch_size: of ours; what does not fill one is left out where texts are grouped.
        peer_batch_size: of a peer, whose scores of all words take most of the memory.
        seed: of the draw.
    """

    log: RealLog
    count: int
    batch_size: int
    peer_batch_size: int
    seed: int

    def __post_init__(self) -> None:
        """Draws them."""
        every = self.log.split.training_examples(every_prefix=False)
        drawn = np.random.default_rng(self.seed).permutation(len(every))[: self.count]
        self.examples = [every[place] for place in drawn.tolist()]

    @cached_property
    def prompts(self) -> list[Any]:
        """Each user's last training item to learn from."""
        limit = self.log.limits.max_items
        return _all_of(PromptDataset(self.examples, self.log.prompts, max_items=limit))

    @cached_property
    def one_target(self) -> list[Batch]:
        """Batches of :attr:`prompts` grouped by length."""
        return self._grouped(self.prompts, PaddingCollator())

    def every_position(self) -> list[Batch]:
        """Returns batches grouped by length, every item that follows another to learn from."""
        histories = [np.append(each.history, each.target) for each in self.examples]
        limit = self.log.limits.max_items
        dataset = PlacesDataset(histories, self.log.prompts, max_items=limit)
        return self._grouped(_all_of(dataset), PlacesCollator(self.log.prompts.ending))

    def padded(self) -> list[Batch]:
        """Returns random batches of :attr:`prompts`."""
        return self._in_order(self.prompts, PaddingCollator(), self.batch_size)

    def words(self) -> list[Batch]:
        """Returns random batches whose labels are the words of one next item."""
        return self._in_order(self.examples, NextItemText(self.log), self.peer_batch_size)

    def _grouped(self, rows: Sequence[Any], collate: Callable[..., Batch]) -> list[Batch]:
        lengths = [len(row["input_ids"]) for row in rows]
        count = len(rows) // self.batch_size
        places = grouped_batches(lengths, self.batch_size, count, self.seed)
        return [collate([rows[place] for place in batch]) for batch in places]

    @staticmethod
    def _in_order(rows: Sequence[Any], collate: Callable[..., Batch], size: int) -> list[Batch]:
        return [collate(rows[first : first + size]) for first in range(0, len(rows), size)]


def _all_of(dataset: Any) -> list[Any]:
    return [dataset[place] for place in range(len(dataset))]


def peers(lm: PreTrainedModel, users: Users, device: torch.device) -> Iterator[tuple[str, Way]]:
    """Makes PEFT's way and the floor."""
    model = get_peft_model(
        sharing_weights(lm), LoraConfig(task_type=TaskType.CAUSAL_LM, r=8)
    ).train()
    weights = linear_weights(lm.model)
    head = lm.get_output_embeddings().weight.numel()
    step = learning(model, partial(recommendation_loss, model), device)
    yield LORA, Way(step, users.words(), weights + head)
    step = learning(lm, lambda batch: floor_loss(lm, batch["input_ids"]), device)
    yield FLOOR, Way(step, users.one_target, weights)


def ours(lm: PreTrainedModel, users: Users, device: torch.device) -> Iterator[tuple[str, Way]]:
    """Makes our ways."""
    weights = linear_weights(lm.model) - linear_weights(lm.model.layers[-1])
    virtual = users.log.prefix_tokens + 1
    for layout in ("prefix_first", "text_first"):
        model = users.log.adapt(sharing_weights(lm), layout=layout, item_vectors="fused")
        step = learning(model, partial(recommendation_loss, model), device)
        kept = partial(kept_as_it_is, model)
        if layout == "prefix_first":
            yield PREFIX_FIRST, Way(step, users.one_target, weights, virtual, True, kept)
            plain = partial(plain_and_kept, model, with_head=False)
            yield PADDED, Way(step, users.padded(), weights, virtual, True, plain)
        else:
            yield TEXT_FIRST, Way(step, users.one_target, weights, virtual, False, kept)
            yield EVERY, Way(step, users.every_position(), weights, virtual, False, kept)


def ceiling(device: torch.device, size: int) -> float:
    """Measures how many operations a second a product of two bfloat16 matrices reaches."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    fastest = min(timed(lambda: left @ right).wall for _ in range(1 + CEILING_REPEATS))
    return 2 * size**3 / fastest


def print_shares(
    ways: dict[str, Way], taken: dict[str, list[Seconds]], highest: float, rounds: int
) -> dict[str, dict[str, float]]:
    """Prints what each way makes of the machine, over all rounds together."""
    print("\n| way | targets/s | real tokens/s | of the ceiling | GiB beyond the LM |")
    print("|---|---|---|---|---|")
    shares = {}
    for name, way in ways.items():
        places = range(rounds)
        targets = [sum(map(_users_in, way.of_round(place, rounds))) for place in places]
        seconds = sum(each.wall * count for each, count in zip(taken[name], targets, strict=True))
        tokens = sum(way.tokens(place, rounds) for place in places) / seconds
        share = sum(way.operations(place, rounds) for place in places) / seconds / highest
        shares[name] = {
            "targets": sum(targets) / seconds,
            "tokens": tokens,
            "share": share,
            "gib": way.peak / GIB,
        }
        print(
            f"| {name} | {sum(targets) / seconds:.1f} | {tokens:,.0f} | {share:.0%} "
            f"| {way.peak / GIB:.1f} |",
            flush=True,
        )
    return shares


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common_parser(__doc__.splitlines()[0])
    add_log_options(parser)
    parser.set_defaults(rounds=8)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b", help="of the LM")
    parser.add_argument("--users", type=int, default=2048, help="of the log, drawn once")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--peer-batch-size", type=int, default=8, help="of LoRA")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS, help="ways to learn")
    parser.add_argument("--ceiling-size", type=int, default=8192, help="rows of the matrices")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parse(argv)
    start(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    highest = ceiling(device, arguments.ceiling_size)
    print(f"{name}: {highest / 1e12:.4g} TFLOP/s in bfloat16")
    log = RealLog.read(arguments)
    print(log.counts)
    sizes = arguments.users, arguments.batch_size, arguments.peer_batch_size
    users = Users(log, *sizes, arguments.seed)
    lm = shaped_like(arguments.shape, device)
    print(f"the language model: {lm.get_memory_footprint() / GIB:.2f} GiB", flush=True)
    every = dict([*peers(lm, users, device), *ours(lm, users, device)])
    ways = {name: way for name, way in every.items() if name in arguments.only}
    rounds = arguments.rounds
    variants = {
        name: partial(way.seconds, rounds=rounds, device=device) for name, way in ways.items()
    }
    taken = in_turns(variants, rounds)
    shares = print_shares(ways, taken, highest, rounds)
    reference = next(iter(ways))
    finish(arguments, taken, reference, "target", device=name, ceiling=highest, shares=shares)


if __name__ == "__main__":
    main()
