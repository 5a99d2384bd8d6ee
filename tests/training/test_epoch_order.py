"""Which examples of an epoch a process reads, and in which order."""

import pytest
import torch
from accelerate import Accelerator
from conftest import run_command, train_arguments
from torch.utils.data import RandomSampler

from laser_peft.training import RankingTrainer, ranking_arguments
from laser_peft.training.epoch_order import STANDS_IN, SharedBatches, StandIn, generator_of

N, SIZE = 23, 7


def batches_of(index, count, *, seed=0, epoch=0, sampler=None):
    batches = SharedBatches(
        sampler or RandomSampler(range(N)),
        SIZE,
        seed=seed,
        process_index=index,
        num_processes=count,
    )
    batches.set_epoch(epoch)
    assert len(batches) == 4
    return list(batches)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_make_up_the_batches_of_one_process(count):
    torch.manual_seed(count)  # without effect
    shares = [batches_of(index, count) for index in range(count)]
    for *parts, whole in zip(*shares, batches_of(0, 1), strict=True):
        assert sorted(sum(parts, [])) == sorted(whole)
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
    assert sorted(sum(batches_of(0, 1), [])) == list(range(N))


def test_every_epoch_and_every_seed_has_its_own_order():
    orders = [sum(batches_of(0, 1, seed=s, epoch=e), []) for s in (0, 1) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert sum(batches_of(0, 1, seed=1, epoch=1), []) == orders[-1]


def test_what_has_no_random_order_keeps_its_own():
    assert sum(batches_of(0, 1, sampler=range(N)), []) == list(range(N))


def test_generators_look_at_all_of_their_numbers():
    numbers = [(0, 1), (1, 0), (1, 1 << 40), (1, 2 << 40)]
    drawn = {int(torch.randint(1 << 60, (), generator=generator_of(*n))) for n in numbers}
    assert len(drawn) == len(numbers)


def test_nobody_is_stood_in_for_by_an_example_that_is_marked():
    collate = StandIn(lambda examples: {"ids": list(examples)}, [5, 6])
    assert collate([6]) == {"ids": [6]}
    assert collate([]) == {"ids": [5], STANDS_IN: True}


@pytest.mark.parametrize(("split_batches", "size"), [(False, 12), (True, 4)])
def test_a_step_has_the_batch_of_every_process_or_one_for_all(
    monkeypatch, tmp_path, split_batches, size
):
    args = ranking_arguments(tmp_path, per_device_train_batch_size=4)
    rows = [{"x": row} for row in range(N)]
    trainer = RankingTrainer(
        torch.nn.Linear(2, 3), args, train_dataset=rows, split_batches=split_batches
    )
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    assert trainer.get_total_train_batch_size(args) == size
    assert len(trainer.get_train_dataloader()) == -(-N // size)


@pytest.mark.parametrize(
    ("flag", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")]
)
def test_shards_are_refused_before_anything_is_written(
    monkeypatch, tmp_path, shop, lm_folder, flag, name
):
    args = ranking_arguments(tmp_path / "trainer")
    monkeypatch.setenv(flag, "true")
    with pytest.raises(ValueError, match=f"needs the whole model in every process, got {name}"):
        RankingTrainer(torch.nn.Linear(2, 3), args)
    result = run_command(*train_arguments(shop, lm_folder, tmp_path / "run"))
    assert result.exit_code == 2
    assert "examples/accelerate/ddp.yaml" in result.stderr
    assert not (tmp_path / "run").exists()
