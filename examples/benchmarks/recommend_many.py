"""Speed and memory of ``laser-peft recommend-many``, and the time of a single user.

    python examples/benchmarks/recommend_many.py RUN/recommender --histories 10000 100000

Histories are drawn from the recommender's catalogue, their lengths as in Amazon Beauty (5 items or
more, 9 on average), and written as Parquet; the command then runs in a process of its own for each
number of them, and says how fast it was and the most memory that it has held, as the system counts
it: whatever grows with the number is the command's.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
from interleaved import start

from laser_peft.recommender import LaserRecommender

ROWS_A_FILE = 100_000
TOLD = re.compile(r"([\d,]+) histories in ([\d.]+) s, ([\d.]+) a second; peak memory (\d+) MiB")


def draw_histories(item_ids: Sequence[str], random: np.random.Generator) -> Iterator[list[str]]:
    """Draws histories without end, of different items each."""
    while True:
        length = 5 + int(min(random.lognormal(0.75, 1.2), 195))
        rows = random.choice(len(item_ids), min(length, len(item_ids)), replace=False)
        yield [item_ids[row] for row in rows]


def write_histories(folder: Path, histories: Iterator[list[str]], count: int) -> None:
    """Writes so many histories as Parquet parts."""
    folder.mkdir()
    for first in range(0, count, ROWS_A_FILE):
        listed = list(islice(histories, min(ROWS_A_FILE, count - first)))
        users = range(first, first + len(listed))
        frame = pl.DataFrame({"user_id": users, "history": listed})
        frame.write_parquet(folder / f"part-{first:09d}.parquet")


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


def run_command(recommender: str, folder: Path, output: Path, more: Sequence[str]) -> str:
    """Runs the command; returns a row of the table.

    Raises:
        RuntimeError: if it fails.
    """
    command = [sys.executable, "-m", "laser_peft", "recommend-many", recommender]
    command += ["--histories", str(folder), "--output", str(output), *more]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took, told = time.perf_counter() - started, TOLD.search(done.stdout)
    if done.returncode or told is None:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    count, seconds, speed, peak = told.groups()
    return f"| {count} | {seconds} | {took:.1f} | {speed} | {peak} MiB |"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recommender", help="folder or Hub id")
    parser.add_argument("--histories", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--llm", help="folder or Hub id of the language model, if it has moved")
    parser.add_argument("--dtype", help="precision of the language model")
    parser.add_argument("--batch-size", type=int, default=32, help="users at a time")
    parser.add_argument("--repeats", type=int, default=20, help="calls for a single user")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    start(arguments)
    recommender = LaserRecommender.from_pretrained(
        arguments.recommender, llm=arguments.llm, dtype=arguments.dtype
    )
    random = np.random.default_rng(arguments.seed)
    histories = draw_histories(recommender.catalogue.item_ids, random)
    took = one_by_one(recommender, histories, arguments.repeats)
    print(
        f"{len(recommender.catalogue)} items; one new history, {len(took)} calls: "
        f"median {statistics.median(took):.1f} ms ({min(took):.1f} to {max(took):.1f})\n\n"
        "| histories | s | s, with loading and checks | histories a second | peak memory |\n"
        "|---|---|---|---|---|",
        flush=True,
    )
    options = {name: getattr(arguments, name) for name in ("llm", "dtype", "batch_size")}
    more = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value]
    with tempfile.TemporaryDirectory() as scratch:
        for count in arguments.histories:
            folder = Path(scratch) / f"histories-{count}"
            write_histories(folder, histories, count)
            output = Path(scratch) / f"output-{count}"
            print(run_command(arguments.recommender, folder, output, more), flush=True)


if __name__ == "__main__":
    main()
