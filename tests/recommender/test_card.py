"""The model card of a recommender."""

import json
import re

import polars as pl
import pytest
import torch
from huggingface_hub import ModelCard
from recommenders import make_recommender

from laser_peft import LaserRecommender
from laser_peft.data import Catalogue
from laser_peft.recommender import RecommenderConfig, RunFacts
from laser_peft.recommender.card import code_block, code_span, plain

NASTY = [
    "a | b </td><script>alert(1)</script>",
    "```\n# Heading\n---\n",
    "[x](http://evil) ![i](y) *b* _c_ `d` $e$ <!-- ",
]


@pytest.fixture
def recommender(lm_folder, encoder_folder, shop, tokenizer):
    return make_recommender(lm_folder, encoder_folder, shop, tokenizer)


def card_of(recommender, folder):
    recommender.save_pretrained(folder)
    return ModelCard.load(folder / "README.md")


def metrics_of(shift):
    models = {
        name: {"unmasked": {"hr@10": 0.125 + add}, "masked": {"hr@10": 0.25 + add}}
        for name, add in (("sasrec", 0.0), ("laser", shift))
    }
    told = {"hr@10": {"mean": shift, "low": -0.01, "high": 0.03}}
    return {"users": 7, "models": models, "difference": {"unmasked": told, "masked": told}}


CHANGES = {
    "view weights": lambda made: made.model.base_model.set_view_weights(text=0.25),
    "a new item": lambda made: made.add_items([{"item_id": "new", "title": "Thing of today"}]),
    "a removed item": lambda made: made.remove_items(["i0"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_test_of_what_has_been_changed_since_is_not_told(
    lm_folder, encoder_folder, shop, tokenizer, tmp_path, change
):
    made = make_recommender(lm_folder, encoder_folder, shop, tokenizer, "fused")
    made.facts = RunFacts({"users": 7}, metrics_of(0.02))
    assert "| masked | hr\\@10 | 0.2500 | 0.2700 |" in card_of(made, tmp_path / "one").text
    loaded = LaserRecommender.from_pretrained(tmp_path / "one")
    assert "| 0.2700 |" in card_of(loaded, tmp_path / "two").text
    CHANGES[change](made)  # in the process that has saved it before
    assert "0.2700" not in card_of(made, tmp_path / "one more").text
    CHANGES[change](loaded)
    changed = card_of(loaded, tmp_path / "three").text
    assert "0.2700" not in changed
    assert "None of this recommender as it is: since its test" in changed
    again = LaserRecommender.from_pretrained(tmp_path / "three")
    assert "0.2700" not in card_of(again, tmp_path / "four").text
    again.facts = RunFacts({"users": 7}, metrics_of(0.03))  # tested anew
    assert "| 0.2800 |" in card_of(again, tmp_path / "five").text


def test_removed_items_are_not_shown(recommender, tmp_path):
    recommender.remove_items(["i0", "i2"])
    told = card_of(recommender, tmp_path).text
    assert "23 items, 2 of them never recommended. The first:" in told
    assert re.findall(r"^\| (i\d+) ", told, re.MULTILINE) == ["i1", "i3", "i4"]


def test_it_tells_the_run(recommender, tmp_path):
    data = {"users": 30, "items": 23, "sha256": "ab12", "times_sha256": None, "log": {"rows": 3}}
    recommender.facts = RunFacts(data, metrics_of(0.02))
    card = card_of(recommender, tmp_path)
    assert "| SHA-256 of items and events | ab12 |" in card.text
    assert "None" not in card.text.split("## Test")[0]
    assert "7 users, the last item of each" in card.text
    assert "| protocol | metric | sasrec | laser | difference (95 % interval) |" in card.text
    assert "| masked | hr\\@10 | 0.2500 | 0.2700 | +0.0200 (-0.0100 .. +0.0300) |" in card.text
    assert "| unmasked | hr\\@10 | 0.1250 | 0.1450 |" in card.text
    assert '"num_prefix_tokens": 8' in card.text
    assert "23 items. The first:" in card.text


def test_without_facts_it_says_nothing_of_a_run(recommender, tmp_path):
    text = card_of(recommender, tmp_path).text
    assert "## Data" not in text
    assert "## Test" not in text
    recommender.facts = RunFacts(
        {"users": 3}, {"models": {"laser": metrics_of(0)["models"]["laser"]}}
    )
    assert "| unmasked | hr\\@10 | 0.1250 |\n" in card_of(recommender, tmp_path).text


def test_its_metadata_is_that_of_an_adapter(recommender, tmp_path):
    config = recommender.model.peft_config["default"]
    data = card_of(recommender, tmp_path).data
    assert data.library_name == "peft"
    assert {"bituning", "recommendation", "sequential-recommendation"} <= set(data.tags)
    assert data.pipeline_tag is None  # it writes no text
    assert data.base_model is None  # a folder of this machine is no name
    text = (tmp_path / "README.md").read_text()
    assert config.base_model_name_or_path not in text
    assert config.collaborative_encoder not in text
    config.base_model_name_or_path = "owner/some-lm"
    card = card_of(recommender, tmp_path)
    assert card.data.base_model == "owner/some-lm"
    assert "base_model:adapter:owner/some-lm" in card.data.tags
    assert "`owner/some-lm`. For its licence see the base model's page." in card.text


def test_the_code_it_shows_is_code_that_runs(recommender, lm_folder, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    text = card_of(recommender, tmp_path / "saved").text
    (code,) = re.findall("```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path / "saved")
    llm = AutoModelForCausalLM.from_pretrained(lm_folder)
    exec(compile(code.replace("<this repository>", "."), "README.md", "exec"), {"llm": llm})
    assert "recommender.recommend(['i0', 'i1'], k=10)" in code


@pytest.mark.parametrize("where", ["folder", "cache", "config"])
def test_the_licence_of_the_base_model_is_told_where_it_is_at_hand(
    recommender, tmp_path, monkeypatch, where
):
    card = "---\nlicense: other\nlicense_name: llama3\n---\nAn LM.\n"
    config = recommender.model.peft_config["default"]
    if where == "folder":
        config.base_model_name_or_path = str(tmp_path / "base")
        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "README.md").write_text(card)
    elif where == "cache":
        config.base_model_name_or_path = "owner/some-lm"
        commit = "0123456789abcdef0123456789abcdef01234567"
        repository = tmp_path / "hub" / "models--owner--some-lm"
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        (repository / "snapshots" / commit / "README.md").write_text(card)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    else:
        recommender.model.get_base_model().config.license = "llama3"
    assert "Its licence: `llama3`." in card_of(recommender, tmp_path / "saved").text


@pytest.mark.parametrize(
    "card", ["---\n- a\n---\n", "---\n{a: [\n---\n", "---\nlicense: [1]\n---\n"]
)
def test_a_damaged_card_of_the_base_model_does_no_harm(recommender, tmp_path, card):
    recommender.model.peft_config["default"].base_model_name_or_path = str(tmp_path)
    (tmp_path / "README.md").write_text(card)
    text = card_of(recommender, tmp_path / "saved").text
    assert "For its licence see the base model's page." in text


def test_names_and_titles_cannot_break_it(recommender, tmp_path):
    rows = recommender.catalogue.frame.to_dicts()
    for row, text in zip(rows, NASTY, strict=False):
        row |= {"item_id": text, "title": text}
    catalogue = Catalogue(pl.from_dicts(rows))
    nasty = LaserRecommender(
        recommender.model,
        recommender.tokenizer,
        catalogue,
        RecommenderConfig(max_tokens=500),
        facts=RunFacts({"name": NASTY[0]}, metrics_of(0)),
    )
    name = "a`b``c: </code>\n# x"
    nasty.model.peft_config["default"].base_model_name_or_path = str(tmp_path / name)
    card = card_of(nasty, tmp_path / "saved")
    outside = re.sub(r"^(````?)\w*\n.*?^\1$", "", card.text, flags=re.DOTALL | re.MULTILINE)
    assert "<script>" not in outside
    assert "<!-- \n" not in outside.replace("<!-- written", "")
    headings = [line for line in outside.splitlines() if line.startswith("#")]
    assert headings == [
        *("# A recommender", "## How to load it", "## Data", "## Test"),
        *("## Base model", "## Catalogue", "## Settings"),
    ]
    for line in outside.splitlines():
        if line.startswith("|") and "script" in line:
            assert len(re.findall(r"(?<!\\)\|", line)) == 3
    (code,) = re.findall("````python\n(.*?)\n````", card.text, re.DOTALL)
    assert repr(NASTY[:2]) in code


def test_text_is_shown_as_it_is():
    assert plain("a\nb  c") == "a b c"
    assert plain("<b>&|") == "&lt;b&gt;&amp;\\|"
    assert len(plain("x" * 500)) == 100
    assert code_span("a``b") == "``` a``b ```"
    assert code_span("") == "` `"
    assert code_block("a\n````") == "`````\na\n````\n`````"


def test_a_run_gives_its_card_the_facts(trained):
    folder = trained[0] / "recommender"
    facts = json.loads((folder / "run_facts.json").read_text())
    metrics = json.loads((trained[0] / "metrics.json").read_text())
    assert facts["metrics"]["models"] == metrics["models"]
    assert (
        facts["data"]["sha256"]
        == json.loads((trained[0] / "run.json").read_text())["data"]["sha256"]
    )
    text = (folder / "README.md").read_text()
    for model in ("sasrec", "laser"):
        assert f"{metrics['models'][model]['masked']['ndcg@10']:.4f}" in text
    assert facts["data"]["sha256"] in text
    assert torch.isfinite(torch.tensor(facts["metrics"]["difference"]["masked"]["hr@10"]["mean"]))
