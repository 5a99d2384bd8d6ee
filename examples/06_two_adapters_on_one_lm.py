r"""Serves two shops from one language model: two adapters in memory, one active at a time.

Command (after 02_bi_tune_with_trainer.py; all but the last line make a second shop's recommender):

    python examples/demo/make_shop.py --seed 1 --output runs/demo/shop2
    python examples/01_train_sasrec.py --output runs/examples/sasrec2 \
        --interactions runs/demo/shop2/interactions.csv.gz --items runs/demo/shop2/items.jsonl.gz
    python examples/02_bi_tune_with_trainer.py --output runs/examples/recommender2 \
        --interactions runs/demo/shop2/interactions.csv.gz --items runs/demo/shop2/items.jsonl.gz \
        --encoder runs/examples/sasrec2
    python examples/06_two_adapters_on_one_lm.py

Hardware: any CPU.
Time: 13 seconds once the second recommender is there, one thread of a busy 2-core x86 machine.
Expected output:

    language model: 2.8 MB, once
    adapter first: 1.1 MB, its encoder and item vectors in it
    adapter second: 1.1 MB, its encoder and item vectors in it
    shop first, after PRBAX7, P9ZRQD, PQYE6M:
      PBH6VC    6.07  Plindora Retro Fountain Pen, Teal
      PAV8S3    5.92  Yuvenka Coastal Notebook, Navy
      PWK6MN    5.78  Ostrimo Coastal Bookend, Navy
    shop second, after PESS2K, PGUHP7, P69W85:
      P4JJUR    5.06  Kolvimar Leafy Office Chair, Moss
      P5D7XH    4.87  Ambrelka Nordic Speaker, Fog
      PSUK9Y    4.40  Perlumba Vintage Office Chair, Teal
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from laser_peft import LaserRecommender
from laser_peft.data import Catalogue
from laser_peft.recommender import RecommenderConfig
from laser_peft.recommender.files import CATALOGUE_FILE, CONFIG_FILE


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llm", default="runs/demo/lm", help="folder or Hub id")
    parser.add_argument("--first", type=Path, default="runs/examples/recommender")
    parser.add_argument("--second", type=Path, default="runs/examples/recommender2")
    parser.add_argument("-k", type=int, default=3, help="how many items for each")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the example."""
    args = read_arguments(argv)
    folders = {"first": args.first, "second": args.second}

    llm = AutoModelForCausalLM.from_pretrained(args.llm)
    print(f"language model: {megabytes(llm.parameters()):.1f} MB, once")
    model = PeftModel.from_pretrained(llm, args.first, adapter_name="first")
    model.load_adapter(args.second, adapter_name="second")
    for name in folders:
        own = [values for key, values in model.state_dict().items() if f".{name}." in key]
        print(f"adapter {name}: {megabytes(own):.1f} MB, its encoder and item vectors in it")

    # Each shop has its own catalogue, tokenizer and limits; the model is the same object.
    shops = {}
    for name, folder in folders.items():
        model.set_adapter(name)  # a recommender compares its catalogue with the active adapter
        limits = RecommenderConfig.from_dict(json.loads((folder / CONFIG_FILE).read_text("utf-8")))
        shops[name] = LaserRecommender(
            model,
            AutoTokenizer.from_pretrained(folder),
            Catalogue.load(folder / CATALOGUE_FILE),
            limits,
        )

    for name, shop in shops.items():
        model.set_adapter(name)  # before every request for another shop than the last one
        history = shop.catalogue.item_ids[:3]
        print(f"shop {name}, after {', '.join(history)}:")
        for item in shop.recommend(history, k=args.k):
            print(f"  {item.item_id}  {item.score:6.2f}  {item.title}")


def megabytes(tensors: Iterable[Tensor]) -> float:
    """Adds up what tensors hold, in MB of a million bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6


if __name__ == "__main__":
    main()
