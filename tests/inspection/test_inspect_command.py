"""``laser-peft inspect`` on a trained recommender."""

import sys

import pytest
import torch
from conftest import run_command
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from laser_peft import BiTuningConfig, LaserRecommender
from laser_peft.data import Catalogue


@pytest.fixture
def command(trained):
    return ["inspect", trained[0] / "recommender"]


@pytest.fixture
def saved_with(shop, encoder_folder, lm_folder, tokenizer, tmp_path):
    """Saves an untrained recommender with these settings of its adapter; gives the folder."""

    def saved_with(**settings):
        llm = AutoModelForCausalLM.from_pretrained(lm_folder)
        config = BiTuningConfig(collaborative_encoder=encoder_folder, **settings)
        model = get_peft_model(llm, config)
        catalogue = Catalogue.read(shop / "items.jsonl")
        if config.item_vectors == "fused":
            texts = torch.randn(len(catalogue), config.item_text_dim)
            model.base_model.set_item_text_vectors(texts)
        LaserRecommender(model, tokenizer, catalogue).save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return saved_with


def test_parts_are_printed(command):
    result = run_command(*command)
    assert result.exit_code == 0, result.output
    for part in ("language model", "encoder", "M-Former", "suffix", "head"):
        assert part in result.output
    assert "parameters learn, " in result.output
    assert "no view weights" in result.output or "the IDs count" in result.output


def test_the_load_of_a_log_is_printed(command, shop):
    log = ["--interactions", shop / "interactions.csv.gz"]
    result = run_command(*command, *log, "--users", 7)
    assert "Experts of 7 users" in result.output
    assert "Experts of 30 users" in run_command(*command, *log).output
    assert "Experts of 30 users" in run_command(*command, *log, "--users", 0).output


@pytest.mark.parametrize("ids", [["--history", "i1", "i2"], ["i1", "i2"]])
def test_a_history_is_looked_at(command, ids):
    result = run_command(*command, *ids)
    assert result.exit_code == 0, result.output
    assert "This history gets the experts" in result.output
    assert result.output.index("Thing number 1") < result.output.index("Thing number 2")
    assert "goes to the state that stands for no item" in result.output


def test_what_is_wrong_is_said(command, tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    result = run_command(*command, "--plot", tmp_path / "a.png")
    assert "a.png is there already; choose another file" in result.stderr
    result = run_command(*command, "--plot", tmp_path / "b.png")
    assert "there is nothing to draw" in result.stderr
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run_command(*command, "i1", "--plot", tmp_path / "b.png")
    assert result.exit_code == 2
    assert "laser-peft: plots need matplotlib" in result.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prefix_source": "plain"}, "The prefix is plain, the same for every user"),
        ({"prefix_source": "none", "num_prefix_tokens": 0}, "There is no prefix, so no M-Former"),
        ({"moe": "none"}, "no mixture of experts"),
    ],
)
def test_adapters_without_experts_say_so(shop, saved_with, settings, said):
    log = ["--interactions", shop / "interactions.csv.gz"]
    result = run_command("inspect", saved_with(**settings), "i1", *log)
    assert result.exit_code == 0, result.output
    assert said in " ".join(result.output.split())
    assert "No router: the history chooses no experts." in result.output


@pytest.mark.parametrize("text_skip", [True, False])
def test_what_the_correction_counts_is_told_where_there_is_one(saved_with, text_skip):
    folder = saved_with(item_vectors="fused", item_text_dim=7, text_skip=text_skip)
    said = " ".join(run_command("inspect", folder).output.split())
    assert "the IDs count 1 and the texts 0, those of new items 0" in said
    assert ("what the language model adds to their reader counts 1." in said) == text_skip


def test_a_dead_expert_is_warned_of(command, shop, monkeypatch):
    from laser_peft.inspection import ExpertLoad

    load = ExpertLoad(30, (1.0, 0.96, 0.04, 0.0), (0.5, 0.4, 0.1, 0.0))
    monkeypatch.setattr("laser_peft.cli.inspect.expert_load", lambda *args: load)
    result = run_command(*command, "--interactions", shop / "interactions.csv.gz")
    assert "Warning: expert 2 gets 2.00% of the choices, less than a tenth" in result.stderr
    assert "Warning: expert 3 gets 0.00% of the choices" in result.stderr
