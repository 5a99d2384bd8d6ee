import pytest
import torch
from conftest import make_lm
from peft import PeftModel, get_peft_model
from transformers import AutoModel

from laser_peft import BiTuningConfig
from laser_peft.collaborative import ItemVectorConfig, ItemVectorEncoder, check_encoder

N, C = 19, 7
VECTORS = torch.randn(N, C, generator=torch.Generator().manual_seed(5))


def test_a_state_is_the_decayed_mean_of_the_items_so_far():
    encoder = ItemVectorEncoder.from_vectors(VECTORS, decay=0.5)
    first, second, third = VECTORS[2], VECTORS[10], VECTORS[4]
    states = encoder(torch.tensor([[3, 11, 5]])).last_hidden_state[0]
    torch.testing.assert_close(states[0], first)
    torch.testing.assert_close(states[1], (first + 2 * second) / 3)  # (1/2 + 1) = 3/2
    torch.testing.assert_close(states[2], (first + 2 * second + 4 * third) / 7)


@pytest.mark.parametrize(("decay", "expected"), [(1.0, VECTORS[:3].mean(0)), (0.0, VECTORS[2])])
def test_decay_goes_from_the_newest_item_alone_to_a_plain_mean(decay, expected):
    encoder = ItemVectorEncoder.from_vectors(VECTORS, decay=decay)
    torch.testing.assert_close(encoder(torch.tensor([[1, 2, 3]])).user_vectors[0], expected)


def test_padding_inside_a_history_counts_for_nothing():
    encoder = ItemVectorEncoder.from_vectors(VECTORS, decay=0.5)
    plain = encoder(torch.tensor([[3, 11, 5]])).user_vectors
    torch.testing.assert_close(encoder(torch.tensor([[0, 3, 0, 11, 5, 0]])).user_vectors, plain)


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_it_is_what_an_adapter_needs(decay):
    check_encoder(ItemVectorEncoder.from_vectors(VECTORS, decay=decay))


def test_users_and_items_are_ranked_in_the_space_of_the_vectors():
    encoder = ItemVectorEncoder.from_vectors(VECTORS)
    assert torch.equal(encoder.item_vectors(), VECTORS)
    assert torch.equal(encoder.get_input_embeddings().weight[0], torch.zeros(C))


def test_an_adapter_carries_it_in_its_own_file(tmp_path):
    ItemVectorEncoder.from_vectors(VECTORS, decay=0.7).save_pretrained(tmp_path / "encoder")
    config = BiTuningConfig(collaborative_encoder=str(tmp_path / "encoder"))
    model = get_peft_model(make_lm("llama"), config).eval()
    batch = {"input_ids": torch.tensor([[3, 4, 5]]), "history": torch.tensor([[1, 19, 7]])}
    expected = model(**batch, return_logits=True).logits
    assert expected.shape == (1, N)
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "encoder").rename(tmp_path / "gone")
    loaded = PeftModel.from_pretrained(make_lm("llama"), tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(**batch, return_logits=True).logits, expected)


def test_the_folder_says_how_far_back_it_looks(tmp_path):
    ItemVectorEncoder.from_vectors(VECTORS, decay=0.7).save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).config.decay == 0.7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_items": 0}, "num_items must be at least 1, got 0"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"decay": 1.5}, r"decay must lie in \[0, 1\], got 1.5"),
    ],
)
def test_sizes_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        ItemVectorConfig(**fields)


def test_vectors_are_a_matrix_of_finite_numbers():
    with pytest.raises(ValueError, match=r"shape \(items, width\), got \(7,\)"):
        ItemVectorEncoder.from_vectors(VECTORS[0])
    bad = VECTORS.clone()
    bad[3, 2] = torch.nan
    with pytest.raises(ValueError, match="those of 1 of 19 items are not, the first in row 3"):
        ItemVectorEncoder.from_vectors(bad)
