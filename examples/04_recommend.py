r"""Loads a recommender and recommends for new histories, one at a time and in a batch.

Command (after 02_bi_tune_with_trainer.py):

    python examples/04_recommend.py

and for histories of your own, each a list of your items' ids, oldest first:

    python examples/04_recommend.py --recommender runs/mine/recommender \
        --history B004756YJA B004ZT0SSG --history B00150LT40

Hardware: any CPU.
Time: 15 seconds, most of them for imports, one thread of a busy 2-core x86 machine.
Expected output:

    A shopper who had
      PRBAX7  Yuvenka Weathered Notebook, Rust
      P9ZRQD  Nespraga Baroque Desk Organizer, Burgundy
      PQYE6M  Yuvenka Vintage Bookend, Mustard
    may like
      PBH6VC    6.07  Plindora Retro Fountain Pen, Teal
      PAV8S3    5.92  Yuvenka Coastal Notebook, Navy
      PWK6MN    5.78  Ostrimo Coastal Bookend, Navy
    and, where people buy things again,
      PQYE6M    6.55  Yuvenka Vintage Bookend, Mustard
      PBH6VC    6.07  Plindora Retro Fountain Pen, Teal
      PAV8S3    5.92  Yuvenka Coastal Notebook, Navy
    3 shoppers at once:
      PRBAX7, P9ZRQD, PQYE6M -> PBH6VC, PAV8S3, PWK6MN
      PX49D3, PGUEC4 -> PGQA47, PBAQNU, PUN57C
      PM3ZTG -> PGQA47, PBAQNU, PUN57C
"""

import argparse
from collections.abc import Sequence

from transformers import AutoModelForCausalLM

from laser_peft import LaserRecommender


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recommender", default="runs/examples/recommender", help="or a Hub id")
    parser.add_argument("--llm", help="folder or Hub id; by default the one it was trained on")
    parser.add_argument("--history", nargs="+", action="append", metavar="ITEM_ID")
    parser.add_argument("-k", type=int, default=3, help="how many items for each")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the example."""
    args = read_arguments(argv)
    llm = None if args.llm is None else AutoModelForCausalLM.from_pretrained(args.llm)
    recommender = LaserRecommender.from_pretrained(args.recommender, llm=llm)
    item_ids = recommender.catalogue.item_ids
    titles = dict(zip(item_ids, recommender.catalogue.titles, strict=True))
    # Nobody in the log needs to have had exactly this: a history is data, not a known user.
    histories = args.history or [item_ids[:3], item_ids[3:5], item_ids[5:6]]

    print("A shopper who had")
    for item_id in histories[0]:
        print(f"  {item_id}  {titles[item_id]}")
    print("may like")
    for item in recommender.recommend(histories[0], k=args.k):
        print(f"  {item.item_id}  {item.score:6.2f}  {item.title}")
    print("and, where people buy things again,")
    for item in recommender.recommend(histories[0], k=args.k, exclude_seen=False):
        print(f"  {item.item_id}  {item.score:6.2f}  {item.title}")

    # Many shoppers: read 32 at a time, and given one by one as soon as their batch is done.
    print(f"{len(histories)} shoppers at once:")
    found = recommender.recommend_many(histories, k=args.k, batch_size=32)
    for history, items in zip(histories, found, strict=True):
        print(f"  {', '.join(history)} -> {', '.join(item.item_id for item in items)}")


if __name__ == "__main__":
    main()
