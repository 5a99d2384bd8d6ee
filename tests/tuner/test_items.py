import numpy as np
import pytest
import torch
import torch.nn.functional as F
from adapters import R, make_batch, make_model
from conftest import NUM_ITEMS
from peft import PeftModel

from laser_peft.tuner.items import ItemVectors

TEXT_DIM = 64


@pytest.fixture
def fused(llama, encoder_folder):
    return make_model(llama, encoder_folder, item_vectors="fused")


def test_fused_vectors_are_the_encoders_beside_those_of_text(fused):
    text = torch.randn(NUM_ITEMS, TEXT_DIM)
    fused.base_model.set_item_text_vectors(text)
    encoder = fused.base_model.collaborative_encoder
    side_by_side = torch.cat([encoder.item_vectors(), text], 1)
    torch.testing.assert_close(fused.base_model.item_vectors(), side_by_side)


def test_an_item_the_encoder_does_not_know_has_a_vector_guessed_from_its_text(fused, tmp_path):
    text = torch.randn(NUM_ITEMS + 2, TEXT_DIM)
    events = torch.full((NUM_ITEMS + 2,), 10**9)
    events[3:4] = 0
    fused.base_model.set_item_text_vectors(text, events)
    cold = [3, NUM_ITEMS, NUM_ITEMS + 1]
    actual = fused.base_model.item_vectors()
    table = fused.base_model.collaborative_encoder.item_vectors()
    seen = [place for place in range(NUM_ITEMS) if place not in cold]
    assert torch.equal(actual[seen, :R], table[seen])
    features = np.column_stack([np.ones(len(text)), text.double()])
    known, decay = features[seen], np.eye(1 + TEXT_DIM)
    own = table[seen].double().numpy()
    guessed = features @ np.linalg.solve(known.T @ known + decay, known.T @ own)
    np.testing.assert_allclose(actual[cold, :R].detach(), guessed[cold], rtol=1e-4, atol=1e-5)
    boost = torch.ones(NUM_ITEMS + 2)
    boost[3] = 2  # 1 + 1 / (1 + 0)
    torch.testing.assert_close(actual[:, R:], boost[:, None] * text)
    fused.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(fused.unload(), str(tmp_path))
    assert torch.equal(loaded.base_model.item_vectors(), actual)
    logits = loaded(**make_batch(), return_logits=True).logits
    assert logits.shape[1] == NUM_ITEMS + 2


def test_a_guess_finds_what_texts_tell_and_hears_little_of_rare_items():
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(2000, TEXT_DIM, generator=generator), dim=1)
    truth = torch.randn(TEXT_DIM, R, generator=generator)
    table, events = text @ truth, torch.full((2000,), 50)
    events[:100], events[100:150] = 0, 1
    table[:100] = torch.nan  # of no use, whatever is there
    items = ItemVectors("fused", num_text_items=0, text_dim=TEXT_DIM, collaborative_dim=R)
    items.set_text(text, events)
    items.fit_from_text(table.nan_to_num())
    expected = text[:100] @ truth
    assert (items(table)[:100, :R] - expected).norm() < 0.1 * expected.norm()
    wrong = table.nan_to_num().clone()
    wrong[100:150] += 1
    items.fit_from_text(wrong)
    assert (items(table)[:100, :R] - expected).norm() < 0.1 * expected.norm()


def test_nobody_counted_and_nothing_is_guessed(fused):
    text = torch.randn(NUM_ITEMS, TEXT_DIM)
    fused.base_model.set_item_text_vectors(text, torch.zeros(NUM_ITEMS, dtype=torch.int64))
    assert fused.base_model.item_vectors()[:, :R].eq(0).all()


def test_a_compiled_graph_guesses_the_same(fused, monkeypatch):
    events = torch.arange(NUM_ITEMS + 2)
    fused.base_model.set_item_text_vectors(torch.randn(NUM_ITEMS + 2, TEXT_DIM), events)
    plain = fused.base_model.item_vectors()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(fused.base_model.item_vectors(), plain)


@pytest.mark.parametrize("source", ["text", "fused"])
def test_an_item_that_only_its_text_knows_is_to_the_encoder_as_padding(
    llama, encoder_folder, source
):
    model = make_model(llama, encoder_folder, item_vectors=source, text_skip=False)
    events = torch.arange(1, NUM_ITEMS + 3)
    events[3] = 0
    width = model.peft_config["default"].item_text_dim
    model.base_model.set_item_text_vectors(torch.randn(NUM_ITEMS + 2, width), events)
    batch = make_batch()
    batch["history"][0, 1], batch["history"][1, 4] = 4, NUM_ITEMS + 2
    actual = model(**batch).user_vectors
    batch["history_mask"][0, 1] = batch["history_mask"][1, 4] = 0
    torch.testing.assert_close(actual, model(**batch).user_vectors)


def test_text_vectors_are_scored_as_they_are_and_can_be_set_again(llama, encoder_folder):
    model = make_model(llama, encoder_folder, item_vectors="text", recommendation_dim=5)
    with pytest.raises(ValueError, match="none are set; call set_item_text_vectors first"):
        model.base_model.item_vectors()
    with pytest.raises(ValueError, match="none are set"):
        model(**make_batch(), return_logits=True)
    for num_items in (7, 9):
        vectors = torch.randn(num_items, 5)
        model.base_model.set_item_text_vectors(vectors)
        assert torch.equal(model.base_model.item_vectors(), vectors)
        assert model.peft_config["default"].num_text_items == num_items
    assert not model.base_model.item_vectors().requires_grad


@pytest.mark.parametrize(
    ("vectors", "events", "message"),
    [
        (torch.zeros(3, 4), None, r"must have the shape \(items, 5\), got \(3, 4\)"),
        (torch.zeros(0, 5), None, r"must have the shape \(items, 5\)"),
        (torch.zeros(5), None, r"must have the shape"),
        (torch.tensor([[0.0] * 5, [torch.nan] * 5]), None, "that of item id 2 is not"),
        (torch.zeros(3, 5), torch.ones(3), "events must be an int64 tensor of shape"),
        (torch.zeros(3, 5), torch.tensor([1, -2, 0]), "events are counts, got -2"),
        (torch.zeros(3, 5), torch.ones(2, dtype=torch.int64), "events must be an int64"),
    ],
)
def test_wrong_text_vectors_are_refused(vectors, events, message):
    items = ItemVectors("text", num_text_items=0, text_dim=5, collaborative_dim=R)
    with pytest.raises(ValueError, match=message):
        items.set_text(vectors, events)


def test_text_vectors_need_an_adapter_that_uses_them(llama, encoder_folder, fused):
    model = make_model(type(llama)(llama.config), encoder_folder)
    with pytest.raises(ValueError, match="come from the encoder alone"):
        model.base_model.set_item_text_vectors(torch.zeros(NUM_ITEMS, R))
    fused.base_model.set_item_text_vectors(torch.zeros(NUM_ITEMS - 1, TEXT_DIM))
    with pytest.raises(ValueError, match="text vectors of 22 items and the encoder knows 23"):
        fused.base_model.item_vectors()


def test_texts_of_rare_items_count_more_but_not_in_training(fused):
    text = torch.randn(NUM_ITEMS, TEXT_DIM)
    events = torch.arange(NUM_ITEMS)
    fused.base_model.set_item_text_vectors(text, events)
    for rarity in (0.0, 1.0, 5.0):
        fused.base_model.set_view_weights(1.0, 1.0, rarity)
        boost = torch.tensor([1 + rarity / (1 + n) for n in range(NUM_ITEMS)])
        vectors = fused.base_model.item_vectors()
        torch.testing.assert_close(vectors[:, R:], boost[:, None] * text)
    torch.testing.assert_close(fused.train().base_model.item_vectors()[:, R:], text)
