r"""Times one training step of Bi-Tuning beside its floor and beside what PEFT users do today.

    python examples/benchmarks/steps.py --size 25m
    python examples/benchmarks/steps.py --size 5m --dtype bfloat16 --compiled sdpa eager

The floor is what no method that tunes what comes before the text can go below without changing the
language model: its frozen backbone, forward and backward to the embedded tokens, no vocabulary
head, no optimizer. The peers are those of PEFT's documentation: a causal language model with
labels. Ours are whole steps of a ``BiTuningConfig`` with its defaults: SASRec, M-Former with its
experts, backbone, head, softmax over the catalogue, AdamW. All are fed the same text tokens; the
virtual tokens of ours and of prompt tuning come on top.

In bfloat16 all run under autocast, with frozen language models kept in bfloat16. Saved activations
are the distinct storages that a forward keeps for its backward, weights not counted.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from interleaved import common_parser, finish, in_turns, repeated, start
from made_up import SIZES, draw_lengths, draw_users, random_adapter, random_lm
from peft import LoraConfig, PeftConfig, PromptTuningConfig, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from laser_peft import BiTuningConfig
from laser_peft.tuner import TextMemory

FLOOR, PROMPT_TUNING = "floor: frozen backbone", "PEFT prompt tuning"
PREFIX_TOKENS = BiTuningConfig().num_prefix_tokens
VIRTUAL_TOKENS = PREFIX_TOKENS + BiTuningConfig().num_suffix_tokens
IGNORE_INDEX = -100
Batch = dict[str, Tensor]


@dataclass
class Step:
    """A training step: a loss, its gradients, and an optimizer if anything learns.

    Args:
        model: what is trained; its weights are no activations.
        compute: the forward.
        dtype: in which autocast computes; float32 for no autocast.
    """

    model: nn.Module
    compute: Callable[[], Tensor]
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        """Makes the optimizer."""
        learnt = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(learnt, lr=1e-4, fused=True) if learnt else None

    def loss(self) -> Tensor:
        """Returns the loss, with its graph."""
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            return self.compute()

    def __call__(self) -> None:
        """Takes the step."""
        self.loss().backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()

    def saved_mebibytes(self) -> float:
        """Measures what the forward keeps for the backward."""
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        weights = [*self.model.parameters(), *self.model.buffers()]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss()  # its graph keeps what was saved, so no address is used twice
        for weight in weights:
            kept.pop(weight.untyped_storage().data_ptr(), None)
        del loss
        return sum(kept.values()) / 2**20


def floor_loss(lm: PreTrainedModel, input_ids: Tensor, virtual: int = 0) -> Tensor:
    """Runs the bare backbone over ``(B, T)`` tokens and ``virtual`` more of them.

    The sum of its states has the gradient that costs least to make.
    """
    embedded = lm.get_input_embeddings()(input_ids).detach()
    more = embedded.new_zeros(len(embedded), virtual, embedded.size(-1))
    embedded = torch.cat([embedded, more], 1).requires_grad_()
    return lm.model(inputs_embeds=embedded, use_cache=False).last_hidden_state.sum()


def causal_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Calls a causal language model with labels, as PEFT's documentation does."""
    mask = batch["attention_mask"]
    labels = batch["input_ids"].masked_fill(~mask, IGNORE_INDEX)
    return model(input_ids=batch["input_ids"], attention_mask=mask.long(), labels=labels).loss


def recommendation_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Calls an adapter of ours."""
    return model(**batch).loss


def kept_loss(model: nn.Module, batch: Batch, memories: Sequence[TextMemory]) -> Tensor:
    """Calls an adapter of ours for users whose texts were read before."""
    return model(text_memory=memories, history=batch["history"], labels=batch["labels"]).loss


@torch.no_grad()
def remember(model: nn.Module, batch: Batch) -> list[TextMemory]:
    """Reads each user's text once."""
    memories = [TextMemory() for _ in batch["input_ids"]]
    model(text_memory=memories, **{name: batch[name] for name in batch if name != "labels"})
    return memories


def peers(
    make_lm: Callable[[torch.dtype], PreTrainedModel], batch: Batch, dtype: torch.dtype
) -> Iterator[tuple[str, Step]]:
    """Makes the floor's steps and those of PEFT's methods."""
    lm = make_lm(dtype).requires_grad_(False)
    yield FLOOR, Step(lm, partial(floor_loss, lm, batch["input_ids"]), dtype)
    floor = partial(floor_loss, lm, batch["input_ids"], virtual=VIRTUAL_TOKENS)
    yield f"floor with {VIRTUAL_TOKENS} virtual tokens", Step(lm, floor, dtype)
    causal = TaskType.CAUSAL_LM
    prompt_tuning = PromptTuningConfig(task_type=causal, num_virtual_tokens=PREFIX_TOKENS)
    configs: dict[str, PeftConfig] = {
        f"{PROMPT_TUNING}, {PREFIX_TOKENS} tokens": prompt_tuning,
        "PEFT LoRA, r = 8": LoraConfig(task_type=causal, r=8),
    }
    for name, config in configs.items():
        model = get_peft_model(make_lm(dtype), config).train()
        yield name, Step(model, partial(causal_loss, model, batch), dtype)
    whole = make_lm(torch.float32).train()  # weights that learn are kept in full
    yield "full fine-tuning", Step(whole, partial(causal_loss, whole, batch), dtype)


def ours(
    make_lm: Callable[[torch.dtype], PreTrainedModel],
    batch: Batch,
    num_items: int,
    dtype: torch.dtype,
    compiled: Sequence[str],
) -> Iterator[tuple[str, Step]]:
    """Makes our steps, in either layout; compiled with each of these attentions."""
    for layout in ("prefix_first", "text_first"):
        model = random_adapter(make_lm(dtype), num_items, layout=layout)
        name = f"ours, {layout.replace('_', ' ')}"
        yield name, Step(model, partial(recommendation_loss, model, batch), dtype)
        if layout == "text_first":
            keeps = partial(kept_loss, model, batch, remember(model, batch))
            yield f"{name}, texts kept", Step(model, keeps, dtype)
        for attention in compiled:
            lm = make_lm(dtype)
            lm.set_attn_implementation(attention)
            model = random_adapter(lm, num_items, layout=layout)
            graph: Any = torch.compile(model, dynamic=True)
            run = partial(recommendation_loss, graph, batch)
            yield f"{name}, compiled, {attention}", Step(model, run, dtype)


def steps_of(arguments: argparse.Namespace) -> tuple[dict[str, Step], Batch]:
    """Makes all steps that are asked for, and the batch that they learn from."""
    random = np.random.default_rng(arguments.seed)
    tokens = None if arguments.ragged else arguments.tokens
    sizes = {"vocabulary": arguments.vocabulary, "num_items": arguments.items}
    batch = draw_users(random, draw_lengths(random, arguments.users, tokens), **sizes)
    dtype = getattr(torch, arguments.dtype)

    def make_lm(kept_in: torch.dtype) -> PreTrainedModel:
        return random_lm(arguments.size, arguments.vocabulary, arguments.seed).to(kept_in)

    steps = dict(peers(make_lm, batch, dtype))
    steps |= dict(ours(make_lm, batch, arguments.items, dtype, arguments.compiled))
    return steps, batch


def print_activations(steps: dict[str, Step]) -> dict[str, float]:
    """Prints what each step saves for its backward, beside prompt tuning."""
    # A graph of torch.compile saves within itself, where no hook looks.
    saved = {name: step.saved_mebibytes() for name, step in steps.items() if "compiled" not in name}
    reference = next(value for name, value in saved.items() if PROMPT_TUNING in name)
    print("\n| saved activations | MiB | ratio to prompt tuning |\n|---|---|---|")
    for name, value in saved.items():
        print(f"| {name} | {value:.1f} | {value / reference:.2f} |")
    return saved


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common_parser(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="25m", help="parameters of the LM")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--users", type=int, default=8, help="of a step")
    parser.add_argument("--tokens", type=int, default=256, help="of each text")
    parser.add_argument("--ragged", action="store_true", help="draw the lengths of texts")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--compiled",
        nargs="+",
        choices=("sdpa", "eager"),
        default=(),
        metavar="ATTENTION",
        help="with torch.compile too, and with which attn_implementation",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parse(argv)
    start(arguments)
    steps, batch = steps_of(arguments)
    real, read = int(batch["attention_mask"].sum()), batch["attention_mask"].numel()
    print(f"{real} text tokens a step, {read} with padding")
    saved = print_activations(steps)
    # Two before: torch.compile makes a graph in the first and may widen it in the second.
    taken = in_turns(
        {name: repeated(step) for name, step in steps.items()}, arguments.rounds, warm_up=2
    )
    finish(arguments, taken, FLOOR, "step", saved_mebibytes=saved)


if __name__ == "__main__":
    main()
