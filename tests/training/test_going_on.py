"""A SASRec's training that ends before its last epoch: stopped early, interrupted, gone on with."""

import shutil
from contextlib import contextmanager

import pytest
import torch

from laser_peft.data import Catalogue, Histories, leave_one_out, read_interactions
from laser_peft.training import RankingTrainer, SASRecSettings, train_sasrec
from laser_peft.training.checkpoints import last_checkpoint


@pytest.fixture(scope="module")
def split(shop):
    catalogue = Catalogue.read(shop / "items.jsonl")
    log = read_interactions(shop / "interactions.csv.gz")
    return leave_one_out(Histories.from_interactions(log, catalogue))


def learn(split, folder, *, resume_from_checkpoint=None, **settings):
    settings = SASRecSettings(**{"hidden_size": 8, "epochs": 3} | settings)
    return train_sasrec(split, 23, folder, settings, resume_from_checkpoint=resume_from_checkpoint)


class Interruption(Exception):
    pass


@pytest.fixture
def interrupted_after(monkeypatch):
    """Interrupts a training once it has saved the checkpoint of an epoch."""

    @contextmanager
    def interrupted(epoch):
        def interrupt(trainer, *args):
            save(trainer, *args)
            if trainer.state.epoch == epoch:
                raise Interruption

        save = RankingTrainer._save_checkpoint
        with monkeypatch.context() as patch:
            patch.setattr(RankingTrainer, "_save_checkpoint", interrupt)
            with pytest.raises(Interruption):
                yield

    return interrupted


@pytest.fixture
def script(monkeypatch):
    """Validation NDCG is what was put here, and each evaluation takes one of them."""
    values = []
    monkeypatch.setattr(
        "laser_peft.training.ranking_trainer.metrics_of_ranks",
        lambda prediction: {"unmasked_ndcg@10": values.pop(0)},
    )
    return values


@pytest.fixture
def saved(monkeypatch):
    """The weights of every checkpoint, in the order in which they are saved."""
    weights = []
    save = RankingTrainer._save_checkpoint
    monkeypatch.setattr(
        RankingTrainer,
        "_save_checkpoint",
        lambda self, *args: (weights.append(weights_of(self.model)), save(self, *args))[1],
    )
    return weights


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def same(one, other):
    return all(torch.equal(other[name], value) for name, value in one.items())


def test_an_interrupted_sasrec_ends_where_the_whole_one_does(
    split, tmp_path, interrupted_after, steps
):
    settings = {"num_negatives": 7, "batch_size": 8}
    whole = learn(split, tmp_path / "whole", **settings)
    expected, steps[:] = list(steps), []
    with interrupted_after(epoch=1):
        learn(split, tmp_path / "cut", **settings)
    before, steps[:] = list(steps), []
    checkpoint = last_checkpoint(tmp_path / "cut")
    resumed = learn(split, tmp_path / "cut", resume_from_checkpoint=checkpoint, **settings)
    assert 0 < len(before) < len(expected)
    assert before + steps == expected
    assert same(weights_of(whole), weights_of(resumed))


def test_a_sasrec_stops_early_at_its_best_epoch(split, tmp_path, script, saved):
    script[:] = [0.2, 0.3, 0.2, 0.1, 0.0]
    model = learn(split, tmp_path, epochs=5, patience=1)
    assert script == [0.1, 0.0]  # three evaluations were enough
    assert len(saved) == 3
    assert same(saved[1], weights_of(model))
    assert not same(saved[2], weights_of(model))


def test_patience_goes_on_counting_over_an_interruption(
    split, tmp_path, script, saved, interrupted_after
):
    script[:] = [0.3, 0.2, 0.1, 0.0, 0.0]
    with interrupted_after(epoch=2):
        learn(split, tmp_path, epochs=5, patience=2)
    checkpoint = last_checkpoint(tmp_path)
    model = learn(split, tmp_path, epochs=5, patience=2, resume_from_checkpoint=checkpoint)
    assert script == [0.0, 0.0]  # one more evaluation without a better one
    assert len(saved) == 3
    assert same(saved[0], weights_of(model))


def test_what_had_stopped_early_learns_no_more(
    split, tmp_path, script, saved, interrupted_after, steps
):
    """The end came between the checkpoint of the last epoch and what was to be kept of it."""
    script[:] = [0.3, 0.2, 0.9, 0.9]
    with interrupted_after(epoch=2):
        learn(split, tmp_path, epochs=4, patience=1, batch_size=8)
    before, checkpoint = len(steps), last_checkpoint(tmp_path)
    settings = {"epochs": 4, "patience": 1, "batch_size": 8}
    model = learn(split, tmp_path, resume_from_checkpoint=checkpoint, **settings)
    assert len(steps) == before
    assert script == [0.9, 0.9]
    assert same(saved[0], weights_of(model))


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_moved_run_comes_back_to_its_best_epoch(
    split, tmp_path, script, saved, interrupted_after, epoch
):
    script[:] = [0.3, 0.2, 0.1]
    with interrupted_after(epoch):
        learn(split, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    checkpoint = last_checkpoint(tmp_path / "there")
    model = learn(split, tmp_path / "there", resume_from_checkpoint=checkpoint)
    assert len(saved) == 3
    assert same(saved[0], weights_of(model))
    assert not (tmp_path / "here").exists()


def test_a_best_epoch_that_is_gone_is_asked_for(split, tmp_path, script, interrupted_after):
    script[:] = [0.3, 0.2]
    with interrupted_after(epoch=2):
        learn(split, tmp_path, batch_size=64)
    checkpoint = last_checkpoint(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-1")
    with pytest.raises(FileNotFoundError, match=r"checkpoint-1, the best .*, is missing; restore"):
        learn(split, tmp_path, batch_size=64, resume_from_checkpoint=checkpoint)
