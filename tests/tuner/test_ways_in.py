"""Every way that PEFT, transformers and Accelerate take to an adapter."""

import copy
import dataclasses
import logging
import pickle
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, cpu_offload
from accelerate.state import AcceleratorState
from adapters import B, L, R, T, adapter_of, make_batch, make_model
from conftest import NUM_ITEMS, VOCABULARY
from huggingface_hub import HfApi, ModelCard
from peft import (
    AutoPeftModel,
    AutoPeftModelForCausalLM,
    AutoPeftModelForFeatureExtraction,
    LoraConfig,
    PeftModel,
    get_peft_model,
    inject_adapter_in_model,
)
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from laser_peft import BiTuningConfig
from laser_peft.tuner.mounting import BiTuned

# PEFT's words when it finds a model tuned already, once for the model and once for its config.
SECOND_TIME = pytest.mark.filterwarnings(
    "ignore:You are trying to modify a model with PEFT for a second time",
    "ignore:Already found a `peft_config`",
)


@pytest.fixture
def saved(llama, encoder_folder, tmp_path):
    """A language model's folder, its adapter's, and the adapter's scores."""
    llama.save_pretrained(tmp_path / "lm")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    model = make_model(base, encoder_folder)
    model.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "lm", tmp_path / "adapter", scores(model)


@torch.no_grad()
def scores(model):
    return model(**make_batch(), return_logits=True).logits


def test_auto_classes(saved, encoder_folder, tmp_path):
    lm, adapter, expected = saved
    assert torch.equal(scores(AutoPeftModelForCausalLM.from_pretrained(str(adapter))), expected)
    base = AutoModelForCausalLM.from_pretrained(lm)
    model = make_model(base, encoder_folder, task_type="FEATURE_EXTRACTION")
    model.save_pretrained(str(tmp_path / "features"))
    # It loads the backbone alone: a recommender needs no vocabulary head.
    loaded = AutoPeftModelForFeatureExtraction.from_pretrained(str(tmp_path / "features"))
    assert loaded.get_base_model().get_output_embeddings() is None
    assert torch.equal(scores(loaded), scores(model))


def test_auto_class_without_a_task(saved, encoder_folder, tmp_path):
    lm, _, _ = saved
    base = AutoModelForCausalLM.from_pretrained(lm)
    model = make_model(base, encoder_folder, task_type=None)
    ids = make_batch()["input_ids"]
    written = model.generate(ids, max_new_tokens=2, pad_token_id=0)
    model.save_pretrained(str(tmp_path / "other"))
    loaded = AutoPeftModel.from_pretrained(str(tmp_path / "other"))
    assert torch.equal(scores(loaded), scores(model))
    assert torch.equal(loaded.generate(ids, max_new_tokens=2, pad_token_id=0), written)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # both PEFT's,
@pytest.mark.filterwarnings("ignore:Adapter second was active")  # of any method
def test_transformers_own_integration(saved, encoder_folder):
    lm_folder, adapter, expected = saved
    ids = make_batch()["input_ids"]
    lm = AutoModelForCausalLM.from_pretrained(lm_folder)
    bare = lm(ids).logits
    lm.load_adapter(str(adapter))
    assert torch.equal(scores(lm), expected)
    assert not torch.equal(lm(ids).logits, bare)
    lm.disable_adapters()
    assert torch.equal(lm(ids).logits, bare)
    lm.enable_adapters()
    lm.load_adapter(str(adapter), adapter_name="second")
    lm.set_adapter("second")
    assert torch.equal(scores(lm), expected)
    lm.delete_adapter("second")
    lm.set_adapter("default")
    assert torch.equal(scores(lm), expected)


def test_an_adapters_folder_passes_for_a_model(saved):
    _, adapter, expected = saved
    assert torch.equal(scores(AutoModelForCausalLM.from_pretrained(str(adapter))), expected)


def test_direct_injection_and_saving_by_transformers(saved, encoder_folder, tmp_path):
    lm_folder, _, _ = saved
    lm = AutoModelForCausalLM.from_pretrained(lm_folder)
    config = BiTuningConfig(collaborative_encoder=encoder_folder, init_weights=False)
    lm.add_adapter(config)
    lm.save_pretrained(tmp_path / "by-transformers")
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(lm_folder), str(tmp_path / "by-transformers")
    )
    assert torch.equal(scores(loaded), scores(lm.eval()))
    injected = inject_adapter_in_model(config, AutoModelForCausalLM.from_pretrained(lm_folder))
    assert scores(injected).shape == (B, NUM_ITEMS)


def test_a_revision_from_the_hubs_cache_and_a_subfolder(saved, tmp_path, monkeypatch):
    lm, adapter, expected = saved
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--me--laser"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    adapter.rename(repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    base = AutoModelForCausalLM.from_pretrained(lm)
    from_hub = PeftModel.from_pretrained(base, "me/laser", revision="v1")
    assert torch.equal(scores(from_hub), expected)
    # Not both at once: offline, PEFT 0.21 looks for a subfolder within the subfolder.
    from_folder = PeftModel.from_pretrained(
        from_hub.unload(), str(repository / "snapshots"), subfolder=commit
    )
    assert torch.equal(scores(from_folder), expected)


def test_loading_says_nothing(saved, caplog):
    lm, adapter, _ = saved
    base = AutoModelForCausalLM.from_pretrained(lm)
    with warnings.catch_warnings(record=True) as said, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        PeftModel.from_pretrained(base, str(adapter))
    # PEFT reads a name that transformers calls deprecated, with any method.
    assert [str(w.message) for w in said if "is_gradient_checkpointing" not in str(w.message)] == []
    assert caplog.text == ""


def test_a_referenced_encoder_stays_out_of_the_file(llama, encoder_folder, tmp_path):
    bundled = make_model(llama, encoder_folder)
    bundled.save_pretrained(str(tmp_path / "bundled"))
    bare = bundled.unload()
    model = make_model(bare, encoder_folder, bundle_encoder=False)
    model.save_pretrained(str(tmp_path / "referenced"))
    sizes = [
        (tmp_path / name / "adapter_model.safetensors").stat().st_size
        for name in ("bundled", "referenced")
    ]
    encoder = model.base_model.collaborative_encoder
    assert sizes[0] - sizes[1] >= 4 * encoder.num_parameters()
    assert not any(p.requires_grad for p in encoder.parameters())
    expected = scores(model)
    loaded = PeftModel.from_pretrained(model.unload(), str(tmp_path / "referenced"))
    assert torch.equal(scores(loaded), expected)
    fresh = type(llama)(llama.config)
    fresh.load_adapter(str(tmp_path / "referenced"))
    own, others = fresh.laser_layer.encoder_of("default").model, encoder
    assert all(
        torch.equal(a, b) for a, b in zip(own.parameters(), others.parameters(), strict=True)
    )


def test_any_encoder_with_an_item_table_will_do(llama, tmp_path):
    """BERT4Rec, say: a transformers model whose tokens are items."""
    config = BertConfig(
        vocab_size=NUM_ITEMS + 1,
        hidden_size=R,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=19,
        max_position_embeddings=32,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "bert")
    model = make_model(llama, str(tmp_path / "bert"))
    expected = scores(model)
    model.save_pretrained(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(model.unload(), str(tmp_path / "adapter"))
    assert torch.equal(scores(loaded), expected)


def test_an_encoder_is_taken_at_its_revision(llama, encoder_folder, tmp_path, monkeypatch):
    commit = "89abcdef0123456789abcdef0123456789abcdef"
    repository = tmp_path / "models--me--sasrec"
    shutil.copytree(encoder_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    expected = scores(make_model(copy.deepcopy(llama), encoder_folder, trained=False))
    model = make_model(llama, "me/sasrec", trained=False, collaborative_encoder_revision="v2")
    assert torch.equal(scores(model), expected)
    with pytest.raises(OSError, match="couldn't find them in the cached files"):
        make_model(type(llama)(llama.config), "me/sasrec", collaborative_encoder_revision="v3")


def test_an_encoder_says_which_items_it_does_not_know(llama, encoder_folder):
    model, batch = make_model(llama, encoder_folder), make_batch()
    batch["history"][0, 2] = NUM_ITEMS + 1
    with pytest.raises(ValueError, match=r"item ids in 1\.\.23 .* got \[24\]: .* no states for"):
        model(**batch)
    batch["history_mask"][0, 2] = 0
    assert model(**batch).user_vectors.isfinite().all()


def test_an_unknown_kind_of_encoder_is_named(llama):
    config = BiTuningConfig(collaborative_encoder_config={"model_type": "caser", "hidden_size": 4})
    with pytest.raises(ValueError, match="model type 'caser', which transformers does not know"):
        get_peft_model(llama, config)


def test_the_card_describes_the_adapter_and_leaves_others_alone(saved, llama, tmp_path):
    _, adapter, _ = saved
    card = ModelCard.load(adapter / "README.md")
    assert {"bituning", "recommendation"} <= set(card.data.tags)
    assert card.data.library_name == "peft"
    assert "PeftModel.from_pretrained" in card.text
    assert '"num_prefix_tokens": 4' in card.text
    assert "[More Information Needed]" not in card.text
    (adapter / "README.md").write_text("---\ntags: [mine]\n---\nMy own words.\n")
    make_model(llama, None, collaborative_skip=False).save_pretrained(str(adapter))
    assert "My own words." in (adapter / "README.md").read_text()


def test_push_to_hub_uploads_what_save_writes(llama, encoder_folder, monkeypatch):
    uploaded = {}

    def take(self, operations, **_):
        uploaded.update({o.path_in_repo: Path(o.path_or_fileobj).read_bytes() for o in operations})

    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **_: SimpleNamespace(repo_id=name))
    monkeypatch.setattr(HfApi, "create_commit", take)
    make_model(llama, encoder_folder).push_to_hub("me/laser")
    assert set(uploaded) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert b"A Bi-Tuning adapter" in uploaded["README.md"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_independent_and_equal(lm, encoder_folder, duplicate):
    model = make_model(lm, encoder_folder)
    twin = duplicate(model)
    assert torch.equal(scores(twin), scores(model))
    torch.nn.init.zeros_(adapter_of(twin).head.projection.weight)
    assert not torch.equal(scores(twin), scores(model))


def test_the_mounted_class_passes_for_the_original_and_goes_with_unload(llama, encoder_folder):
    original = type(llama)
    model = make_model(llama, encoder_folder)
    assert isinstance(llama, original)
    assert (type(llama).__name__, type(llama).__module__) == (
        original.__name__,
        original.__module__,
    )
    assert type(model.unload()) is original
    assert not isinstance(llama, BiTuned)


def test_a_config_object_can_be_used_for_other_models(llama, encoder_folder, tmp_path):
    config = BiTuningConfig(collaborative_encoder=encoder_folder, item_vectors="fused")
    first = get_peft_model(llama, config).eval()
    assert first.peft_config["default"] is config  # filled in place, as PEFT does
    first.base_model.set_item_text_vectors(torch.randn(NUM_ITEMS, 64))
    expected = scores(first)
    sizes = {"hidden_size": 256, "num_attention_heads": 2, "vocab_size": VOCABULARY}
    other = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=8, num_hidden_layers=1))
    fields = get_peft_model(other, config).peft_config["default"]
    assert (fields.m_former_hidden_size, fields.num_text_items) == (128, 0)
    first.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(first.unload(), str(tmp_path))
    assert torch.equal(scores(loaded), expected)
    changed = dataclasses.replace(fields, item_vectors="collaborative", recommendation_dim=None)
    assert scores(get_peft_model(type(llama)(llama.config), changed).eval()).isfinite().all()


def test_two_adapters_from_one_config_object_do_not_share_it(llama, encoder_folder):
    config = BiTuningConfig(collaborative_encoder=encoder_folder, item_vectors="fused")
    model = get_peft_model(llama, config)
    model.add_adapter("second", config)
    model.base_model.set_item_text_vectors(torch.randn(NUM_ITEMS, 64))
    assert model.peft_config["default"].num_text_items == NUM_ITEMS
    assert model.peft_config["second"].num_text_items == 0


def test_a_second_adapter_leaves_trainability_alone(llama, encoder_folder):
    model = make_model(llama, encoder_folder)
    adapter_of(model).suffix.requires_grad_(False)  # the user's own choice
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    model.add_adapter("second", BiTuningConfig(collaborative_encoder=encoder_folder))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained
    model.set_adapter("second")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".second." in name for name in trained)


def test_it_cannot_be_merged_and_says_so_when_it_is_gone(llama, encoder_folder):
    model = make_model(llama, encoder_folder)
    with pytest.raises(NotImplementedError, match="cannot be merged"):
        model.merge_adapter()
    model.delete_adapter("default")
    with pytest.raises(ValueError, match="all adapters are deleted; add one"):
        model.base_model.item_vectors()


@SECOND_TIME
def test_lora_goes_beneath(llama, encoder_folder):
    """A language model with LoRA in it is a language model; the PEFT model around it is not."""
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    lora = get_peft_model(llama, config)
    with pytest.raises(ValueError, match="got a PeftModelForCausalLM; .* take merge_and_unload"):
        make_model(lora, encoder_folder)
    merged = make_model(copy.deepcopy(lora).merge_and_unload(), encoder_folder)
    model = make_model(lora.get_base_model(), encoder_folder, adapter_name="beside")
    adapter_of(model, "beside").load_state_dict(adapter_of(merged).state_dict())
    torch.testing.assert_close(scores(model), scores(merged))


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(lm, encoder_folder, use_reentrant, monkeypatch):
    model = make_model(lm, encoder_folder, m_former_dropout=0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def gradients():
        model.zero_grad()
        model.train()
        model(**make_batch(), labels=torch.tensor([1, 2, 3])).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    layers = [module for module in lm.modules() if hasattr(module, "_gradient_checkpointing_func")]
    calls = []
    for layer in layers:
        own = layer._gradient_checkpointing_func
        monkeypatch.setattr(
            layer,
            "_gradient_checkpointing_func",
            lambda *args, own=own, **kw: calls.append(1) or own(*args, **kw),
        )
    checkpointed = gradients()
    assert len(calls) == lm.config.num_hidden_layers
    assert plain.keys() == checkpointed.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(checkpointed[name], expected)


def test_torch_compile_in_one_graph(lm, encoder_folder):
    model = make_model(lm, encoder_folder)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    labels = torch.tensor([1, 2, 3])
    expected, actual = (m(**make_batch(), labels=labels) for m in (model, compiled))
    torch.testing.assert_close(actual.user_vectors, expected.user_vectors)
    torch.testing.assert_close(actual.loss, expected.loss)


ROWS = [{n: v[0] for n, v in make_batch().items()} | {"labels": 2}] * 16


def training(folder, **options):
    return TrainingArguments(
        str(folder),
        max_steps=4,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        label_names=["labels"],
        **options,
    )


def test_trainer_resumes_to_the_same_weights(llama, encoder_folder, tmp_path):
    def train(folder, **options):
        model = make_model(copy.deepcopy(llama), encoder_folder, trained=False)
        args = training(folder, save_steps=2, per_device_train_batch_size=2)
        torch.manual_seed(0)
        Trainer(model, args, train_dataset=ROWS).train(**options)
        return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}

    whole = train(tmp_path / "run")
    files = {file.name for file in (tmp_path / "run" / "checkpoint-2").iterdir()}
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files
    resumed = train(tmp_path / "run", resume_from_checkpoint=str(tmp_path / "run/checkpoint-2"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_trainer_keeps_the_columns_that_a_recommendation_needs(llama, encoder_folder, tmp_path):
    """remove_unused_columns is True by default."""
    rows = [row | {"other": 1} for row in ROWS]
    trainer = Trainer(make_model(llama, encoder_folder), training(tmp_path), train_dataset=rows)
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "history", "history_mask", "labels"}


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_accumulated_gradients_are_those_of_one_large_batch(
    llama, encoder_folder, tmp_path, balance
):
    def gradient_norm(batch_size, accumulation):
        model = make_model(
            copy.deepcopy(llama),
            encoder_folder,
            m_former_dropout=0.0,
            router_balance_weight=balance,
        )
        args = training(
            tmp_path,
            save_strategy="no",
            logging_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            learning_rate=0.0,
        )
        torch.manual_seed(0)
        trainer = Trainer(model, args, train_dataset=ROWS)
        trainer.train()
        first = trainer.state.log_history[0]
        return torch.tensor([first["loss"], first["grad_norm"]])

    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = gradient_norm(8, 1)
    torch.set_rng_state(state)
    torch.testing.assert_close(gradient_norm(2, 4), one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_offloaded_base(saved, tmp_path, low_cpu_mem_usage, monkeypatch):
    monkeypatch.chdir(tmp_path)  # PEFT writes beside where it is asked to
    lm_folder, adapter, expected = saved
    device_map = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
                  "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}  # fmt: skip
    lm = AutoModelForCausalLM.from_pretrained(
        lm_folder, device_map=device_map, offload_folder=str(tmp_path / "offload")
    )
    assert next(lm.model.layers[1].parameters()).is_meta
    names = {"base_model.model.laser_layer": "cpu"}
    names |= {f"base_model.model.{name}": place for name, place in device_map.items()}
    model = PeftModel.from_pretrained(
        lm,
        str(adapter),
        device_map=names,
        offload_folder=str(tmp_path / "offload"),
        low_cpu_mem_usage=low_cpu_mem_usage,
    )
    torch.testing.assert_close(scores(model), expected)
    ids = make_batch()["input_ids"]
    assert model.generate(ids, max_new_tokens=2, pad_token_id=0).shape == (B, T + 2)


def test_histories_of_another_shape_are_refused(llama, encoder_folder):
    model, batch = make_model(llama, encoder_folder), make_batch()
    with pytest.raises(ValueError, match=r"history must have the shape \(3, items\), got \(5,\)"):
        model(**batch | {"history": batch["history"][0]})
    with pytest.raises(ValueError, match=r"history must have the shape \(3, items\), got \(1, 5\)"):
        model(**batch | {"history": batch["history"][:1]})
    with pytest.raises(ValueError, match=r"history_mask must have the shape \(3, 5\), got"):
        model(**batch | {"history_mask": torch.ones(B, L + 1)})
    with pytest.raises(ValueError, match="history_mask needs history or history_states"):
        model(input_ids=batch["input_ids"], history_mask=batch["history_mask"])
    with pytest.raises(ValueError, match=r"item_vectors must have the shape \(items, 16\), got"):
        model(**batch, item_vectors=torch.zeros(4, 3), return_logits=True)
    with pytest.raises(ValueError, match=r"labels of a recommendation .* \(3,\), got \(3, 7"):
        model(**batch, labels=batch["input_ids"], return_user_vectors=True)
    with pytest.raises(ValueError, match=r"one a user, of shape \(3,\), got \(4,\)"):
        model(**batch, labels=torch.tensor([1, 2, 3, 4]))
    with pytest.raises(ValueError, match=r"labels must hold whole numbers, got torch.float32"):
        model(**batch, labels=torch.ones(3))
    with pytest.raises(ValueError, match="history must hold whole numbers, got torch.float32"):
        model(**batch | {"history": torch.ones(B, L)})
    with pytest.raises(ValueError, match="history must be a torch.Tensor, got list"):
        model(**batch | {"history": [[1, 2]]})
    with pytest.raises(ValueError, match="attention_mask must be a torch.Tensor, got list"):
        model(**batch | {"attention_mask": [[1, 0]]})
    with pytest.raises(ValueError, match="are item ids and return_user_vectors=False asks for"):
        model(**batch, labels=torch.tensor([1, 2, 3]), return_user_vectors=False)
    with pytest.raises(ValueError, match=r"for the loss of the text set return_user_vectors=False"):
        model(**batch, labels=batch["input_ids"], return_logits=True)
    with pytest.raises(ValueError, match="labels must be item ids in 1..23"):
        model(**batch, labels=torch.tensor([0, 1, 2]))
    states = get_peft_model(
        type(llama)(llama.config), BiTuningConfig(collaborative_dim=5, recommendation_dim=R)
    )
    with pytest.raises(
        ValueError, match=r"history_states must have the shape \(3, items, 5\), got"
    ):
        states(input_ids=batch["input_ids"], history_states=torch.zeros(B, L, 4))


def test_everything_offloaded(saved, tmp_path, monkeypatch):
    """Nothing is resident: language model, encoder and adapter come when they are called."""
    monkeypatch.chdir(tmp_path)
    lm_folder, adapter, expected = saved
    lm = AutoModelForCausalLM.from_pretrained(lm_folder)
    before = make_model(lm, None, collaborative_dim=R, recommendation_dim=R)
    scale = adapter_of(before).suffix.tokens.std()
    cpu_offload(before.unload())
    fresh = make_model(lm, None, collaborative_dim=R, recommendation_dim=R)
    assert not adapter_of(fresh).suffix.tokens.is_meta
    torch.testing.assert_close(adapter_of(fresh).suffix.tokens.std(), scale, rtol=0.5, atol=0)
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lm_folder), str(adapter))
    cpu_offload(whole)
    assert all(p.is_meta for p in whole.parameters())
    torch.testing.assert_close(scores(whole), expected)


def test_a_bf16_base_reads_the_same_through_peft_and_transformers(saved):
    lm_folder, adapter, _ = saved

    def base():
        return AutoModelForCausalLM.from_pretrained(lm_folder, dtype=torch.bfloat16)

    by_peft = PeftModel.from_pretrained(base(), str(adapter))
    by_transformers = base()
    by_transformers.load_adapter(str(adapter))
    assert torch.equal(scores(by_transformers), scores(by_peft))


def test_precision_set_around_the_model_reaches_it(saved):
    lm_folder, adapter, _ = saved
    lm = AutoModelForCausalLM.from_pretrained(lm_folder)
    lm.load_adapter(str(adapter))
    seen = []
    lm.model.layers[0].self_attn.q_proj.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    AcceleratorState._reset_state(reset_partial_state=True)
    scores(Accelerator(cpu=True, mixed_precision="bf16").prepare_model(lm))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert seen[-1] == torch.bfloat16


def test_forward_by_name_is_the_same_as_a_call(llama, encoder_folder):
    model = make_model(llama, encoder_folder)
    lm, ids = model.base_model.model, make_batch()["input_ids"]
    assert torch.equal(lm.forward(ids).logits, model(input_ids=ids).logits)
    assert torch.equal(lm.forward(**make_batch()).user_vectors, model(**make_batch()).user_vectors)


@SECOND_TIME
def test_a_second_mount_and_unload_are_harmless(llama, encoder_folder):
    original = type(llama)
    first, second = (make_model(llama, encoder_folder) for _ in range(2))
    second.unload()
    assert type(first.unload()) is original


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_adapters_follow_the_base_only_where_asked(llama, encoder_folder, dtype, autocast):
    config = BiTuningConfig(collaborative_encoder=encoder_folder, item_vectors="fused")
    model = get_peft_model(llama.to(dtype), config, autocast_adapter_dtype=autocast)
    wanted = torch.float32 if autocast else dtype
    assert {p.dtype for p in adapter_of(model).parameters()} == {wanted}
    model.base_model.set_item_text_vectors(torch.randn(NUM_ITEMS, 64))
    assert scores(model).isfinite().all()
