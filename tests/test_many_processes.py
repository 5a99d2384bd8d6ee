"""Two and three processes learn, read and rank as one does.

Dropout is off: what it drops is drawn by each process for its own share.
"""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import PartialState
from conftest import NUM_ITEMS, run_command, run_in_new_processes, train_arguments
from peft import get_peft_model
from torch.utils.data import Subset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from laser_peft import BiTuningConfig, SASRecModel
from laser_peft.baselines import Encoder, rank_examples
from laser_peft.collaborative import check_encoder
from laser_peft.data import Split
from laser_peft.evaluation import Evaluation
from laser_peft.item_encoding import encode_items
from laser_peft.item_texts import lm_text_vectors
from laser_peft.processes import by_one, check_alike
from laser_peft.training import (
    LaserSettings,
    PromptDataset,
    RankingTrainer,
    SASRecSettings,
    rank_dataset,
    train_in_phases,
    train_laser,
)
from laser_peft.training.checkpoints import last_checkpoint

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


def make_model(lm_folder, encoder_folder, **fields):
    torch.manual_seed(0)
    config = BiTuningConfig(
        collaborative_encoder=encoder_folder,
        num_prefix_tokens=3,
        m_former_dropout=0.0,
        router_balance_weight=3.0,
        **fields or {"item_vectors": "fused", "item_text_dim": TEXT_DIM},
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_folder), config)
    width = model.peft_config["default"].item_text_dim
    texts = F.normalize(torch.randn(NUM_ITEMS, width), dim=1)
    model.base_model.set_item_text_vectors(texts, torch.arange(NUM_ITEMS))
    if not fields:
        model.base_model.layer.bituning_adapters["default"].text_reader.dropout.p = 0.0
    return model


class Watches(dict):
    """A :class:`Watch` for each phase of a training."""

    def __call__(self, phase):
        self[phase] = Watch()
        return [self[phase]]

    def seen(self):
        return {
            "gradients": {phase: watch.gradients for phase, watch in self.items()},
            "logs": {phase: watch.logs for phase, watch in self.items()},
        }


def read_and_rank(folder: Path, lm_folder, encoder_folder, split: Split, prompts) -> dict:
    """Returns what must not depend on how many do it, to the bit."""
    model = make_model(lm_folder, encoder_folder)
    dataset = PromptDataset(split.test, prompts, max_items=50, ranked=True)
    encoder = Encoder(SASRecModel.from_pretrained(encoder_folder), NUM_ITEMS)
    texts = [f"Thing number {item} of {'many ' * item}" for item in range(NUM_ITEMS)]
    check_encoder(encoder.model)
    one = Subset(dataset, [3])
    return {
        "ranks": torch.from_numpy(rank_dataset(model, dataset, batch_size=4)),
        "ranks of one user": torch.from_numpy(rank_dataset(model, one, batch_size=4)),
        "ranks of encoder": torch.from_numpy(rank_examples(encoder, split.test, batch_size=7)),
        "items": encode_items(model, prompts, range(1, NUM_ITEMS + 1), batch_size=5),
        "one item": encode_items(model, prompts, [1]),
        "texts": lm_text_vectors(model, AutoTokenizer.from_pretrained(lm_folder), texts)[0],
    }


def learn_beside_a_twin(folder: Path, lm_folder, encoder_folder, split, prompts) -> dict:
    model, watches = make_model(lm_folder, encoder_folder), Watches()
    settings = LaserSettings(epochs=1, batch_size=8, reading_epochs=2, num_negatives=5)
    learn = dict(max_items=50, twin=SASREC, callbacks_of=watches)
    train_in_phases(model, split, prompts, folder / "fused", settings, **learn)
    return watches.seen()


def learn_from_texts(folder: Path, lm_folder, encoder_folder, split, prompts) -> dict:
    """Reads its items anew before each epoch, and all positions of a history at once."""
    fields = {"item_vectors": "text", "similarity": "cosine"}
    model, watches = make_model(lm_folder, encoder_folder, **fields), Watches()
    settings = LaserSettings(epochs=1, item_epochs=2, batch_size=8, every_prefix=True)
    learn = dict(max_items=50, callbacks_of=watches)
    train_in_phases(model, split, prompts, folder / "texts", settings, **learn)
    return watches.seen()


def work(jobs, *arguments) -> list[dict]:
    return [job(*arguments) for job in jobs]


def join(rank: int, count: int, folder: Path) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(number) for name, number in numbers.items()}
    PartialState(cpu=True, init_method=f"file://{folder}/meeting")


def work_in_a_process(rank, count, folder, jobs, *arguments):
    join(rank, count, folder)
    with pytest.raises(ValueError, match="every process must have the same item texts"):
        check_alike("item texts", [rank])
    torch.save(work(jobs, folder, *arguments), folder / f"{rank}.pt")
    by_one((folder / "written").touch, exist_ok=False)  # twice, and it fails
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def arguments(lm_folder, encoder_folder, split, prompts):
    return lm_folder, encoder_folder, split, prompts


JOBS = (read_and_rank, learn_beside_a_twin, learn_from_texts)


@pytest.mark.parametrize(
    ("count", "jobs"), [(2, JOBS[:2]), pytest.param(3, JOBS, marks=pytest.mark.slow)], ids=[2, 3]
)
def test_several_processes_do_as_one_does(tmp_path, arguments, count, jobs):
    run_in_new_processes(work_in_a_process, count, tmp_path, jobs, *arguments, count=count)
    read, *learnt = work(jobs, tmp_path / "alone", *arguments)
    for rank in range(count):
        together, *learnt_together = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(together[name], value) for name, value in read.items())
        for found, expected in zip(learnt_together, learnt, strict=True):
            assert all(expected["gradients"].values())
            torch.testing.assert_close(
                found["gradients"], expected["gradients"], atol=1e-5, rtol=1e-3
            )
            for phase, logs in expected["logs"].items():
                assert found["logs"][phase] == [pytest.approx(log, rel=1e-3) for log in logs]


def learn(folder: Path, lm_folder, encoder_folder, split: Split, prompts, most=None) -> dict:
    """Goes on with an adapter in a folder, up to a step; returns what each step learnt from."""
    labels, step = {}, RankingTrainer.training_step

    def watched(self, model, inputs, *args, **kwargs):
        if self.state.global_step == most:
            raise KeyboardInterrupt
        own = [] if "stands_in" in inputs else inputs["labels"].tolist()
        labels[self.state.global_step] = own
        return step(self, model, inputs, *args, **kwargs)

    model = make_model(lm_folder, encoder_folder)
    settings = LaserSettings(epochs=2, batch_size=8, num_negatives=5)
    checkpoint = last_checkpoint(folder)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(RankingTrainer, "training_step", watched)
        train_laser(
            model, split, prompts, folder, settings, max_items=50, resume_from_checkpoint=checkpoint
        )
    state = model.state_dict().items()
    return {"labels": labels, "weights": {n: v for n, v in state if ".bituning_adapters." in n}}


def learn_in_a_process(rank, count, folder, *arguments):
    join(rank, count, folder)
    torch.save(learn(folder / "checkpoints", *arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()


def learn_together(count, folder, *arguments):
    """Does so in new processes; returns the labels of all, step by step, and the weights."""
    run_in_new_processes(learn_in_a_process, count, folder, *arguments, count=count)
    (folder / "meeting").unlink(missing_ok=True)
    found = [torch.load(folder / f"{rank}.pt") for rank in range(count)]
    steps = found[0]["labels"]
    labels = {step: sum((one["labels"][step] for one in found), []) for step in steps}
    return labels, found[0]["weights"]


@pytest.mark.slow
def test_what_two_processes_began_one_or_three_go_on_with(tmp_path, arguments):
    whole = learn(tmp_path / "whole", *arguments)
    cut = tmp_path / "cut"
    cut.mkdir()
    # Of two epochs with four steps each, and a checkpoint at every second one.
    began, _ = learn_together(2, cut, *arguments, 7)
    assert list(began) == list(range(7))
    assert last_checkpoint(cut / "checkpoints").endswith("-6")
    three = shutil.copytree(cut, tmp_path / "three")
    alone = learn(cut / "checkpoints", *arguments)
    together = learn_together(3, three, *arguments)
    for labels, weights in [(alone["labels"], alone["weights"]), together]:
        assert list(labels) == [6, 7]
        for step, seen in (began | labels).items():
            assert sorted(seen) == sorted(whole["labels"][step])
        torch.testing.assert_close(weights, whole["weights"], atol=1e-4, rtol=1e-3)


def run_in_a_process(rank, count, folder, arguments):
    join(rank, count, folder)
    result = run_command(*arguments)
    (folder / f"printed-{rank}").write_text(result.stdout)
    assert result.exit_code == 0, result.output
    dist.destroy_process_group()


@pytest.mark.slow
def test_the_command_writes_and_prints_once(tmp_path, shop, lm_folder, trained):
    arguments = train_arguments(shop, lm_folder, tmp_path / "shop")
    run_in_new_processes(run_in_a_process, 2, tmp_path, arguments, count=2)
    alone, printed = trained
    names = {path.relative_to(tmp_path / "shop") for path in (tmp_path / "shop").rglob("*")}
    expected = {path.relative_to(alone) for path in alone.rglob("*")}
    not_checkpoints = {name for name in names ^ expected if name.parts[0] != "checkpoints"}
    assert not_checkpoints == {Path("log-1.txt")}
    assert "Saved" in (tmp_path / "printed-0").read_text()
    assert (tmp_path / "printed-1").read_text() == ""
    assert not list((tmp_path / "shop").rglob("*unfinished*"))


@pytest.mark.slow
def test_the_test_of_a_recommender_is_the_same(tmp_path, shop, trained):
    log = shop / "interactions.csv.gz"
    folder = trained[0] / "recommender"
    arguments = ["evaluate", folder, "--interactions", log, "--output", tmp_path / "tested"]
    run_in_new_processes(run_in_a_process, 2, tmp_path, arguments, count=2)
    for name in ("sasrec", "laser"):
        alone = Evaluation.load(trained[0] / "evaluation" / name)
        together = Evaluation.load(tmp_path / "tested" / name)
        assert (together.ranks == alone.ranks).all()
