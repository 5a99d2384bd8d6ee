"""Trains a tokenizer and a very small language model on a shop's item texts, from nothing.

    python examples/demo/make_lm.py --items demo/shop/items.jsonl.gz --output demo/lm

Needs no download and no accelerator: about two minutes on a busy core. Prints the first and the
last loss and what the model writes after "1."; ``AutoTokenizer`` and ``AutoModelForCausalLM`` load
the folder. The same arguments give the same model on the same machine.

The model reads numbered lists of items, as a recommender's prompt shows a user's history:

    1. Velqora Rustic Desk Lamp, Walnut (brand: Velqora; category: Lighting, Desk Lamp)
    2. ...

Half of the lists hold items that share a brand, a category or a word of the title, so that the
model learns which texts go together; the other half is random. It knows nothing else: it stands in
for a pretrained model where one would be too large to try things out, and its numbers say nothing
about what a real one does.
"""

import argparse
import gzip
import json
import random
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL_TOKENS = ["<pad>", "<s>", "</s>"]  # in the order of their ids
VOCAB_SIZE = 2048
MAX_POSITIONS = 512  # tokens
LEARNING_RATE = 1.5e-3
MIN_LIST_ITEMS, MAX_LIST_ITEMS = 3, 20


def read_items(path: Path) -> list[dict]:
    """Reads one JSON object a line."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def item_text(item: dict) -> str:
    """Writes an item in one line; attributes it lacks leave no trace.

    >>> item_text({"title": "Oquesta Kettle", "brand": "", "categories": ["Kitchen", "Kettle"]})
    'Oquesta Kettle (category: Kitchen, Kettle)'
    """
    attributes = {"brand": item.get("brand"), "category": ", ".join(item.get("categories") or [])}
    known = "; ".join(f"{name}: {value}" for name, value in attributes.items() if value)
    return f"{item['title']} ({known})" if known else item["title"]


def groups_of_kin(items: list[dict]) -> list[list[str]]:
    """Groups the texts of items that share a brand, a category or a word of the title."""
    members = defaultdict(list)
    for item in items:
        words = item["title"].replace(",", "").split()
        for feature in {item.get("brand"), *(item.get("categories") or []), *words} - {None, ""}:
            members[feature].append(item_text(item))
    # Sets have no fixed order between runs: sort, so that a seed means the same lists.
    return [members[f] for f in sorted(members) if len(members[f]) >= MIN_LIST_ITEMS]


def numbered_lists(items: list[dict], rng: random.Random) -> Iterator[str]:
    """Gives lists of items without end, alternately of kin and of anything."""
    everything, groups = [item_text(item) for item in items], groups_of_kin(items)
    while True:
        for pool in (rng.choice(groups), everything):
            size = min(len(pool), rng.randint(MIN_LIST_ITEMS, MAX_LIST_ITEMS))
            texts = rng.sample(pool, size)
            yield "\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Trains byte-level BPE; any text can be encoded, and a text gets ``<s>`` in front."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    pad, bos, eos = SPECIAL_TOKENS
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, bpe.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        model_max_length=MAX_POSITIONS,
    )


def token_rows(lists: Iterator[str], tokenizer: PreTrainedTokenizerFast) -> Iterator[torch.Tensor]:
    """Joins lists end to end, as ``<s> list </s>``, and cuts them into rows.

    Yields:
        ``(1, MAX_POSITIONS)`` int64 token ids: full, so that no position stays untrained.
    """
    stream: list[int] = []
    for text in lists:
        stream += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        if len(stream) >= MAX_POSITIONS:
            yield torch.tensor([stream[:MAX_POSITIONS]])
            stream = stream[MAX_POSITIONS:]


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Makes an untrained Llama of under a million weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.05,  # from the usual 0.02, so narrow a model starts more slowly
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM, rows: Iterator[torch.Tensor], num_steps: int
) -> tuple[float, float]:
    """Teaches the model to predict the next token, one row a step.

    Over equally many tokens, one row a step ends at a lower loss than two.

    Returns:
        The mean loss of the first and of the last ten steps, in nats a token.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_steps)
    losses = []
    progress = tqdm(range(num_steps), desc="training", unit="step")
    for _, input_ids in zip(progress, rows, strict=False):
        loss = model(input_ids=input_ids, labels=input_ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{losses[-1]:.3f}")
    return statistics.fmean(losses[:10]), statistics.fmean(losses[-10:])


def main() -> None:
    """Reads the command line, trains and saves both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=Path, required=True, help="items.jsonl.gz of make_shop.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for model and tokenizer")
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps (800)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the lists (0)")
    args = parser.parse_args()

    # With two threads and another program on one of two cores, a step took twenty times as long.
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    items = read_items(args.items)
    lists = numbered_lists(items, random.Random(args.seed))
    tokenizer = train_tokenizer([next(lists) for _ in range(2000)])
    model = new_model(tokenizer)
    print(f"{len(tokenizer)} tokens, {model.num_parameters():,} weights")
    first, last = train(model, token_rows(lists, tokenizer), args.steps)
    print(f"loss: {first:.3f} at first, {last:.3f} at last")

    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    prompt = tokenizer("1.", return_tensors="pt")
    written = model.eval().generate(**prompt, max_new_tokens=80, do_sample=False)
    print(f"saved to {args.output}; it writes:\n{tokenizer.decode(written[0])}")


if __name__ == "__main__":
    main()
