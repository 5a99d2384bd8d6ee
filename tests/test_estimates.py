"""What is said of a run before it starts, and that saying it changes nothing."""

import gc
import json
import random
from functools import partial

import numpy as np
import pytest
import torch
from conftest import run_command, train_arguments
from torch import nn
from transformers import AutoTokenizer, LlamaModel

from laser_peft import BiTuningConfig, pipeline
from laser_peft.data import Catalogue, LogSource, PromptBuilder
from laser_peft.estimates import Estimate, StageEstimate, estimate_encoder_run
from laser_peft.estimates.adapter import (
    AdapterPlan,
    _epochs_left,
    _new_model,
    _texts_seconds,
    estimate_adapter,
    padded_length,
)
from laser_peft.estimates.measuring import measure, random_state_kept
from laser_peft.estimates.memory import container_bytes, free_memory, held_bytes
from laser_peft.estimates.run import done_steps
from laser_peft.experiment import Experiment
from laser_peft.training import LaserSettings, SASRecSettings, phases_of
from laser_peft.tuner.model import BiTuningModel
from laser_peft.whole import write_json

STAGE = StageEstimate(
    name="adapter",
    work="7 examples x 3 epochs",
    training_seconds=2000,
    validations=5,
    validation_seconds=460,
    test_seconds=360,
    memory_bytes=2_100_000_000,
)


def test_processes_share_the_time_and_not_the_memory():
    assert STAGE.shared_by(1) == STAGE
    shared, whole = (
        Estimate(stages=(stage,), on_accelerator=False, limit_bytes=None)
        for stage in (STAGE.shared_by(4), STAGE)
    )
    assert shared.seconds == whole.seconds / 4
    assert shared.memory_bytes == whole.memory_bytes
    assert "7 examples x 3 epochs by one of the 4 processes that share it" in shared.lines()[0]
    assert "About 10 min" in shared.lines()[0]


class Clock:
    """Stands still but for what a step takes."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.sizes = []
        for name in ("monotonic", "perf_counter"):
            monkeypatch.setattr(f"laser_peft.estimates.measuring.time.{name}", lambda: self.now)

    def step(self, size, *, fixed, each):
        self.sizes.append(size)
        self.now += fixed + each * size


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_a_step_that_is_fast_is_measured_whole(clock):
    step = partial(clock.step, fixed=1 / 128, each=1 / 1024)
    assert measure(step, 37, nn.Identity()).seconds == pytest.approx(1 / 128 + 37 / 1024)
    assert max(clock.sizes) == 37


@pytest.mark.parametrize("size", [64, 1000])
def test_a_step_that_is_slow_is_extrapolated(clock, size):
    step = partial(clock.step, fixed=0.25, each=0.125)
    assert measure(step, size, nn.Identity()).seconds == pytest.approx(0.25 + 0.125 * size)
    assert max(clock.sizes) == 16
    assert clock.now < 10


def test_a_step_that_takes_too_long_is_taken_once(clock):
    step = partial(clock.step, fixed=0, each=11)
    assert measure(step, 5, nn.Identity()).seconds == 55
    assert clock.sizes == [1]


def test_memory_that_is_not_there_ends_the_growth(clock):
    def step(size):
        if size > 7:
            raise torch.OutOfMemoryError
        clock.step(size, fixed=0, each=2**-10)

    assert measure(step, 32, nn.Identity()).seconds == pytest.approx(32 / 1024)
    with pytest.raises(torch.OutOfMemoryError):
        measure(lambda size: step(11), 32, nn.Identity())


def test_what_a_step_keeps_is_counted_without_the_parameters():
    model = nn.Linear(7, 11)

    def step(size):
        model(torch.ones(size, 7)).relu().sum().backward()

    # The inputs, for the weight, and the outputs of the rectifier; float32.
    assert measure(step, 5, model).step_bytes == 5 * (7 + 11) * 4
    assert measure(torch.no_grad()(lambda size: model(torch.ones(size, 7))), 5, model)[1] == 0


def test_what_a_step_takes_at_its_peak_counts_where_it_is_more():
    model = nn.Linear(1, 1)

    def step(size):
        kept = torch.ones(size, 2_000_000, requires_grad=True)  # 8 MB a user
        taken = torch.ones(2, size, 2_000_000)  # 16 MB a user more, for the time of the step
        (kept * kept + taken.sum() * 0).sum().backward()

    assert 11 * 20e6 < measure(step, 11, model).step_bytes < 11 * 60e6


def test_a_trained_weight_counts_four_times():
    model = nn.Linear(7, 11)
    assert held_bytes(model) == (7 + 1) * 11 * 4 * 4
    assert held_bytes(model.requires_grad_(False)) == (7 + 1) * 11 * 4


def test_padding_counts_as_the_trainer_makes_it():
    few = np.array([3, 5, 7, 11])
    assert (
        padded_length(few, batch_size=4, count=4) == np.random.default_rng(0).choice(few, 4).max()
    )
    many = np.arange(100, 200)
    assert 149 < padded_length(many, batch_size=7, count=7 * 500) < 153  # next to no padding
    assert padded_length(many, batch_size=7, count=7 * 4) > 160
    assert padded_length(np.array([13]), batch_size=2, count=5) == 13


def test_random_numbers_go_on_as_if_none_had_been_drawn():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    expected = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    with random_state_kept():
        draw()
    assert draw() == expected


def test_weights_are_the_same_bits_with_and_without_an_estimate(trained, shop, lm_folder, tmp_path):
    run = pipeline.TrainRun(
        interactions=LogSource(str(shop / "interactions.csv.gz")),
        items=str(shop / "items.jsonl"),
        llm=lm_folder,
        max_tokens=200,
        sasrec=SASRecSettings(epochs=2),
        laser=LaserSettings(epochs=1, reading_epochs=2, batch_size=9),
        adapter=json.loads((trained[0] / "run.json").read_text())["settings"]["adapter"],
    )
    pipeline.train(run, tmp_path / "run")  # asks for no estimate, and the command does
    for name in ("sasrec/model.safetensors", "recommender/adapter_model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (trained[0] / name).read_bytes()


def test_train_says_it_before_it_starts(trained):
    lines = trained[1].splitlines()
    (at,) = [place for place, line in enumerate(lines) if " for the SASRec (25 users" in line]
    assert "At most about " in lines[at]
    assert lines[at].endswith(" of it for 2 validations.")
    assert " for the SASRec's twin (" in lines[at + 1]
    assert "for the adapter (25 examples x 1 epoch, " in lines[at + 2]
    # 3 steps, one validation after 2 and one at the end, beside the twin; one beside its own.
    assert lines[at + 2].endswith(" of it for 3 validations.")
    assert "for the test; about " in lines[at + 3]
    assert at < next(place for place, line in enumerate(lines) if "Test, 30 users" in line)


@pytest.mark.parametrize("command", ["train", "train-encoder"])
def test_estimate_only_writes_nothing_and_trains_nothing(shop, lm_folder, tmp_path, steps, command):
    arguments = train_arguments(shop, lm_folder, tmp_path / "run")
    if command == "train-encoder":
        arguments = [command, *arguments[1:5], "--output", tmp_path / "run", "--epochs", 2]
    result = run_command(*arguments, "--estimate-only")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Read 175 rows")
    assert "for the test; about " in result.output
    assert ("for the adapter" in result.output) == (command == "train")
    assert steps == []
    assert not (tmp_path / "run").exists()


def test_the_measured_models_are_gone_before_training(shop, lm_folder, tmp_path, monkeypatch):
    alive = []
    monkeypatch.setattr(
        "laser_peft.cli.train.tells_estimate",
        lambda only: (
            lambda estimate: alive.append(
                [thing for thing in gc.get_objects() if type(thing) is BiTuningModel]
            )
        ),
    )
    monkeypatch.setattr(pipeline, "start_or_check", None)  # far enough
    gc.collect()
    before = [id(thing) for thing in gc.get_objects() if type(thing) is BiTuningModel]
    run_command(*train_arguments(shop, lm_folder, tmp_path / "run"))
    assert [id(thing) for thing in alive[0]] == before


def test_what_is_left_of_the_text_reader_counts(shop, lm_folder, encoder_folder):
    catalogue = Catalogue.read(shop / "items.jsonl")
    experiment = Experiment.read(LogSource(shop / "interactions.csv.gz"), catalogue)
    split = experiment.split
    laser = LaserSettings(reading_epochs=1000)
    config = BiTuningConfig(item_vectors="fused", collaborative_encoder=str(encoder_folder))
    plan = AdapterPlan(
        llm=str(lm_folder),
        dtype="float32",
        adapter=config,
        encoder=str(encoder_folder),
        sasrec=SASRecSettings(),
        laser=laser,
        max_items=50,
    )
    phases = phases_of(config, laser, len(split.train_histories))
    with _new_model(plan, len(catalogue)) as model:
        assert _texts_seconds(model, plan, split, phases, {}) > 0.1
        assert not any(p.requires_grad for n, p in model.named_parameters() if "text_reader" in n)
        assert _texts_seconds(model, plan, split, phases, {"laser-phase-1": 1000}) == 0
        assert _texts_seconds(model, plan, split, phases, {"laser": 1}) == 0
        assert _texts_seconds(model, plan, split, phases[1:], {}) == 0
    twins = phases_of(config, laser, len(split.train_histories), SASRecSettings())
    done = {"laser": 1, "laser-phase-1": 1000}
    with _new_model(plan, len(catalogue)) as model:  # its twin's is still to be trained
        assert _texts_seconds(model, plan, split, twins, done) > 0.1
        assert _texts_seconds(model, plan, split, twins, done | {"twin-reading": 1000}) == 0


@pytest.mark.parametrize("item_vectors", ["fused", "collaborative"])
def test_without_epochs_a_prompt_counts_only_where_it_is_read(
    shop, lm_folder, encoder_folder, monkeypatch, item_vectors
):
    catalogue = Catalogue.read(shop / "items.jsonl")
    experiment = Experiment.read(LogSource(shop / "interactions.csv.gz"), catalogue)
    tokenizer = AutoTokenizer.from_pretrained(lm_folder)
    plan = AdapterPlan(
        llm=lm_folder,
        dtype="float32",
        adapter=BiTuningConfig(item_vectors=item_vectors, collaborative_encoder=encoder_folder),
        encoder=encoder_folder,
        sasrec=SASRecSettings(),
        laser=LaserSettings(epochs=0, reading_epochs=2),
        max_items=50,
    )
    reads, learns = [], []
    forward = LlamaModel.forward

    def reads_prompts(*args, inputs_embeds, **kwargs):
        if inputs_embeds.size(1) > 8:  # the tokens that a new adapter's model is tried with
            reads.append(1)
        return forward(*args, inputs_embeds=inputs_embeds, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", reads_prompts)
    monkeypatch.setattr("laser_peft.estimates.adapter._Learning", learns.append)
    prompts = PromptBuilder(tokenizer, catalogue, max_tokens=200)
    stage = estimate_adapter(plan, experiment.split, prompts, len(catalogue))
    assert bool(reads) == (item_vectors == "collaborative")
    assert not learns
    assert stage.work == ("0 epochs; no prompt is read" if not reads else "0 epochs")
    assert (stage.training_seconds > 0) == (item_vectors == "fused")
    assert stage.validations == 1


def test_a_finished_run_has_nothing_left(trained, shop, lm_folder):
    arguments = train_arguments(shop, lm_folder, trained[0])
    result = run_command(*arguments, "--resume", "--estimate-only")
    assert "Nothing is left to train." in result.output


def test_what_an_interrupted_run_has_done_is_not_counted_again(shop, tmp_path):
    catalogue = Catalogue.read(shop / "items.jsonl")
    experiment = Experiment.read(LogSource(str(shop / "interactions.csv.gz")), catalogue)
    run = pipeline.EncoderRun(
        interactions=LogSource(""),
        items="",
        max_items=11,
        sasrec=SASRecSettings(epochs=5, batch_size=7),
    )
    (whole,) = estimate_encoder_run(experiment, tmp_path, run).stages
    checkpoint = tmp_path / "checkpoints" / "sasrec" / "checkpoint-16"
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / "trainer_state.json", {"global_step": 16})
    assert done_steps(checkpoint.parent) == 16
    (rest,) = estimate_encoder_run(experiment, tmp_path, run).stages
    assert whole.validations == 5
    assert rest.validations == 1  # 16 of 20 steps are done
    (tmp_path / "sasrec").mkdir()
    assert estimate_encoder_run(experiment, tmp_path, run).stages == ()


def test_both_phases_count_until_the_second_is_begun():
    settings = LaserSettings(epochs=3, item_epochs=2)
    phases = phases_of(BiTuningConfig(item_vectors="text"), settings, 7)
    assert _epochs_left(phases, {}, 8) == 5
    assert _epochs_left(phases, {"laser-phase-1": 4}, 8) == 4.5
    assert _epochs_left(phases, {"laser-phase-1": 12, "laser": 4}, 8) == 2.5
    assert _epochs_left(phases[1:], {"laser": 24}, 8) == 0


def test_it_is_said_in_words():
    estimate = Estimate(stages=(STAGE,), on_accelerator=False, limit_bytes=15_200_000_000)
    assert estimate.lines() == [
        "About 41 min for the adapter (7 examples x 3 epochs), 8 min of it for 5 validations.",
        "About 6 min for the test; about 2.1 GB of memory, of 15.2 GB to be had.",
    ]
    assert estimate.seconds == 2820
    assert estimate.warning is None


def test_too_little_memory_is_said_with_what_to_do(shop, tmp_path, monkeypatch):
    estimate = Estimate(stages=(STAGE,), on_accelerator=True, limit_bytes=1_000_000_000)
    assert estimate.lines()[-1].endswith("about 2.1 GB of GPU memory, of 1.0 GB to be had.")
    assert "may need about 2.1 GB of memory and can have 1.0 GB: it may be killed; a smaller" in (
        estimate.warning or ""
    )
    monkeypatch.setattr("laser_peft.estimates.run.free_memory", lambda device: -(10**12))
    inputs = ["--interactions", shop / "interactions.csv.gz", "--items", shop / "items.jsonl"]
    command = ["train-encoder", *inputs, "--output", tmp_path / "run", "--estimate-only"]
    assert "Warning: the run may need about" in run_command(*command).stderr


def test_memory_that_nobody_tells_is_not_compared():
    estimate = Estimate(stages=(STAGE,), on_accelerator=True, limit_bytes=None)
    assert estimate.warning is None
    assert estimate.lines()[-1].endswith("about 2.1 GB of GPU memory.")


def test_a_container_has_its_own_limit(tmp_path):
    assert container_bytes(tmp_path) is None
    for name, text in (
        ("memory.max", "1000\n"),
        ("memory.current", "700\n"),
        ("memory.stat", "anon 500\ninactive_file 130\n"),
    ):
        (tmp_path / name).write_text(text)
    assert container_bytes(tmp_path) == 1000 - 700 + 130
    (tmp_path / "memory.max").write_text("max\n")
    assert container_bytes(tmp_path) is None
    assert (free_memory(torch.device("cpu")) or 0) > 0
