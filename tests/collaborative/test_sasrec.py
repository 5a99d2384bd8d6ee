import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from laser_peft import SASRecConfig, SASRecModel
from laser_peft.collaborative.length_groups import SHORT, group_by_length
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


@given(st.lists(st.lists(st.booleans(), min_size=37, max_size=37), min_size=1, max_size=7))
def test_every_real_item_is_in_one_group_of_histories_of_like_length(rows):
    real = torch.tensor(rows)
    row_of, _ = real.nonzero(as_tuple=True)
    flat = real.flatten().nonzero()[:, 0]
    seen = []
    for items, slots, (num_rows, columns) in group_by_length(real):
        seen += items.tolist()
        histories = {}
        for item, slot in zip(items.tolist(), slots.tolist(), strict=True):
            history = int(row_of[flat == item])
            histories.setdefault(history, []).append(divmod(slot, columns))
        lengths = [len(places) for places in histories.values()]
        assert max(lengths) == columns <= max(SHORT, 2 * min(lengths))
        assert len({places[0][0] for places in histories.values()}) == len(histories) <= num_rows
        for places in histories.values():  # a row of its own, oldest first, padding on the right
            assert places == [(places[0][0], column) for column in range(len(places))]
    assert sorted(seen) == flat.tolist()


@pytest.mark.parametrize("heads", [1, 2])
def test_histories_of_all_lengths_learn_together_as_each_alone(heads):
    lengths = [0, 1, SHORT, SHORT + 1, 2 * SHORT, 2 * SHORT + 1, 41, 3]
    config = SASRecConfig(
        num_items=N,
        hidden_size=C,
        num_hidden_layers=2,
        num_attention_heads=heads,
        dropout=0.0,
        initializer_range=0.3,
    )
    sasrec = SASRecModel(config).train()
    histories = [torch.randint(1, N + 1, (length + 1,)) for length in lengths]
    input_ids = torch.zeros(len(lengths), 43, dtype=torch.int64)
    labels = torch.full_like(input_ids, -100)
    for row, (length, history) in enumerate(zip(lengths, histories, strict=True)):
        start = 2 if row % 2 else 43 - length  # with room on both sides, or at the end
        input_ids[row, start : start + length] = history[:-1]
        labels[row, start : start + length] = history[1:]

    together = sasrec(input_ids, labels=labels)
    gradients = torch.autograd.grad(together.loss, sasrec.parameters())
    alone = [sasrec(history[None, :-1]).last_hidden_state[0] for history in histories]
    scores = torch.cat(alone) @ sasrec.item_vectors().T
    loss = F.cross_entropy(scores, torch.cat([history[1:] for history in histories]) - 1)
    expected = torch.autograd.grad(loss, sasrec.parameters())
    torch.testing.assert_close(together.last_hidden_state[input_ids != 0], torch.cat(alone))
    assert not together.last_hidden_state[input_ids == 0].any()
    torch.testing.assert_close(together.loss, loss)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)


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
