"""Causes faults and writes what came of them: docs/reliability.md is made by this command.

    python examples/reliability/run.py --output docs/reliability.md

Hardware: any Linux machine; a full disk is a tmpfs, which needs the right to mount one.
Time: see the page itself; --kills 20 --inputs 500 --tries 1 takes a few minutes.
Needs fork and SIGKILL. Everything is drawn from --seed; at which microsecond a process dies is not.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import damage
import full_disk
import fuzz
import kills
import limits
import made_up_shop
import workers
from faults import Row
from table import write_part


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="page whose table is written")
    parser.add_argument("--kills", type=int, default=240, help="in all (240)")
    parser.add_argument("--inputs", type=int, default=10_000, help="hostile ones in all (10000)")
    parser.add_argument("--tries", type=int, default=3, help="of each other fault (3)")
    parser.add_argument("--parts", nargs="+", choices=[*parts()], default=[*parts()])
    parser.add_argument("--commands", nargs="+", default=(), help="kill these only")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def parts() -> dict[str, Callable[[argparse.Namespace, Path, Path], list[Row]]]:
    """Every part of the table, in its order."""
    return {
        "kills": lambda asked, shop, at: kills.kill_all(
            asked.kills, shop, at, asked.seed, asked.commands
        ),
        "disk": lambda asked, shop, at: full_disk.full_disk(asked.tries, shop, at, asked.seed),
        "damage": lambda asked, shop, at: damage.damage(asked.tries, shop, at, asked.seed),
        "limits": lambda asked, shop, at: limits.limits(asked.tries, shop, at, asked.seed),
        "workers": lambda asked, shop, at: workers.a_worker_dies(asked.tries, shop, at, asked.seed),
        "fuzz": lambda asked, shop, at: fuzz.fuzz(asked.inputs, shop, at, asked.seed),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Causes what is asked for and writes the page."""
    asked = read_arguments(argv)
    with tempfile.TemporaryDirectory() as folder:  # before it is said where others are made
        tempfile.tempdir = os.environ["TMPDIR"] = str(Path(folder) / "temporary")
        Path(tempfile.tempdir).mkdir()
        shop = Path(folder) / "shop"
        made_up_shop.make(shop)
        for name in asked.parts:
            since, at = time.monotonic(), Path(folder) / name
            at.mkdir()
            rows = parts()[name](asked, shop, at)
            seconds = time.monotonic() - since
            print(f"{name}: {seconds:.0f} s", flush=True)
            write_part(asked.output, name, rows, seconds=seconds, seed=asked.seed)
    print(f"written: {asked.output}")


if __name__ == "__main__":
    main()
