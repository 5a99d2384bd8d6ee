"""The two phases of an adapter that reads its items as it reads its users."""

from collections import Counter

import pytest
import torch
from conftest import NUM_ITEMS
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from laser_peft import BiTuningConfig
from laser_peft.item_encoding import encode_items
from laser_peft.training import LaserSettings, phases, phases_of, train_in_phases
from laser_peft.training.checkpoints import last_checkpoint
from laser_peft.training.laser_trainer import LaserTrainer
from laser_peft.training.phases import Phase

ITEMS = range(1, NUM_ITEMS + 1)
EVENTS = torch.arange(NUM_ITEMS)  # the encoder never saw item 1


@pytest.fixture(scope="module")
def make(lm_folder, encoder_folder):
    def make():
        torch.manual_seed(0)
        llm = AutoModelForCausalLM.from_pretrained(lm_folder)
        config = BiTuningConfig(
            collaborative_encoder=encoder_folder,
            num_prefix_tokens=3,
            item_vectors="text",
            similarity="cosine",
        )
        model = get_peft_model(llm, config)
        model.base_model.set_item_text_vectors(torch.zeros(NUM_ITEMS, 32), EVENTS)
        return model

    return make


@pytest.fixture
def model(make):
    return make()


@pytest.fixture(scope="module")
def learn(split, prompts):
    def learn(model, folder, **settings):
        settings = LaserSettings(**{"epochs": 1, "item_epochs": 2, "batch_size": 8} | settings)
        train_in_phases(model, split, prompts, folder, settings, max_items=50)
        return state_of(model)

    return learn


def state_of(model):
    """What is learnt, and the table."""
    state = model.state_dict().items()
    return {name: value.clone() for name, value in state if ".bituning_adapters." in name}


def table_of(model):
    return model.base_model.layer.bituning_adapters["default"].items.text.clone()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(other[name], one[name]) for name in one)


@pytest.fixture
def tables(monkeypatch):
    """The tables that are read, in their order, each with what was learnt by then."""
    read = []

    def encode(model, *args, **kwargs):
        vectors = encode_items(model, *args, **kwargs)
        read.append((vectors, state_of(model)))
        return vectors

    monkeypatch.setattr(phases, "encode_items", encode)
    return read


def test_an_item_is_read_as_the_history_of_a_user_with_it_alone(model, prompts):
    model.train()
    actual = encode_items(model, prompts, ITEMS, batch_size=7)
    assert model.training
    assert actual.shape == (NUM_ITEMS, 32)
    assert (actual.dtype, actual.device.type) == (torch.float32, "cpu")
    assert not actual.requires_grad
    model.eval()
    for item, vector in zip(ITEMS, actual, strict=True):
        with torch.no_grad():
            plain = model(torch.tensor([prompts([item])]), history=torch.tensor([[item]]))
        torch.testing.assert_close(vector, plain.user_vectors[0])


def test_new_items_have_the_prefix_of_an_empty_history(model, prompts):
    seen = encode_items(model, prompts, [1, 2, 1])
    new = encode_items(model, prompts, [1, 2, 1], are_new=True)
    torch.testing.assert_close(new[0], seen[0])  # the encoder never saw it either way
    assert not torch.allclose(new[1], seen[1])
    assert torch.equal(new[0], new[2])


def test_scores_are_cosines_over_the_temperature(model, prompts):
    model.eval()
    vectors = 1000 * encode_items(model, prompts, ITEMS)
    model.base_model.set_item_text_vectors(vectors, EVENTS)
    torch.testing.assert_close(model.base_model.item_vectors().norm(dim=1), torch.ones(NUM_ITEMS))
    text, history = torch.tensor([prompts([5])]), torch.tensor([[5]])
    with torch.no_grad():
        logits = model(text, history=history, return_logits=True).logits[0]
    assert logits.argmax() == 5 - 1
    torch.testing.assert_close(logits[4], torch.tensor(1 / 0.05))


def test_the_table_is_read_before_every_epoch_of_the_first_phase_alone(
    model, learn, prompts, tmp_path, tables, stop_after
):
    steps = stop_after(None)
    before = state_of(model)
    learn(model, tmp_path)
    assert len(tables) == 2
    at = Counter(step for _, step in steps)
    assert at == Counter({step: 2 if step < 4 else 1 for step in range(8)})
    assert same(tables[0][1], before)
    assert not torch.equal(tables[0][0], tables[1][0])
    for phase in ("laser-phase-1", "laser"):
        assert (tmp_path / phase).is_dir()
    items = model.base_model.layer.bituning_adapters["default"].items
    assert torch.equal(items.events, EVENTS)
    assert any(torch.equal(table_of(model), table) for table, _ in tables)


def test_the_best_step_comes_back_with_its_own_table(model, learn, tmp_path, tables, monkeypatch):
    """NDCG falls with every evaluation: the first of each phase is its best."""
    falling = iter([0.4, 0.3, 0.2, 0.1, 0.4, 0.3])
    monkeypatch.setattr(
        "laser_peft.training.laser_trainer.metrics_of_ranks",
        lambda prediction: dict.fromkeys(("unmasked_ndcg@10", "masked_ndcg@10"), next(falling)),
    )
    saved = []
    save = LaserTrainer._save_checkpoint
    monkeypatch.setattr(
        LaserTrainer,
        "_save_checkpoint",
        lambda self, *args: (saved.append(state_of(self.model)), save(self, *args))[1],
    )
    begun = []
    train = LaserTrainer.train
    monkeypatch.setattr(
        LaserTrainer,
        "train",
        lambda self, *args, **kwargs: (
            begun.append(state_of(self.model)),
            train(self, *args, **kwargs),
        )[1],
    )
    learn(model, tmp_path)
    first, second = saved[:4], saved[4:]
    assert same(begun[1], first[0])  # the second phase starts from the best of the first
    assert not same(begun[1], first[3])
    name = next(name for name in first[0] if name.endswith("items.text"))
    assert torch.equal(begun[1][name], tables[0][0])
    assert torch.equal(first[3][name], tables[1][0])
    assert all(torch.equal(state[name], tables[0][0]) for state in second)


# Of 8 + 4 steps, with a checkpoint at every second one: within the first and the second epoch, at
# their ends, and in the second phase before and after its first checkpoint.
@pytest.mark.parametrize("steps", [1, 4, 6, 8, 9, 11])
def test_an_interrupted_training_ends_with_the_same_weights(
    make, learn, tmp_path, stop_after, whole, steps
):
    taken = stop_after(steps)
    taken.clear()
    with pytest.raises(KeyboardInterrupt):
        learn(make(), tmp_path)
    stop_after(None)
    taken.clear()
    first, second = (last_checkpoint(tmp_path / name) for name in ("laser-phase-1", "laser"))
    done = step_of(first) if second is None else 8 + step_of(second)
    # At its end a phase leaves its best checkpoint alone, which need not be its last.
    assert done == steps // 2 * 2 or steps in (8, 9)
    assert same(learn(make(), tmp_path), whole)
    assert len(taken) == 12 - done


def step_of(checkpoint):
    return 0 if checkpoint is None else int(checkpoint.rpartition("-")[2])


@pytest.fixture(scope="module")
def whole(make, learn, tmp_path_factory):
    return learn(make(), tmp_path_factory.mktemp("whole"))


def test_a_finished_training_ends_where_it_was(make, learn, tmp_path):
    whole = learn(make(), tmp_path)
    assert same(learn(make(), tmp_path), whole)


def test_what_the_adapter_reads_itself_has_two_phases():
    settings = LaserSettings(epochs=3, item_epochs=2)
    (collaborative,) = phases_of(BiTuningConfig(), settings, 7)
    assert collaborative == Phase("laser", settings)
    text = BiTuningConfig(item_vectors="text")
    first, second = phases_of(text, settings, 7)
    assert (first.name, first.settings.epochs, first.reads_items) == ("laser-phase-1", 2, True)
    assert second == collaborative
    assert [phase.name for phase in phases_of(text, LaserSettings(item_epochs=0), 7)] == ["laser"]


def test_without_a_first_phase_the_table_stays(model, learn, tmp_path, tables):
    table = torch.randn(NUM_ITEMS, 32)
    model.base_model.set_item_text_vectors(table, EVENTS)
    learn(model, tmp_path, item_epochs=0)
    assert tables == []
    assert torch.equal(table_of(model), table)
    assert not (tmp_path / "laser-phase-1").exists()
