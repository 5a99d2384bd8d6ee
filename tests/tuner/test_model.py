import warnings

import pytest
import torch
from adapters import B, L, R, T, adapter_of, make_batch, make_model, padded
from conftest import NUM_ITEMS, run_in_new_processes
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, Trainer, TrainingArguments

from laser_peft import BiTuningConfig
from laser_peft.tuner.mounting import MOUNT


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_does_not_change_a_user(lm, encoder_folder, side):
    model, batch = make_model(lm, encoder_folder), make_batch()
    with torch.no_grad():
        expected = model(**batch).user_vectors
        actual = model(**padded(batch, side)).user_vectors
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_holes_in_the_mask_are_padding_too(lm, encoder_folder):
    model, batch = make_model(lm, encoder_folder), make_batch()
    keep = [0, 2, 3, 6]
    mask = torch.zeros(B, T, dtype=torch.int64)
    mask[:, keep] = 1
    with torch.no_grad():
        expected = model(
            **batch | {"input_ids": batch["input_ids"][:, keep], "attention_mask": None}
        )
        actual = model(**batch | {"attention_mask": mask})
    torch.testing.assert_close(actual.user_vectors, expected.user_vectors, atol=1e-5, rtol=1e-5)


def test_batch_mates_do_not_change_a_user(lm, encoder_folder):
    model, batch = make_model(lm, encoder_folder), make_batch()
    batch["attention_mask"][0, 4:] = 0
    batch["history_mask"][0, 2:] = 0
    with torch.no_grad():
        together = model(**batch).user_vectors
        for user in range(B):
            alone = model(**{name: values[user : user + 1] for name, values in batch.items()})
            torch.testing.assert_close(alone.user_vectors[0], together[user], atol=1e-5, rtol=1e-5)


def test_text_history_and_their_order_all_matter(lm, encoder_folder):
    model, batch = make_model(lm, encoder_folder, collaborative_skip=False), make_batch()
    with torch.no_grad():
        plain = model(**batch).user_vectors
        for name in ("input_ids", "history"):
            changed = model(**batch | {name: batch[name].flip(1)}).user_vectors
            assert (plain - changed).abs().max() > 1e-4, name


@pytest.mark.parametrize("layout", ["text_first", "prefix_first"])
def test_equals_the_method_written_plainly(lm, encoder_folder, layout):
    """One user, no packing: concatenate, run the causal LM, read its last hidden states."""
    model, batch = make_model(lm, encoder_folder, layout=layout), make_batch()
    adapter, encoder = adapter_of(model), AutoModel.from_pretrained(encoder_folder).eval()
    with torch.no_grad():
        states = encoder(batch["history"][:1]).last_hidden_state
        prefix = adapter.m_former(states, torch.ones(1, L, dtype=torch.bool)).prefix
        text = lm.get_input_embeddings()(batch["input_ids"][:1])
        before = [text, prefix] if layout == "text_first" else [prefix, text]
        tokens = torch.cat([*before, adapter.suffix()[None]], 1)
        bare = getattr(lm, lm.base_model_prefix)
        hidden = bare(inputs_embeds=tokens).last_hidden_state[:, -2:].flatten(1)
        user = adapter.head.projection(hidden) + states[:, -1]
        expected = user @ encoder.item_vectors().T
        actual = model(**batch, return_logits=True).logits[:1]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_the_vocabulary_head_is_never_called(lm, encoder_folder):
    model = make_model(lm, encoder_folder)

    def refuse(*_):
        raise AssertionError("the vocabulary head ran")

    lm.get_output_embeddings().register_forward_hook(refuse)
    output = model(**make_batch(), labels=torch.tensor([1, 2, 3]), return_logits=True)
    assert output.logits.shape == (B, NUM_ITEMS)
    with pytest.raises(AssertionError, match="vocabulary head"), model.disable_adapter():
        model(input_ids=make_batch()["input_ids"])


def test_an_untrained_adapter_ranks_as_its_encoder_does(lm, encoder_folder):
    model, batch = make_model(lm, encoder_folder, trained=False), make_batch()
    encoder = AutoModel.from_pretrained(encoder_folder).eval()
    with torch.no_grad():
        actual = model(**batch, return_logits=True).logits
        expected = encoder(batch["history"]).user_vectors @ encoder.item_vectors().T
    torch.testing.assert_close(actual, expected)


def test_loss_is_cross_entropy_plus_weighted_balance(lm, encoder_folder):
    model = make_model(lm, encoder_folder, router_balance_weight=0.5, temperature=2.0)
    labels = torch.tensor([1, NUM_ITEMS, 3])
    output = model(**make_batch(), labels=labels, return_logits=True)
    encoder = model.base_model.collaborative_encoder
    scores = output.user_vectors @ encoder.item_vectors().T / 2.0
    torch.testing.assert_close(output.logits, scores)
    expected = torch.nn.functional.cross_entropy(scores, labels - 1) + 0.5 * output.aux_loss
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("history", [None, torch.zeros(B, 0, dtype=torch.int64)])
def test_no_history_works_and_equals_an_all_padded_one(lm, encoder_folder, history):
    model, batch = make_model(lm, encoder_folder), make_batch()
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        without = model(**text, history=history, return_user_vectors=True).user_vectors
        padded_away = model(**text, history=torch.zeros(B, L, dtype=torch.int64)).user_vectors
    assert without.isfinite().all()
    torch.testing.assert_close(without, padded_away)


def test_frozen_weights_are_bit_identical_after_training(lm, encoder_folder, tmp_path):
    model = make_model(lm, encoder_folder, trained=False)
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rows = [
        {name: values[0] for name, values in make_batch().items()} | {"labels": torch.tensor(2)}
    ] * 8
    args = TrainingArguments(
        str(tmp_path),
        max_steps=4,
        learning_rate=1e-2,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        save_strategy="no",
    )
    Trainer(model, args, train_dataset=rows).train()
    after = dict(model.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("bituning_adapters" in name for name in learns)
    # An expert that no user of this batch was routed to gets no gradient; all others move.
    assert changed <= learns
    assert {name.split("bituning_adapters.default.")[1].split(".")[0] for name in changed} == {
        "m_former",
        "suffix",
        "head",
    }
    assert all(p.grad is None for name, p in model.named_parameters() if name not in learns)


def test_the_encoder_stays_in_eval_mode_whatever_train_says(lm, encoder_folder):
    model, batch = make_model(lm, encoder_folder, trained=False, m_former_dropout=0.5), make_batch()
    expected = model(**batch).user_vectors
    for module in (model, model.base_model.model):
        module.train()
        assert not model.base_model.collaborative_encoder.training
        torch.testing.assert_close(model(**batch).user_vectors, expected)  # head is zero: skip only


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("is_trainable", [False, True])
def test_save_and_load_is_exact(lm, encoder_folder, tmp_path, low_cpu_mem_usage, is_trainable):
    model, batch = make_model(lm, encoder_folder), make_batch()
    with torch.no_grad():
        expected = model(**batch, return_logits=True).logits
    model.save_pretrained(str(tmp_path))
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors", ".md"}
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert all(f".{MOUNT}." in key and "default" not in key for key in saved)

    bare = model.unload()
    loaded = PeftModel.from_pretrained(
        bare,
        str(tmp_path),
        adapter_name="other",
        low_cpu_mem_usage=low_cpu_mem_usage,
        is_trainable=is_trainable,
    ).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**batch, return_logits=True).logits, expected)
    learns = [name for name, p in loaded.named_parameters() if p.requires_grad]
    assert bool(learns) == is_trainable
    assert all("bituning_adapters" in name for name in learns)


def check_scores(rank, folder):
    expected = torch.load(folder / "expected.pt")
    lm = AutoModelForCausalLM.from_pretrained(folder / "lm")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(lm, str(folder / "adapter"))
    assert not [w for w in caught if "missing" in str(w.message)], caught
    with torch.no_grad():
        logits = model(**expected["batch"], return_logits=True).logits
    assert torch.equal(logits, expected["logits"])


def test_a_new_process_without_the_encoders_folder_gives_equal_scores(
    llama, encoder_folder, tmp_path
):
    moved = tmp_path / "encoder"
    AutoModel.from_pretrained(encoder_folder).save_pretrained(moved)
    llama.save_pretrained(tmp_path / "lm")
    model, batch = make_model(llama, str(moved)), make_batch()
    with torch.no_grad():
        expected = model(**batch, return_logits=True).logits
    model.save_pretrained(str(tmp_path / "adapter"))
    torch.save({"batch": batch, "logits": expected}, tmp_path / "expected.pt")
    moved.rename(tmp_path / "gone")
    run_in_new_processes(check_scores, tmp_path)


def test_a_config_used_twice_loads_its_encoder_twice(lm, encoder_folder):
    config = BiTuningConfig(collaborative_encoder=encoder_folder)
    first = get_peft_model(lm, config).base_model.item_vectors().clone()
    lm = lm.__class__(lm.config)
    second = get_peft_model(lm, config).base_model.item_vectors()
    assert torch.equal(first, second)


def test_an_encoder_without_its_weights_does_not_pass_for_a_trained_one(llama, encoder_folder):
    saved = BiTuningConfig(**make_model(llama, encoder_folder).peft_config["default"].to_dict())
    model = get_peft_model(type(llama)(llama.config), saved)  # and no file is loaded
    assert model(**make_batch()).user_vectors.isnan().all()


def test_adapters_can_be_added_switched_disabled_and_deleted(lm, encoder_folder):
    batch = make_batch()
    bare = lm(input_ids=batch["input_ids"]).logits
    model = make_model(lm, encoder_folder)
    first = model(**batch).user_vectors
    model.add_adapter("second", BiTuningConfig(collaborative_encoder=encoder_folder))
    torch.nn.init.normal_(adapter_of(model, "second").head.projection.weight)
    assert torch.equal(model(**batch).user_vectors, first)
    model.set_adapter("second")
    assert not torch.allclose(model(**batch).user_vectors, first)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=batch["input_ids"]).logits, bare)
        assert model.generate(input_ids=batch["input_ids"], max_new_tokens=2).shape == (B, T + 2)
    model.delete_adapter("default")
    assert list(model.base_model.layer.bituning_encoders) == ["second"]
    with pytest.raises(ValueError, match="one adapter at a time"):
        model.base_model.set_adapter(["second", "default"])


def test_unload_gives_the_bare_model_back_and_merging_is_refused(lm, encoder_folder):
    keys = set(lm.state_dict())
    model = make_model(lm, encoder_folder)
    with pytest.raises(NotImplementedError, match="cannot be merged.*unload"):
        model.merge_and_unload()
    assert set(model.unload().state_dict()) == keys


def test_without_an_encoder_states_and_items_come_from_outside(lm):
    config = BiTuningConfig(collaborative_dim=5, recommendation_dim=R)
    model = get_peft_model(lm, config).eval()
    items = torch.randn(NUM_ITEMS, R)
    text = {"input_ids": make_batch()["input_ids"]}
    states, mask = torch.randn(B, L, 5), torch.ones(B, L)
    output = model(
        **text, history_states=states, item_vectors=items, labels=torch.tensor([1, 2, 3])
    )
    output.loss.backward()
    assert output.user_vectors.shape == (B, R)
    longer = torch.cat([torch.full((B, 2, 5), 9.0), states], 1)
    longer_mask = torch.cat([torch.zeros(B, 2), mask], 1)
    again = model(**text, history_states=longer, history_mask=longer_mask).user_vectors
    torch.testing.assert_close(again, output.user_vectors)
    with pytest.raises(ValueError, match="no collaborative encoder and so no item vectors"):
        model(**text, return_logits=True)
    with pytest.raises(ValueError, match="history needs a collaborative encoder"):
        model(**text, history=torch.ones(B, L, dtype=torch.int64))


def test_bf16_base_keeps_fp32_adapters_and_stays_close(llama, encoder_folder):
    batch = make_batch()
    expected = make_model(llama, encoder_folder)(**batch).user_vectors
    state = {
        name: value.clone() for name, value in llama.state_dict().items() if f"{MOUNT}." not in name
    }
    half = type(llama)(llama.config)
    half.load_state_dict(state)
    model = make_model(half.to(torch.bfloat16).eval(), encoder_folder, trained=False)
    model.base_model.layer.load_state_dict(getattr(llama, MOUNT).state_dict())
    assert {p.dtype for p in adapter_of(model).parameters()} == {torch.float32}
    actual = model(**batch).user_vectors
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=0.05, rtol=0.05)


def test_wrong_calls_say_what_is_wrong(llama, encoder_folder):
    model, batch = make_model(llama, encoder_folder), make_batch()
    with pytest.raises(TypeError, match=r"does not take the arguments \['histroy'\]"):
        model(**batch, histroy=1)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(history=batch["history"])
    with pytest.raises(ValueError, match="history_states are for an adapter without"):
        model(**batch, history_states=torch.randn(B, L, R))
    with pytest.raises(ValueError, match=r"at most 256 tokens, got 306 \(4 prefix \+ 300 text"):
        model(input_ids=torch.ones(1, 300, dtype=torch.int64), return_user_vectors=True)


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS"])
def test_a_task_that_is_not_the_methods_is_refused(llama, task_type):
    with pytest.raises(ValueError, match="needs task_type 'CAUSAL_LM', .* got"):
        get_peft_model(llama, BiTuningConfig(task_type=task_type))


def test_feature_extraction_over_a_bare_backbone_gives_the_same_user(llama, encoder_folder):
    batch = make_batch()
    expected = make_model(llama, encoder_folder)(**batch).user_vectors
    model = make_model(llama.model, encoder_folder, trained=False, task_type="FEATURE_EXTRACTION")
    model.base_model.layer.load_state_dict(getattr(llama, MOUNT).state_dict())
    torch.testing.assert_close(model(**batch).user_vectors, expected)


def test_an_encoder_without_item_table_is_refused(llama, tmp_path):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8
    )
    ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no item table"):
        get_peft_model(llama, BiTuningConfig(collaborative_encoder=str(tmp_path)))
