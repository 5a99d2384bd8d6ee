"""The arrangement itself; test_from_rectools.py compares it with RecTools where that is there."""

import pytest
import torch

from laser_peft.collaborative import RecToolsSASRecConfig, RecToolsSASRecModel, check_encoder

N, C, P = 19, 8, 7
SIZES = {"num_items": N, "hidden_size": C, "num_attention_heads": 2, "max_position_embeddings": P}


@pytest.fixture(params=[False, True], ids=["padding_read", "padding_masked"])
def encoder(request):
    config = RecToolsSASRecConfig(**SIZES, mask_padding=request.param, scale_embeddings=True)
    return RecToolsSASRecModel(config).eval()


def test_it_is_what_an_adapter_needs_but_positions_count_from_the_newest_item(encoder):
    with pytest.warns(UserWarning, match="not causal"):
        check_encoder(encoder)


def test_padding_around_and_between_items_changes_nothing(encoder):
    plain = encoder(torch.tensor([[3, 11, 5]]))
    padded = encoder(torch.tensor([[0, 3, 0, 11, 5, 0, 0]]))
    torch.testing.assert_close(padded.user_vectors, plain.user_vectors)
    states = padded.last_hidden_state[0]
    torch.testing.assert_close(states[[1, 3, 4]], plain.last_hidden_state[0])
    assert torch.equal(states[[0, 2, 5, 6]], torch.zeros(4, C))


def test_an_empty_history_is_zero(encoder):
    assert torch.equal(
        encoder(torch.zeros(2, 3, dtype=torch.int64)).user_vectors, torch.zeros(2, C)
    )


def test_places_that_are_read_when_empty_are_part_of_the_model():
    torch.manual_seed(0)
    short = RecToolsSASRecModel(RecToolsSASRecConfig(**SIZES)).eval()
    for block in short.blocks:
        torch.nn.init.normal_(block.value.bias)
    longer = RecToolsSASRecModel(
        RecToolsSASRecConfig(**SIZES | {"max_position_embeddings": P + 4})
    ).eval()
    weights = short.state_dict()
    positions = weights["position_embeddings.weight"]
    weights["position_embeddings.weight"] = torch.cat([positions, torch.zeros(4, C)])
    longer.load_state_dict(weights)
    history = torch.tensor([[3, 11, 5]])
    assert not torch.allclose(short(history).user_vectors, longer(history).user_vectors)
    short.config.mask_padding = longer.config.mask_padding = True
    torch.testing.assert_close(short(history).user_vectors, longer(history).user_vectors)


def test_too_long_a_history_says_what_to_keep(encoder):
    with pytest.raises(ValueError, match="7 places, got a history of 8 items; keep the newest 7"):
        encoder(torch.ones(1, P + 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_items": 0}, "num_items must be at least 1, got 0"),
        ({"hidden_size": 10, "num_attention_heads": 3}, r"\(10\) must be a multiple of .* \(3\)"),
    ],
)
def test_sizes_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        RecToolsSASRecConfig(**fields)
