"""Time and peak memory of preparing a large log: read, check, 5-core, order, number, split, write.

    python examples/benchmarks/many_events.py
    python examples/benchmarks/many_events.py --events 1000000 --users 100000 --items 20000

Generates a log (popular items are far more popular, some rows are broken, some twice), writes it
as CSV.gz and as Parquet to a temporary folder, and runs ``laser-peft prepare`` on each in its own
process, whose wall time and peak resident memory are printed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write_log(folder: Path, events: int, users: int, items: int) -> None:
    """Writes the log in both formats, in the order of time, as shops keep it."""
    import gzip

    import numpy as np
    import polars as pl

    draw = np.random.default_rng(0)
    user = np.minimum(draw.pareto(1.5, events) * users / 8, users - 1).astype(np.int64)
    item = np.minimum(draw.pareto(0.8, events) * items / 50, items - 1).astype(np.int64)
    user = np.where(draw.random(events) < 0.5, user, draw.integers(users, size=events))
    item = np.where(draw.random(events) < 0.5, item, draw.integers(items // 2, size=events))
    log = pl.DataFrame(
        {
            "user_id": pl.Series(user * 48_271 % 2_147_483_647).cast(pl.String).str.zfill(14),
            "item_id": pl.Series(item * 16_807 % 2_147_483_647).cast(pl.String).str.zfill(10),
            "timestamp": np.sort(draw.integers(1_300_000_000, 1_700_000_000, events)),
        }
    )
    broken = pl.int_range(pl.len()) % 1_000_003 == 7
    log = log.with_columns(pl.when(~broken).then("item_id").alias("item_id"))
    log = pl.concat([log, log.head(events // 1000)])
    log.write_parquet(folder / "log.parquet")
    with gzip.open(folder / "log.csv.gz", "wb", compresslevel=1) as file:
        log.write_csv(file)


def measure(command: list[str]) -> str:
    """Runs a command; says its seconds and its peak resident memory."""
    started = time.monotonic()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    wall, processor = time.monotonic() - started, used.ru_utime + used.ru_stime
    memory = used.ru_maxrss / 2**20  # Linux counts KiB
    return f"{wall:.1f} s ({processor:.1f} s of processor time), peak {memory:.2f} GiB"


def main() -> None:
    """Generates, then measures; this process stays small, for a child's peak counts its parent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_log(options.write, options.events, options.users, options.items)
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, *sys.argv, "--write", folder], check=True)
        for name in ("log.csv.gz", "log.parquet"):
            size = (Path(folder) / name).stat().st_size / 2**20
            output = str(Path(folder) / f"prepared-{name}")
            command = ["prepare", "--interactions", str(Path(folder) / name), "--output", output]
            command += ["--min-user-events", "5", "--min-item-events", "5"]
            command += ["--drop-bad-rows", "--drop-duplicates"]
            took = measure([sys.executable, "-m", "laser_peft", *command])
            print(f"{name} ({size:.0f} MiB): {took}\n", flush=True)


if __name__ == "__main__":
    main()
