"""Times variants in turns, in one process, and tells medians, ratios and how far they spread.

Other jobs and the machine's own moods reach all variants of a round alike, so a ratio is taken
within each round and the median of these is told. Seconds of this process's processors stand beside
those by the wall: where others share the cores, the former say more.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from transformers.utils import logging

import laser_peft

PACKAGES = ("torch", "transformers", "peft", "numpy")


class Seconds(NamedTuple):
    """How long something took."""

    wall: float
    processor: float

    def per(self, count: int) -> "Seconds":
        """Returns the share of one of ``count`` equal parts, at least 1."""
        return Seconds(self.wall / count, self.processor / count)


class Clock:
    """Measures the time between :meth:`start` and the latest :meth:`stop`."""

    taken = Seconds(0.0, 0.0)

    def start(self) -> None:
        """Something begins."""
        _wait_for_gpu()
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Something ends, for now."""
        _wait_for_gpu()
        wall, processor = self._began
        self.taken = Seconds(time.perf_counter() - wall, time.process_time() - processor)


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# Does a variant's work of a round, counted from 0, and says what it took, in seconds a unit.
Variant = Callable[[int], Seconds]


class Row(NamedTuple):
    """A variant beside the reference: seconds, and ratios of its seconds to the reference's."""

    name: str
    seconds: Seconds  # medians
    wall: tuple[float, float, float]  # median ratio, the lowest and the highest of a round
    processor: tuple[float, float, float]


def timed(work: Callable[[], object]) -> Seconds:
    """Does something once and says how long it took."""
    clock = Clock()
    clock.start()
    work()
    clock.stop()
    return clock.taken


def repeated(work: Callable[[], object]) -> Variant:
    """Makes a variant of something that is the same in every round."""
    return lambda place: timed(work)


def in_turns(
    variants: Mapping[str, Variant], rounds: int, *, warm_up: int = 1
) -> dict[str, list[Seconds]]:
    """Runs all variants one after the other, round after round, and prints what each turn took.

    Args:
        variants: by name.
        rounds: how many are measured, at least 1.
        warm_up: how many come before, for what happens once a process; not counted.

    Returns:
        By name, the seconds of each round.

    Raises:
        ValueError: if there are no rounds.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}: a median needs a value")
    taken: dict[str, list[Seconds]] = {name: [] for name in variants}
    for place in range(-warm_up, rounds):
        for name, variant in variants.items():
            seconds = variant(max(place, 0))
            if place >= 0:
                taken[name].append(seconds)
                said = f"{1000 * seconds.wall:.4g} ms, of processors {1000 * seconds.processor:.4g}"
                print(f"{place + 1} {name}: {said} ms", flush=True)
    return taken


def rows_of(taken: Mapping[str, Sequence[Seconds]], reference: str) -> list[Row]:
    """Sets every variant beside one of them.

    Example:
        >>> slow, fast = [Seconds(4, 2), Seconds(6, 4)], [Seconds(1, 1), Seconds(3, 2)]
        >>> rows_of({"slow": slow, "fast": fast}, "slow")[1].wall
        (0.375, 0.25, 0.5)
    """
    rows = []
    for name, of_rounds in taken.items():
        pairs = list(zip(of_rounds, taken[reference], strict=True))
        wall = [own.wall / other.wall for own, other in pairs]
        processor = [own.processor / other.processor for own, other in pairs]
        medians = Seconds(*(median(kind) for kind in zip(*of_rounds, strict=True)))
        rows.append(Row(name, medians, _spread(wall), _spread(processor)))
    return rows


def print_rows(rows: Sequence[Row], reference: str, unit: str) -> None:
    """Prints a Markdown table, milliseconds a unit and ratios to the reference."""
    print(f"\n| milliseconds per {unit} | wall | processor | ratio, processor | ratio, wall |")
    print("|---|---|---|---|---|")
    for row in rows:
        wall, processor = (1000 * value for value in row.seconds)
        ratios = "1 | 1" if row.name == reference else f"{_say(row.processor)} | {_say(row.wall)}"
        print(f"| {row.name} | {wall:.4g} | {processor:.4g} | {ratios} |", flush=True)


def common_parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser of the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write settings and numbers to")
    return parser


def start(arguments: argparse.Namespace) -> None:
    """Sets threads and seed, and prints versions, machine and settings."""
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    facts = machine()
    print(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    print(f"{facts['machine']}, {facts['cores']} cores, {arguments.threads} used")
    print(", ".join(f"{name} {value}" for name, value in _settings(arguments).items()), flush=True)


def machine() -> dict[str, Any]:
    """Returns versions and what the machine is, as JSON holds it."""
    versions = {"laser_peft": laser_peft.__version__} | {name: version(name) for name in PACKAGES}
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"versions": versions, "machine": kind, "cores": os.cpu_count()}


def finish(
    arguments: argparse.Namespace,
    taken: Mapping[str, Sequence[Seconds]],
    reference: str,
    unit: str,
    **others: Any,
) -> None:
    """Prints the table, and writes the file that was asked for.

    Args:
        arguments: of the command line.
        taken: what :func:`in_turns` returned.
        reference: the variant that the others are set beside.
        unit: what the seconds are of.
        **others: further numbers for the file.
    """
    print_rows(rows_of(taken, reference), reference, unit)
    if arguments.json is not None:
        told = machine() | {"settings": _settings(arguments), "unit": unit, "reference": reference}
        told |= {"seconds": {name: of_rounds for name, of_rounds in taken.items()}} | others
        arguments.json.write_text(json.dumps(told, indent=2) + "\n", "utf-8")


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = {name: value for name, value in vars(arguments).items() if name != "json"}
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in settings.items()
    }


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)


def _say(spread: tuple[float, float, float]) -> str:
    return "{:.3g} ({:.3g} to {:.3g})".format(*spread)
