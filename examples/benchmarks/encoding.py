r"""Times reading users and items beside the bare backbone, and one new history to its best items.

    python examples/benchmarks/encoding.py --interactions $DATA/interactions.csv.gz \
        --items $DATA/items.jsonl.gz --llm $LM --what users
    python examples/benchmarks/encoding.py ... --what items
    python examples/benchmarks/encoding.py ... --what one --dtype bfloat16

The bare backbone reads the same prompts in the same batches, longest first and padded on the right
without a mask; once the text alone, and once with as many more tokens as there are virtual ones.
``one`` is a call of ``LaserRecommender.recommend`` for a history that it has not seen, from item
ids to titled items, beside the backbone's forward on that history's prompt.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from interleaved import (
    Seconds,
    Variant,
    common_parser,
    finish,
    in_turns,
    repeated,
    start,
    timed,
)
from peft import PeftModel
from real_log import RealLog, add_log_options, at_even_ranks
from torch import Tensor

from laser_peft import LaserRecommender
from laser_peft.data import PaddingCollator
from laser_peft.item_encoding import encode_items
from laser_peft.item_texts import describe_items, lm_text_vectors
from laser_peft.tuner.base_model import backbone_of

BARE = "bare backbone"
BEST = 10
Batch = dict[str, Tensor]
Works = dict[str, Callable[[], object]]


@torch.inference_mode()
def read_bare(model: PeftModel, batches: Sequence[Batch], virtual: int = 0) -> None:
    """Runs the backbone alone over batches, each row with so many tokens more."""
    lm = model.get_base_model()
    for batch in batches:
        embedded = lm.get_input_embeddings()(batch["input_ids"])
        more = embedded.new_zeros(len(embedded), virtual, embedded.size(-1))
        backbone_of(lm)(inputs_embeds=torch.cat([embedded, more], 1), use_cache=False)


@torch.inference_mode()
def read_users(model: PeftModel, batches: Sequence[Batch]) -> None:
    """Reads user vectors."""
    for batch in batches:
        model(**batch, return_user_vectors=True)


def batches_of(log: RealLog, histories: Sequence[Sequence[int]], batch_size: int) -> list[Batch]:
    """Pads prompts and histories to batches, longest prompt first."""
    rows = [
        {"input_ids": log.prompts(history), "history": history[-log.limits.max_items :]}
        for history in histories
    ]
    rows.sort(key=lambda row: -len(row["input_ids"]))
    starts = range(0, len(rows), batch_size)
    return [PaddingCollator()(rows[first : first + batch_size]) for first in starts]


def reading_users(model: PeftModel, log: RealLog, count: int, batch_size: int) -> Works:
    """Returns what reads users of all lengths."""
    everyone = log.split.train_histories
    lengths = [len(log.prompts(history)) for history in everyone]
    histories = [everyone[place] for place in at_even_ranks(lengths, count)]
    batches = batches_of(log, histories, batch_size)
    variants = _bare(model, batches)
    variants["users, an adapter's vectors"] = partial(read_users, model, batches)
    return variants


def reading_items(model: PeftModel, log: RealLog, count: int, batch_size: int) -> Works:
    """Returns what reads the first items of the catalogue."""
    items = list(range(1, count + 1))
    batches = batches_of(log, [[item] for item in items], batch_size)
    variants = _bare(model, batches)
    encode = partial(encode_items, model, log.prompts, items, batch_size=batch_size)
    variants["items, as histories of one (encode_items)"] = encode
    texts = describe_items(log.catalogue, log.limits.prompt)[: len(items)]
    ids = log.tokenizer(texts)["input_ids"]
    ids.sort(key=len, reverse=True)
    starts = range(0, len(ids), batch_size)
    plain = [
        PaddingCollator()([{"input_ids": row} for row in ids[first : first + batch_size]])
        for first in starts
    ]
    variants["bare backbone, their texts alone"] = partial(read_bare, model, plain)
    variants["items, their texts' vectors (lm_text_vectors)"] = partial(
        lm_text_vectors, model, log.tokenizer, texts
    )
    return variants


def _bare(model: PeftModel, batches: Sequence[Batch]) -> Works:
    config = model.peft_config[model.active_adapter]
    virtual = config.num_prefix_tokens + config.num_suffix_tokens
    with_virtual = partial(read_bare, model, batches, virtual=virtual)
    return {
        BARE: partial(read_bare, model, batches),
        "bare backbone, virtual tokens too": with_virtual,
    }


def one_history(model: PeftModel, log: RealLog) -> dict[str, Variant]:
    """Returns the variants that read one history, another one every round."""
    if model.peft_config[model.active_adapter].item_vectors == "fused":
        model.set_view_weights(correction=1.0)  # without it the language model is not read
    recommender = LaserRecommender(model, log.tokenizer, log.catalogue, log.limits)
    histories = log.split.train_histories

    def recommend(place: int) -> Seconds:
        history = histories[place % len(histories)]
        ids = [log.catalogue.item_ids[item - 1] for item in history]
        return timed(lambda: recommender.recommend(ids, BEST))

    def bare(place: int) -> Seconds:
        batch = batches_of(log, [histories[place % len(histories)]], 1)
        return timed(lambda: read_bare(model, batch))

    return {BARE: bare, f"recommend, the best {BEST}": recommend}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common_parser(__doc__.splitlines()[0])
    add_log_options(parser)
    parser.add_argument("--count", type=int, default=128, help="users or items that are read")
    parser.add_argument("--what", choices=("users", "items", "one"), default="users")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parse(argv)
    start(arguments)
    log = RealLog.read(arguments)
    print(log.counts)
    model = log.adapted(getattr(torch, arguments.dtype)).eval()
    if arguments.what == "one":
        taken = in_turns(one_history(model, log), arguments.rounds, warm_up=3)
        finish(arguments, taken, BARE, "history")
        return
    make = reading_users if arguments.what == "users" else reading_items
    count = min(arguments.count, len(log.split.train_histories), len(log.catalogue))
    works = make(model, log, count, arguments.batch_size)
    variants: dict[str, Variant] = {
        name: partial(_share, repeated(work), count) for name, work in works.items()
    }
    finish(arguments, in_turns(variants, arguments.rounds), BARE, arguments.what[:-1])


def _share(variant: Variant, count: int, place: int) -> Seconds:
    return variant(place).per(count)


if __name__ == "__main__":
    main()
