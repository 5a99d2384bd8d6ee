"""Losses that are no number, and memory that does not suffice: said with what to lower."""

from collections.abc import Callable
from pathlib import Path

import made_up_shop
import torch
from children import start
from faults import Row

from laser_peft import LaserRecommender, pipeline
from laser_peft.collaborative import SASRecModel
from laser_peft.training import RankingTrainer
from laser_peft.training.checkpoints import last_checkpoint
from laser_peft.tuner import BiTuningModel

FEW_STEPS = 9


def limits(tries: int, shop: Path, folder: Path, seed: int) -> list[Row]:
    """Causes each so often, at other steps.

    Raises:
        AssertionError: if the error is not the one that says what to do.
    """
    for place in range(tries):
        output = folder / str(place)
        start(lambda: _no_number(shop, output, FEW_STEPS + place), folder / "log").wait()  # noqa: B023
        start(lambda: _no_room_to_train(shop, output / "more"), folder / "log").wait()  # noqa: B023
        start(lambda: _no_room_to_read(shop), folder / "log").wait()
    kept = "nothing: it ends with what to lower; the last checkpoint is whole"
    said = "nothing: it ends with what to lower"
    return [
        Row("loss is NaN", "train-encoder", "the loss of one step made NaN", tries, kept),
        Row("out of memory", "train-encoder", "the model raises it", tries, said),
        Row("out of memory", "recommend", "the model raises it", tries, said),
    ]


def _no_number(shop: Path, output: Path, at: int) -> None:
    loss = RankingTrainer.compute_loss

    def spoilt(self: RankingTrainer, *args: object, **kwargs: object) -> object:
        return loss(self, *args, **kwargs) * (torch.nan if self.state.global_step == at else 1)

    RankingTrainer.compute_loss = spoilt  # type: ignore[method-assign]
    run = made_up_shop.encoder_run(shop)
    _must_say(ValueError, f"step {at + 1} of ", lambda: pipeline.train_encoder(run, output))
    assert last_checkpoint(output / "checkpoints" / "sasrec") is not None


def _no_room_to_train(shop: Path, output: Path) -> None:
    SASRecModel.forward = _too_large  # type: ignore[method-assign]
    run = made_up_shop.encoder_run(shop)
    _must_say(MemoryError, "lower the batch size", lambda: pipeline.train_encoder(run, output))


def _no_room_to_read(shop: Path) -> None:
    recommender = LaserRecommender.from_pretrained(shop / "recommender")
    BiTuningModel.forward = _too_large  # type: ignore[method-assign]
    _must_say(MemoryError, "lower batch_size", lambda: recommender.recommend([]))


def _too_large(*args: object, **kwargs: object) -> None:
    raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")


def _must_say(kind: type[Exception], words: str, job: Callable[[], object]) -> None:
    try:
        job()
    except kind as error:
        if words in str(error):
            return
        raise
    raise AssertionError("it should have failed")
