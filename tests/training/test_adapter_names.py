"""An adapter is trained, kept and gone on with alike, whatever its name and whatever beside it."""

import pytest
import torch
import torch.nn.functional as F
from conftest import NUM_ITEMS
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from laser_peft import BiTuningConfig
from laser_peft.training import LaserSettings, LaserTrainer, train_laser
from laser_peft.training.checkpoints import last_checkpoint
from laser_peft.training.ranking_trainer import ranking_arguments
from laser_peft.training.reading import kept_as_it_is

X = 7
NAMES = ("default", "beauty")


@pytest.fixture
def make(lm_folder, encoder_folder):
    fields = {"num_prefix_tokens": 3, "item_vectors": "fused", "item_text_dim": X}

    def make(*names):
        torch.manual_seed(0)
        llm = AutoModelForCausalLM.from_pretrained(lm_folder)
        config = BiTuningConfig(collaborative_encoder=encoder_folder, **fields)
        model = get_peft_model(llm, config, adapter_name=names[0])
        for name in names[1:]:
            model.add_adapter(name, BiTuningConfig(collaborative_encoder=encoder_folder, **fields))
            model.set_adapter(name)
        texts = torch.randn(NUM_ITEMS, X, generator=torch.Generator().manual_seed(1))
        model.base_model.set_item_text_vectors(F.normalize(texts, dim=1))
        return model

    return make


@pytest.fixture
def learn(split, prompts):
    settings = LaserSettings(epochs=2, batch_size=8, learning_rate=1e-2)

    def learn(model, folder):
        with kept_as_it_is(model):
            train_laser(
                *(model, split, prompts, folder, settings),
                max_items=50,
                resume_from_checkpoint=last_checkpoint(folder),
            )
        return state_of(model)

    return learn


def state_of(model, name=None):
    adapter = model.base_model.layer.bituning_adapters[name or model.active_adapter]
    return {name: value.clone() for name, value in adapter.state_dict().items()}


def same(states, expected):
    assert states.keys() == expected.keys()
    return all(torch.equal(value, expected[name]) for name, value in states.items())


@pytest.mark.parametrize("names", [("default",), ("beauty",), NAMES, NAMES[::-1]])
def test_the_best_step_is_kept(make, learn, tmp_path, monkeypatch, names):
    evaluate, states = LaserTrainer.evaluate, []

    def worse_each_time(self, *args, **kwargs):
        metrics = evaluate(self, *args, **kwargs)
        states.append(state_of(self.model))
        return metrics | {"eval_ndcg@10": 1 / len(states)}

    monkeypatch.setattr(LaserTrainer, "evaluate", worse_each_time)
    model = make(*names)
    others = {name: state_of(model, name) for name in names[:-1]}
    learnt = learn(model, tmp_path)
    assert len(states) > 1
    assert same(learnt, states[0])
    assert not same(learnt, states[-1])
    assert all(same(state_of(model, name), state) for name, state in others.items())


@pytest.mark.parametrize("names", [("beauty",), NAMES])
def test_what_was_interrupted_ends_as_if_it_had_not_been(make, learn, tmp_path, stop_after, names):
    whole = learn(make(*names), tmp_path / "whole")
    stop_after(5).clear()  # of the steps of before
    with pytest.raises(KeyboardInterrupt):
        learn(make(*names), tmp_path / "cut")
    stop_after(None)
    assert last_checkpoint(tmp_path / "cut")
    assert same(learn(make(*names), tmp_path / "cut"), whole)


@pytest.mark.parametrize("name", ["head", "suffix", "blocks", "0", "model", "bituning_adapters"])
def test_an_adapter_is_not_named_as_its_parts_are(make, name):
    with pytest.raises(ValueError, match=f"cannot be named '{name}', .* choose another"):
        make("default", name)


@pytest.mark.parametrize("name", ["text", "text_reader", "events"])
def test_a_later_adapter_has_no_part_named_as_an_earlier_one(lm_folder, encoder_folder, name):
    llm = AutoModelForCausalLM.from_pretrained(lm_folder)
    plain = BiTuningConfig(collaborative_encoder=encoder_folder)
    model = get_peft_model(llm, plain, adapter_name=name)
    fused = BiTuningConfig(
        collaborative_encoder=encoder_folder, item_vectors="fused", item_text_dim=X
    )
    with pytest.raises(ValueError, match=f"cannot be named '{name}'"):
        model.add_adapter("other", fused)


def test_what_lies_where_an_adapter_is_saved_stays(make, tmp_path):
    model = make(*NAMES)
    theirs = tmp_path / "beauty" / "notes.txt"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    LaserTrainer(model, ranking_arguments(tmp_path)).save_model(str(tmp_path))
    assert theirs.read_text() == "mine"
    assert (tmp_path / "adapter_model.safetensors").is_file()
    loaded = PeftModel.from_pretrained(model.unload(), str(tmp_path), adapter_name="again")
    assert loaded.active_adapter == "again"
