"""A recommender's folder: written whole, loaded from here or from the Hub's cache, uploaded."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from peft import get_peft_model
from recommenders import LIMITS, ids, make_recommender
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from laser_peft import BiTuningConfig, LaserRecommender
from laser_peft.checksums import CHECKSUMS
from laser_peft.recommender import RunFacts, files

HISTORY = ["i1", "i2", "i5", "i1"]


@pytest.fixture(scope="module")
def recommender(lm_folder, encoder_folder, shop, tokenizer):
    return make_recommender(lm_folder, encoder_folder, shop, tokenizer)


@pytest.fixture
def saved(recommender, tmp_path):
    recommender.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def same_recommendations(one, other):
    # Equal weights at another address may be summed in another order: equal to the last bits.
    for first, second in zip(one.recommend(HISTORY), other.recommend(HISTORY), strict=True):
        assert first[:2] == second[:2]
        assert first.score == pytest.approx(second.score, rel=1e-5)


@pytest.mark.parametrize("give_llm", [False, True])
def test_save_and_load_is_exact(recommender, lm_folder, saved, give_llm):
    assert {file.suffix for file in saved.iterdir()} == {".json", ".safetensors", ".parquet", ".md"}
    llm = AutoModelForCausalLM.from_pretrained(lm_folder) if give_llm else None
    loaded = LaserRecommender.from_pretrained(saved, llm=llm)
    assert loaded.config == recommender.config
    weights, expected = loaded.model.state_dict(), recommender.model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    same_recommendations(loaded, recommender)


def test_a_recommender_is_loaded_from_the_hubs_cache(recommender, saved, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--me--shop"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    for name in ("main", "v1"):
        (repository / "refs" / name).write_text(commit)
    saved.rename(repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for revision in (None, "v1"):
        same_recommendations(
            LaserRecommender.from_pretrained("me/shop", revision=revision), recommender
        )
    with pytest.raises(FileNotFoundError, match="no folder 'me/shop' here, and the Hub does not"):
        LaserRecommender.from_pretrained("me/shop", revision="v2")


def test_the_language_model_is_loaded_as_asked(saved, lm_folder):
    loaded = LaserRecommender.from_pretrained(saved, dtype="bfloat16", device_map="cpu")
    assert loaded.model.get_base_model().dtype == torch.bfloat16
    assert len(loaded.recommend(HISTORY)) == 10
    llm = AutoModelForCausalLM.from_pretrained(lm_folder)
    for options in ({"dtype": torch.float32}, {"device_map": "auto"}):
        with pytest.raises(ValueError, match="llm is loaded already; leave them out"):
            LaserRecommender.from_pretrained(saved, llm=llm, **options)


def test_without_a_tokenizer_of_its_own_a_folder_uses_the_language_models(recommender, saved):
    for file in (*saved.glob("tokenizer*"), saved / "checksums.json"):
        file.unlink()
    loaded = LaserRecommender.from_pretrained(saved)
    assert loaded.prompts([1, 2, 3]) == recommender.prompts([1, 2, 3])


def test_a_language_model_that_is_gone_is_named(saved, lm_folder, tmp_path):
    told = json.loads((saved / "adapter_config.json").read_text())
    (saved / "checksums.json").unlink()
    for name, error, message in (
        (str(tmp_path / "gone"), FileNotFoundError, "gone', which cannot be loaded .* llm="),
        (None, ValueError, "does not say which language model it was trained on; .* llm="),
    ):
        changed = json.dumps(told | {"base_model_name_or_path": name})
        (saved / "adapter_config.json").write_text(changed)
        with pytest.raises(error, match=message):
            LaserRecommender.from_pretrained(saved)
        llm = AutoModelForCausalLM.from_pretrained(lm_folder)
        assert len(LaserRecommender.from_pretrained(saved, llm=llm).recommend(HISTORY)) == 10


def test_the_active_adapter_alone_is_saved_whatever_its_name(
    lm_folder, encoder_folder, recommender, tmp_path
):
    llm = AutoModelForCausalLM.from_pretrained(lm_folder)
    config = BiTuningConfig(collaborative_encoder=encoder_folder)
    model = get_peft_model(llm, config, adapter_name="first")
    model.add_adapter("shop", BiTuningConfig(collaborative_encoder=encoder_folder))
    model.set_adapter("shop")
    bias = model.base_model.layer.bituning_adapters["shop"].head.projection.bias
    torch.nn.init.normal_(bias)
    own = LaserRecommender(model, recommender.tokenizer, recommender.catalogue, LIMITS)
    own.save_pretrained(tmp_path)
    assert all(path.is_file() for path in tmp_path.iterdir())
    same_recommendations(LaserRecommender.from_pretrained(tmp_path), own)


@pytest.mark.parametrize("step", ["files.save_adapter", "saving.write_json"])
def test_a_save_that_breaks_off_leaves_what_was_there(recommender, saved, monkeypatch, step):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def breaks(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"laser_peft.recommender.{step}", breaks)
    with pytest.raises(KeyboardInterrupt):
        recommender.save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


# The first moves, within the scratch folder, are of single files.
@pytest.mark.parametrize("most", [3, 7, 11])
def test_a_save_that_breaks_off_once_all_is_written_is_ended_by_the_next_reader(
    recommender, saved, monkeypatch, most
):
    whole = {path.name for path in saved.iterdir()}
    (saved / "removed_items.json").write_text("[]")
    replace, moves = os.replace, []

    def breaks(source, target):
        if len(moves) == most:
            raise KeyboardInterrupt
        moves.append(Path(target).name)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", breaks)
        with pytest.raises(KeyboardInterrupt):
            recommender.save_pretrained(saved)
    assert (saved / ".finished").is_dir() == (".finished" in moves)
    same_recommendations(LaserRecommender.from_pretrained(saved), recommender)
    if ".finished" in moves:
        assert {path.name for path in saved.iterdir()} == whole


def test_what_this_one_lacks_is_not_left_over_from_another(recommender, saved):
    for name in files.OPTIONAL_FILES:
        (saved / name).write_text("[]")
    (saved / ".unfinished").mkdir()  # of a save that was killed
    recommender.save_pretrained(saved)
    assert not {path.name for path in saved.iterdir()} & {*files.OPTIONAL_FILES, ".unfinished"}


def test_a_folder_that_is_no_recommender_is_said(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no catalogue.parquet"):
        LaserRecommender.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere' here, and the Hub"):
        LaserRecommender.from_pretrained(tmp_path / "nowhere")
    (saved / "removed_items.json").write_text('["i1"')
    with pytest.raises(ValueError, match="removed_items.json is damaged: .* save .* again"):
        LaserRecommender.from_pretrained(saved)


def test_an_adapter_that_lacks_a_tensor_is_refused(saved):
    path = saved / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    (table,) = [name for name in tensors if name.endswith("item_embeddings.weight")]
    del tensors[table]
    save_file(tensors, path, {"format": "pt"})
    (saved / CHECKSUMS).unlink()  # which would tell it sooner
    lacks = "1 tensors differ, the first .*item_embeddings.weight: none in the file"
    with pytest.raises(ValueError, match=lacks):
        LaserRecommender.from_pretrained(saved)


def test_push_to_hub_uploads_what_save_writes(recommender, saved, monkeypatch):
    called, uploaded, deleted = [], {}, []

    def create(self, name, **options):
        called.append((name, options, self.token))
        return SimpleNamespace(repo_id=f"me/{name}")

    def commit(self, repo_id, operations, commit_message, **_):
        called.append((repo_id, commit_message))
        for operation in operations:
            if hasattr(operation, "path_or_fileobj"):
                content = Path(operation.path_or_fileobj).read_bytes()
                uploaded[operation.path_in_repo] = content
            else:
                deleted.append(operation.path_in_repo)
        return SimpleNamespace(commit_url="https://there/commit/1")

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "create_commit", commit)
    there = ["README.md", "text_map.safetensors", "run_facts.json"]
    monkeypatch.setattr(HfApi, "list_repo_files", lambda self, repo_id: there)
    address = recommender.push_to_hub("shop", private=True, token="mine")
    assert address == "https://there/commit/1"
    assert called == [
        ("shop", {"private": True, "exist_ok": True}, "mine"),
        ("me/shop", "Upload recommender"),
    ]
    assert set(uploaded) == {path.name for path in saved.iterdir()}
    assert (
        uploaded["adapter_model.safetensors"] == (saved / "adapter_model.safetensors").read_bytes()
    )
    assert b"LaserRecommender.from_pretrained('me/shop'" in uploaded["README.md"]
    assert sorted(deleted) == ["run_facts.json", "text_map.safetensors"]


def test_facts_are_read_again_and_written_the_same(recommender, saved):
    other = LaserRecommender.from_pretrained(saved)
    assert other.facts is None
    other.facts = RunFacts({"users": 30}, {"users": 30, "models": {}, "slices": {"cold": {}}})
    other.save_card(saved)
    loaded = LaserRecommender.from_pretrained(saved)
    assert loaded.facts == RunFacts({"users": 30}, {"users": 30, "models": {}})
    card = (saved / "README.md").read_bytes()
    assert b"| users | 30 |" in card
    loaded.save_pretrained(saved)
    assert (saved / "README.md").read_bytes() == card
    with pytest.raises(ValueError, match="run facts are data and metrics, got speed"):
        LaserRecommender(
            other.model, other.tokenizer, other.catalogue, facts={"data": {}, "speed": 3}
        )


def test_a_card_by_hand_stays(recommender, saved):
    (saved / "README.md").write_text("---\ntags: [mine]\n---\nMy own words.\n")
    recommender.save_pretrained(saved)
    recommender.save_card(saved)
    assert (saved / "README.md").read_text() == "---\ntags: [mine]\n---\nMy own words.\n"
    # That of an adapter, as it was written before there were cards of recommenders.
    shutil.rmtree(saved)
    recommender.model.save_pretrained(str(saved))
    recommender.save_pretrained(saved)
    assert "# A recommender" in (saved / "README.md").read_text()
    assert ids(recommender.recommend(HISTORY))


def test_a_tokenizer_with_several_chat_templates_is_saved_over_one_with_others(
    recommender, tmp_path
):
    recommender.tokenizer.chat_template = {"default": "{{ 1 }}", "tools": "{{ 2 }}"}
    recommender.save_pretrained(tmp_path)
    recommender.tokenizer.chat_template = {"default": "{{ 3 }}", "others": "{{ 4 }}"}
    recommender.save_pretrained(tmp_path)
    loaded = LaserRecommender.from_pretrained(tmp_path)
    assert loaded.tokenizer.chat_template == {"default": "{{ 3 }}", "others": "{{ 4 }}"}
    recommender.tokenizer.chat_template = None
    recommender.save_pretrained(tmp_path)
    assert not (tmp_path / files.CHAT_TEMPLATES).exists()
