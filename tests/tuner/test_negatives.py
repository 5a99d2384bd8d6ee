"""The loss over a sample of the catalogue, through the model."""

import pytest
import torch
import torch.nn.functional as F
from adapters import adapter_of, make_batch, make_model
from conftest import NUM_ITEMS

from laser_peft.losses import sampled_cross_entropy

X = 7
LABELS = torch.tensor([3, 5, 7])
EVERYTHING = torch.arange(1, NUM_ITEMS + 1)
KINDS = [
    {},
    {"similarity": "cosine"},
    {"item_vectors": "fused", "item_text_dim": X},
    {"item_vectors": "text", "similarity": "cosine"},
]


@pytest.fixture(params=KINDS, ids=str)
def model(request, llama, encoder_folder):
    model = make_model(llama, encoder_folder, m_former_dropout=0.0, **request.param)
    if "item_vectors" in request.param:
        width = model.peft_config["default"].item_text_dim
        model.base_model.set_item_text_vectors(F.normalize(torch.randn(NUM_ITEMS, width), dim=1))
    reader = adapter_of(model).text_reader
    if reader is not None:
        reader.dropout.p = 0.0
    return model


@pytest.mark.parametrize("training", [False, True])
def test_all_items_as_negatives_are_the_whole_catalogue(model, training):
    """Each other item once, the label left out: nothing is estimated, in no part of the loss."""
    batch = make_batch()
    model.train(training)
    full = model(**batch, labels=LABELS)
    sampled = model(**batch, labels=LABELS, negatives=EVERYTHING)
    torch.testing.assert_close(sampled.loss, full.loss)
    torch.testing.assert_close(sampled.user_vectors, full.user_vectors)


def test_the_loss_is_that_of_the_sample(model):
    drawn = torch.tensor([1, 7, 7, 11, 2])
    output = model(**make_batch(), labels=LABELS, negatives=drawn)
    users = output.user_vectors / model.peft_config["default"].temperature
    expected = sampled_cross_entropy(users, model.base_model.item_vectors(), LABELS, drawn)
    torch.testing.assert_close(output.loss, expected + 0.01 * output.aux_loss)
    assert output.loss != model(**make_batch(), labels=LABELS).loss


def test_what_texts_say_of_histories_is_learnt_from_the_same_sample(llama, encoder_folder):
    model = make_model(llama, encoder_folder, item_vectors="fused", item_text_dim=X).train()
    table = F.normalize(torch.randn(NUM_ITEMS, X), dim=1).requires_grad_()
    model.base_model.set_item_text_vectors(table)
    adapter_of(model).items.text = table  # to see which rows the loss reads
    batch, drawn = make_batch(), torch.tensor([1, 2])
    model(**batch, labels=LABELS, negatives=drawn).loss.backward()
    read = set(table.grad.abs().sum(1).nonzero()[:, 0].add(1).tolist())
    known = set(batch["history"].flatten().tolist()) | {1, 2} | set(LABELS.tolist())
    assert read <= known < set(EVERYTHING.tolist())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"negatives": EVERYTHING}, "there are no labels; give labels"),
        ({"labels": LABELS, "negatives": torch.tensor([1.0])}, "must hold whole numbers"),
        ({"labels": LABELS, "negatives": torch.tensor(3)}, r"of shape \(K,\), got \(\)"),
        ({"labels": LABELS, "negatives": torch.ones(3, 2).long()}, r"\(K,\), got \(3, 2\)"),
        ({"labels": LABELS, "negatives": torch.ones(0).long()}, r"at least one .*got \(0,\)"),
        ({"labels": LABELS, "negatives": [1, 2]}, "negatives must be a torch.Tensor, got list"),
        ({"labels": LABELS, "negatives": torch.tensor([1, 0])}, r"in 1..23 .*got \[0\]"),
        ({"labels": LABELS, "negatives": torch.tensor([24, 1])}, r"negatives .*got \[24\]"),
    ],
)
def test_negatives_that_cannot_be_are_refused(llama, encoder_folder, inputs, message):
    model = make_model(llama, encoder_folder)
    with pytest.raises(ValueError, match=message):
        model(**make_batch(), **inputs)
    with pytest.raises(ValueError, match=message):  # without a history too
        model(input_ids=make_batch()["input_ids"], **inputs)


def test_the_number_of_items_is_that_of_the_vectors(model, llama, encoder_folder):
    assert model.base_model.num_items == NUM_ITEMS == len(model.base_model.item_vectors())


def test_an_adapter_without_vectors_has_no_items(llama):
    assert make_model(llama, None).base_model.num_items == 0
    assert (
        make_model(type(llama)(llama.config), None, item_vectors="text").base_model.num_items == 0
    )
