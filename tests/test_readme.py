"""What the README shows is what works."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import run_command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_example_runs_as_written(trained, lm_folder, tmp_path, monkeypatch, capsys):
    demo = tmp_path / "runs" / "demo"
    demo.mkdir(parents=True)
    (demo / "run").symlink_to(trained[0])
    (demo / "lm").symlink_to(lm_folder)
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert len(re.findall("Thing number", capsys.readouterr().out)) == 10


def test_the_commands_run_as_written(shop, lm_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("laser_peft.training.sasrec.MIN_STEPS", 1)  # for 24 epochs are enough
    text = "".join(blocks("bash")).replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith("laser-peft ")]
    assert [command.split()[1] for command in commands] == ["train", "recommend", "evaluate"]
    stands_for = {
        "interactions.csv.gz": str(shop / "interactions.csv.gz"),
        "items.jsonl.gz": str(shop / "items.jsonl"),
        "HuggingFaceTB/SmolLM2-135M": lm_folder,
        "ITEM_ID": "i1",
        "runs/mine": str(tmp_path / "mine"),
        "runs/mine/recommender": str(tmp_path / "mine" / "recommender"),
    }
    for command in commands:
        words = [stands_for.get(word, word) for word in shlex.split(command)[1:]]
        result = run_command(*words)
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("target", ["test", "demo", "quality"])
def test_make_targets_named_in_the_docs_exist(target):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(rf"^{target}: ", makefile, re.MULTILINE)


def test_ci_calls_the_test_command_of_the_readme():
    assert "make test " in README
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
