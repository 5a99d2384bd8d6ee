"""No page shows a command, an option or a key of a configuration file that does not exist."""

import configparser
import gzip
import inspect
import re
import shlex
from pathlib import Path

import polars as pl
import pytest
import typer.main
from conftest import run_command

from laser_peft.cli import app
from laser_peft.cli.config_file import option_kind, read_options
from laser_peft.data import Catalogue

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_EXAMPLES = [*PAGES, ROOT / "examples" / "README.md"]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
COMMANDS = typer.main.get_command(app).commands
# Options in pages that are not of laser-peft: of scripts under examples/.
OF_SCRIPTS = {"--checkpoint", "--hidden-size"}


def options_of(command):
    names = [name for p in COMMANDS[command].params for name in [*p.opts, *p.secondary_opts]]
    return {name for name in names if name.startswith("-")} | {"--help"}


def fenced(page, language):
    text = page.read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands_in(page):
    """The words of every laser-peft command of a page: in bash blocks and between backticks."""
    for line in [*bash_lines(page), *inline_code(page)]:
        words = shlex.split(line, comments=True) if line.startswith("laser-peft ") else []
        if words[1:]:
            yield words[1:]


def bash_lines(page):
    return "".join(fenced(page, "bash")).replace("\\\n", " ").splitlines()


def inline_code(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def other_commands_in(page):
    """The words of every other command: all in bash blocks, the usual ones between backticks."""
    usual = [code for code in inline_code(page) if re.match(r"(python|make|pip) \S", code)]
    for line in [*bash_lines(page), *usual]:
        for command in shlex.join(shlex.split(line, comments=True)).split(" '&&' "):
            words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
            if words and words[0] != "laser-peft":
                yield words


def check_other(words):
    match words:
        case ["make", target]:
            assert re.search(rf"^{target}: ", MAKEFILE, re.MULTILINE), f"no target {target}"
        case ["pip", "install", *options, what]:
            assert set(options) <= {"-e"}, f"not known: {options}"
            extra = re.fullmatch(r"(?:\.|laser-peft)(?:\[(.+)\])?", what)
            assert extra, f"not this package: {what}"
            known = configparser.ConfigParser()
            known.read(ROOT / "setup.cfg")
            assert not extra[1] or extra[1] in known["options.extras_require"], f"no {extra[1]}"
        case ["python", script, *options] if script.endswith(".py"):
            assert (ROOT / script).is_file(), f"there is no {script}"
            beside = sorted((ROOT / script).parent.glob("*.py"))  # options of what it imports
            source = "".join(file.read_text("utf-8") for file in beside)
            shown = {word for word in options if word.startswith("-")}
            unknown = {option for option in shown if f'"{option}"' not in source}
            assert not unknown, f"{script} has no {unknown}"
        case ["torchrun", *launched] | ["accelerate", "launch", *launched]:
            for file in (word for word in launched if word.endswith((".py", ".yaml"))):
                assert (ROOT / file).is_file(), f"there is no {file}"
            if "laser_peft" in launched:
                check(launched[launched.index("laser_peft") + 1 :])
        case ["python", "-m", "venv", _] | ["source", ".venv/bin/activate"]:
            pass
        case _:
            pytest.fail(f"nothing checks {shlex.join(words)}")


def check(words):
    command = words[0]
    if command in ("--version", "--help", "COMMAND"):
        return
    assert command in COMMANDS, f"there is no command {command}"
    shown = {word.partition("=")[0] for word in words[1:] if re.match(r"-{1,2}[a-z]", word)}
    assert shown <= options_of(command), f"{command} has no {shown - options_of(command)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_of_a_page_exists(page):
    for words in commands_in(page):
        check(words)
    every = set().union(*map(options_of, COMMANDS)) | {"--version"} | OF_SCRIPTS
    shown = set(re.findall(r"`(--[a-z0-9-]+)", page.read_text("utf-8")))
    assert shown <= every, f"no command has {shown - every}"


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_other_command_of_a_page_exists(page):
    for words in other_commands_in(page):
        check_other(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_examples_hold_options_of_their_command(page, tmp_path):
    for block in fenced(page, "yaml"):
        command = re.match(r"# laser-peft ([a-z-]+) --config", block)
        assert command, "a YAML example begins with the command that it is for"
        file = tmp_path / "example.yaml"
        file.write_text(block)
        (found,) = [
            known
            for known in app.registered_commands
            if known.callback.__name__.replace("_", "-") == command[1]
        ]
        parameters = inspect.signature(found.callback).parameters.items()
        assert read_options(
            file, {name: option_kind(p.annotation) for name, p in parameters if name != "config"}
        )


def test_the_quickstart_prepares_a_log_with_columns_of_its_own(shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = gzip.decompress((shop / "interactions.csv.gz").read_bytes()).decode()
    Path("log.csv").write_text(log.replace("user_id,item_id,timestamp", "customer,sku,bought_at"))
    items = pl.read_ndjson(shop / "items.jsonl").select(sku="item_id", name="title")
    items.write_csv("products.csv")
    commands = commands_in(ROOT / "docs" / "quickstart.md")
    (words,) = (words for words in commands if words[0] == "prepare")
    result = run_command(*words)
    assert result.exit_code == 0, result.output
    assert Catalogue.load("prepared/catalogue.parquet").attributes()[0] == {
        "name": "Thing number 0"
    }


def test_the_page_of_the_commands_has_all_of_them_and_their_options():
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for command in COMMANDS:
        assert f"### {command}" in text
        for parameter in COMMANDS[command].params:
            for option in parameter.opts:
                assert f"`{option}`" in text or option == parameter.name, f"{command} {option}"


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_option_has_a_help(command):
    for parameter in COMMANDS[command].params:
        assert parameter.help, f"{command}: {parameter.name}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trains --llm x", "there is no command trains"),
        ("train --lm x", "train has no {'--lm'}"),
        ("recommend folder i1 -q 3", "recommend has no {'-q'}"),
    ],
)
def test_what_does_not_exist_is_found(line, message):
    with pytest.raises(AssertionError, match=re.escape(message)):
        check(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("make tests", "no target tests"),
        ("pip install -e .[gpu]", "no gpu"),
        ("pip install torch", "not this package: torch"),
        ("python examples/08.py", "there is no examples/08.py"),
        ("python examples/04_recommend.py --best 3", "has no {'--best'}"),
        ("torchrun -m laser_peft trains --llm x", "there is no command trains"),
        ("accelerate launch --config_file x.yaml examples/08.py", "there is no x.yaml"),
        ("curl example.org", "nothing checks curl example.org"),
    ],
)
def test_what_else_does_not_exist_is_found(line, message):
    with pytest.raises((AssertionError, pytest.fail.Exception), match=re.escape(message)):
        check_other(shlex.split(line))
