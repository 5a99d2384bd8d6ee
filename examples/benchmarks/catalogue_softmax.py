r"""Times the softmax over a catalogue against matmul and cross_entropy, in turns, in one process.

    python examples/benchmarks/catalogue_softmax.py --items 500 1200 12101 100000 --users 32 256
    python examples/benchmarks/catalogue_softmax.py --items 1000000 --repeats 3 --memory
    python examples/benchmarks/catalogue_softmax.py --table learns

A step is the loss and its gradients, without an optimizer: of the users, and of the items too if
the table ``learns``; with ``--table unread`` it is the loss alone, without gradients. Vectors are
random directions and scores their cosines divided by 0.05. A ratio is that of two steps of one
round; ``error`` is the distance of the users' gradients from those of ``plain``, relative to their
length. With ``--memory`` each form also takes one step in a process of its own (Linux): by
how much the largest resident memory of that process grew, beyond vectors and table.
"""

import argparse
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import NamedTuple

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

import laser_peft
from laser_peft.losses import catalogue_cross_entropy, sampled_cross_entropy

TEMPERATURE = 0.05
NEGATIVES = 4096
TABLES = ("frozen", "learns", "unread")


class Problem(NamedTuple):
    """What a step is given: ``(B, R)``, ``(N, R)`` and item ids ``(B,)``."""

    users: Tensor
    items: Tensor
    labels: Tensor


def make_problem(num_users: int, num_items: int, width: int, table: str, seed: int) -> Problem:
    """Draws vectors and labels; the table is written in place, for memory is measured."""
    generator = torch.Generator().manual_seed(seed)
    users, items = (
        torch.empty(size, width).normal_(generator=generator) for size in (num_users, num_items)
    )
    for vectors, length in ((users, 1 / TEMPERATURE), (items, 1.0)):
        for block in vectors.split(10_000):
            block.mul_(length / block.norm(dim=1, keepdim=True))
    labels = torch.randint(1, num_items + 1, (num_users,), generator=generator)
    users.requires_grad_(table != "unread")
    return Problem(users, items.requires_grad_(table == "learns"), labels)


def plain(users: Tensor, items: Tensor, labels: Tensor) -> Tensor:
    """All scores at once."""
    return F.cross_entropy(users @ items.T, labels - 1)


def torch_chunks(users: Tensor, items: Tensor, labels: Tensor) -> Tensor:
    """The form of torch 2.13, 128 users at a time."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=128, allow_retain_graph=True)
    return F.linear_cross_entropy(users, items, labels - 1, options=options)


def sampled(users: Tensor, items: Tensor, labels: Tensor) -> Tensor:
    """Against negatives drawn for all users, with the logQ correction."""
    negatives = torch.randint(1, len(items) + 1, (NEGATIVES,))
    return sampled_cross_entropy(users, items, labels, negatives)


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain": plain,
    "ours": catalogue_cross_entropy,
    "ours, bfloat16 products": catalogue_cross_entropy,
    "linear_cross_entropy": torch_chunks,
    "sampled": sampled,
}


def forms_here(num_items: int) -> list[str]:
    """Names the forms that there are in this torch, and for so few items."""
    absent = [] if hasattr(F, "linear_cross_entropy") else ["linear_cross_entropy"]
    if num_items <= NEGATIVES:
        absent.append("sampled")
    return [name for name in FORMS if name not in absent]


def step(name: str, problem: Problem) -> None:
    """Computes the loss and its gradients; the old ones are forgotten before."""
    problem.users.grad = problem.items.grad = None
    halved = name.endswith("bfloat16 products")
    torch.set_float32_matmul_precision("medium" if halved else "highest")
    loss = FORMS[name](*problem)
    if loss.requires_grad:
        loss.backward()
    torch.set_float32_matmul_precision("highest")


def peak_growth(name: str, sizes: Sequence[int], table: str, threads: int) -> float:
    """Takes one step in this process; returns by how many MiB its peak grew beyond the problem."""
    torch.set_num_threads(threads)
    step(name, make_problem(64, 20_000, sizes[2], table, 0))  # kernels are loaded once
    problem = make_problem(*sizes, table, 0)
    before = psutil.Process().memory_info().rss / 2**20
    step(name, problem)
    # ru_maxrss would be that of the process which started this one, if that was larger.
    status = Path("/proc/self/status").read_text("ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10 - before


def summary(values: Sequence[float]) -> str:
    """Writes a median and its range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def compare(sizes: Sequence[int], arguments: argparse.Namespace) -> None:
    """Measures one size and prints a line for each form."""
    problem = make_problem(*sizes, arguments.table, arguments.seed)
    forms = arguments.forms or forms_here(sizes[1])
    wall: dict[str, list[float]] = {name: [] for name in forms}
    processor: dict[str, list[float]] = {name: [] for name in forms}
    gradients: dict[str, Tensor] = {}
    random = Random(arguments.seed)
    repeats = arguments.repeats or max(3, min(200, int(1e8) // (sizes[0] * sizes[1])))
    for repeat in range(repeats + 1):
        # In any order: what a form leaves in the caches is no other's alone.
        for name in random.sample(forms, len(forms)):
            began = time.perf_counter(), time.process_time()
            step(name, problem)
            if repeat:  # the first step warms up
                wall[name].append(time.perf_counter() - began[0])
                processor[name].append(time.process_time() - began[1])
            elif problem.users.grad is not None:
                gradients[name] = problem.users.grad
    print(
        f"\n{sizes[0]} users x {sizes[1]} items x {sizes[2]}, table {arguments.table}, {repeats}x"
    )
    for name in forms:
        ratios = [
            [own / other for own, other in zip(times[name], times["plain"], strict=True)]
            for times in (processor, wall)
        ]
        line = (
            f"{name:24} {1000 * statistics.median(processor[name]):9.2f} ms of processors, ratio "
            f"{summary(ratios[0])}; {1000 * statistics.median(wall[name]):9.2f} ms by the wall, "
            f"ratio {summary(ratios[1])}"
        )
        if gradients:
            error = (gradients[name] - gradients["plain"]).norm() / gradients["plain"].norm()
            line += f"; error {error:.1e}"
        if arguments.memory:
            with get_context("spawn").Pool(1) as pool:
                grown = pool.apply(peak_growth, (name, sizes, arguments.table, arguments.threads))
            line += f"; peak +{grown:.0f} MiB"
        print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[100_000])
    parser.add_argument("--users", type=int, nargs="+", default=[256])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--table", choices=TABLES, default="frozen")
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), help="plain among them")
    parser.add_argument("--repeats", type=int, help="steps of each; else by the size, 3 to 200")
    parser.add_argument("--memory", action="store_true", help="measure the peak too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    print(f"laser_peft {laser_peft.__version__}, torch {version('torch')}")
    print(
        f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, "
        f"{arguments.threads} used; float32, seed {arguments.seed}"
    )
    for num_items in arguments.items:
        for num_users in arguments.users:
            compare((num_users, num_items, arguments.width), arguments)


if __name__ == "__main__":
    main()
