"""A made-up shop of many items, and what its recommender takes, for many_items.py."""

import ctypes
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from made_up import random_lm
from peft import get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from laser_peft import BiTuningConfig, LaserRecommender, SASRecConfig, SASRecModel, numbering
from laser_peft.data import Catalogue
from laser_peft.item_texts import Whitening

WORDS = (
    "red",
    "blue",
    "small",
    "large",
    "lamp",
    "chair",
    "steel",
    "bottle",
    "soap",
    "shoe",
    "ball",
)
STATES = 64  # what the tiny language model says of a token
Found = TypeVar("Found")


def item_id(row: int) -> str:
    """Names an item as a shop would."""
    return f"B{row:09d}"


def make_shop(folder: Path, num_items: int, width: int, seed: int) -> None:
    """Writes a recommender of random weights, both halves of its vectors ``width`` wide."""
    torch.manual_seed(seed)
    tokenizer, catalogue = _tokenizer(), _catalogue(num_items, seed)
    lm_folder = str(folder / "lm")
    random_lm("tiny", len(tokenizer)).save_pretrained(lm_folder)
    encoder = SASRecModel(SASRecConfig(num_items=num_items, hidden_size=width))
    torch.nn.init.normal_(encoder.item_embeddings.weight[1:])
    numbering.sign(encoder.config, catalogue.frame["item_id"])
    with tempfile.TemporaryDirectory(dir=folder) as encoder_folder:
        encoder.save_pretrained(encoder_folder)
        del encoder
        config = BiTuningConfig(
            collaborative_encoder=encoder_folder,
            num_prefix_tokens=4,
            item_vectors="fused",
            item_text_dim=width,
            init_weights=False,
        )
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_folder), config)
    texts = torch.nn.functional.normalize(torch.randn(num_items, width), dim=1)
    model.set_item_text_vectors(texts, torch.full((num_items,), 5))
    whitening = Whitening(torch.zeros(STATES), torch.randn(STATES, width))
    recommender = LaserRecommender(model, tokenizer, catalogue, whitening=whitening)
    recommender.save_pretrained(folder / "recommender")


def store_vectors(folder: Path, precision: str) -> None:
    """Writes the finished item vectors beside the adapter."""
    recommender = LaserRecommender.from_pretrained(folder / "recommender")
    recommender.save_pretrained(folder / "recommender", item_vectors=precision)


def measure_shop(folder: Path, threads: int) -> None:
    """Loads the recommender, asks it for this and that, and prints a Markdown table."""
    torch.set_num_threads(threads)
    print("\n| | seconds | of processors | peak memory grew by | private | with mapped files |")
    print("|---|---|---|---|---|---|")
    shop = _measured("load", lambda: LaserRecommender.from_pretrained(folder / "recommender"))
    size = len(shop.catalogue)
    history = [item_id(row) for row in (3, 7, 11)]
    half = [item_id(row) for row in range(0, size, 2)]
    tenth = [item_id(row) for row in range(0, size, 10)]
    new = [{"item_id": f"new-{row}", "title": f"New red lamp {row}"} for row in range(1001)]
    for name, work in {
        "first history": lambda: shop.recommend(history),
        "another": lambda: shop.recommend(history[:2]),
        "256 histories in one batch": lambda: shop.recommend([history] * 256, batch_size=256),
        "a history of 5,000 items": lambda: shop.recommend(half[:5000]),
        f"allow {len(tenth):,}": lambda: shop.recommend(history, allow=tenth),
        f"allow {len(half):,}": lambda: shop.recommend(history, allow=half),
        f"deny {len(half):,}": lambda: shop.recommend(history, deny=half),
        "score 1,000 candidates": lambda: shop.score(history, half[:1000]),
        "similar_items": lambda: shop.similar_items(history[0]),
        "add_items, 1": lambda: shop.add_items(new[:1]),
        "a history after it": lambda: shop.recommend(history),
        "add_items, 1,000": lambda: shop.add_items(new[1:]),
        "remove_items, 1,000": lambda: shop.remove_items(half[:1000]),
        "a history after them": lambda: shop.recommend(history),
    }.items():
        _measured(name, work)


def _measured(name: str, work: Callable[[], Found]) -> Found:
    """Does something, and prints a row of what it took (Linux with glibc)."""
    ctypes.CDLL(None).malloc_trim(0)  # or it is given what an earlier one has left
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before, wall, processor = _memory("VmRSS"), time.perf_counter(), time.process_time()
    found = work()
    seconds = time.perf_counter() - wall, time.process_time() - processor
    grown = max(_memory("VmHWM") - before, 0)
    kept = f"{_memory('RssAnon'):.0f} MiB | {_memory('VmRSS'):.0f} MiB"
    print(
        f"| {name} | {seconds[0]:.3f} | {seconds[1]:.3f} | {grown:.0f} MiB | {kept} |", flush=True
    )
    return found


def _memory(name: str) -> float:
    status = Path("/proc/self/status").read_text("ascii")
    (kib,) = re.findall(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    return int(kib) / 2**10


def _catalogue(num_items: int, seed: int) -> Catalogue:
    """Makes titles of five words, and one of a thousand brands for each item."""
    random = np.random.default_rng(seed)
    words = [
        pl.Series(f"word{place}", WORDS).gather(random.integers(len(WORDS), size=num_items))
        for place in range(5)
    ]
    frame = pl.DataFrame(words).select(title=pl.concat_str(pl.all(), separator=" "))
    brands = pl.Series(random.integers(1000, size=num_items)).cast(pl.String)
    rows = pl.int_range(num_items, eager=True).cast(pl.String)
    return Catalogue(
        frame.with_columns(item_id="B" + rows.str.zfill(9), brand=pl.lit("Brand ") + pl.lit(brands))
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """Makes one of single bytes, so that nothing has to be downloaded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
