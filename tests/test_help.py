"""The help of each command: what it does, an example that works, and what it writes."""

import inspect
import re

import pytest
from conftest import run_command

from laser_peft.cli import app

COMMANDS = ["download", "prepare", "train-encoder", "train", "evaluate", "baselines", "compare"]
COMMANDS += ["recommend-many", "serve", "inspect"]


def docstring_of(command):
    (found,) = [known for known in app.registered_commands if names_of(known) == command]
    return inspect.cleandoc(found.callback.__doc__)


def names_of(command):
    return (command.name or command.callback.__name__).replace("_", "-")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_and_says_what_is_written(command):
    head = " ".join(run_command(command, "--help").output.partition("─")[0].split())
    assert f"Example: laser-peft {command} " in head
    assert re.search(r"\b(Writes|Prints)\b", head)


@pytest.mark.parametrize("command", COMMANDS)
def test_lines_of_the_help_fit_into_a_narrow_console(command):
    # They keep their breaks: what is too long would be broken twice, and an example in two.
    assert max(map(len, docstring_of(command).splitlines()[1:])) <= 78


def test_the_version_is_that_of_the_package():
    result = run_command("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"laser-peft \d+\.\d+\S*\n", result.output)


def test_every_command_is_in_the_help():
    shown = run_command("--help").output
    names = [names_of(command) for command in app.registered_commands]
    assert set(COMMANDS) <= set(names)
    for name in names:
        assert name in shown


def test_evaluate_says_whether_it_has_saved(trained, shop, tmp_path):
    log = ["--interactions", shop / "interactions.csv.gz"]
    command = ["evaluate", trained[0] / "recommender", *log]
    assert "Not saved: --output keeps every user's ranks" in run_command(*command).output
    saved = run_command(*command, "--output", tmp_path / "tested")
    assert "Saved: " in saved.output
    for name in ("sasrec", "laser"):
        assert {file.name for file in (tmp_path / "tested" / name).iterdir()} >= {
            *("metrics.json", "ranks.parquet")
        }
    assert "unmasked/masked" in saved.output
