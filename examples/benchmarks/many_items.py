"""What a catalogue of a million items costs: exact and approximate search, loss, recommender.

    python examples/benchmarks/many_items.py                       # all of it; needs faiss-cpu
    python examples/benchmarks/many_items.py --only search --index HNSW32
    python examples/benchmarks/many_items.py --only recommender --items 10000000 --width 32

- ``search``: the ten best for one user and for many, exact in float32 and in bfloat16, and among
  the candidates of a FAISS index, whose recall is told; beside ``topk`` of the float32 product.
  Items are drawn around centres, as items of a kind lie together, or with ``--centres 0`` without
  any order; users near items.
- ``loss``: a step of the softmax over the whole catalogue beside ``matmul`` and ``cross_entropy``,
  the table frozen; and the memory of each in a process of its own.
- ``recommender``: a made-up shop with a tiny language model, random weights: loading, requests,
  lists of half the catalogue, new items; seconds, and by how much resident memory grows at most
  (Linux with glibc). Without stored item vectors, and with them in float32 and in bfloat16.
- ``recall``: with ``--recommender`` and ``--interactions``, how much of the exact ten best some
  indexes find for real histories.

Timed in turns in one process; see interleaved.py for what is printed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from catalogue_softmax import make_problem, peak_growth
from catalogue_softmax import step as loss_step
from interleaved import common_parser, finish, in_turns, repeated, start
from many_items_shop import make_shop, measure_shop, store_vectors
from torch import Tensor

from laser_peft import LaserRecommender
from laser_peft.data import Histories, read_interactions
from laser_peft.recommender.approximate import FaissIndex
from laser_peft.recommender.best import Shelf, best_items, recall_of

PARTS = ("search", "loss", "recommender", "recall")
INDEXES = (
    ("IVF440,Flat", "nprobe=55"),
    ("HNSW32", "efSearch=64"),
    ("HNSW32", "efSearch=256"),
    ("HNSW64", "efSearch=256"),
    ("HNSW64", "efSearch=512"),
)
SPREAD = 0.5  # of items around their centre, and of users around an item
LOSSES = ("plain", "ours", "ours, bfloat16 products", "sampled")


def draw_vectors(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Draws ``(N, R)`` items and ``(B, R)`` users."""
    generator = torch.Generator().manual_seed(arguments.seed)
    size, width = arguments.items, arguments.width
    items = torch.empty(size, width).normal_(generator=generator)
    if arguments.centres:
        centres = torch.randn(arguments.centres, width, generator=generator)
        for part in items.split(2**16):
            kinds = torch.randint(arguments.centres, (len(part),), generator=generator)
            part.mul_(SPREAD).add_(centres[kinds])
    near = torch.randint(size, (arguments.users,), generator=generator)
    noise = torch.randn(arguments.users, width, generator=generator)
    return items, items[near] + SPREAD * noise


def search(arguments: argparse.Namespace) -> None:
    """Times searches for one user and for many."""
    items, users = draw_vectors(arguments)
    exact, halved = Shelf(items), Shelf(items.bfloat16())
    began = time.perf_counter(), time.process_time()
    index = FaissIndex(items, arguments.index, arguments.parameters)
    wall, processor = time.perf_counter() - began[0], time.process_time() - began[1]
    indexed = Shelf(items, index=index)
    recall = recall_of(indexed, users, arguments.k)
    name = f"candidates of {arguments.index} {arguments.parameters or ''}".rstrip()
    print(f"{name}: made in {wall:.0f} s, {processor:.0f} of processors; recall {recall:.4f}")
    for some in (users[:1], users):
        named: Mapping[str, Callable[[Tensor], object]] = {
            "exact": lambda own: best_items(own, exact, arguments.k),
            "topk of the product": lambda own: (own @ items.T).topk(arguments.k),
            "exact, bfloat16": lambda own: best_items(own, halved, arguments.k),
            name: lambda own: best_items(own, indexed, arguments.k),
        }
        print(f"\n{len(items)} items x {items.size(1)}, {len(some)} users, k={arguments.k}")
        variants = {kind: repeated(partial(work, some)) for kind, work in named.items()}
        taken = in_turns(variants, arguments.rounds)
        finish(arguments, taken, "exact", "call", recall=recall)


def loss(arguments: argparse.Namespace) -> None:
    """Times the loss and its gradients, and measures the memory of each form."""
    sizes = (arguments.users, arguments.items, arguments.width)
    problem = make_problem(*sizes, "frozen", arguments.seed)
    steps = {name: repeated(partial(loss_step, name, problem)) for name in LOSSES}
    finish(arguments, in_turns(steps, arguments.rounds), "plain", "step")
    for name in LOSSES:
        with get_context("spawn").Pool(1) as pool:
            grown = pool.apply(peak_growth, (name, sizes, "frozen", arguments.threads))
        print(f"{name}: peak +{grown:.0f} MiB beyond the table", flush=True)


def recommender(arguments: argparse.Namespace) -> None:
    """Measures a recommender of a made-up shop in processes of their own."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        with context.Pool(1) as pool:
            sizes = (arguments.items, arguments.width // 2, arguments.seed)
            pool.apply(make_shop, (Path(folder), *sizes))
        for stored in (None, "float32", "bfloat16"):
            if stored is not None:
                with context.Pool(1) as pool:
                    pool.apply(store_vectors, (Path(folder), stored))
            print(f"\n{arguments.items} items x {arguments.width}, stored vectors: {stored}")
            with context.Pool(1) as pool:
                pool.apply(measure_shop, (Path(folder), arguments.threads))


def recall(arguments: argparse.Namespace) -> None:
    """Tells what indexes find for histories of a real log, drawn evenly."""
    if arguments.recommender is None or arguments.interactions is None:
        print("needs --recommender and --interactions")
        return
    shop = LaserRecommender.from_pretrained(arguments.recommender)
    log = read_interactions(arguments.interactions, catalogue=shop.catalogue, on_bad_rows="drop")
    histories = Histories.from_interactions(log, shop.catalogue)
    users = range(0, len(histories), max(len(histories) // (2 * arguments.users), 1))
    named = [shop.catalogue.names(histories[user])[0] for user in users]
    print(f"{len(named)} histories, item vectors {tuple(shop.item_vectors.shape)}")
    for factory, parameters in INDEXES:
        shop.use_index(factory, parameters)
        print(
            f"| {factory} | {parameters} | {shop.index_recall(named, arguments.k):.4f} |",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = common_parser(__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS[:3])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--users", type=int, default=256)
    parser.add_argument("--centres", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--index", default="IVF1024,Flat", help="FAISS' index_factory string")
    parser.add_argument("--parameters", default="nprobe=16", help="of its search")
    parser.add_argument("--folder", type=Path, help="where the made-up shop is written for a while")
    parser.add_argument("--recommender", type=Path, help="folder of a trained one")
    parser.add_argument("--interactions", type=Path, help="the log it was trained on")
    arguments = parser.parse_args(argv)
    start(arguments)
    for part in arguments.only:
        print(f"\n## {part}")
        {"search": search, "loss": loss, "recommender": recommender, "recall": recall}[part](
            arguments
        )


if __name__ == "__main__":
    main()
