"""An adapter's training that is interrupted and gone on with."""

import pytest
import torch
import torch.nn.functional as F
from conftest import NUM_ITEMS
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from laser_peft import BiTuningConfig
from laser_peft.training import LaserSettings, train_laser
from laser_peft.training.checkpoints import last_checkpoint
from laser_peft.tuner.model import BiTuningModel

X = 7


@pytest.fixture
def make(lm_folder, encoder_folder):
    def make(**fields):
        torch.manual_seed(0)
        llm = AutoModelForCausalLM.from_pretrained(lm_folder)
        config = BiTuningConfig(collaborative_encoder=encoder_folder, num_prefix_tokens=3, **fields)
        model = get_peft_model(llm, config)
        width = model.peft_config["default"].item_text_dim
        model.base_model.set_item_text_vectors(F.normalize(torch.randn(NUM_ITEMS, width), dim=1))
        return model

    return make


@pytest.fixture
def learn(split, prompts):
    def learn(model, folder, **settings):
        settings = LaserSettings(**{"epochs": 1, "batch_size": 8} | settings)
        checkpoint = last_checkpoint(folder)
        train_laser(
            model, split, prompts, folder, settings, max_items=50, resume_from_checkpoint=checkpoint
        )
        return {name: value.clone() for name, value in learnt(model)}

    return learn


def learnt(model):
    state = model.state_dict()
    return [(name, value) for name, value in state.items() if ".bituning_adapters." in name]


@pytest.fixture
def calls(monkeypatch):
    """What the model was called with, in the order of the calls."""
    made = []
    forward = BiTuningModel.forward
    monkeypatch.setattr(
        BiTuningModel,
        "forward",
        lambda self, **inputs: (made.append(inputs), forward(self, **inputs))[1],
    )
    return made


def test_negatives_are_drawn_anew_for_every_step_and_for_no_evaluation(
    make, learn, tmp_path, calls
):
    fields = {"item_vectors": "fused", "item_text_dim": X}
    learn(make(**fields), tmp_path / "a", num_negatives=5)
    trained = [inputs for inputs in calls if inputs.get("labels") is not None]
    drawn = [inputs["negatives"] for inputs in trained]
    assert all(negatives.shape == (5,) and negatives.min() >= 1 for negatives in drawn)
    assert all(negatives.max() <= NUM_ITEMS for negatives in drawn)
    assert len({tuple(negatives.tolist()) for negatives in drawn}) == len(drawn) == 4
    ranked = [inputs for inputs in calls if inputs.get("labels") is None]
    assert ranked
    assert not any("negatives" in inputs for inputs in ranked)
    calls.clear()
    learn(make(**fields), tmp_path / "b")
    assert not any("negatives" in inputs for inputs in calls)


# Of two epochs with four steps each, and a checkpoint at every second one.
@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_an_interrupted_adapter_draws_and_ends_as_the_whole_one_does(
    make, learn, tmp_path, calls, stop_after, steps
):
    def draws():
        return [tuple(i["negatives"].tolist()) for i in calls if "negatives" in i]

    fields = {"item_vectors": "fused", "item_text_dim": X}
    settings = {"num_negatives": 5, "epochs": 2}
    whole = learn(make(**fields), tmp_path / "whole", **settings)
    expected = draws()
    calls.clear()
    taken = stop_after(steps)
    taken.clear()
    with pytest.raises(KeyboardInterrupt):
        learn(make(**fields), tmp_path / "cut", **settings)
    stop_after(None)
    before = draws()
    calls.clear()
    resumed = learn(make(**fields), tmp_path / "cut", **settings)
    kept = steps // 2 * 2  # a checkpoint every second step
    assert before[:kept] + draws() == expected
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
