"""Times the search for each user's best items against other exact searches, in turns.

    python examples/benchmarks/top_k.py --repeats 5
    python examples/benchmarks/top_k.py --sizes 1000000x64 --faiss    # pip install faiss-cpu

Vectors of users and items are drawn at random, normally distributed, float32. Compared are

- ``best_items``: a scan in float32, then exact scores where the best can be; on a new shelf, whose
  vectors' lengths have to be computed, and on one that is kept;
- the same without a scan, every score exact and block by block;
- ``topk`` of the float32 product, which holds every score at once;
- FAISS' ``IndexFlatIP``, with ``--faiss``.

Every call is checked: ours must be alike, and 99 of 100 items of the other two those of ours, for
float32 may order two otherwise. Ratios are to ``topk``, each with the one of its own turn. On a
machine that others use too, the seconds of processors say more than those by the wall. The peak is
what resident memory grew by at most in a call (Linux with glibc only).
"""

import argparse
import ctypes
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import torch
from torch import Tensor

import laser_peft
from laser_peft.recommender import best
from laser_peft.recommender.best import Shelf, best_items

SIZES = ("12101x1", "12101x64", "100000x64", "1000000x1", "1000000x64")
REFERENCE = "topk"
OURS = ("best_items", "kept shelf", "no scan")
CLEAR_REFS = Path("/proc/self/clear_refs")
Search = Callable[[Tensor], list[list[int]]]  # (B, R) users to their items' dense ids


def ids(found: list[list[tuple[int, float]]]) -> list[list[int]]:
    """Leaves out the scores."""
    return [[item for item, _ in own] for own in found]


def without_scan(users: Tensor, vectors: Tensor, k: int) -> list[list[int]]:
    """Scores everything exactly: no part of a catalogue is few enough for a scan."""
    with patch.object(best, "FEW", 0):
        return ids(best_items(users, Shelf(vectors), k))


def searches(vectors: Tensor, k: int, threads: int, *, faiss: bool) -> dict[str, Search]:
    """Lists what is compared."""
    kept = Shelf(vectors)
    named: dict[str, Search] = {
        REFERENCE: lambda users: ((users @ vectors.T).topk(k).indices + 1).tolist(),
        "best_items": lambda users: ids(best_items(users, Shelf(vectors), k)),
        "kept shelf": lambda users: ids(best_items(users, kept, k)),
        "no scan": lambda users: without_scan(users, vectors, k),
    }
    if faiss:
        named["FAISS"] = faiss_search(vectors, k, threads)
    return named


def faiss_search(vectors: Tensor, k: int, threads: int) -> Search:
    """Makes a flat index of the vectors."""
    try:
        import faiss
    except ImportError as error:
        raise SystemExit("--faiss needs FAISS: pip install faiss-cpu") from error
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(vectors.size(1))
    index.add(vectors.numpy())
    return lambda users: (index.search(users.numpy(), k)[1] + 1).tolist()


def timed(search: Search, users: Tensor) -> tuple[list[list[int]], float, float]:
    """Returns what is found, the seconds by the wall, and those of processors."""
    wall, processor = time.perf_counter(), time.process_time()
    found = search(users)
    return found, time.perf_counter() - wall, time.process_time() - processor


def peak(search: Search, users: Tensor) -> str:
    """Says by how much a call makes resident memory grow at most."""
    if not CLEAR_REFS.exists() or platform.libc_ver()[0] != "glibc":
        return "unknown"
    ctypes.CDLL(None).malloc_trim(0)  # or the call is given what an earlier one has left
    CLEAR_REFS.write_text("5")  # sets the peak back to what is resident now
    before = psutil.Process().memory_info().rss
    search(users)
    lines = Path("/proc/self/status").read_text().splitlines()
    (highest,) = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return f"{max(highest * 1024 - before, 0) / 2**20:.0f} MiB"


def check(found: dict[str, list[list[int]]]) -> None:
    """Raises an error if a search has found something else."""
    mine = found["best_items"]
    for name, other in found.items():
        same = np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(mine, other, strict=True)])
        if (name in OURS and other != mine) or same < 0.99:
            raise SystemExit(f"{name} found other items than best_items: {same:.4f} are the same")


def summary(values: Sequence[float], unit: str) -> str:
    """Writes a median and its spread."""
    return f"{statistics.median(values):.3g}{unit} ({min(values):.3g} to {max(values):.3g})"


def compare(num_items: int, num_users: int, arguments: argparse.Namespace) -> None:
    """Measures one size and prints it."""
    generator = torch.Generator().manual_seed(arguments.seed)
    vectors = torch.randn(num_items, arguments.width, generator=generator)
    users = torch.randn(num_users, arguments.width, generator=generator)
    named = searches(vectors, arguments.k, arguments.threads, faiss=arguments.faiss)
    print(f"\n{num_items} items x {arguments.width}, {num_users} users, k={arguments.k}")
    peaks = {name: peak(search, users) for name, search in named.items()}  # and a warm-up
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in named}
    for _ in range(arguments.repeats):
        found = {}
        for name, search in named.items():
            found[name], *seconds = timed(search, users)
            times[name].append((seconds[0], seconds[1]))
        check(found)
    for name, seconds in times.items():
        for place, kind in enumerate(("wall", "processor")):
            own = [one[place] for one in seconds]
            ratios = [a / b[place] for a, b in zip(own, times[REFERENCE], strict=True)]
            milliseconds = [1000 * one for one in own]
            print(
                f"{name:11} {kind:9}  {summary(milliseconds, ' ms'):32} "
                f"ratio {summary(ratios, 'x'):28}  peak {peaks[name]}",
                flush=True,
            )


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="items x users, as 12101x64")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5, help="calls of each")
    parser.add_argument("--faiss", action="store_true", help="compare FAISS as well")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    """Measures and prints."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    packages = ["torch", "numpy", *(["faiss-cpu"] if arguments.faiss else [])]
    versions = [f"{name} {version(name)}" for name in packages]
    print(", ".join([f"laser_peft {laser_peft.__version__}", *versions]))
    print(
        f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, "
        f"{arguments.threads} used; float32, {arguments.repeats} repeats, seed {arguments.seed}"
    )
    for size in arguments.sizes:
        num_items, num_users = (int(number) for number in size.split("x"))
        compare(num_items, num_users, arguments)


if __name__ == "__main__":
    main()
