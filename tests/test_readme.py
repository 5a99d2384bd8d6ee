"""What the README shows is what works."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import run_command

from laser_peft.data.public import KNOWN

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_example_runs_as_written(trained, tmp_path, monkeypatch, capsys):
    demo = tmp_path / "runs" / "demo"
    demo.mkdir(parents=True)
    (demo / "run").symlink_to(trained[0])
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert len(re.findall("Thing number", capsys.readouterr().out)) == 10


def test_the_commands_run_as_written(shop, lm_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("laser_peft.training.sasrec.MIN_STEPS", 1)  # for 24 epochs are enough
    text = "".join(blocks("bash")).replace("\\\n", " ")
    commands = [
        shlex.split(line, comments=True)[1:]
        for line in text.splitlines()
        if line.startswith("laser-peft ")
    ]
    assert [words[0] for words in commands] == ["download", "train", "recommend", "evaluate"]
    assert commands[0][1] in KNOWN  # the download itself needs a network: tests/data/test_public.py
    stands_for = {
        "data/beauty/interactions.parquet": str(shop / "interactions.csv.gz"),
        "data/beauty/items.parquet": str(shop / "items.jsonl"),
        "HuggingFaceTB/SmolLM2-135M": lm_folder,
        "B004756YJA": "i1",
        "B004ZT0SSG": "i3",
        "runs/beauty": str(tmp_path / "beauty"),
        "runs/beauty/recommender": str(tmp_path / "beauty" / "recommender"),
    }
    for words in commands[1:]:
        result = run_command(*[stands_for.get(word, word) for word in words])
        assert result.exit_code == 0, result.output


def test_every_number_of_its_table_is_in_the_results():
    results = (ROOT / "docs" / "results.md").read_text("utf-8")
    rows = re.findall(r"^\| \w+, (?:un)?masked \| (.+) \|$", README, re.MULTILINE)
    assert rows
    for cell in " | ".join(rows).split(" | "):
        assert cell in results, cell


@pytest.mark.parametrize("target", ["test", "demo", "quality"])
def test_make_targets_named_in_the_docs_exist(target):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(rf"^{target}: ", makefile, re.MULTILINE)


def test_ci_calls_the_test_command_of_the_readme():
    assert "make test " in README
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
            if "://" in link:
                continue
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_linked():
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in README


def test_it_is_short():
    assert len(README.splitlines()) <= 130
