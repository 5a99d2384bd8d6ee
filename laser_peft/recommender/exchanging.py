"""Files of a folder exchanged for others, all or none, whenever it is broken off.

What is written lies in ``.unfinished`` until it is whole, and is then renamed to ``.finished``:
from that moment on it counts, and whoever comes next, to read or to write, ends what was begun.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from laser_peft.checksums import CHECKSUMS, read_checksums, write_checksums

UNFINISHED, FINISHED = ".unfinished", ".finished"


@contextmanager
def exchanged(
    folder: Path, *, optional: Collection[str], may_change: Collection[str]
) -> Iterator[Path]:
    """Gives an empty folder to write into; what is in it then takes the place of what is here.

    Until all of it is written the old files stay.

    Args:
        folder: made if it is not there.
        optional: files that the new ones may lack; old ones then go.
        may_change: files of which no checksum is kept, as they are written anew by themselves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finish(folder, optional=optional)
    scratch = folder / UNFINISHED
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
        # Of the files; a folder of a tokenizer's chat templates goes without.
        written = {path.name for path in scratch.iterdir() if path.is_file()}
        write_checksums(scratch, written, may_change=may_change)
        os.replace(scratch, folder / FINISHED)
        finish(folder, optional=optional)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def finish(folder: Path, *, optional: Collection[str]) -> None:
    """Ends an exchange that was broken off after all was written; arguments as above.

    Several may do so at once. The checksums are moved last: by the old ones, files that are old and
    new side by side are no whole folder.
    """
    finished = folder / FINISHED
    if not finished.is_dir():
        return
    if read_checksums(finished, advice="delete it, and save again"):
        for name in set(optional) - {path.name for path in finished.iterdir()}:
            _remove(folder / name)
        names = sorted(path.name for path in finished.iterdir())
        names.sort(key=lambda name: name == CHECKSUMS)
        for name in names:
            _move(finished / name, folder / name)
    shutil.rmtree(finished, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    try:
        if target.is_dir():  # which nothing can take the place of
            _remove(target)
        os.replace(source, target)
    except FileNotFoundError:  # another process ends it too
        if not target.exists():
            raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
