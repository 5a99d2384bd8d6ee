import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from laser_peft import BiTuningConfig, SASRecConfig, SASRecModel
from laser_peft.data import Catalogue, Histories, PromptBuilder, leave_one_out, read_interactions
from laser_peft.data.sequences import Example
from laser_peft.training import (
    HistoryDataset,
    LaserSettings,
    NextItemDataset,
    PromptDataset,
    RankingTrainer,
    SASRecSettings,
    rank_dataset,
    train_laser,
    train_sasrec,
)
from laser_peft.training.ranking_trainer import ranking_arguments
from laser_peft.training.sasrec import sasrec_trainer


@pytest.fixture(scope="module")
def split(shop):
    catalogue = Catalogue.read(shop / "items.jsonl")
    log = read_interactions(shop / "interactions.csv.gz")
    return leave_one_out(Histories.from_interactions(log, catalogue))


@pytest.fixture(scope="module")
def prompts(shop, tokenizer):
    return PromptBuilder(tokenizer, Catalogue.read(shop / "items.jsonl"), max_tokens=200)


def test_the_encoder_never_sees_what_is_held_out(split):
    dataset = NextItemDataset(split.train_histories, max_items=4)
    rows = {tuple(row["labels"]) for row in dataset}
    by_user = [h for h in split.train_histories if len(h) > 1]
    assert rows == {tuple(history[1:][-4:]) for history in by_user}
    for row in dataset:
        assert len(row["input_ids"]) == len(row["labels"]) <= 4
        np.testing.assert_array_equal(row["input_ids"][1:], row["labels"][:-1])


def test_the_target_is_in_the_labels_and_nowhere_else(prompts):
    history, target = np.array([3, 1, 2]), 9
    columns = PromptDataset([Example(history, target, 0)], prompts, max_items=2, ranked=True)[0]
    other = PromptDataset([Example(history, 8, 0)], prompts, max_items=2, ranked=True)[0]
    assert (columns.pop("labels"), other.pop("labels")) == (9, 8)
    assert columns["input_ids"] == other["input_ids"] == prompts([3, 1, 2])
    assert columns["history"].tolist() == [1, 2]
    assert columns["seen"].tolist() == [3, 1, 2]


def test_ranks_come_back_in_the_order_of_the_users(split):
    sasrec = SASRecModel(SASRecConfig(num_items=23, hidden_size=8)).eval()
    dataset = HistoryDataset(split.test, max_items=50)
    ranks = rank_dataset(sasrec, dataset, batch_size=7)
    for user, example in enumerate(split.test):
        with torch.no_grad():
            vector = sasrec(torch.tensor(example.history)[None]).user_vectors
        scores = (vector @ sasrec.item_vectors().T)[0]
        better = int((scores > scores[example.target - 1]).sum())
        assert ranks[user, 0] == better


def learn(split, folder, **settings):
    return train_sasrec(split, 23, folder, SASRecSettings(hidden_size=8, epochs=3, **settings))


def test_sasrec_training_is_repeatable_and_learns(split, tmp_path):
    first, second = learn(split, tmp_path / "a"), learn(split, tmp_path / "b")
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not first.training
    data = NextItemDataset(split.train_histories, 50)
    fresh = SASRecModel(first.config).eval()

    def loss(model):
        with torch.no_grad():
            return np.mean(
                [
                    model(
                        torch.tensor(row["input_ids"])[None],
                        labels=torch.tensor(row["labels"])[None],
                    ).loss.item()
                    for row in data
                ]
            )

    assert loss(first) < loss(fresh)


def test_sampled_softmax_learns_draws_anew_and_is_repeatable(split, tmp_path, monkeypatch):
    drawn = []
    forward = SASRecModel.forward
    monkeypatch.setattr(
        SASRecModel,
        "forward",
        lambda self, *args, negatives=None, **kwargs: (
            drawn.append(negatives),
            forward(self, *args, negatives=negatives, **kwargs),
        )[1],
    )
    first = learn(split, tmp_path / "a", num_negatives=7, batch_size=8)
    in_training = [negatives for negatives in drawn if negatives is not None]
    assert all(negatives.shape == (7,) and negatives.min() >= 1 for negatives in in_training)
    assert not torch.equal(in_training[0], in_training[1])
    assert len(in_training) < len(drawn)  # ranking needs none
    second = learn(split, tmp_path / "b", num_negatives=7, batch_size=8)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def model(lm_folder, encoder_folder):
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_pretrained(lm_folder)
    return get_peft_model(
        llm, BiTuningConfig(collaborative_encoder=encoder_folder, num_prefix_tokens=3)
    )


def test_adapter_training_overfits_a_handful_of_users(model, split, prompts, tmp_path):
    few = type(split)(split.train_histories[6:7] * 8, split.validation[6:7], split.test[6:7])
    example = few.training_examples(every_prefix=False)[0]

    def rank():
        dataset = PromptDataset([example], prompts, max_items=50, ranked=True)
        return rank_dataset(model, dataset, batch_size=1)[0, 0]

    before = rank()
    settings = LaserSettings(epochs=11, batch_size=8, learning_rate=3e-3, evaluations_per_epoch=1)
    train_laser(model, few, prompts, tmp_path, settings, max_items=50)
    assert rank() < before


def test_training_ends_at_the_best_step_not_the_last(model, split, prompts, tmp_path, monkeypatch):
    """NDCG is made to fall with every evaluation: the first checkpoint must come back."""
    falling = iter([0.3, 0.2, 0.1, 0.0])
    monkeypatch.setattr(
        "laser_peft.training.laser_trainer.metrics_of_ranks",
        lambda prediction: dict.fromkeys(("unmasked_ndcg@10", "masked_ndcg@10"), next(falling)),
    )
    saved = []
    monkeypatch.setattr(
        RankingTrainer,
        "_save_checkpoint",
        lambda self, *args, save=RankingTrainer._save_checkpoint: (
            saved.append({n: p.detach().clone() for n, p in self.model.named_parameters()}),
            save(self, *args),
        )[1],
    )
    settings = LaserSettings(epochs=2, batch_size=8, evaluations_per_epoch=1)
    train_laser(model, split, prompts, tmp_path, settings, max_items=50)
    weights = dict(model.named_parameters())
    assert len(saved) >= 2
    assert all(torch.equal(weights[name], value) for name, value in saved[0].items())
    assert not all(torch.equal(weights[name], value) for name, value in saved[-1].items())


@pytest.mark.parametrize("epochs", [0, 1])
def test_mixed_precision_leaves_the_model_as_it_was(model, split, prompts, tmp_path, epochs):
    settings = LaserSettings(epochs=epochs, batch_size=8, evaluations_per_epoch=1, bf16=True)
    train_laser(model, split, prompts, tmp_path, settings, max_items=50)
    assert model.forward.__func__ is type(model).forward


def test_mixed_precision_is_there_whenever_it_was_asked_for(model, split, prompts, tmp_path):
    """A second trainer of a model, and a second evaluation of a trainer, compute as the first."""
    seen = []
    adapter = model.base_model.layer.bituning_adapters["default"]
    adapter.m_former.register_forward_pre_hook(
        lambda *_: seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
    )
    few = type(split)(split.train_histories[:8], split.validation[:3], split.test[:3])
    settings = LaserSettings(epochs=1, batch_size=8, evaluations_per_epoch=1, bf16=True)
    for name in ("first", "second"):
        seen.clear()
        train_laser(model, few, prompts, tmp_path / name, settings, max_items=50)
        assert {autocast for autocast, _ in seen} == {True}
        assert {learns for _, learns in seen} == {True, False}
    data = PromptDataset(few.test, prompts, max_items=50, ranked=True)
    trainer = RankingTrainer(model, ranking_arguments(tmp_path, bf16=True), eval_dataset=data)
    for evaluate in (trainer.evaluate, trainer.evaluate, lambda: trainer.predict(data)):
        seen.clear()
        evaluate()
        assert {autocast for autocast, _ in seen} == {True}
        assert model.forward.__func__ is type(model).forward


def test_sasrec_is_left_as_it_was_too(split, tmp_path):
    sasrec = SASRecModel(SASRecConfig(num_items=23, hidden_size=8))
    settings = SASRecSettings(hidden_size=8, epochs=1)
    trainer = sasrec_trainer(sasrec, split, 23, tmp_path, settings, max_items=50, bf16=True)
    trainer.train()
    assert sasrec.forward.__func__ is SASRecModel.forward
    trainer.evaluate()
    assert sasrec.forward.__func__ is SASRecModel.forward


def test_several_gpus_of_one_process_are_left_alone_but_for_one(model, tmp_path):
    args = ranking_arguments(tmp_path, per_device_train_batch_size=7)
    args._n_gpu = 2  # as on a machine with two
    with pytest.warns(UserWarning, match="one of 2 GPUs .* example 3"):
        trainer = RankingTrainer(model, args)
    assert trainer.args.n_gpu == 1
    assert trainer.get_total_train_batch_size(trainer.args) == 7
    assert not isinstance(trainer._wrap_model(model), torch.nn.DataParallel)


def test_ranking_calls_the_model_without_targets(model, split, prompts, monkeypatch):
    calls = []
    forward = type(model.base_model).forward
    monkeypatch.setattr(
        type(model.base_model),
        "forward",
        lambda self, **inputs: calls.append(inputs) or forward(self, **inputs),
    )
    dataset = PromptDataset(split.test[:3], prompts, max_items=50, ranked=True)
    rank_dataset(model, dataset, batch_size=2)
    assert len(calls) == 2
    assert all(inputs.get("labels") is None and "seen" not in inputs for inputs in calls)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LaserSettings(evaluations_per_epoch=0), "evaluations_per_epoch must be at least"),
        (lambda: LaserSettings(epochs=-1), "LaserSettings: epochs must not be below 0, got -1"),
        (lambda: SASRecSettings(dropout=1.0), r"dropout must lie in \[0, 1\), got 1.0"),
        (lambda: SASRecSettings(learning_rate=0.0), "learning_rate must be above 0, got 0.0"),
        (lambda: SASRecSettings(weight_decay=-1.0), "weight_decay must not be below 0, got -1.0"),
        (lambda: SASRecSettings(item_dropout=1.0), r"item_dropout must lie in \[0, 1\), got 1.0"),
        (lambda: SASRecSettings(num_negatives=-1), "num_negatives must not be below 0, got -1"),
        (lambda: SASRecSettings(patience=0), "SASRecSettings: patience must be at least 1, got 0"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
