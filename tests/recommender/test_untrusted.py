"""A recommender's folder from anybody: every damage is one clear error, and nothing is run."""

import json
import pickle

import pytest
import torch
from recommenders import make_recommender
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from laser_peft import LaserRecommender


@pytest.fixture(scope="module")
def made(lm_folder, encoder_folder, shop, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    recommender = make_recommender(lm_folder, encoder_folder, shop, tokenizer, "fused")
    recommender.remove_items(["i3"])
    recommender.save_pretrained(folder)
    return folder


@pytest.fixture
def llm(lm_folder):
    return AutoModelForCausalLM.from_pretrained(lm_folder)


@pytest.fixture
def saved(made, tmp_path):
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def unchecked(folder):
    """As folders are that were saved before there were checksums."""
    (folder / "checksums.json").unlink()
    return folder


FILES = [
    *("adapter_model.safetensors", "adapter_config.json", "catalogue.parquet"),
    *("recommender_config.json", "tokenizer.json", "text_map.safetensors", "removed_items.json"),
]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_seen_and_the_file_named(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[len(content) * 2 // 3] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is not the file that was written: .* delete"):
        LaserRecommender.from_pretrained(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_off_is_named_without_checksums_too(saved, name, llm):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    unchecked(saved)
    named = saved.name if name == "tokenizer.json" else name
    with pytest.raises(ValueError, match=named):
        LaserRecommender.from_pretrained(saved, llm=llm)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        LaserRecommender.from_pretrained(saved)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"../../outside": "ab"}, "names what is no file of its folder: .*outside"),
        ({"/etc/passwd": "ab"}, "names what is no file of its folder"),
        (["ab"], "no object of texts"),
        ({"adapter_config.json": 3}, "no object of texts"),
    ],
)
def test_checksums_name_files_of_the_folder_only(saved, told, message):
    (saved / "checksums.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message):
        LaserRecommender.from_pretrained(saved)


def change(saved, name, **fields):
    path = unchecked(saved) / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


HUGE = 10**12
ENCODER = {"model_type": "sasrec", "hidden_size": 16, "num_items": 23}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_text_items": HUGE}, "num_text_items must be at most"),
        ({"num_text_items": 2**31 - 1}, r"items.text: floats \(23, .* \(2147483647, "),
        ({"m_former_num_layers": 10**8}, "m_former_num_layers=100000000, and .* tensors in all"),
        ({"num_prefix_tokens": -3}, "whole number of at least 0, got -3"),
        ({"temperature": float("nan")}, "temperature must be positive, got nan"),
        ({"item_text_dim": "wide"}, "whole number of at least 1, got 'wide'"),
        ({"collaborative_encoder_config": ENCODER | {"num_items": HUGE}}, "item_embeddings"),
        ({"collaborative_encoder_config": ENCODER | {"num_items": -1}}, "at least 1, got -1"),
        (
            {"collaborative_encoder_config": ENCODER | {"num_hidden_layers": 10**9}},
            "num_hidden_layers=1000000000, and",
        ),
        ({"collaborative_encoder_config": [3]}, "must be an object, got"),
        (
            {"collaborative_encoder_config": {"model_type": "bert"}},
            "must equal the width of the collaborative encoder",
        ),
        ({"base_model_name_or_path": ["x"]}, "base_model_name_or_path must be a text"),
        ({"peft_type": "LORA"}, "peft_type 'BITUNING', got 'LORA'"),
        ({"num_experts": 7}, r"does not go with its adapter_config.json .* tensors differ"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_before_anything_is_allocated(
    saved, llm, fields, message
):
    change(saved, "adapter_config.json", **fields)
    with pytest.raises(ValueError, match=message):
        LaserRecommender.from_pretrained(saved, llm=llm)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": "512"}, "max_tokens must be of the type int, got '512'"),
        ({"max_items": 0}, "max_items must be at least 1, got 0"),
        ({"dtype": "nn"}, "dtype must be the name of a torch dtype of floats"),
        ({"reads_items": 1}, "reads_items must be of the type bool"),
        ({"speed": 3}, "recommender_config.json: .* has no \\['speed'\\]"),
        ({"prompt": ["x"]}, "recommender_config.json: a prompt must be an object"),
    ],
)
def test_limits_of_the_wrong_kind_are_named(saved, llm, fields, message):
    change(saved, "recommender_config.json", **fields)
    with pytest.raises(ValueError, match=message):
        LaserRecommender.from_pretrained(saved, llm=llm)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("removed_items.json", "{}", "must hold a list of texts"),
        ("removed_items.json", "[3]", "must hold a list of texts"),
        ("recommender_config.json", "[" * 10**5, "recommender_config.json is damaged"),
        ("run_facts.json", "3", "must hold an object"),
        ("run_facts.json", '{"metrics": {"models": {"a": 3}}}', "run facts must be as"),
        ("run_facts.json", '{"data": 3}', "are objects"),
    ],
)
def test_json_of_another_kind_is_named(saved, llm, name, text, message):
    (unchecked(saved) / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        LaserRecommender.from_pretrained(saved, llm=llm)


@pytest.mark.parametrize("how", ["missing", "extra", "shape", "dtype"])
def test_tensors_that_are_not_the_configurations_are_named(saved, llm, how):
    file = unchecked(saved) / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("items.text"))
    if how == "missing":
        del tensors[name]
    elif how == "extra":
        name = "base_model.model.lm_head.weight"
        tensors[name] = torch.ones(2)
    elif how == "shape":
        tensors[name] = tensors[name][:5].clone()
    else:
        tensors[name] = tensors[name].to(torch.int64)
    save_file(tensors, file)
    with pytest.raises(ValueError, match=f"1 tensors differ, the first {name}: "):
        LaserRecommender.from_pretrained(saved, llm=llm)


class Boom:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def test_a_pickle_in_place_of_safetensors_is_not_read(saved, llm):
    for name in ("adapter_model.bin", "pytorch_model.bin"):
        (unchecked(saved) if name[0] == "a" else saved).joinpath(name).write_bytes(
            pickle.dumps(Boom())
        )
    LaserRecommender.from_pretrained(saved, llm=llm)
    (saved / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no adapter_model.safetensors"):
        LaserRecommender.from_pretrained(saved, llm=llm)


def test_code_that_a_folder_brings_along_is_not_run(saved, lm_folder, tmp_path_factory):
    boom = "raise AssertionError('remote code was run')"
    lm = tmp_path_factory.mktemp("lm")
    (lm / "evil.py").write_text(boom)
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (lm / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto_map}))
    change(saved, "adapter_config.json", base_model_name_or_path=str(lm))
    with pytest.raises(ValueError, match="trust_remote_code"):
        LaserRecommender.from_pretrained(saved)


def test_a_tokenizer_class_of_its_own_is_not_run(saved, llm):
    (saved / "evil.py").write_text("raise AssertionError('remote code was run')")
    path = unchecked(saved) / "tokenizer_config.json"
    told = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}}
    path.write_text(json.dumps(told))
    LaserRecommender.from_pretrained(saved, llm=llm)


def test_a_tokenizer_of_another_language_model_is_named(saved, lm_folder):
    lm = AutoModelForCausalLM.from_pretrained(lm_folder)
    lm.resize_token_embeddings(97)
    recommender = LaserRecommender.from_pretrained(saved, llm=lm)
    with pytest.raises(ValueError, match="has the token .* and the language model knows 97"):
        recommender.recommend(["i1"])


def test_too_little_memory_says_what_to_lower(saved, llm, monkeypatch):
    recommender = LaserRecommender.from_pretrained(saved, llm=llm)

    def too_large(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("laser_peft.tuner.model.BiTuningModel.forward", too_large)
    with pytest.raises(MemoryError, match="not enough memory for reading .*: lower batch_size"):
        recommender.recommend(["i1"])


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"model_max_length": "long"}, "model_max_length .* must be a number, got 'long'"),
        ({"bos_token": "\ud800"}, "tokenizer_config.json is damaged.*surrogates not allowed"),
    ],
)
def test_a_tokenizer_of_what_cannot_be_is_named(saved, llm, told, message):
    path = unchecked(saved) / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | told))
    with pytest.raises(ValueError, match=message):
        LaserRecommender.from_pretrained(saved, llm=llm)
