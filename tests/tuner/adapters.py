"""Adapters on tiny language models, and a batch for them."""

import torch
from conftest import NUM_ITEMS, VOCABULARY
from peft import get_peft_model

from laser_peft import BiTuningConfig
from laser_peft.tuner.base_model import backbone_of

B, T, L, R = 3, 7, 5, 16


def make_model(lm, encoder_folder, *, trained=True, adapter_name="default", **fields):
    """An adapter with an encoder; ``trained`` moves the head away from its zero start."""
    sizes = {"num_prefix_tokens": 4, "num_suffix_tokens": 2}
    if fields.get("suffix_reading") != "mean":
        sizes["layout"] = "text_first"
    config = BiTuningConfig(collaborative_encoder=encoder_folder, **sizes | fields)
    model = get_peft_model(lm, config, adapter_name=adapter_name).eval()
    if trained:
        torch.nn.init.normal_(adapter_of(model, adapter_name).head.projection.weight, std=0.3)
    return model


def adapter_of(model, name="default"):
    return model.base_model.layer.bituning_adapters[name]


def make_batch():
    generator = torch.Generator().manual_seed(5)
    return {
        "input_ids": torch.randint(1, VOCABULARY, (B, T), generator=generator),
        "attention_mask": torch.ones(B, T, dtype=torch.int64),
        "history": torch.randint(1, NUM_ITEMS + 1, (B, L), generator=generator),
        "history_mask": torch.ones(B, L, dtype=torch.int64),
    }


def padded(batch, side, width=3):
    """The batch with junk under the padding, on one side of text and history."""
    out = {}
    for name, values in batch.items():
        junk = torch.full((B, width), 0 if name.endswith("mask") else 7)
        parts = [junk, values] if side == "left" else [values, junk]
        out[name] = torch.cat(parts, 1)
    return out


def shapes_read(lm, call):
    """What a call returns, and the rows and tokens of each call of the backbone within."""
    seen = []
    hook = backbone_of(lm).register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    result = call()
    hook.remove()
    return result, seen
