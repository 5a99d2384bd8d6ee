"""A run that is killed outright, in whatever stage, and gone on with ends as one left alone."""

import gzip
import json
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import NUM_ITEMS, run_command, train_arguments

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no SIGKILL")

LONGEST_WAIT = 300  # seconds until a stage must have come, on however busy a machine


def has_checkpoint(output, name):
    # The Trainer writes this file of a checkpoint last.
    return any((output / "checkpoints" / name).glob("checkpoint-*/trainer_state.json"))


def sasrec_learns(output):
    return has_checkpoint(output, "sasrec") and not (output / "sasrec").exists()


def adapter_learns(output):
    return has_checkpoint(output, "laser") and not (output / "recommender").exists()


def is_tested(output):
    return (output / "recommender").exists() and not (output / "metrics.json").exists()


def kill(is_in_stage, output, arguments):
    """Runs the command in a process of its own and kills it in the midst of a stage."""
    printed = output.with_suffix(".txt")
    command = [sys.executable, "-m", "laser_peft", *map(str, arguments)]
    with printed.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + LONGEST_WAIT
    try:
        while process.poll() is None and not is_in_stage(output) and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, printed.read_text()
    assert is_in_stage(output), f"{is_in_stage.__name__} was over, or never came"


def assert_same(output, expected):
    """What two runs found and learnt is the same, to the last bit."""
    metrics, others = (json.loads((run / "metrics.json").read_text()) for run in (output, expected))
    assert metrics.pop("seconds").keys() == others.pop("seconds").keys()
    assert metrics == others
    for name in ("sasrec/model.safetensors", "recommender/adapter_model.safetensors"):
        assert (output / name).read_bytes() == (expected / name).read_bytes(), name


def test_a_run_killed_while_the_adapter_learns_ends_as_the_whole_one(
    trained, shop, lm_folder, tmp_path
):
    arguments = train_arguments(shop, lm_folder, tmp_path / "run")
    kill(adapter_learns, tmp_path / "run", arguments)
    result = run_command(*arguments, "--resume")
    assert result.exit_code == 0, result.output
    assert_same(tmp_path / "run", trained[0])


@pytest.fixture(scope="module")
def many_users(shop, tmp_path_factory):
    """A folder like the shop's, with so many users that no stage is over in a moment."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "items.jsonl").write_text((shop / "items.jsonl").read_text())
    draw = random.Random(3)
    with gzip.open(folder / "interactions.csv.gz", "wt") as log:
        log.write("user_id,item_id,timestamp\n")
        for user in range(307):
            for moment, item in enumerate(draw.sample(range(NUM_ITEMS), 4 + user % 5)):
                log.write(f"u{user},i{item},{moment}\n")
    return folder


@pytest.mark.slow  # three processes import torch and transformers anew
def test_a_run_killed_in_each_of_its_stages_ends_as_the_whole_one(many_users, lm_folder, tmp_path):
    longer = ["--sasrec-epochs", 60, "--batch-size", 16, "--validation-users", 29]
    whole = [*train_arguments(many_users, lm_folder, tmp_path / "whole"), *longer]
    assert run_command(*whole).exit_code == 0
    arguments = [*train_arguments(many_users, lm_folder, tmp_path / "run"), *longer]
    kill(sasrec_learns, tmp_path / "run", arguments)
    kill(adapter_learns, tmp_path / "run", [*arguments, "--resume"])
    kill(is_tested, tmp_path / "run", [*arguments, "--resume"])
    result = run_command(*arguments, "--resume")
    assert result.exit_code == 0, result.output
    assert_same(tmp_path / "run", tmp_path / "whole")
