"""Learning beside a twin of encoder and text reader that does not know the answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import NUM_ITEMS, make_fused
from transformers import AutoConfig, TrainerCallback

from laser_peft.collaborative import ItemVectorConfig, SASRecModel
from laser_peft.data.sequences import training_events
from laser_peft.losses import catalogue_cross_entropy
from laser_peft.masking import newest_state
from laser_peft.training import (
    LaserSettings,
    SASRecSettings,
    phases_of,
    train_in_phases,
    twin,
    twin_settings,
)
from laser_peft.training.reading import Reading
from laser_peft.training.twin import beside_twin, part_factors

X = 7
SASREC = SASRecSettings(epochs=2, hidden_size=16)


@pytest.fixture
def model(lm_folder, encoder_folder, split):
    events = training_events(split.train_histories, NUM_ITEMS)[1:]
    return make_fused(lm_folder, encoder_folder, torch.from_numpy(events), X)


@pytest.fixture
def adapter(model):
    return model.base_model.layer.bituning_adapters["default"]


def learn(model, split, prompts, folder, *callbacks, **settings):
    settings = LaserSettings(**{"epochs": 1, "reading_epochs": 3, "batch_size": 8} | settings)
    train_in_phases(
        model,
        split,
        prompts,
        folder,
        settings,
        max_items=50,
        twin=SASREC,
        callbacks_of=lambda _: callbacks,
    )
    return {name: value.clone() for name, value in model.state_dict().items() if "bitun" in name}


def test_the_last_training_item_of_each_user_is_left_out(split):
    before = split.before_last()
    assert len(before.train_histories) == len(split.train_histories)
    for whole, cut in zip(split.train_histories, before.train_histories, strict=True):
        assert cut.tolist() == (whole[:-1] if len(whole) > 1 else whole).tolist()
    assert before.validation is split.validation


def test_within_it_reads_the_twin_and_afterwards_its_own(model, adapter, split, tmp_path):
    own = model.base_model.collaborative_encoder
    before = {name: value.clone() for name, value in adapter.state_dict().items()}
    table = own.get_input_embeddings().weight.clone()
    with beside_twin(model, split, tmp_path, SASREC, 2, max_items=50):
        other = model.base_model.collaborative_encoder
        assert isinstance(other, SASRecModel)
        assert other is not own
        assert not any(parameter.requires_grad for parameter in other.parameters())
        cut = split.before_last().train_histories
        assert adapter.items.events.tolist() == training_events(cut, NUM_ITEMS)[1:].tolist()
        read = adapter.text_reader.projection.weight
        assert not torch.equal(read, before["text_reader.projection.weight"])
        assert not read.requires_grad
        assert min(adapter.part_factors) > 0
    assert model.base_model.collaborative_encoder is own
    assert torch.equal(own.get_input_embeddings().weight, table)
    assert adapter.part_factors is None
    after = adapter.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_an_error_gives_it_its_own_again(model, adapter, split, tmp_path):
    own = model.base_model.collaborative_encoder
    with pytest.raises(KeyError), beside_twin(model, split, tmp_path, SASREC, 1, max_items=50):
        raise KeyError
    assert model.base_model.collaborative_encoder is own
    assert adapter.text_reader.projection.weight.requires_grad


def test_the_twin_never_sees_what_the_adapter_learns(model, split, prompts, tmp_path, monkeypatch):
    """Whatever the last training items are, encoder and reader of the twin are the same."""
    twins = []
    fit = twin.part_factors

    def spy(model, *args, **kwargs):
        reader = model.base_model.layer.bituning_adapters["default"].text_reader
        table = model.base_model.collaborative_encoder.get_input_embeddings().weight
        twins.append([table.clone(), reader.projection.weight.clone()])
        return fit(model, *args, **kwargs)

    monkeypatch.setattr(twin, "part_factors", spy)
    # Validation chooses the twin's epoch, and its histories hold those items: one epoch only.
    once = replace(SASREC, epochs=1)
    changed = [np.append(row[:-1], 1 + row[-1] % NUM_ITEMS) for row in split.train_histories]
    for name, histories in (("a", split.train_histories), ("b", changed)):
        told = replace(split, train_histories=histories)
        with beside_twin(model, told, tmp_path / name, once, 1, max_items=50):
            pass
    for one, other in zip(*twins, strict=True):
        assert torch.equal(one, other)


def test_factors_are_those_that_targets_were_drawn_with(model, adapter, split):
    model.eval()
    active = model.base_model.layer.active
    items = adapter.items(active.encoder.item_vectors())
    told, examples, users = (0.3, 2.0), [], []
    for example in split.training_examples(every_prefix=False):  # one by one, unpadded
        history = torch.from_numpy(example.history)[None]
        states, mask = active.states(
            history=history, history_mask=None, history_states=None, like=history
        )
        read = newest_state(*active.text_queries(history, None))
        users.append(torch.cat([newest_state(states, mask), read], 1))
        factors = torch.tensor(told).repeat_interleave(torch.tensor([16, X]))
        scores = (factors * users[-1]) @ items.T
        drawn = scores[0].softmax(0).multinomial(60, replacement=True) + 1
        examples += [replace(example, target=int(target)) for target in drawn]
    fitted = part_factors(model, examples, max_items=50)
    assert fitted == pytest.approx(told, rel=0.15)

    @torch.no_grad()
    def loss(*factors):  # over the whole catalogue
        scaled = torch.tensor(factors).repeat_interleave(torch.tensor([16, X]))
        vectors = (torch.cat(users) * scaled).repeat_interleave(60, 0)
        targets = torch.tensor([example.target for example in examples])
        return float(catalogue_cross_entropy(vectors, items, targets))

    for step in (0.9, 1.1):
        assert loss(step * fitted[0], fitted[1]) > loss(*fitted)
        assert loss(fitted[0], step * fitted[1]) > loss(*fitted)
    active.config.temperature = 0.5  # by which scores are divided in training
    halved = part_factors(model, examples, max_items=50)
    assert halved == pytest.approx([factor / 2 for factor in fitted], rel=0.02)


def test_with_factors_every_user_has_both_parts_in_training(model, adapter):
    history = torch.tensor([[1, 2, 3], [4, 5, 6]])
    batch = {"input_ids": torch.tensor([[5, 6], [7, 8]]), "history": history}
    model.base_model.set_view_weights(1.0, 1.0, 0.0, 1.0)
    model.eval()
    used = model(**batch, return_user_vectors=True).user_vectors
    model.train()
    adapter.text_reader.dropout.p = 0.0
    adapter.part_factors = twin.PartFactors(0.5, 0.25)
    learning = model(**batch, return_user_vectors=True).user_vectors
    width = used.size(1) - X
    torch.testing.assert_close(learning[:, :width], 0.5 * used[:, :width])
    torch.testing.assert_close(learning[:, width:], 0.25 * used[:, width:])


class Stops(TrainerCallback):
    """Interrupts the training of a kind of model at a step."""

    def __init__(self, kind, step):
        self.kind, self.step = kind, step

    def on_step_end(self, args, state, control, *, model, **kwargs):
        if type(model).__name__ == self.kind and state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("kind", "step"),
    [(SASRecModel.__name__, 2), (Reading.__name__, 3), ("PeftModelForCausalLM", 3)],
)
def test_interrupted_it_ends_with_the_same_weights(
    model, split, prompts, tmp_path, kind, step, request
):
    start = {name: value.clone() for name, value in model.state_dict().items()}
    whole = learn(model, split, prompts, tmp_path / "whole")
    model.load_state_dict(start)
    with pytest.raises(KeyboardInterrupt):
        learn(model, split, prompts, tmp_path / "part", Stops(kind, step))
    model.load_state_dict(start)  # a new process
    resumed = learn(model, split, prompts, tmp_path / "part")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_the_reader_and_the_weights_are_those_beside_its_own(model, split, prompts, tmp_path):
    learn(model, split, prompts, tmp_path / "both")
    adapter = model.base_model.layer.bituning_adapters["default"]
    assert adapter.head.projection.weight.any()
    assert all(parameter.requires_grad for parameter in adapter.parameters())
    reader = adapter.text_reader.projection.weight.clone()
    adapter.text_reader.reset_parameters()
    learn(model, split, prompts, tmp_path / "alone", epochs=0)
    assert torch.equal(adapter.text_reader.projection.weight, reader)


def test_who_has_a_twin(model, encoder_folder):
    config = model.peft_config["default"]
    settings = LaserSettings()
    assert phases_of(config, settings, 30, SASREC)[-1].twin is SASREC
    for without in (
        LaserSettings(twin=False),
        LaserSettings(every_prefix=True),
        LaserSettings(epochs=0),
    ):
        assert phases_of(config, without, 30, SASREC)[-1].twin is None
    assert phases_of(config, settings, 30)[-1].twin is None
    alone = replace(config, text_skip=False)
    assert all(phase.twin is None for phase in phases_of(alone, settings, 30, SASREC))
    encoder = AutoConfig.from_pretrained(encoder_folder)
    found = twin_settings(encoder, SASRecSettings(epochs=5))
    assert (found.hidden_size, found.dropout, found.epochs) == (16, 0.2, 5)
    assert twin_settings(ItemVectorConfig(), SASRecSettings()) is None
