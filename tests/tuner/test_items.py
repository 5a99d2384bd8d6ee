import pytest
import torch
from adapters import R, adapter_of, make_batch, make_model
from conftest import NUM_ITEMS
from peft import PeftModel

from laser_peft.tuner.items import ItemVectors

TEXT_DIM = 32


@pytest.fixture
def fused(llama, encoder_folder):
    return make_model(llama, encoder_folder, item_vectors="fused")


def test_fused_vectors_are_the_encoders_beside_a_map_of_text(fused):
    text = torch.randn(NUM_ITEMS, TEXT_DIM)
    fused.base_model.set_item_text_vectors(text)
    encoder = fused.base_model.collaborative_encoder
    side_by_side = torch.cat([encoder.item_vectors(), text], 1)
    torch.testing.assert_close(fused.base_model.item_vectors(), side_by_side)
    items = adapter_of(fused).items
    torch.nn.init.normal_(items.projection.weight)
    expected = torch.cat([encoder.item_vectors(), text @ items.projection.weight.T], 1)
    torch.testing.assert_close(fused.base_model.item_vectors(), expected)


def test_an_item_the_encoder_does_not_know_has_its_text_alone(fused, tmp_path):
    text = torch.randn(NUM_ITEMS + 2, TEXT_DIM)
    known = torch.ones(NUM_ITEMS + 2, dtype=torch.bool)
    known[3] = False
    fused.base_model.set_item_text_vectors(text, known)
    cold = [3, NUM_ITEMS, NUM_ITEMS + 1]
    actual = fused.base_model.item_vectors()
    assert actual[cold, :R].eq(0).all()
    assert actual[0, :R].ne(0).all()
    torch.testing.assert_close(actual[:, R:], text)
    fused.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(fused.unload(), str(tmp_path))
    assert torch.equal(loaded.base_model.item_vectors(), actual)
    logits = loaded(**make_batch(), return_logits=True).logits
    assert logits.shape[1] == NUM_ITEMS + 2


@pytest.mark.parametrize("source", ["text", "fused"])
def test_an_item_that_only_its_text_knows_is_to_the_encoder_as_padding(
    llama, encoder_folder, source
):
    model = make_model(llama, encoder_folder, item_vectors=source, text_skip=False)
    known = torch.ones(NUM_ITEMS + 2, dtype=torch.bool)
    known[3] = False
    model.base_model.set_item_text_vectors(torch.randn(NUM_ITEMS + 2, TEXT_DIM), known)
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
    ("vectors", "known", "message"),
    [
        (torch.zeros(3, 4), None, r"must have the shape \(items, 5\), got \(3, 4\)"),
        (torch.zeros(0, 5), None, r"must have the shape \(items, 5\)"),
        (torch.zeros(5), None, r"must have the shape"),
        (torch.tensor([[0.0] * 5, [torch.nan] * 5]), None, "that of item id 2 is not"),
        (torch.zeros(3, 5), torch.ones(3), "known must be a bool tensor of shape"),
        (torch.zeros(3, 5), torch.ones(2, dtype=torch.bool), "known must be a bool tensor"),
    ],
)
def test_wrong_text_vectors_are_refused(vectors, known, message):
    items = ItemVectors("text", num_text_items=0, text_dim=5)
    with pytest.raises(ValueError, match=message):
        items.set_text(vectors, known)


def test_text_vectors_need_an_adapter_that_uses_them(llama, encoder_folder, fused):
    model = make_model(type(llama)(llama.config), encoder_folder)
    with pytest.raises(ValueError, match="come from the encoder alone"):
        model.base_model.set_item_text_vectors(torch.zeros(NUM_ITEMS, R))
    fused.base_model.set_item_text_vectors(torch.zeros(NUM_ITEMS - 1, TEXT_DIM))
    with pytest.raises(ValueError, match="text vectors of 22 items and the encoder knows 23"):
        fused.base_model.item_vectors()
