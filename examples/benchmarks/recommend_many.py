"""Speed and memory of recommending for many users in one call, and the time of a single user.

    python examples/benchmarks/recommend_many.py RUN/recommender --histories 10000

Histories are drawn from the recommender's catalogue, their lengths as in Amazon Beauty (5 items or
more, 9 on average), one by one as ``recommend_many`` asks for them: whatever grows with their
number is the recommender's. The peak is the largest resident memory of the process so far, as the
system counts it; what it grows by after loading is said after the first thousand and at the end.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import psutil
from interleaved import start

from laser_peft.recommender import LaserRecommender

FIRST = 1000  # histories until memory is looked at


def draw_histories(item_ids: Sequence[str], random: np.random.Generator) -> Iterator[list[str]]:
    """Draws histories without end, of different items each."""
    while True:
        length = 5 + int(min(random.lognormal(0.75, 1.2), 195))
        rows = random.choice(len(item_ids), min(length, len(item_ids)), replace=False)
        yield [item_ids[row] for row in rows]


def peak_mebibytes() -> float:
    """Returns the largest resident memory of this process so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # Linux counts KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def memory(since: float) -> str:
    """Says the peak, how much it grew since another one, and what is resident now, in MiB."""
    peak, now = peak_mebibytes(), psutil.Process().memory_info().rss / 2**20
    return f"peak {peak:.0f} MiB (+{peak - since:.0f} since loading), now {now:.0f} MiB"


def one_by_one(
    recommender: LaserRecommender, histories: Iterator[list[str]], repeats: int
) -> list[float]:
    """Recommends for one new user a call; returns the milliseconds of every call."""
    took = []
    for history in islice(histories, repeats):
        started = time.perf_counter()
        recommender.recommend(history)
        took.append(1000 * (time.perf_counter() - started))
    return took


def all_in_one_call(
    recommender: LaserRecommender, histories: Iterator[list[str]], count: int, batch_size: int
) -> None:
    """Streams the histories through one call and prints speed and memory."""
    since, started = peak_mebibytes(), time.perf_counter()
    many = recommender.recommend_many(islice(histories, count), batch_size=batch_size)
    for done, _ in enumerate(many, 1):
        if done in (FIRST, count):
            seconds = time.perf_counter() - started
            print(
                f"{done} histories: {seconds:.1f} s, {done / seconds:.1f} a second; "
                f"{memory(since)}",
                flush=True,
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recommender", help="folder or Hub id")
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=32, help="users at a time")
    parser.add_argument("--repeats", type=int, default=20, help="calls for a single user")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    start(arguments)
    started = time.perf_counter()
    recommender = LaserRecommender.from_pretrained(arguments.recommender)
    print(
        f"loaded {len(recommender.catalogue)} items in {time.perf_counter() - started:.1f} s; "
        f"peak {peak_mebibytes():.0f} MiB"
    )
    random = np.random.default_rng(arguments.seed)
    histories = draw_histories(recommender.catalogue.item_ids, random)
    took = one_by_one(recommender, histories, arguments.repeats)
    print(
        f"one new history, {len(took)} calls: median {statistics.median(took):.0f} ms "
        f"({min(took):.0f} to {max(took):.0f})",
        flush=True,
    )
    all_in_one_call(recommender, histories, arguments.histories, arguments.batch_size)


if __name__ == "__main__":
    main()
