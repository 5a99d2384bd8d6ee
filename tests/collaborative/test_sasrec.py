import pytest
import torch
from transformers import AutoConfig, AutoModel

from laser_peft import SASRecConfig, SASRecModel
from laser_peft.masking import newest_state

N, C, L, B = 19, 8, 5, 3


@pytest.fixture
def sasrec():
    config = SASRecConfig(num_items=N, hidden_size=C, num_hidden_layers=2, num_attention_heads=2)
    return SASRecModel(config).eval()


@pytest.fixture
def history():
    return torch.randint(1, N + 1, (B, L))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_matter(sasrec, history, side):
    zeros = torch.zeros(B, 3, dtype=torch.int64)
    parts = [zeros, history] if side == "left" else [history, zeros]
    plain, padded = sasrec(history), sasrec(torch.cat(parts, 1))
    real = padded.last_hidden_state[:, 3:] if side == "left" else padded.last_hidden_state[:, :L]
    torch.testing.assert_close(padded.user_vectors, plain.user_vectors)
    torch.testing.assert_close(real, plain.last_hidden_state)


def test_a_state_depends_on_its_own_past_only(sasrec, history):
    short = sasrec(history[:, :3]).last_hidden_state
    torch.testing.assert_close(short, sasrec(history).last_hidden_state[:, :3])


def test_order_matters(sasrec, history):
    history = torch.tensor([[1, 2, 3]])
    flipped = torch.tensor([[2, 1, 3]])
    assert not torch.allclose(sasrec(history).user_vectors, sasrec(flipped).user_vectors)


def test_empty_history_is_zero_and_finite(sasrec):
    output = sasrec(torch.zeros(2, 4, dtype=torch.int64))
    assert torch.equal(output.user_vectors, torch.zeros(2, C))


def test_loss_is_a_loop_over_real_positions(sasrec, history):
    labels = torch.randint(1, N + 1, (B, L))
    labels[0, :2] = -100
    states, items = sasrec(history).last_hidden_state, sasrec.item_vectors()
    expected = torch.stack(
        [
            -(states[b, t] @ items.T).log_softmax(-1)[labels[b, t] - 1]
            for b in range(B)
            for t in range(L)
            if labels[b, t] > 0
        ]
    ).mean()
    torch.testing.assert_close(sasrec(history, labels=labels).loss, expected)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("side", ["left", "right", "holes"])
def test_training_reads_real_positions_only_to_the_same_end(history, side, heads):
    """With labels the padding is never computed; states, loss and gradients are as without."""
    config = SASRecConfig(num_items=N, hidden_size=C, num_attention_heads=heads, dropout=0.0)
    sasrec = SASRecModel(config).train()
    mask = torch.ones(B, L, dtype=torch.bool)
    if side == "holes":
        mask[0, 2] = mask[1, 0] = mask[1, 4] = False
    else:
        mask[0, : L - 1] = side == "right"
        mask[0, 1:] = side == "left"
        mask[2] = False  # a user without any item
    history = history.masked_fill(~mask, 0)
    labels = torch.randint(1, N + 1, (B, L)).masked_fill(~mask, -100)

    packed = sasrec(history, mask, labels=labels)
    gradients = torch.autograd.grad(packed.loss, sasrec.parameters())
    padded = sasrec(history, mask)
    plain = torch.nn.functional.cross_entropy(
        padded.last_hidden_state[mask] @ sasrec.item_vectors().T, labels[mask] - 1
    )
    torch.testing.assert_close(packed.last_hidden_state, padded.last_hidden_state)
    torch.testing.assert_close(packed.user_vectors, padded.user_vectors)
    torch.testing.assert_close(packed.loss, plain)
    expected = torch.autograd.grad(plain, sasrec.parameters())
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other)


def test_a_batch_without_labels_or_items_has_states_and_no_loss(sasrec, history):
    output = sasrec(history, labels=torch.full((B, L), -100))
    output.loss.backward()
    assert output.loss == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in sasrec.parameters())
    nobody = torch.zeros(B, 0, dtype=torch.int64)
    assert sasrec(nobody).last_hidden_state.shape == (B, 0, C)
    assert torch.equal(sasrec(nobody).user_vectors, torch.zeros(B, C))
    assert sasrec(history[:0], labels=history[:0]).loss == 0


def test_negatives_take_the_place_of_the_catalogue(sasrec, history):
    labels = torch.randint(1, N + 1, (B, L))
    everything = torch.arange(1, N + 1)
    full = sasrec(history, labels=labels).loss
    torch.testing.assert_close(sasrec(history, labels=labels, negatives=everything).loss, full)
    assert sasrec(history, labels=labels, negatives=everything[:3]).loss != full


def test_auto_classes_load_what_was_saved(sasrec, history, tmp_path):
    sasrec.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).num_items == N
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(history).user_vectors, sasrec(history).user_vectors)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_newest_state_of_every_row():
    states = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [False, True, False, True]])
    assert newest_state(states, mask).tolist() == [[3, 4, 5], [21, 22, 23]]


def test_too_long_a_history_says_what_to_keep():
    sasrec = SASRecModel(SASRecConfig(num_items=N, max_position_embeddings=4))
    with pytest.raises(
        ValueError, match="4 positions, got a history of 5 items; keep the newest 4"
    ):
        sasrec(torch.ones(1, 5, dtype=torch.int64))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_items": 0}, "num_items must be at least 1, got 0"),
        ({"hidden_size": 10, "num_attention_heads": 3}, r"\(10\) must be a multiple of .* \(3\)"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_sizes_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        SASRecConfig(**fields)
