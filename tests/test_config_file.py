"""Options from a YAML file, on the real commands."""

import inspect
import json
from typing import Annotated

import pytest
import typer
from conftest import run_command, train_arguments

from laser_peft import pipeline
from laser_peft.cli.config_file import OptionKind, option_kind, read_options


@pytest.fixture
def runs(monkeypatch):
    """The runs that the commands would start."""
    started = []

    def start(run, output, **kwargs):
        started.append((run, output))
        raise ValueError("enough")

    monkeypatch.setattr(pipeline, "train", start)
    monkeypatch.setattr(pipeline, "train_encoder", start)
    return started


@pytest.fixture
def write(tmp_path):
    def write(text):
        file = tmp_path / "run.yaml"
        file.write_text(text)
        return file

    return write


TRAIN = """
interactions: log.csv.gz
items: items.jsonl
llm: some/model
output: runs/mine
epochs: 5
learning-rate: 1e-3
collaborative_skip: false
time-unit: ms
sasrec-epochs: null
"""


def test_required_and_other_options_come_from_the_file(runs, write):
    result = run_command("train", "--config", write(TRAIN))
    assert "laser-peft: enough" in result.stderr
    ((run, output),) = runs
    assert (run.interactions.path, run.items, run.llm) == (
        "log.csv.gz",
        "items.jsonl",
        "some/model",
    )
    assert str(output) == "runs/mine"
    assert run.interactions.time_unit == "ms"
    assert (run.laser.epochs, run.laser.learning_rate) == (5, 1e-3)
    assert run.adapter["collaborative_skip"] is False
    assert run.sasrec.epochs is None


@pytest.mark.parametrize("first", [True, False])
def test_the_command_line_wins(runs, write, first):
    file, flags = ["--config", write(TRAIN)], ["--epochs", 7, "--collaborative-skip"]
    run_command("train", *(file + flags if first else flags + file))
    ((run, _),) = runs
    assert (run.laser.epochs, run.adapter["collaborative_skip"]) == (7, True)
    assert run.laser.learning_rate == 1e-3


def test_a_file_and_flags_start_the_same_run(runs, write, shop, lm_folder, tmp_path):
    arguments = train_arguments(shop, lm_folder, tmp_path / "run")
    pairs = zip(arguments[1::2], arguments[2::2], strict=True)
    lines = [f"{flag.removeprefix('--')}: {value}" for flag, value in pairs]
    run_command(*arguments)
    run_command("train", "--config", write("\n".join(lines)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("command", "text", "message"),
    [
        ("train", "epoch: 3", "no option 'epoch'; did you mean epochs?"),
        ("train", "zzz: 3", "no option 'zzz'; known are batch_size, bf16"),
        ("train", "config: other.yaml", "no option 'config'"),
        ("train", "batch_size: 0", "batch_size must be at least 1, got 0"),
        ("train", "epochs: 2.5", "epochs must be a whole number, got 2.5"),
        ("train", "epochs: true", "epochs must be a whole number, got True"),
        ("train", "epochs: [1]", "epochs must be a whole number, got [1]"),
        ("train", "learning-rate: fast", "learning-rate must be a number, got 'fast'"),
        ("train", "learning-rate: true", "learning-rate must be a number, got True"),
        ("train", "bf16: 1", "bf16 must be true or false, got 1"),
        ("train", "llm: 7", "llm must be a text; put it into quotes, got 7"),
        ("train", "time-unit: h", "time-unit must be one of s, ms, us, ns, got 'h'"),
        ("train", "max-items: 3\nmax_items: 3", "max_items is there twice, with dashes and"),
        ("train", "epochs: 3\nepochs: 4", "the key 'epochs' is there twice; keep one"),
        ("train", "epochs", "must hold one option a line, like 'epochs: 3', got a str"),
        ("train", "epochs: [", "is no YAML file of options"),
        ("train-encoder", "layer: 2", "did you mean layers?"),
        ("prepare", "min-user-event: 5", "did you mean min_user_events?"),
        ("prepare", "min-item-events: 0", "min-item-events must be at least 1, got 0"),
        ("evaluate", "batch-size: 0", "batch-size must be at least 1, got 0"),
        ("baselines", "lm: x", "did you mean llm?"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(write, command, text, message):
    file = write(text)
    result = run_command(command, "--config", file)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"laser-peft: {file}")
    assert message in " ".join(result.stderr.split())


def test_a_value_that_only_the_settings_refuse_is_traced_to_the_file(write):
    file = write("patience: 0\ninteractions: a\nitems: b\noutput: c\n")
    result = run_command("train-encoder", "--config", file)
    assert result.exit_code == 2
    assert f"patience must be at least 1, got 0 ({file} says patience: 0)" in result.stderr


def test_a_missing_file_is_named():
    result = run_command("train", "--config", "nowhere.yaml")
    assert result.exit_code == 2
    assert "laser-peft: no such file: nowhere.yaml (of --config)" in result.stderr


def test_an_empty_file_changes_nothing(write):
    result = run_command("train", "--config", write("# nothing yet\n"))
    assert result.exit_code == 2
    assert "Missing option" in result.stderr


def test_prepare_runs_from_a_file_alone(write, shop, tmp_path):
    log, output = shop / "interactions.csv.gz", tmp_path / "prepared"
    lines = [f"interactions: {log}", f"output: {output}", "min-user-events: 4"]
    result = run_command("prepare", "--config", write("\n".join(lines)))
    assert result.exit_code == 0, result.output
    told = json.loads((output / "report.json").read_text())
    assert "min_user_events" in json.dumps(told)


def test_an_argument_comes_from_the_file_too(write, trained, shop, tmp_path):
    lines = [
        f"recommender: {trained[0] / 'recommender'}",
        f"interactions: {shop / 'interactions.csv.gz'}",
        f"output: {tmp_path / 'again'}",
    ]
    result = run_command("evaluate", "--config", write("\n".join(lines)))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again" / "laser" / "metrics.json").is_file()


def test_lists_are_read_part_by_part(write):
    kind = option_kind(inspect.signature(_listed).parameters["ids"].annotation)
    assert kind == OptionKind(str, is_list=True)
    assert read_options(write("ids: [a, b]"), {"ids": kind}) == {"ids": ["a", "b"]}
    with pytest.raises(ValueError, match=r"ids must be a list, like \[a, b\], got 'a'"):
        read_options(write("ids: a"), {"ids": kind})
    with pytest.raises(ValueError, match="n must be at most 3, got 4"):
        read_options(write("n: 4"), {"n": OptionKind(int, most=3)})


def _listed(ids: Annotated[list[str] | None, typer.Option()] = None) -> None: ...


@pytest.mark.parametrize(
    "command",
    [
        *("train", "train-encoder", "prepare", "evaluate", "baselines"),
        *("recommend-many", "serve"),
    ],
)
def test_every_command_of_many_options_takes_a_file(command):
    assert "--config" in run_command(command, "--help").output
