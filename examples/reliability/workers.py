"""One of two processes is killed: the other ends with an error, and both go on to the same end."""

import os
import random
import shutil
import socket
import time
from pathlib import Path

import made_up_shop
from children import Child, start
from faults import Row
from safetensors.torch import load_file

from laser_peft.data import Catalogue
from laser_peft.experiment import Experiment
from laser_peft.runs import save_whole
from laser_peft.training import SASRecSettings, train_sasrec
from laser_peft.training.checkpoints import last_checkpoint

PROCESSES, BOUND = 2, 60  # seconds within which the other must have ended
SETTINGS = SASRecSettings(epochs=60, patience=60, batch_size=4, hidden_size=16)


def a_worker_dies(tries: int, shop: Path, folder: Path, seed: int) -> list[Row]:
    """Kills either process of a training so often.

    Raises:
        AssertionError: if the other one hangs, or the end is another one.
    """
    rng = random.Random(seed)
    whole = folder / "whole"
    began = time.monotonic()
    for child in _both(shop, whole):
        child.wait()
    took, slowest = time.monotonic() - began, 0.0
    for place in range(tries):
        output = folder / f"killed-{place}"
        children = _both(shop, output)
        time.sleep(rng.uniform(0.3, 0.9) * took)
        victim = rng.randrange(PROCESSES)
        children[victim].kill()
        slowest = max(slowest, _until_over(children[1 - victim]))
        for child in _both(shop, output):
            child.wait()
        _check_same(output, whole)
        shutil.rmtree(output)
    how = "kill -9 of either of two gloo processes, then both started again"
    lost = f"nothing: the other ends within {slowest:.0f} s; the result is the same to the last bit"
    return [Row("a worker dies", "training of a SASRec", how, tries, lost)]


def _both(shop: Path, output: Path) -> list[Child]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output.mkdir(exist_ok=True)
    return [
        start(lambda rank=rank: _train(rank, port, shop, output), output.with_suffix(f".{rank}"))  # type: ignore[misc]
        for rank in range(PROCESSES)
    ]


def _train(rank: int, port: int, shop: Path, output: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run = made_up_shop.encoder_run(shop)
    catalogue = Catalogue.read(run.items)
    split = Experiment.read(run.interactions, catalogue).split
    model = train_sasrec(
        split,
        len(catalogue),
        output / "checkpoints",
        SETTINGS,
        resume_from_checkpoint=last_checkpoint(output / "checkpoints"),
    )
    if rank == 0 and not (output / "sasrec").is_dir():  # a killed one may have been done
        save_whole(model, output / "sasrec")


def _until_over(child: Child) -> float:
    """Waits for the other process, which may have been done; returns the seconds it took."""
    since = time.monotonic()
    while not child.is_over():
        if time.monotonic() - since > BOUND:
            child.kill()
            raise AssertionError(f"the other process has not ended within {BOUND} s")
        time.sleep(0.05)
    os.waitpid(child.pid, 0)
    return time.monotonic() - since


def _check_same(output: Path, whole: Path) -> None:
    ours, theirs = (load_file(at / "sasrec/model.safetensors") for at in (output, whole))
    different = [name for name in theirs if not ours[name].equal(theirs[name])]
    assert not different, f"not the same after a worker died: {different}"
