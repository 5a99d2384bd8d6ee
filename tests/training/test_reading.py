"""The first phase of fused item vectors: the text reader by itself."""

import pytest
import torch
import torch.nn.functional as F
from conftest import NUM_ITEMS, make_fused
from transformers import TrainerCallback

from laser_peft.masking import newest_state
from laser_peft.training import LaserSettings, train_in_phases
from laser_peft.training.reading import Reading
from laser_peft.tuner.text_reader import TextReader

X = 7


@pytest.fixture(scope="module")
def learn(lm_folder, encoder_folder, split, prompts):
    def learn(folder, *callbacks, **settings):
        model = make_fused(lm_folder, encoder_folder, torch.arange(NUM_ITEMS), X)
        settings = LaserSettings(**{"epochs": 1, "reading_epochs": 3, "batch_size": 8} | settings)
        train_in_phases(
            model, split, prompts, folder, settings, max_items=50, callbacks_of=lambda _: callbacks
        )
        return model

    return learn


class Stops(TrainerCallback):
    """Interrupts after so many steps of a kind of model."""

    def __init__(self, steps, kind):
        self.steps, self.kind = steps, kind

    def on_step_end(self, args, state, control, *, model, **kwargs):
        if isinstance(model, Reading) == self.kind and state.global_step == self.steps:
            raise KeyboardInterrupt


def adapter_of(model):
    return model.base_model.layer.bituning_adapters["default"]


def learnt(model):
    return {name: value.clone() for name, value in adapter_of(model).state_dict().items()}


def test_its_loss_is_that_of_every_item_that_follows_another():
    torch.manual_seed(0)
    reader, texts = TextReader(X, dropout=0.5).eval(), torch.randn(11, X)
    history = torch.tensor([[3, 1, 2, 9], [0, 5, 4, 0]])
    labels = torch.tensor([[1, 2, 9, -100], [-100, 4, -100, -100]])
    loss = Reading(reader, texts)(history, labels=labels)["loss"]
    mask = history != 0
    read = reader(texts[(history - 1).clamp(min=0)] * mask[..., None], mask)
    scores = read[labels != -100] @ texts.T
    for row, had in enumerate(([3], [3, 1], [3, 1, 2], [5])):
        scores[row, torch.tensor(had) - 1] = -torch.inf  # they compete with no label
    torch.testing.assert_close(loss, F.cross_entropy(scores, torch.tensor([1, 2, 9, 4]) - 1))
    nothing = Reading(reader, texts)(history, labels=torch.full_like(labels, -100))["loss"]
    assert nothing == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_history_is_read_as_up_to_its_newest_item(dtype):
    torch.manual_seed(0)
    reader, table = TextReader(X, dropout=0.5).eval().to(dtype), torch.randn(11, X)
    torch.nn.init.normal_(reader.projection.weight)
    history = torch.tensor([[3, 1, 2, 9], [0, 5, 4, 0], [7, 0, 0, 11], [0, 0, 0, 0]])
    mask = history != 0
    texts = table[(history - 1).clamp(min=0)] * mask[..., None]
    results = []
    for read in (newest_state(reader(texts, mask), mask), reader.read_whole(history, mask, table)):
        assert read.dtype == dtype
        read.square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in reader.parameters()]
        reader.zero_grad()
        results.append((read.detach(), *gradients))
    tolerance = {} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **tolerance)
    assert not results[1][0][3].any()  # who has no item asks for nothing
    assert reader.read_whole(history[:, :0], mask[:, :0], table).shape == (4, X)
    with torch.inference_mode():  # as a server may have made it
        table = table.clone()
    read = reader.read_whole(history, mask, table)
    read.sum().backward()
    torch.testing.assert_close(read.detach(), results[1][0])


def test_the_reader_learns_first_and_then_stays(learn, tmp_path):
    seen = []

    class Watches(TrainerCallback):
        def on_train_end(self, args, state, control, *, model, **kwargs):
            reader = model.reader if isinstance(model, Reading) else adapter_of(model).text_reader
            seen.append((type(model).__name__, reader.projection.weight.clone()))

    model = learn(tmp_path, Watches())
    (first, after_first), (second, after_second) = seen
    assert (first, second) == ("Reading", "PeftModelForCausalLM")
    assert not torch.equal(after_first, torch.eye(X))
    assert torch.equal(after_first, after_second)
    assert adapter_of(model).head.projection.weight.ne(0).any()
    assert all(parameter.requires_grad for parameter in adapter_of(model).text_reader.parameters())


def test_without_a_first_phase_it_learns_along(learn, tmp_path):
    model = learn(tmp_path, reading_epochs=0)
    assert not (tmp_path / "laser-phase-1").exists()
    assert not torch.equal(adapter_of(model).text_reader.projection.weight, torch.eye(X))


@pytest.fixture(scope="module")
def whole(learn, tmp_path_factory):
    return learnt(learn(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize(("steps", "reads"), [(2, True), (3, True), (1, False)])
def test_interrupted_it_ends_with_the_same_weights(learn, whole, tmp_path, steps, reads):
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "part", Stops(steps, reads))
    resumed = learnt(learn(tmp_path / "part"))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_no_epochs_leave_the_reader_by_itself(learn, tmp_path):
    model = learn(tmp_path, epochs=0)
    learnt = adapter_of(model)
    assert not learnt.head.projection.weight.any()
    assert model.base_model.view_weights.correction == 0
    assert not torch.equal(learnt.text_reader.projection.weight, torch.eye(X))
    assert not model.training
