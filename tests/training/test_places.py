"""Every position of a history at once: the same examples as one by one, on shared texts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import NUM_ITEMS
from peft import get_peft_model
from transformers import AutoModelForCausalLM, MistralConfig

from laser_peft import BiTuningConfig
from laser_peft.data import PaddingCollator, PromptBuilder, PromptTemplate
from laser_peft.training import LaserSettings, PromptDataset
from laser_peft.training.datasets import PlacesCollator, PlacesDataset
from laser_peft.training.laser import training_dataset

TEMPLATE = PromptTemplate(ending="What comes next?\n")


@pytest.fixture
def model_of(lm_folder, encoder_folder):
    def model_of(**fields):
        torch.manual_seed(0)
        llm = AutoModelForCausalLM.from_pretrained(lm_folder)
        fixed = {"num_prefix_tokens": 3, "item_vectors": "fused", "item_text_dim": 7}
        fields = fixed | {"layout": "text_first"} | fields
        model = get_peft_model(llm, BiTuningConfig(collaborative_encoder=encoder_folder, **fields))
        model.base_model.set_item_text_vectors(F.normalize(torch.randn(NUM_ITEMS, 7), dim=1))
        adapter = model.base_model.layer.bituning_adapters["default"]
        torch.nn.init.normal_(adapter.head.projection.weight, std=0.3)
        return model.eval()

    return model_of


@pytest.fixture
def long_prompts(tokenizer, catalogue):
    return PromptBuilder(tokenizer, catalogue, max_tokens=400, template=TEMPLATE)


def learnt(split, dataset):
    return sorted(int(label) for row in dataset for label in np.atleast_1d(row["labels"]))


def test_the_positions_are_the_examples_of_every_prefix(split, long_prompts):
    one_by_one = split.training_examples(every_prefix=True)
    together = PlacesDataset(split.train_histories, long_prompts, max_items=50)
    assert len(one_by_one) > len(together) > 0
    assert learnt(split, together) == sorted(example.target for example in one_by_one)


@pytest.mark.parametrize("max_items", [2, 50])
def test_a_batch_of_positions_costs_what_its_examples_do(model_of, split, long_prompts, max_items):
    model = model_of()
    together = PlacesDataset(split.train_histories[:5], long_prompts, max_items=max_items)
    batch = PlacesCollator(long_prompts.ending)([together[row] for row in range(len(together))])
    told = {tuple(history.tolist()) for row in together for history in row["history"]}
    examples = [
        example
        for example in split.training_examples(every_prefix=True)
        if example.user < 5 and tuple(example.history[-max_items:].tolist()) in told
    ]
    assert len(examples) == len(batch["labels"])
    apart = PromptDataset(examples, long_prompts, max_items=max_items)
    apart = PaddingCollator()([apart[row] for row in range(len(apart))])
    assert apart["labels"].tolist() == batch["labels"].tolist()
    with torch.no_grad():
        expected, actual = model(**apart), model(**batch)
    torch.testing.assert_close(actual.user_vectors, expected.user_vectors, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(actual.loss, expected.loss)


def test_a_long_history_is_told_from_the_same_item_at_all_its_positions(tokenizer, catalogue):
    prompts = PromptBuilder(tokenizer, catalogue, max_tokens=180, template=TEMPLATE)
    history = np.arange(1, 21)
    row = PlacesDataset([history], prompts, max_items=50)[0]
    kept = len(row["labels"])
    assert 2 < kept < 19
    assert row["labels"].tolist() == history[-kept:].tolist()
    assert len(row["input_ids"]) + len(prompts.ending) <= 180
    for length, items in zip(row["text_lengths"], row["history"], strict=True):
        told = row["input_ids"][:length] + prompts.ending
        assert told == prompts(items[19 - kept :])
        assert items.tolist() == history[: len(items)].tolist()


def test_no_position_tells_what_follows_it(split, long_prompts):
    for row in PlacesDataset(split.train_histories, long_prompts, max_items=50):
        for length, items, label in zip(
            row["text_lengths"], row["history"], row["labels"], strict=True
        ):
            following = long_prompts([*items, label])[: -len(long_prompts.ending)]
            assert row["input_ids"][:length] == following[:length]
            assert len(following) > length
            assert label not in items or (items == label).sum() < len(items)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_.+able. is deprecated")
def test_texts_are_shared_only_where_the_layout_lets_them(model_of, split, prompts):
    every = LaserSettings(every_prefix=True)

    def dataset(model, settings):
        return training_dataset(model, split, prompts, settings, max_items=50)

    assert isinstance(dataset(model_of(), every), PlacesDataset)
    assert isinstance(dataset(model_of(layout="prefix_first"), every), PromptDataset)
    assert isinstance(dataset(model_of(), LaserSettings(every_prefix=False)), PromptDataset)
    checkpointed = model_of()
    checkpointed.base_model.model.gradient_checkpointing_enable()
    compiled = model_of()
    compiled.compile(backend="eager")
    one_by_one = len(split.training_examples(every_prefix=True))
    for model in (checkpointed, compiled, torch.compile(model_of(), backend="eager")):
        examples = dataset(model, every)
        assert isinstance(examples, PromptDataset)
        assert len(examples) == one_by_one


def test_a_window_must_hold_the_tokens_of_all_users_of_a_text(encoder_folder, split, prompts):
    every = LaserSettings(every_prefix=True)
    rows = list(PlacesDataset(split.train_histories, prompts, max_items=50))
    longest = max(len(row["input_ids"]) for row in rows)
    most = max(len(row["labels"]) for row in rows)
    needed = longest + most * (len(prompts.ending) + 3 + 1)
    kinds = []
    for window in (needed - 1, needed):
        sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1)
        heads = dict(num_attention_heads=2, num_key_value_heads=1)
        config = MistralConfig(vocab_size=300, sliding_window=window, **sizes, **heads)
        lm = AutoModelForCausalLM.from_config(config).eval()
        adapter = BiTuningConfig(
            collaborative_encoder=encoder_folder, layout="text_first", num_prefix_tokens=3
        )
        model = get_peft_model(lm, adapter)
        kinds.append(type(training_dataset(model, split, prompts, every, max_items=50)))
    assert kinds == [PromptDataset, PlacesDataset]
