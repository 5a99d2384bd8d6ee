"""Checkpoints that are damaged, and trainings that cannot go on."""

from dataclasses import replace

import pytest
import torch
from conftest import NUM_ITEMS
from transformers import TrainerCallback
from transformers.trainer_callback import DefaultFlowCallback

from laser_peft.collaborative import SASRecConfig, SASRecModel
from laser_peft.training import HistoryDataset, NextItemDataset, SASRecSettings, train_sasrec
from laser_peft.training.checkpoints import last_checkpoint
from laser_peft.training.next_item_trainer import NextItemTrainer
from laser_peft.training.ranking_trainer import ranking_arguments

SETTINGS = SASRecSettings(epochs=4, batch_size=7, hidden_size=11, patience=4)


def train(split, folder, **options):
    return train_sasrec(split, NUM_ITEMS, folder, SETTINGS, **options)


@pytest.fixture
def cut(split, tmp_path, stop_after):
    """The folder of a training that was cut off, with a checkpoint of it."""
    stop_after(12)
    with pytest.raises(KeyboardInterrupt):
        train(split, tmp_path / "cut")
    stop_after(None)
    return tmp_path / "cut"


class Evaluations(TrainerCallback):
    """Keeps the steps after which a training was validated."""

    def __init__(self):
        self.steps = []

    def on_evaluate(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)


def evaluated(split, folder, **arguments):
    """The steps after which a SASRec's training by the Trainer's arguments is validated."""
    sasrec = SASRecModel(SASRecConfig(num_items=NUM_ITEMS, hidden_size=11))
    seen = Evaluations()
    NextItemTrainer(
        sasrec,
        ranking_arguments(folder, **arguments),
        train_dataset=NextItemDataset(split.train_histories, 50),
        eval_dataset=HistoryDataset(split.validation, 50),
        num_items=NUM_ITEMS,
        num_negatives=0,
        callbacks=[seen],
    ).train()
    return seen.steps


def test_the_last_step_is_validated_and_saved_by_every_transformers(split, tmp_path, monkeypatch):
    def no_last_step(self, args, state, control, **kwargs):
        control.should_evaluate = control.should_save = state.global_step % args.eval_steps == 0
        control.should_training_stop = state.global_step >= state.max_steps
        return control

    monkeypatch.setattr(DefaultFlowCallback, "on_step_end", no_last_step)
    settings = dict(max_steps=5, eval_steps=3, save_steps=3, eval_strategy="steps")
    assert evaluated(split, tmp_path, **settings, save_strategy="steps") == [3, 5]
    assert (tmp_path / "checkpoint-5").is_dir()


def test_the_last_step_of_an_epoch_is_validated_once(split, tmp_path):
    strategies = dict(eval_strategy="epoch", save_strategy="epoch")
    assert evaluated(split, tmp_path, max_steps=5, **strategies) == [4, 5]


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_a_damaged_checkpoint_is_not_gone_on_from(split, cut, name, caplog):
    newest = last_checkpoint(cut)
    flip(next(cut.glob(f"{newest.rsplit('/')[-1]}/{name}")))
    other = last_checkpoint(cut)
    assert other is None or int(other.rsplit("-")[-1]) < int(newest.rsplit("-")[-1])
    assert f"{name} is not the file that was written" in caplog.text


def test_a_best_checkpoint_that_is_damaged_is_named(split, tmp_path, stop_after, monkeypatch):
    evaluate, times = NextItemTrainer.evaluate, []

    def worse_each_time(self, *args, **kwargs):
        times.append(1)
        return evaluate(self, *args, **kwargs) | {"eval_unmasked_ndcg@10": 1 / len(times)}

    monkeypatch.setattr(NextItemTrainer, "evaluate", worse_each_time)
    stop_after(14)
    with pytest.raises(KeyboardInterrupt):
        train(split, tmp_path)
    stop_after(None)
    newest = last_checkpoint(tmp_path)
    (best,) = (file.parent for file in tmp_path.glob("*/config.json") if str(file.parent) != newest)
    flip(best / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors is not .* delete .* from the start"):
        train(split, tmp_path, resume_from_checkpoint=newest)


def test_a_loss_that_is_no_number_ends_training_with_its_step(split, tmp_path, monkeypatch):
    settings, steps = replace(SETTINGS, learning_rate=0.5), []
    forward = torch.nn.Module.__call__

    def spoils(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        if type(self).__name__ == "SASRecModel" and output.loss is not None:
            steps.append(1)
            if len(steps) == 7:
                output.loss = output.loss * torch.nan
        return output

    monkeypatch.setattr(torch.nn.Module, "__call__", spoils)
    with pytest.raises(ValueError, match=r"loss is nan in step 7 of 16: .* lower learning_rate \("):
        train_sasrec(split, NUM_ITEMS, tmp_path, settings)
    assert last_checkpoint(tmp_path).endswith("checkpoint-4")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_too_little_memory_says_what_to_lower(split, tmp_path, monkeypatch, error):
    def too_large(*_, **__):
        raise error("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes")

    monkeypatch.setattr("laser_peft.collaborative.sasrec.SASRecModel.forward", too_large)
    with pytest.raises(MemoryError, match="for a step of training: lower the batch size"):
        train(split, tmp_path)
