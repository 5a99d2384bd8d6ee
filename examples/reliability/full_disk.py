"""A disk that is full at a random moment: said, nothing harmed, gone on with once there is room.

The disk is a tmpfs of a size drawn by chance; mounting one needs the right to do so.
"""

import errno
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from children import Job, start
from faults import Row
from kills import Killed, check_same, commands

ROOM, PAGE = "64m", 4096  # a tmpfs gives a file whole pages


def full_disk(tries: int, shop: Path, folder: Path, seed: int) -> list[Row]:
    """Lets every command run into a full disk so often; a row for each.

    Raises:
        AssertionError: if a command fails otherwise than it should, or ends otherwise after it.
    """
    return [
        row
        for place, command in enumerate(commands(shop))
        for row in _runs_into(command, tries, folder / str(place), random.Random(seed))
    ]


def _runs_into(command: Killed, tries: int, folder: Path, rng: random.Random) -> list[Row]:
    folder.mkdir()
    whole, log = folder / "whole", folder / "whole.log"
    if command.older is not None:
        shutil.copytree(command.older, whole)
    start(command.job(whole), log).wait()
    size = _size(whole)
    there = 0 if command.older is None else _size(command.older)
    full = 0
    for _ in range(tries):
        room = there + rng.uniform(0.02, 0.9) * size
        with _disk(folder / "disk", f"{int(room // 1024) + 4}k") as disk:
            if _was_full(command, disk, log):
                full += 1
                _mount(disk, f"remount,size={ROOM}")
                start(command.job(disk / "run"), log).wait()
            check_same(disk / "run", whole)
    how = "a tmpfs smaller than what is written, by chance; then made larger, and started again"
    lost = "nothing: one error says it; with room it goes on to the same result"
    return [Row("full disk", command.name, how, full, lost)] if full else []


def _was_full(command: Killed, disk: Path, log: Path) -> bool:
    """Runs it on the small disk."""
    if command.older is not None:
        shutil.copytree(command.older, disk / "run")
    job = command.job(disk / "run")
    try:
        start(lambda: _says_that_it_is_full(job), log).wait()
    except RuntimeError as error:
        if "there is no room" in str(error) and "Traceback" not in str(error):
            return True
        raise
    return False


def _says_that_it_is_full(job: Job) -> None:
    try:
        job()
    except OSError as error:
        if error.errno != errno.ENOSPC or "there is no room" not in str(error):
            raise
        print(error)
        raise SystemExit(2) from None


def _size(folder: Path) -> int:
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*"))


@contextmanager
def _disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    _mount(folder, f"size={size}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
