"""A SASRec alone, from a log to its test, through the command."""

import json
from dataclasses import asdict

import pytest
from conftest import run_command, train_arguments

from laser_peft.evaluation import Evaluation
from laser_peft.training import RankingTrainer, SASRecSettings


def arguments(shop, output):
    inputs = ["--interactions", shop / "interactions.csv.gz", "--items", shop / "items.jsonl"]
    return ["train-encoder", *inputs, "--output", output, "--epochs", 2]


def test_its_test_is_the_one_that_train_makes_of_the_same_sasrec(trained, shop, tmp_path):
    result = run_command(*arguments(shop, tmp_path / "run"))
    assert result.exit_code == 0, result.output
    assert "Test, 30 users, whole catalogue" in result.output
    alone = Evaluation.load(tmp_path / "run" / "evaluation" / "sasrec")
    within = Evaluation.load(trained[0] / "evaluation" / "sasrec")
    assert alone.ranks.tolist() == within.ranks.tolist()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["metrics"] == alone.summary()["metrics"]
    assert metrics["seconds"].keys() == {"sasrec", "test"}


def test_what_is_not_said_is_as_in_the_settings(shop, tmp_path, monkeypatch):
    for name in ("MIN_EPOCHS", "MIN_STEPS"):
        monkeypatch.setattr(f"laser_peft.training.sasrec.{name}", 2)
    result = run_command(*arguments(shop, tmp_path / "run")[:-2], "--patience", 1)
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["sasrec"] == asdict(SASRecSettings(patience=1))


def test_an_interrupted_run_goes_on_to_the_same_ranks(shop, tmp_path, monkeypatch, steps):
    class Interruption(Exception):
        pass

    def interrupt(trainer, *args):
        save(trainer, *args)
        if trainer.state.epoch == 1:
            raise Interruption

    save = RankingTrainer._save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(RankingTrainer, "_save_checkpoint", interrupt)
        assert isinstance(run_command(*arguments(shop, tmp_path / "cut")).exception, Interruption)
    assert steps == [0]
    result = run_command(*arguments(shop, tmp_path / "cut"), "--resume")
    assert result.exit_code == 0, result.output
    assert steps == [0, 1]  # none is taken again
    assert run_command(*arguments(shop, tmp_path / "whole")).exit_code == 0
    cut, whole = (Evaluation.load(tmp_path / n / "evaluation/sasrec") for n in ("cut", "whole"))
    assert cut.ranks.tolist() == whole.ranks.tolist()


def test_a_run_of_train_is_another_run(trained, shop):
    files = ("metrics.json", "evaluation/sasrec/metrics.json")
    before = [(trained[0] / name).read_text() for name in files]
    result = run_command(*arguments(shop, trained[0]), "--resume")
    assert result.exit_code == 2
    assert "has other settings: llm, max_tokens, prompt" in result.stderr
    assert [(trained[0] / name).read_text() for name in files] == before


def test_a_file_is_no_output(shop, tmp_path):
    (tmp_path / "run").touch()
    result = run_command(*arguments(shop, tmp_path / "run"))
    assert result.exit_code == 2
    assert "run is a file; choose a folder" in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--heads", 3], r"hidden_size (64) must be a multiple of num_attention_heads (3)"),
        (["--dropout", 1], "dropout must lie in [0, 1), got 1.0"),
        (["--num-negatives", -1], "num_negatives must not be below 0, got -1"),
        (["--epochs", 0], "epochs must be at least 1, got 0"),
        (["--learning-rate", 0], "learning_rate must be above 0, got 0.0"),
        (["--weight-decay", -1], "weight_decay must not be below 0, got -1.0"),
        (["--interactions", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(shop, tmp_path, change, message):
    result = run_command(*arguments(shop, tmp_path / "run"), *change)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def encoder(shop, tmp_path_factory):
    output = tmp_path_factory.mktemp("encoder") / "run"
    assert run_command(*arguments(shop, output)).exit_code == 0
    return output


@pytest.mark.parametrize("state", [None, '{"best_global_step": 9, "best_model_ch'])
def test_a_checkpoint_cut_off_in_writing_is_passed_over(encoder, shop, tmp_path, state):
    cut_off = tmp_path / "run" / "checkpoints" / "sasrec" / "checkpoint-9"
    cut_off.mkdir(parents=True)
    (cut_off / "model.safetensors").touch()
    if state is not None:
        (cut_off / "trainer_state.json").write_text(state)
    (tmp_path / "run" / "run.json").write_text((encoder / "run.json").read_text())
    result = run_command(*arguments(shop, tmp_path / "run"), "--resume")
    assert result.exit_code == 0, result.output
    assert not cut_off.exists()
    assert list(cut_off.parent.glob("checkpoint-*/trainer_state.json"))


def test_an_adapter_takes_an_encoder_that_is_there(encoder, shop, lm_folder, tmp_path):
    given = ["--encoder", encoder / "sasrec"]
    result = run_command(*train_arguments(shop, lm_folder, tmp_path / "run"), *given)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "run" / "sasrec").exists()
    within = Evaluation.load(tmp_path / "run" / "evaluation" / "sasrec")
    alone = Evaluation.load(encoder / "evaluation" / "sasrec")
    assert within.ranks.tolist() == alone.ranks.tolist()
    assert "sasrec" not in json.loads((tmp_path / "run" / "seconds.json").read_text())


def test_an_encoder_of_another_catalogue_is_refused_first(encoder, shop, lm_folder, tmp_path):
    lines = (shop / "items.jsonl").read_text().splitlines()
    (tmp_path / "items.jsonl").write_text("\n".join(reversed(lines)))
    command = train_arguments(shop, lm_folder, tmp_path / "run")
    command[command.index("--items") + 1] = tmp_path / "items.jsonl"
    result = run_command(*command, "--encoder", encoder / "sasrec")
    assert result.exit_code == 2
    assert "trained on other items, or the same in another order" in result.stderr
    result = run_command(
        *train_arguments(shop, lm_folder, tmp_path / "run"), "--encoder", lm_folder
    )
    assert result.exit_code == 2
    assert "items and the catalogue has 23" in result.stderr
    assert not (tmp_path / "run").exists()
