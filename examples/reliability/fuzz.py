"""Hostile input to the public entry points: what is refused is refused in our own words."""

import json
import logging
import os
import random
import signal
import sys
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import NoReturn

from children import start
from entry_points import SHARES, Try
from faults import Row

import laser_peft

PACKAGE = str(Path(laser_peft.__file__).parent)
CLEAR = (ValueError, TypeError, OSError, ImportError, MemoryError)
TAKEN = "taken"
LONGEST = 60  # seconds for one input
SHOWN = 4  # of each kind of failure


def fuzz(inputs: int, shop: Path, folder: Path, seed: int, only: str = "") -> list[Row]:
    """Tries so many inputs, divided over the entry points; a row for each.

    Raises:
        AssertionError: if one ends in what is no clear error of ours, or takes too long.
    """
    rows, failures = [], []
    for name, (target, share) in SHARES.items():
        if only not in name:
            continue
        count = max(round(inputs * share), 1)
        told = folder / "told.json"
        scratch = folder / "scratch"
        scratch.mkdir(exist_ok=True)
        child = start(
            lambda: _try_all(target(shop, scratch), name, count, seed, told),  # noqa: B023
            folder / "fuzz.log",
        )
        try:
            child.wait()
        except RuntimeError as error:
            failures.append(f"{name}: {error}")
            continue
        counts, bad = json.loads(told.read_text())
        failures += bad
        said = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
        how = "values and bytes exchanged, put in and taken out by chance"
        rows.append(Row("hostile input", name, how, count, f"nothing: {said}, 0 failed"))
    assert not failures, "\n\n".join(failures)
    return rows


def _try_all(attempt: Try, name: str, count: int, seed: int, told: Path) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    signal.signal(signal.SIGALRM, _too_long)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    seen: Counter[str] = Counter()
    for number in range(count):
        signal.alarm(LONGEST)
        try:
            counts[str(attempt(random.Random(f"{seed} {name} {number}")) or TAKEN)] += 1
        except BaseException as error:  # a panic of polars is no Exception
            if is_clear(error):
                counts["refused in our words"] += 1
                continue
            counts["FAILED"] += 1
            where = _place(error)
            seen[where] += 1
            if seen[where] <= SHOWN:
                lines = traceback.format_exception(error)[-3:]
                failures.append(f"{name} {number}: {where}\n{''.join(lines)[-1500:]}")
        finally:
            signal.alarm(0)
    told.write_text(json.dumps([counts, failures]))
    sys.stdout.flush()
    os._exit(0)


def is_clear(error: BaseException) -> bool:
    """Tells an error that this package has raised, in its own words, from one that came through."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    is_ours = last.filename.startswith(PACKAGE) and (last.line or "").startswith("raise")
    return isinstance(error, CLEAR) and is_ours


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    ours = [f"{f.filename[-40:]}:{f.lineno}" for f in frames if f.filename.startswith(PACKAGE)]
    return f"{last.filename}:{last.lineno} ({type(error).__name__}; {ours[-1:]})"


def _too_long(*_: object) -> NoReturn:
    raise TimeoutError(f"an input took more than {LONGEST} s")
