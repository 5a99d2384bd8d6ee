import torch

from laser_peft.tuner.joining import join, place, read

P, S, D = 2, 3, 5
MASK = torch.tensor([[False, True, False, True], [True, True, True, True]])


def joined(text, mask, **options):
    prefix = -torch.ones(text.size(0), P, D)
    suffix = 100 + torch.arange(float(S))[:, None].expand(S, D)
    return join(prefix, text, suffix, mask, **options)


def counted(batch=2, length=4):
    return torch.arange(1.0, 1 + length)[None, :, None].expand(batch, length, D)


def test_rows_become_prefix_real_tokens_suffix_pads():
    tokens, is_real, is_text, text_positions, suffix_positions = joined(counted(), MASK)
    assert tokens[0, :, 0].tolist() == [-1, -1, 2, 4, 100, 101, 102, 1, 3]
    assert tokens[1, :, 0].tolist() == [-1, -1, 1, 2, 3, 4, 100, 101, 102]
    assert suffix_positions.tolist() == [[4, 5, 6], [6, 7, 8]]
    assert is_text[0].nonzero().flatten().tolist() == [2, 3]
    assert is_text[1].nonzero().flatten().tolist() == [2, 3, 4, 5]
    assert is_real[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert torch.equal(read(tokens, text_positions), counted())


def test_pads_may_stand_first():
    tokens, is_real, *_ = joined(counted(), MASK, pads_first=True)
    assert tokens[0, :, 0].tolist() == [1, 3, -1, -1, 2, 4, 100, 101, 102]
    assert is_real.tolist() == [[False] * 2 + [True] * 7, [True] * 9]


def test_values_move_with_their_tokens_and_pads_lose_theirs():
    both = torch.tensor([[7, 8, 9, 10], [7, 8, 9, 10]])
    placed = place(both, joined(counted(), MASK), -100)
    assert placed[0].tolist() == [-100, -100, 8, 10] + [-100] * 5
    assert placed[1].tolist() == [-100, -100, 7, 8, 9, 10] + [-100] * 3


def test_tokens_are_read_back_where_they_were_put():
    mask = torch.rand(7, 11) > 0.4
    mask[0] = False  # no text at all
    text = torch.randn(7, 11, D)
    for pads_first in (False, True):
        tokens = joined(text, mask, pads_first=pads_first)
        expected = (100 + torch.arange(float(S)))[None, :, None].expand(7, S, D)
        assert torch.equal(read(tokens.inputs_embeds, tokens.suffix_positions), expected)
        assert torch.equal(read(tokens.inputs_embeds, tokens.text_positions), text)


def test_text_decides_the_dtype_and_gradients_reach_the_virtual_tokens():
    prefix = torch.randn(1, P, D, requires_grad=True)
    suffix = torch.randn(S, D, requires_grad=True)
    mask = torch.tensor([[True, False]])
    tokens = join(prefix, torch.randn(1, 2, D, dtype=torch.bfloat16), suffix, mask)
    assert tokens.inputs_embeds.dtype == torch.bfloat16
    tokens.inputs_embeds.float().sum().backward()
    torch.testing.assert_close(prefix.grad, torch.ones_like(prefix))
    torch.testing.assert_close(suffix.grad, torch.ones_like(suffix))
    assert read(tokens.inputs_embeds, tokens.suffix_positions).is_contiguous()
