"""The folder of a run: started once, gone on with, never half written.

``run.json`` holds what decides the run (settings, versions, data counts and hash). Of several
processes all look at the folder, and the main one writes.
"""

import json
import logging
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from laser_peft.processes import by_one, processes
from laser_peft.whole import new_whole, write_json
from laser_peft.wording import shortly

RUN, UNFINISHED_RUN = "run.json", "run.unfinished"
SECONDS = "seconds.json"
logger = logging.getLogger(__name__)
PACKAGES = ("laser-peft", "torch", "transformers", "peft", "accelerate")


class Savable(Protocol):
    """What saves itself into a folder."""

    def save_pretrained(self, folder: Path, /) -> Any:
        """Writes everything into the folder."""


def check_new(folder: Path, *, advice: str = "choose another folder") -> None:
    """Makes sure that nothing is overwritten.

    Raises:
        FileExistsError: if it is a file, or a folder that holds something.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose a folder")
    # A start that was cut off leaves no run.json but its unfinished beginning.
    if any(path.name != UNFINISHED_RUN for path in folder.iterdir()):
        raise FileExistsError(f"{folder} is there already and not empty; {advice}")


def check_output(output: Path, *, resume: bool) -> None:
    """Makes sure that a run may write into a folder.

    Raises:
        FileExistsError: if it holds something, and that is not a run to go on with.
        ValueError: if the ``run.json`` of the run to go on with is damaged.
    """
    if not resume:
        check_new(output, advice="choose another folder, or resume the run in it (--resume)")
    elif (output / RUN).is_file():
        _read_run(output)
    else:
        check_new(output, advice="it holds no run to resume (no run.json); choose another folder")
        logger.warning("there is no run in %s to resume: a new one starts", output)


def save_whole(saved: Savable, folder: Path) -> None:
    """Saves beside the folder first: one with this name is always whole."""
    with new_whole(folder) as unfinished:
        saved.save_pretrained(unfinished)


def check_same(output: Path, run: Any, data: dict[str, Any]) -> None:
    """Makes sure that a run in the folder, if there is one, says the same; see `start_or_check`."""
    if (output / RUN).is_file():
        _check_same(output, _read_run(output), _as_json(run, data))


def start_or_check(output: Path, run: Any, data: dict[str, Any]) -> None:
    """Writes ``run.json``, or makes sure that the one there says the same.

    Where the data lies may change: its hash says whether it is the same.

    Args:
        output: folder of the run.
        run: a dataclass of everything that decides it.
        data: counts and hash of what was read.

    Raises:
        ValueError: if the run in the folder was started otherwise or on other data, or its
            ``run.json`` is damaged.
    """
    check_same(output, run, data)
    processes().wait_for_everyone()  # who looks after it was written would take it for another's
    by_one(_start, output, _as_json(run, data))


def _start(output: Path, told: dict[str, Any]) -> None:
    if (output / RUN).is_file():
        return
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / RUN, told | {"versions": versions})


def _as_json(run: Any, data: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(json.dumps({"settings": asdict(run), "data": data}))
    return told


def _check_same(output: Path, written: dict[str, Any], wanted: dict[str, Any]) -> None:
    before, now = _decisive(written), _decisive(wanted)
    for part in now:
        # What only one of them has counts too: a run of another command is another run.
        different = list(_differences(before[part], now[part]))
        if different:
            raise ValueError(
                f"the run in {output} has other {part}: {', '.join(different)} changed; resume it "
                "as it was started (run.json says how), or choose another folder"
            )


def _differences(before: dict[str, Any], now: dict[str, Any], path: str = "") -> Iterator[str]:
    """Says what changed, such as ``laser.epochs (2, now 3)``."""
    for name in before | now:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{path}{name}.")
        elif old != new:
            is_told = name in before and name in now and not name.endswith("sha256")
            is_told &= not isinstance(old or new, dict | list)
            yield f"{path}{name}" + (f" ({shortly(old)}, now {shortly(new)})" if is_told else "")


def _decisive(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Leaves out of the settings where the log and the items lie."""
    settings = {name: value for name, value in told.get("settings", {}).items() if name != "items"}
    log = settings.get("interactions", {})
    settings["interactions"] = {name: value for name, value in log.items() if name != "path"}
    return {"settings": settings, "data": told.get("data", {})}


def _read_run(output: Path) -> dict[str, Any]:
    return _read_json(
        output / RUN, "without it the run cannot be resumed; restore it, or choose another folder"
    )


@contextmanager
def adds_seconds(output: Path, stage: str) -> Iterator[None]:
    """Adds the time of what it encloses to the stage's in ``seconds.json``.

    A stage that is interrupted and gone on with counts all its parts, but for those that were
    killed outright.
    """
    started = time.monotonic()
    logger.info("%s: training starts", stage)
    try:
        yield
    finally:
        seconds = seconds_of(output)
        seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - started, 1)
        if processes().is_main_process:  # and waits for nobody: it may have been interrupted alone
            write_json(output / SECONDS, seconds)
        logger.info("%s: training ends, after %s s in all", stage, seconds[stage])


def seconds_of(output: Path) -> dict[str, float]:
    """Returns the seconds that :func:`adds_seconds` has counted, stage by stage."""
    file = output / SECONDS
    return _read_json(file, "delete it; its times are lost") if file.is_file() else {}


def _read_json(file: Path, advice: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); {advice}") from error
    return told
