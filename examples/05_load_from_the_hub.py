"""Loads a recommender and its bare adapter from the Hugging Face Hub.

Command (after 02_bi_tune_with_trainer.py; the first line publishes what it saved):

    hf upload me/laser-shop runs/examples/recommender --exclude "checkpoints/*"
    python examples/05_load_from_the_hub.py --repository me/laser-shop --llm runs/demo/lm

and, where the language model is on the Hub too, which is how others will load it:

    python examples/05_load_from_the_hub.py --repository me/laser-beauty

Hardware: any CPU.
Time: 13 seconds from the local cache, without download, one thread of a busy 2-core x86 machine.
Expected output:

    by the recommender, after PRBAX7, P9ZRQD, PQYE6M:
      PQYE6M    6.55  Yuvenka Vintage Bookend, Mustard
      PBH6VC    6.07  Plindora Retro Fountain Pen, Teal
      PAV8S3    5.92  Yuvenka Coastal Notebook, Navy
    by the adapter:
      PQYE6M    6.55
      PBH6VC    6.07
      PAV8S3    5.92
"""

import argparse
from collections.abc import Sequence

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM

from laser_peft import LaserRecommender  # registers BITUNING with PEFT, too


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", required=True, help="user/name on the Hub")
    parser.add_argument("--llm", help="folder or Hub id; by default the one it was trained on")
    parser.add_argument("-k", type=int, default=3, help="how many items")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the example."""
    args = read_arguments(argv)
    llm_name = args.llm or PeftConfig.from_pretrained(args.repository).base_model_name_or_path
    llm = AutoModelForCausalLM.from_pretrained(llm_name)

    # The whole recommender: adapter, encoder, catalogue, tokenizer and the words of the prompt.
    recommender = LaserRecommender.from_pretrained(args.repository, llm=llm)
    history = recommender.catalogue.item_ids[:3]
    print(f"by the recommender, after {', '.join(history)}:")
    for item in recommender.recommend(history, k=args.k, exclude_seen=False):
        print(f"  {item.item_id}  {item.score:6.2f}  {item.title}")

    # The adapter alone, as PEFT loads any other; the prompt and the item ids are then your work.
    dense = recommender.catalogue.dense_ids(history)  # 1..N, 0 is padding
    prompt = recommender.prompts(dense)
    bare = recommender.model.unload()
    model = PeftModel.from_pretrained(bare, args.repository).eval()
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor([prompt]), history=torch.tensor([dense]), return_logits=True
        )
    best = output.logits[0].topk(args.k)
    print("by the adapter:")
    for score, row in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"  {recommender.catalogue.item_ids[row]}  {score:6.2f}")


if __name__ == "__main__":
    main()
