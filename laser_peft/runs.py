"""The folder of a run: started once, gone on with, never half written.

``run.json`` holds what decides the run (settings, versions, data counts and hash).
"""

import json
import os
import platform
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

PACKAGES = ("laser-peft", "torch", "transformers", "peft", "accelerate")


class Savable(Protocol):
    """What saves itself into a folder."""

    def save_pretrained(self, folder: Path, /) -> Any:
        """Writes everything into the folder."""


def check_output(output: Path, *, resume: bool) -> None:
    """Makes sure that a run may write into a folder.

    Raises:
        FileExistsError: if it holds something, and that is not a run to go on with.
    """
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not resume:
        raise FileExistsError(
            f"{output} is not empty; choose another folder, or resume the run in it (--resume)"
        )
    if not (output / "run.json").is_file():
        raise FileExistsError(
            f"{output} is not empty and holds no run to resume (no run.json); choose another"
        )


def save_whole(saved: Savable, folder: Path) -> None:
    """Saves beside the folder first: one with this name is always whole."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    saved.save_pretrained(unfinished)
    os.replace(unfinished, folder)


def start_or_check(output: Path, run: Any, data: dict[str, Any]) -> None:
    """Writes ``run.json``, or makes sure that the one there says the same.

    Args:
        output: folder of the run.
        run: a dataclass of everything that decides it.
        data: counts and hash of what was read.

    Raises:
        ValueError: if the run in the folder was started otherwise or on other data.
    """
    wanted = json.loads(json.dumps({"settings": asdict(run), "data": data}))
    file = output / "run.json"
    if file.is_file():
        written = json.loads(file.read_text("utf-8"))
        for part in wanted:
            different = [
                name for name in wanted[part] if written[part].get(name) != wanted[part][name]
            ]
            if different:
                raise ValueError(
                    f"the run in {output} has other {part}: {', '.join(different)} changed; resume "
                    "it as it was started (run.json says how), or choose another folder"
                )
        return
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    output.mkdir(parents=True, exist_ok=True)
    write_json(file, wanted | {"versions": versions})


def last_checkpoint(folder: Path) -> str | None:
    """Returns the newest whole checkpoint; the Trainer writes ``trainer_state.json`` last."""
    whole = folder.glob("checkpoint-*/trainer_state.json")
    by_step = {int(file.parent.name.removeprefix("checkpoint-")): file.parent for file in whole}
    return str(by_step[max(by_step)]) if by_step else None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes beside the file first, so that no half-written one is ever taken for whole."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
