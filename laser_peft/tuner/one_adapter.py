"""The folder of one adapter: its files lie where PEFT has those of the adapter "default"."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path


def keep_one(folder: Path, name: str, others: Iterable[str] = ()) -> None:
    """Moves an adapter's files to the root of a folder that ``save_pretrained`` wrote.

    Args:
        folder: what PEFT has written to.
        name: of the adapter.
        others: names of what was saved beside it and goes.
    """
    if name != "default":
        for path in (folder / name).iterdir():
            os.replace(path, folder / path.name)
    for other in {name, *others} - {"default"}:
        if (folder / other).is_dir():
            shutil.rmtree(folder / other)
