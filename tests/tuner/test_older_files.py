"""Adapters that were saved before there were layouts and a weight of the correction."""

import json

import pytest
import torch
import torch.nn.functional as F
from adapters import make_batch, make_model
from conftest import NUM_ITEMS, make_lm
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file


@pytest.fixture
def made_then(encoder_folder):
    fields = {"layout": "prefix_first", "item_vectors": "fused", "item_text_dim": 7}
    model = make_model(make_lm("llama"), encoder_folder, **fields)
    model.base_model.set_item_text_vectors(F.normalize(torch.randn(NUM_ITEMS, 7), dim=1))
    model.base_model.set_view_weights(0.5, 0.25, 3.0, 1.0)
    return model


@pytest.fixture
def older(made_then, tmp_path):
    """Its folder, as it would have been saved then."""
    made_then.save_pretrained(str(tmp_path))
    config = tmp_path / "adapter_config.json"
    told = json.loads(config.read_text())
    assert told.pop("layout") == "prefix_first"
    config.write_text(json.dumps(told))
    weights = tmp_path / "adapter_model.safetensors"
    tensors = load_file(weights)
    (name,) = [name for name in tensors if name.endswith("view_weights")]
    tensors[name] = tensors[name][:3].clone()
    save_file(tensors, weights, {"format": "pt"})
    return str(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        lambda folder: {},
        lambda folder: {"low_cpu_mem_usage": True},
        lambda folder: {"is_trainable": True},
        lambda folder: {"config": PeftConfig.from_pretrained(folder)},
    ],
)
def test_it_reads_as_it_did(made_then, older, options):
    loaded = PeftModel.from_pretrained(make_lm("llama"), older, **options(older)).eval()
    assert loaded.peft_config["default"].layout == "prefix_first"
    assert loaded.base_model.view_weights == (0.5, 0.25, 3.0, 1.0)
    batch = make_batch()
    assert torch.equal(loaded(**batch).user_vectors, made_then(**batch).user_vectors)
