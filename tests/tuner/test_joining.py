import torch

from laser_peft.tuner.joining import join, lead, read

P, S, D = 2, 3, 5


def joined(text, mask):
    prefix = -torch.ones(text.size(0), P, D)
    suffix = 100 + torch.arange(float(S))[:, None].expand(S, D)
    return join(prefix, text, suffix, mask)


def test_rows_become_prefix_real_tokens_suffix_pads():
    text = torch.arange(1.0, 5)[None, :, None].expand(2, 4, D)
    mask = torch.tensor([[False, True, False, True], [True, True, True, True]])
    tokens, is_text, positions = joined(text, mask)
    assert tokens[0, :, 0].tolist()[:7] == [-1, -1, 2, 4, 100, 101, 102]
    assert tokens[1, :, 0].tolist() == [-1, -1, 1, 2, 3, 4, 100, 101, 102]
    assert positions.tolist() == [[4, 5, 6], [6, 7, 8]]
    assert is_text[0].nonzero().flatten().tolist() == [2, 3]
    assert is_text[1].nonzero().flatten().tolist() == [2, 3, 4, 5]


def test_writing_puts_pads_prefix_and_real_tokens():
    text = torch.arange(1.0, 5)[None, :, None].expand(2, 4, D)
    mask = torch.tensor([[False, True, False, True], [True, True, True, True]])
    tokens, attention_mask, positions = lead(-torch.ones(2, P, D), text, mask)
    assert tokens[0, :, 0].tolist() == [1, 3, -1, -1, 2, 4]
    assert attention_mask.tolist() == [[0, 0, 1, 1, 1, 1], [1] * 6]
    assert torch.equal(read(tokens, positions), text)


def test_suffix_is_read_back_where_it_was_put():
    mask = torch.rand(7, 11) > 0.4
    mask[0] = False  # no text at all
    tokens, _, positions = joined(torch.randn(7, 11, D), mask)
    expected = (100 + torch.arange(float(S)))[None, :, None].expand(7, S, D)
    torch.testing.assert_close(read(tokens, positions), expected)


def test_text_decides_the_dtype_and_gradients_reach_the_virtual_tokens():
    prefix = torch.randn(1, P, D, requires_grad=True)
    suffix = torch.randn(S, D, requires_grad=True)
    mask = torch.tensor([[True, False]])
    tokens, _, positions = join(prefix, torch.randn(1, 2, D, dtype=torch.bfloat16), suffix, mask)
    assert tokens.dtype == torch.bfloat16
    tokens.float().sum().backward()
    torch.testing.assert_close(prefix.grad, torch.ones_like(prefix))
    torch.testing.assert_close(suffix.grad, torch.ones_like(suffix))
    assert read(tokens, positions).is_contiguous()
