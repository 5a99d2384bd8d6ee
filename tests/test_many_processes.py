"""Two and three processes learn, read and rank as one does.

Dropout is off: what it drops is drawn by each process for its own share.
"""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import PartialState
from conftest import NUM_ITEMS, run_in_new_processes
from peft import get_peft_model
from torch.utils.data import Subset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from laser_peft import BiTuningConfig, SASRecModel
from laser_peft.baselines import Encoder, rank_examples
from laser_peft.data import Split
from laser_peft.item_encoding import encode_items
from laser_peft.item_texts import lm_text_vectors
from laser_peft.processes import by_one
from laser_peft.training import (
    LaserSettings,
    PromptDataset,
    SASRecSettings,
    rank_dataset,
    train_in_phases,
)

TEXT_DIM = 7
# 30 users, of whom not all learn: batches of 8 and 7 leave a last one smaller than the others, and
# of one example, of which two processes have none.
SASREC = SASRecSettings(
    hidden_size=16, dropout=0.0, item_dropout=0.0, epochs=2, batch_size=7, num_negatives=5
)


class Watch(TrainerCallback):
    """Keeps the gradients of the first step, and the losses and metrics of all."""

    def __init__(self):
        self.gradients, self.logs = {}, []

    def on_pre_optimizer_step(self, args, state, control, *, model, **kwargs):
        if not state.global_step:
            self.gradients = {
                name: parameter.grad.clone()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }

    def on_log(self, args, state, control, *, logs, **kwargs):
        kept = ("loss", "eval_unmasked_ndcg@10", "eval_masked_hr@10", "eval_text_weight")
        self.logs.append({name: logs[name] for name in kept if name in logs})


def make_model(lm_folder, encoder_folder):
    torch.manual_seed(0)
    config = BiTuningConfig(
        collaborative_encoder=encoder_folder,
        num_prefix_tokens=3,
        item_vectors="fused",
        item_text_dim=TEXT_DIM,
        m_former_dropout=0.0,
        router_balance_weight=3.0,
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_folder), config)
    texts = F.normalize(torch.randn(NUM_ITEMS, TEXT_DIM), dim=1)
    model.base_model.set_item_text_vectors(texts, torch.arange(NUM_ITEMS))
    model.base_model.layer.bituning_adapters["default"].text_reader.dropout.p = 0.0
    return model


def work(folder: Path, lm_folder, encoder_folder, split: Split, prompts) -> dict:
    """Trains and ranks; returns all that must not depend on how many do it."""
    watched = {}

    def watch(phase):
        watched[phase] = Watch()
        return [watched[phase]]

    model = make_model(lm_folder, encoder_folder)
    dataset = PromptDataset(split.test, prompts, max_items=50, ranked=True)
    encoder = Encoder(SASRecModel.from_pretrained(encoder_folder), NUM_ITEMS)
    texts = [f"Thing number {item} of {'many ' * item}" for item in range(NUM_ITEMS)]
    found = {
        "ranks": torch.from_numpy(rank_dataset(model, dataset, batch_size=4)),
        "ranks of one user": torch.from_numpy(
            rank_dataset(model, Subset(dataset, [3]), batch_size=4)
        ),
        "ranks of encoder": torch.from_numpy(rank_examples(encoder, split.test, batch_size=7)),
        "items": encode_items(model, prompts, range(1, NUM_ITEMS + 1), batch_size=5),
        "one item": encode_items(model, prompts, [1]),
        "texts": lm_text_vectors(model, AutoTokenizer.from_pretrained(lm_folder), texts)[0],
    }
    train_in_phases(
        model,
        split,
        prompts,
        folder / "checkpoints",
        LaserSettings(epochs=1, batch_size=8, reading_epochs=2, num_negatives=5),
        max_items=50,
        twin=SASREC,
        callbacks_of=watch,
    )
    return found | {
        "gradients": {phase: watch.gradients for phase, watch in watched.items()},
        "logs": {phase: watch.logs for phase, watch in watched.items()},
    }


def join(rank: int, count: int, folder: Path) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(number) for name, number in numbers.items()}
    PartialState(cpu=True, init_method=f"file://{folder}/meeting")


def work_in_a_process(rank, count, folder, *arguments):
    join(rank, count, folder)
    torch.save(work(folder, *arguments), folder / f"{rank}.pt")
    by_one((folder / "written").touch, exist_ok=False)  # twice, and it fails
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def arguments(lm_folder, encoder_folder, split, prompts):
    return lm_folder, encoder_folder, split, prompts


@pytest.fixture(scope="module")
def alone(tmp_path_factory, arguments):
    return work(tmp_path_factory.mktemp("alone"), *arguments)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_do_as_one_does(tmp_path, arguments, alone, count):
    run_in_new_processes(work_in_a_process, count, tmp_path, *arguments, count=count)
    for rank in range(count):
        together = torch.load(tmp_path / f"{rank}.pt")
        for name in ("ranks", "ranks of one user", "ranks of encoder", "items", "one item"):
            assert torch.equal(together[name], alone[name]), name
        assert torch.equal(together["texts"], alone["texts"])
        assert list(together["gradients"]) == list(alone["gradients"])
        for phase, gradients in alone["gradients"].items():
            assert gradients
            torch.testing.assert_close(
                together["gradients"][phase], gradients, atol=1e-5, rtol=1e-3
            )
        for phase, logs in alone["logs"].items():
            assert together["logs"][phase] == [pytest.approx(log, rel=1e-3) for log in logs]
