import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from laser_peft import BiTuningConfig
from laser_peft.data import Catalogue, Histories, PromptBuilder, leave_one_out, read_interactions
from laser_peft.evaluation import ndcg_at, summarise
from laser_peft.training import LaserTrainer, PromptDataset, rank_dataset
from laser_peft.training.ranking_trainer import ranking_arguments
from laser_peft.training.weighing import WEIGHINGS, rarity_beside


@pytest.fixture
def model(lm_folder, encoder_folder):
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_pretrained(lm_folder)
    fields = {"num_prefix_tokens": 3, "item_vectors": "fused", "item_text_dim": 7}
    model = get_peft_model(llm, BiTuningConfig(collaborative_encoder=encoder_folder, **fields))
    model.base_model.set_item_text_vectors(F.normalize(torch.randn(23, 7), dim=1))
    torch.nn.init.normal_(head_of(model).weight, std=0.3)
    return model


def head_of(model):
    return model.base_model.layer.bituning_adapters["default"].head.projection


@pytest.fixture
def datasets(shop, tokenizer):
    catalogue = Catalogue.read(shop / "items.jsonl")
    log = read_interactions(shop / "interactions.csv.gz")
    split = leave_one_out(Histories.from_interactions(log, catalogue))
    prompts = PromptBuilder(tokenizer, catalogue, max_tokens=200)
    return [
        PromptDataset(examples, prompts, max_items=50, ranked=True)
        for examples in (split.validation, split.test)
    ]


@pytest.fixture
def trainer(model, datasets, tmp_path):
    args = ranking_arguments(tmp_path, per_device_eval_batch_size=7)
    return LaserTrainer(model, args, eval_dataset=datasets[0])


def test_nothing_learnt_is_not_weighed_and_no_prompt_is_read(trainer, model):
    calls = []
    model.base_model.model.model.register_forward_pre_hook(lambda *_: calls.append(1))
    trainer.evaluate()
    assert calls
    calls.clear()
    torch.nn.init.zeros_(head_of(model).weight)
    assert trainer.evaluate()["eval_correction_weight"] == 0
    assert not calls


def test_several_data_sets_leave_the_weights_as_they_are(model, datasets, tmp_path):
    model.base_model.set_view_weights(0.5, 0.25, 3.0, 0.5)
    trainer = LaserTrainer(
        model,
        ranking_arguments(tmp_path, per_device_eval_batch_size=7),
        eval_dataset={"one": datasets[0], "again": datasets[0]},
    )
    metrics = trainer.evaluate()
    assert metrics["eval_one_ndcg@10"] == metrics["eval_again_ndcg@10"]
    assert model.base_model.view_weights == (0.5, 0.25, 3.0, 0.5)


def both(ranks):
    return np.mean([summarise(ranks[:, column])["ndcg@10"] for column in (0, 1)])


def test_the_best_weighing_on_validation_is_kept(trainer, model, datasets):
    events = torch.arange(23) % 7
    model.base_model.set_item_text_vectors(F.normalize(torch.randn(23, 7), dim=1), events)
    told = trainer.evaluate()
    weights = model.base_model.view_weights
    text = told["eval_text_weight"]
    chosen = (1.0, text, rarity_beside(text), told["eval_correction_weight"])
    assert weights == pytest.approx(chosen)
    assert both(rank_dataset(model, datasets[0], batch_size=5)) == pytest.approx(
        told["eval_ndcg@10"]
    )
    tried = []
    for weighing in WEIGHINGS:
        model.base_model.set_view_weights(*weighing)
        tried.append(ndcg_at(10, rank_dataset(model, datasets[0], batch_size=5)).mean(1))
    assert WEIGHINGS[np.array(tried).mean(1).argmax()] == pytest.approx(weights)
    assert len({values.mean() for values in tried}) > 3


def test_a_text_of_what_the_encoder_never_saw_counts_no_less_than_the_encoder_does():
    for weighing in WEIGHINGS:
        more = weighing.rarity * weighing.text
        wanted = max(weighing.collaborative, weighing.text) if weighing.text else 0
        assert more == pytest.approx(wanted)


def test_nothing_is_weighed_on_other_users(trainer, model, datasets):
    model.base_model.set_view_weights(0.5, 0.25, 3.0, 0.5)
    ranks = trainer.predict(datasets[1]).predictions
    told = trainer.evaluate(datasets[1])
    assert model.base_model.view_weights == (0.5, 0.25, 3.0, 0.5)
    assert told["eval_ndcg@10"] == pytest.approx(both(ranks))
    assert "eval_text_weight" not in told


def test_weights_come_back_when_an_evaluation_breaks_off(trainer, model, monkeypatch):
    model.base_model.set_view_weights(0.5, 0.25, 3.0, 0.5)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "prediction_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate()
    assert model.base_model.view_weights == (0.5, 0.25, 3.0, 0.5)


def test_one_view_needs_no_weights(lm_folder, encoder_folder, datasets, tmp_path):
    llm = AutoModelForCausalLM.from_pretrained(lm_folder)
    model = get_peft_model(llm, BiTuningConfig(collaborative_encoder=encoder_folder))
    trainer = LaserTrainer(model, ranking_arguments(tmp_path), eval_dataset=datasets[0])
    told = trainer.evaluate()
    assert told["eval_ndcg@10"] == pytest.approx(
        both(rank_dataset(model, datasets[0], batch_size=5))
    )
