"""What docs/recommending.md shows is what works."""

import re
import shlex
from pathlib import Path

import polars as pl
import pytest
from conftest import run_command
from recommenders import ids, make_recommender

from laser_peft import LaserRecommender

PAGE = Path(__file__).parents[2] / "docs" / "recommending.md"


def blocks(language):
    text = PAGE.read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def in_a_demo(lm_folder, encoder_folder, shop, tokenizer, tmp_path, monkeypatch):
    recommender = make_recommender(lm_folder, encoder_folder, shop, tokenizer, "fused")
    recommender.save_pretrained(tmp_path / "runs" / "demo" / "run" / "recommender")
    monkeypatch.chdir(tmp_path)
    write_histories()


def write_histories():
    frame = pl.DataFrame({"user_id": ["u1", "u2"], "history": [["i1", "i3"], []]})
    frame.write_parquet("histories.parquet")


@pytest.mark.usefixtures("in_a_demo")
def test_the_examples_run_as_written(capsys):
    names = {}
    for block in blocks("python"):
        exec(compile(block, str(PAGE), "exec"), names)
    assert (names["summary"].histories, names["summary"].is_done) == (2, True)
    assert capsys.readouterr().out.count("Thing number") == 5 + 2 * 3
    saved = LaserRecommender.from_pretrained("runs/demo/more")
    assert saved.catalogue.item_ids[-2:] == ["new-1", "new-2"]
    assert saved.removed == ["new-2"]
    assert set(ids(saved.recommend(["i0"], allow=["new-1", "new-2", "i1"]))) == {"new-1", "i1"}


def test_the_commands_run_as_written(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in-stock.txt").write_text("i1\ni2\n")
    (tmp_path / "sold-out.txt").write_text("i7\n")
    write_histories()
    stands_for = {"ITEM_ID": "i1", "runs/mine/recommender": str(trained[0] / "recommender")}
    commands = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    assert len(commands) == 3
    for command in commands:
        words = [stands_for.get(word, word) for word in shlex.split(command)[1:]]
        result = run_command(*words)
        assert result.exit_code == 0, result.output
        shows_json = "--json" not in words or '"item_id": "i2"' in result.output
        assert shows_json, result.output
    assert (tmp_path / "recommended" / "_SUCCESS").is_file()
