"""Every setting of the method works in every way that an adapter is used."""

import pytest
import torch
from adapters import B, L, T, adapter_of, make_batch, make_model, padded
from conftest import NUM_ITEMS
from peft import PeftModel

from laser_peft import SASRecConfig, SASRecModel
from laser_peft.collaborative import (
    ItemVectorEncoder,
    RecToolsSASRecConfig,
    RecToolsSASRecModel,
)

SETTINGS = [
    {"moe": "ffn", "num_experts": 3, "num_experts_per_user": 1},
    {"moe": "query", "num_experts": 3, "num_experts_per_user": 2},
    {"moe": "none"},
    {"prefix_source": "plain"},
    {"prefix_source": "none"},
    {"num_prefix_tokens": 0},
    {"suffix_reading": "mean"},
    {"suffix_reading": "eos"},
    {"similarity": "cosine"},
    {"collaborative_skip": False},
    {"item_vectors": "fused"},
    {"item_vectors": "text", "similarity": "cosine", "user_projection": False},
    {"item_vectors": "text", "collaborative_skip": True},
    {"bundle_encoder": False},
    {"router_balance_weight": 0.0},
    {"m_former_num_layers": 3, "m_former_cross_attention_frequency": 3},
]


def name_of(setting):
    return "-".join(f"{name}={value}" for name, value in setting.items())


@pytest.fixture(params=SETTINGS, ids=name_of)
def model(request, lm, encoder_folder):
    model = make_model(lm, encoder_folder, trained=False, init_weights=False, **request.param)
    config = model.peft_config["default"]
    if config.item_vectors != "collaborative":
        text = torch.randn(NUM_ITEMS, config.item_text_dim)
        model.base_model.set_item_text_vectors(text)
    return model


def test_it_trains_and_every_part_of_it_learns(model):
    model.train()
    model(**make_batch(), labels=torch.tensor([1, 2, 3])).loss.backward()
    without = {
        name.split("default.")[1]
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    }
    # With one expert a user, the others wait for users of their own.
    waiting = {name for name in without if ".experts." in name or name == "m_former.queries"}
    assert without - waiting == set()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@torch.no_grad()
def test_padding_and_batch_mates_change_nothing(model):
    batch = make_batch()
    plain = model(**batch).user_vectors
    for side in ("left", "right"):
        actual = model(**padded(batch, side)).user_vectors
        torch.testing.assert_close(actual, plain, atol=1e-5, rtol=1e-5)
    alone = model(**{name: values[1:2] for name, values in batch.items()}).user_vectors
    torch.testing.assert_close(alone, plain[1:2], atol=1e-5, rtol=1e-5)
    other = model(**batch | {"input_ids": batch["input_ids"].flip(1)}).user_vectors
    assert (other - plain).abs().max() > 1e-4  # the text matters


@torch.no_grad()
def test_a_user_without_history_is_no_special_case(model):
    text = {"input_ids": make_batch()["input_ids"]}
    empty = model(**text, history=torch.zeros(B, L, dtype=torch.int64)).user_vectors
    assert empty.isfinite().all()
    torch.testing.assert_close(model(**text, return_user_vectors=True).user_vectors, empty)


@torch.no_grad()
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saved_and_loaded_it_is_the_same(model, tmp_path, low_cpu_mem_usage):
    batch = make_batch()
    expected = model(**batch, return_logits=True)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(
        model.unload(), str(tmp_path), low_cpu_mem_usage=low_cpu_mem_usage
    )
    actual = loaded(**batch, return_logits=True)
    assert torch.equal(actual.logits, expected.logits)
    assert torch.equal(actual.user_vectors, expected.user_vectors)
    assert actual.logits.shape == (B, NUM_ITEMS)


@torch.no_grad()
def test_scores_are_the_dot_product_over_the_temperature(model):
    output = model(**make_batch(), return_logits=True)
    config = model.peft_config["default"]
    items = model.base_model.item_vectors()
    torch.testing.assert_close(output.logits, output.user_vectors @ items.T / config.temperature)
    if config.similarity == "cosine":
        torch.testing.assert_close(output.user_vectors.norm(dim=1), torch.ones(B))
        torch.testing.assert_close(items.norm(dim=1), torch.ones(NUM_ITEMS))


@torch.no_grad()
def test_plain_use_of_the_language_model_goes_on(model):
    ids = make_batch()["input_ids"]
    assert model(input_ids=ids).logits.shape[:2] == (B, T)
    written = model.generate(input_ids=ids, max_new_tokens=2, pad_token_id=0, eos_token_id=None)
    assert written.shape == (B, T + 2)
    with model.disable_adapter():
        bare = model(input_ids=ids).logits
    has_prefix = model.peft_config["default"].num_prefix_tokens > 0
    assert has_prefix != torch.equal(model(input_ids=ids).logits, bare)


@torch.no_grad()
def test_mean_and_eos_read_what_they_say(llama, encoder_folder):
    batch = make_batch()
    for reading in ("mean", "eos"):
        model = make_model(
            type(llama)(llama.config).eval(),
            encoder_folder,
            suffix_reading=reading,
            collaborative_skip=False,
        )
        adapter, lm = adapter_of(model), model.base_model.model
        condensed = adapter.m_former(
            model.base_model.collaborative_encoder(batch["history"]).last_hidden_state,
            torch.ones(B, L, dtype=torch.bool),
        )
        text = lm.get_input_embeddings()(batch["input_ids"])
        tokens = [condensed.prefix, text]
        if reading == "eos":
            end = lm.get_input_embeddings()(torch.full((B, 1), lm.config.eos_token_id))
            tokens = [text, condensed.prefix, end]
        hidden = lm.model(inputs_embeds=torch.cat(tokens, 1)).last_hidden_state
        state = hidden[:, 4:].mean(1) if reading == "mean" else hidden[:, -1]
        torch.testing.assert_close(model(**batch).user_vectors, adapter.head.projection(state))


def test_eos_needs_a_model_that_has_one(llama, encoder_folder):
    for missing in (None, 97):
        llama.config.eos_token_id = missing
        with pytest.raises(ValueError, match=f"eos_token_id is {missing} in its configuration"):
            make_model(llama, encoder_folder, suffix_reading="eos")


ENCODERS = {
    "sasrec": lambda: SASRecModel(SASRecConfig(num_items=NUM_ITEMS, hidden_size=8)),
    "rectools": lambda: RecToolsSASRecModel(
        RecToolsSASRecConfig(num_items=NUM_ITEMS, hidden_size=8, num_attention_heads=2)
    ),
    "item vectors": lambda: ItemVectorEncoder.from_vectors(torch.randn(NUM_ITEMS, 8)),
}


@pytest.mark.parametrize("make_encoder", ENCODERS.values(), ids=ENCODERS)
def test_attention_can_be_switched_with_an_encoder_in_the_model(llama, make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path)
    model, batch = make_model(llama, str(tmp_path)), make_batch()
    with torch.no_grad():
        before = model(**batch).user_vectors
        for attention in ("eager", "sdpa"):
            model.get_base_model().set_attn_implementation(attention)
            torch.testing.assert_close(model(**batch).user_vectors, before, atol=1e-5, rtol=1e-5)
