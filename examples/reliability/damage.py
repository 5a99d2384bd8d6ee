"""Files of a run that are cut off, flipped in a bit or gone: seen and named, or made up for."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import made_up_shop
from children import start
from faults import Row
from kills import check_same

from laser_peft import LaserRecommender, pipeline
from laser_peft.training import RankingTrainer

MAY_CHANGE = ("README.md", "run_facts.json")  # of a recommender: written anew, and not checked
WAYS = ("cut off", "a bit flipped", "gone")


def damage(tries: int, shop: Path, folder: Path, seed: int) -> list[Row]:
    """Damages each file of a recommender so often in each way, and of a checkpoint once.

    Raises:
        AssertionError: if a damage changes what comes out, or is not said.
    """
    rng = random.Random(seed)
    rows = _recommender(tries, shop, folder, rng)
    return rows + _checkpoints(shop, folder, rng)


def _recommender(tries: int, shop: Path, folder: Path, rng: random.Random) -> list[Row]:
    source, copy = shop / "recommender", folder / "damaged"
    counts: Counter[str] = Counter()
    for name in sorted(path.name for path in source.iterdir() if path.name not in MAY_CHANGE):
        for way in WAYS:
            if name == "checksums.json" and way == "gone":
                continue  # as folders are that were saved before there were any
            for _ in range(1 if way == "gone" else tries):
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(source, copy)
                _damage(copy / name, way, rng)
                start(partial(_must_name, copy, name), folder / "load.log").wait()
                counts[way] += 1
    how = "each file in turn, at places drawn by chance"
    lost = "nothing: not loaded, the error names the file"
    return [Row(f"file {way}", "recommender/", how, counts[way], lost) for way in WAYS]


def _must_name(folder: Path, name: str) -> None:
    try:
        LaserRecommender.from_pretrained(folder)
    except (ValueError, FileNotFoundError) as error:
        # Of damaged checksums another file may seem to be the damaged one.
        if name in str(error) or "checksums.json" in str(error):
            return
        raise
    raise AssertionError(f"{name} was damaged and loaded")


def _checkpoints(shop: Path, folder: Path, rng: random.Random) -> list[Row]:
    """Cuts a run off in the midst of its adapter's training, and damages what it had saved."""
    run = made_up_shop.train_run(shop, "fused")
    whole, cut, copy = (folder / name for name in ("whole", "cut", "copy"))
    log = folder / "train.log"
    start(lambda: pipeline.train(run, whole), log).wait()
    start(lambda: _cut_off(lambda: pipeline.train(run, cut)), log).wait()
    counts: Counter[str] = Counter()
    for file in sorted(cut.glob("checkpoints/laser/checkpoint-*/*")):
        for way in WAYS:
            if file.name == "checksums.json" and way == "gone":
                continue
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(cut, copy)
            _damage(copy / file.relative_to(cut), way, rng)
            start(lambda: pipeline.train(run, copy, resume=True), log).wait()
            check_same(copy, whole)
            counts[way] += 1
    how = "each file in turn, then --resume"
    lost = "time alone: begun anew from what was whole; the result is the same to the last bit"
    return [Row(f"file {way}", "checkpoints/laser/", how, counts[way], lost) for way in WAYS]


def _cut_off(run: Callable[[], object]) -> None:
    """Ends the run after the first checkpoint of the adapter itself."""
    step = RankingTrainer.training_step

    def stops(self: RankingTrainer, *args: object, **kwargs: object) -> object:
        if Path(str(self.args.output_dir)).name == "laser" and self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    RankingTrainer.training_step = stops  # type: ignore[method-assign]
    try:
        run()
    except KeyboardInterrupt:
        return
    raise AssertionError("the run was not cut off")


def _damage(file: Path, way: str, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if way == "gone":
        file.unlink()
    elif way == "cut off":
        file.write_bytes(content[: rng.randrange(len(content))])
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
