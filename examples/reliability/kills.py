"""kill -9 at random moments of every stage: what is gone on with ends as what was left alone."""

import json
import math
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import made_up_shop
from children import PAUSE, Child, Job, start
from faults import Row

from laser_peft import LaserRecommender, pipeline
from laser_peft.cli import app

START = "the start"
# Of the last part of a run only; as the Trainer counts them.
OF_A_PART = ("seconds", "_runtime", "_per_second", "total_flos", "train_loss")
# A log has times in it, and the checksum of a file in which the folder's own name is, differs.
NAME_ONLY = ("log.txt", "seconds.json", "checksums.json")
OF_SASREC = {"SASRec": "checkpoints/sasrec"}
OF_TEST = {"saving": "recommender.unfinished", "test": "recommender"}
OF_FUSED = OF_SASREC | {
    "text reader": "checkpoints/laser-phase-1",
    "twin's SASRec": "checkpoints/twin-sasrec",
    "twin's text reader": "checkpoints/twin-reading",
    "adapter and weighing": "checkpoints/laser",
    **OF_TEST,
}
OF_TEXT = OF_SASREC | {
    "item phase": "checkpoints/laser-phase-1",
    "adapter": "checkpoints/laser",
    **OF_TEST,
}


@dataclass
class Killed:
    """A command that is killed again and again.

    Args:
        name: of the command.
        job: makes the command of a folder to write.
        stages: what of the folder is there once a stage has begun, in order, below it.
        older: a folder that is there before.
    """

    name: str
    job: Callable[[Path], Job]
    stages: dict[str, str] = field(default_factory=dict)
    older: Path | None = None

    def stage_of(self, output: Path) -> str:
        """Tells the last stage that has begun and, of a folder that comes and goes, not ended."""
        begun = [name for name, mark in self.stages.items() if (output / mark).exists()]
        return begun[-1] if begun else START


def commands(shop: Path) -> list[Killed]:
    """Every command that writes a folder."""

    def trained(item_vectors: str) -> Callable[[Path], Job]:
        run = made_up_shop.train_run(shop, item_vectors)
        return lambda output: lambda: pipeline.train(run, output, resume=True)

    def command(*arguments: object) -> Callable[[Path], Job]:
        given = list(map(str, arguments))
        return lambda output: lambda: app([*given, "--output", str(output)])

    log = ["--interactions", shop / "interactions.csv.gz"]
    both = [*log, "--items", shop / "items.jsonl.gz"]
    encoder = made_up_shop.encoder_run(shop)
    recommender = shop / "recommender"
    saving = {"writing": ".unfinished"}
    return [
        Killed("train --item-vectors fused", trained("fused"), OF_FUSED),
        Killed("train --item-vectors text", trained("text"), OF_TEXT),
        Killed(
            "train-encoder",
            lambda output: lambda: pipeline.train_encoder(encoder, output, resume=True),
            OF_SASREC | {"test": "sasrec"},
        ),
        Killed("prepare", command("prepare", *both)),
        Killed("evaluate", command("evaluate", recommender, *log)),
        Killed("baselines", command("baselines", *both, "--llm", shop / "lm")),
        Killed("save_pretrained over an older one", _removes(recommender), saving, recommender),
        Killed("add_items and save", _adds, saving, recommender),
    ]


def _removes(recommender: Path) -> Callable[[Path], Job]:
    """Saves what another one is without its first item."""

    def save(output: Path) -> None:
        loaded = LaserRecommender.from_pretrained(recommender)
        loaded.remove_items(loaded.catalogue.item_ids[:1])
        loaded.save_pretrained(output)

    return lambda output: lambda: save(output)


def _adds(output: Path) -> Job:
    """Adds an item to the recommender in the folder, unless it is there; saves it there."""

    def add() -> None:
        loaded = LaserRecommender.from_pretrained(output)
        if "new" not in loaded.catalogue.item_ids:
            loaded.add_items([{"item_id": "new", "title": "A new lamp"}])
        loaded.save_pretrained(output)

    return add


def kill_all(
    kills: int, shop: Path, folder: Path, seed: int, only: Sequence[str] = ()
) -> list[Row]:
    """Kills every command, or only those named, together so often, the longer ones more often.

    Raises:
        AssertionError: if a run ends otherwise than the one that was left alone, or files are left.
        RuntimeError: if one that goes on fails.
    """
    made = [command for command in commands(shop) if not only or command.name in only]
    parts = sum(len(command.stages) + 1 for command in made)
    rows = []
    for place, command in enumerate(made):
        (folder / str(place)).mkdir()
        own = math.ceil(kills * (len(command.stages) + 1) / parts)
        rows += kill_often(command, own, folder / str(place), seed)
    left = [path for path in Path(tempfile.gettempdir()).rglob("*") if path.is_file()]
    assert not left, f"left in the folder for temporary files: {left}"
    return rows


def kill_often(command: Killed, kills: int, folder: Path, seed: int) -> list[Row]:
    """Kills a command so often, runs of it one after another; a row for each stage.

    Raises:
        AssertionError: if a run ends otherwise than the one that was left alone.
        RuntimeError: if one that goes on fails.
    """
    rng = random.Random(f"{seed} {command.name}")
    whole = folder / "whole"
    _put_older(command, whole)
    seconds = _left_alone(command, whole)
    counts: Counter[str] = Counter()
    runs = 0
    while counts.total() < kills:
        output = folder / f"run-{runs}"
        _put_older(command, output)
        left = kills - counts.total()
        counts += _killed_run(command, output, left, seconds, rng)
        check_same(output, whole)
        shutil.rmtree(output)
        runs += 1
    return [
        Row(
            fault="kill -9",
            where=f"{command.name}: {stage}" if command.stages else command.name,
            how=f"at a random moment, then started again; {runs} runs of the command",
            tries=counts[stage],
            lost="nothing: the same files, equal to the last bit",
        )
        for stage in (START, *command.stages)
        if counts[stage]
    ]


def _put_older(command: Killed, output: Path) -> None:
    if command.older is not None:
        shutil.copytree(command.older, output)


def _left_alone(command: Killed, output: Path) -> dict[str, float]:
    """Runs it once and returns how long each stage took, in seconds."""
    child = start(command.job(output), output.with_suffix(".log"))
    seconds, stage, since = {}, START, time.monotonic()
    while True:
        over = child.is_over()
        now = command.stage_of(output)
        if over or now != stage:
            seconds[stage] = time.monotonic() - since
            stage, since = now, time.monotonic()
        if over:
            child.wait()
            return seconds
        time.sleep(PAUSE)


def _killed_run(
    command: Killed, output: Path, kills: int, seconds: dict[str, float], rng: random.Random
) -> Counter[str]:
    """Kills a run once in each of its stages, at most so often, then lets it end."""
    counts: Counter[str] = Counter()
    log = output.with_suffix(".log")
    stages = list(seconds)
    for place, stage in enumerate(stages):
        if counts.total() == kills or stages.index(command.stage_of(output)) > place:
            continue
        going_on = command.stage_of(output) == stage and stage != START
        child = start(command.job(output), log)
        _wait_for(command, stage, output, child)
        time.sleep(rng.uniform(0, seconds[stage] + (seconds[START] if going_on else 0)))
        if not child.kill():
            return counts
        counts[command.stage_of(output)] += 1
    # What leaves all or nothing, and only once, may have been killed behind its end.
    if command.stages or command.older is not None or not output.exists():
        start(command.job(output), log).wait()
    return counts


def _wait_for(command: Killed, stage: str, output: Path, child: Child) -> None:
    places = [START, *command.stages]
    while not child.is_over():
        if places.index(command.stage_of(output)) >= places.index(stage):
            return
        time.sleep(PAUSE)


def check_same(output: Path, whole: Path) -> None:
    """Makes sure that two folders hold the same files, but for times and who wrote them when.

    Raises:
        AssertionError: if they do not.
    """
    ours, theirs = (_files(folder) for folder in (output, whole))
    assert ours.keys() == theirs.keys(), f"files of one only: {ours.keys() ^ theirs.keys()}"
    different = [name for name in ours if ours[name] != theirs[name]]
    assert not different, f"not the same in {output} and {whole}: {different}"


def _files(folder: Path) -> dict[str, object]:
    """Reads what must be equal; of checkpoints and logs only the names."""
    return {
        path.relative_to(folder).as_posix(): _content(path, folder)
        for path in folder.rglob("*")
        if path.is_file()
    }


def _content(path: Path, folder: Path) -> object:
    name = path.relative_to(folder).as_posix()
    if name.startswith("checkpoints/") or path.name in NAME_ONLY:
        return None
    content = path.read_bytes().replace(os.fsencode(folder), b"")
    if path.suffix == ".jsonl":
        return [_without_times(json.loads(line)) for line in content.splitlines()]
    if path.suffix != ".json":
        return content
    told = json.loads(content)
    return _without_times(told) if isinstance(told, dict) else told


def _without_times(told: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in told.items() if not key.endswith(OF_A_PART)}
