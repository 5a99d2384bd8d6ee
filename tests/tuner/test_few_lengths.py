"""In half precision a processor reads few numbers of tokens; what it reads stays the same."""

import pytest
import torch
from adapters import T, make_batch, make_model, shapes_read
from conftest import VOCABULARY, make_lm

from laser_peft.tuner import TextMemory, few_lengths

TOKENS = torch.randint(1, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(3))
HISTORIES = torch.tensor([[3, 1], [2, 0]])


@pytest.fixture
def always(monkeypatch):
    """Rounds in float32 too, where a pad that is seen would show."""
    monkeypatch.setattr(few_lengths, "makes_kernels", lambda _: True)


def widths_read(lm, call):
    output, shapes = shapes_read(lm, call)
    return output.user_vectors, [width for _, width in shapes]


@pytest.mark.parametrize("fields", [{}, {"layout": "prefix_first"}, {"suffix_reading": "mean"}])
@torch.no_grad()
def test_users_are_the_same(lm, encoder_folder, fields, monkeypatch):
    model, batch = make_model(lm, encoder_folder, **fields), make_batch()
    batch["attention_mask"][1, 3:] = 0
    plain = model(**batch, return_user_vectors=True).user_vectors
    monkeypatch.setattr(few_lengths, "makes_kernels", lambda _: True)
    rounded, widths = widths_read(lm, lambda: model(**batch, return_user_vectors=True))
    torch.testing.assert_close(rounded, plain, atol=1e-5, rtol=1e-5)
    assert set(widths) == {16}  # of 7 + 4 + 2


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_a_text_is_remembered_as_it_is_read(family, encoder_folder, always):
    lm = make_lm(family)
    model = make_model(lm, encoder_folder).eval()
    memories, had = [TextMemory(), TextMemory()], [0, 0]
    for counts in ([5, 5], [3, 9], [2, 0], [20, 20]):  # some with pads among them
        new = torch.zeros(2, max(counts), dtype=torch.int64)
        mask = torch.zeros_like(new)
        for row, count in enumerate(counts):
            new[row, :count] = TOKENS[row, had[row] : had[row] + count]
            mask[row, :count] = 1
            had[row] += count
        together, widths = widths_read(
            lm,
            lambda new=new, mask=mask: model(
                input_ids=new, attention_mask=mask, text_memory=memories, history=HISTORIES
            ),
        )
        assert widths[-1] % few_lengths.MULTIPLE == 0
        for row, count in enumerate(had):
            alone = model(
                input_ids=TOKENS[row : row + 1, :count],
                history=HISTORIES[row : row + 1],
                return_user_vectors=True,
            )
            torch.testing.assert_close(
                together[row : row + 1], alone.user_vectors, atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize(
    ("field", "room", "width"),
    [
        ("max_position_embeddings", T + 6, T + 6),
        ("max_position_embeddings", 17, T + 6),  # some lose two to the first positions
        ("max_position_embeddings", 18, 16),
        ("max_seq_len", 15, T + 6),
        ("index_topk", 15, T + 6),
        ("index_topk", 16, 16),
    ],
)
@torch.no_grad()
def test_where_a_pad_would_show_there_is_none(encoder_folder, always, field, room, width):
    lm = make_lm("gpt2")
    setattr(lm.config, field, room)
    model, batch = make_model(lm, encoder_folder), make_batch()
    _, widths = widths_read(lm, lambda: model(**batch, return_user_vectors=True))
    assert set(widths) == {width}


def test_what_learns_is_read_as_it_is(encoder_folder, always):
    lm = make_lm("llama")
    model = make_model(lm, encoder_folder, layout="prefix_first")
    _, widths = widths_read(lm, lambda: model(**make_batch(), return_user_vectors=True))
    assert widths[-1] == T + 6


@torch.no_grad()
def test_autocast_is_half_precision_too(encoder_folder):
    lm = make_lm("llama")
    model, batch = make_model(lm, encoder_folder), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        _, widths = widths_read(lm, lambda: model(**batch, return_user_vectors=True))
    assert widths[-1] == 16


@torch.no_grad()
def test_lengths_that_switch_are_not_passed(encoder_folder, always, monkeypatch):
    lm, asked = make_lm("llama"), []
    monkeypatch.setattr(few_lengths, "has_room", lambda _, num_tokens: asked.append(num_tokens))
    model, batch = make_model(lm, encoder_folder), make_batch()
    _, widths = widths_read(lm, lambda: model(**batch, return_user_vectors=True))
    assert (asked, widths[-1]) == ([16], T + 6)


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, T + 6), (torch.bfloat16, 16)])
@torch.no_grad()
def test_half_precision_alone_is_read_so(encoder_folder, dtype, width):
    lm = make_lm("llama").to(dtype)
    model, batch = make_model(lm, encoder_folder), make_batch()
    _, widths = widths_read(lm, lambda: model(**batch, return_user_vectors=True))
    assert widths[-1] == width
