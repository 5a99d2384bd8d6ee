"""Blocks attended a group at a time are attended as all at once."""

import threading

import pytest
import torch
import torch.nn.functional as F
from test_beginnings import llama, shared_texts

from laser_peft.tuner import beginnings, block_attention
from laser_peft.tuner.beginnings import _mask, can_share, read_beginnings
from laser_peft.tuner.block_attention import BlockAttention

B, H, T, K, V, D = 3, 2, 11, 5, 4, 8
Q = K * V


@pytest.fixture
def attended():
    """Queries, keys and values in double precision, their mask, and what each block sees."""
    generator = torch.Generator().manual_seed(0)
    shapes = (B, H, Q, D), (B, H, T + Q, D), (B, H, T + Q, D)
    tensors = [torch.randn(shape, generator=generator).double() for shape in shapes]
    # In no order, with a block that sees no text, and places that nobody takes, as pads have.
    ends = torch.tensor([[3, 7, 2, 11, 5], [0, 4, 9, 0, 0], [1, 1, 6, 8, 0]])
    return tensors, _mask(ends, T, V, torch.float64), ends


def results(tensors, mask, **options):
    tensors = [tensor.clone().requires_grad_() for tensor in tensors]
    output = F.scaled_dot_product_attention(*tensors, attn_mask=mask, **options)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return output.detach(), *(tensor.grad for tensor in tensors)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("at_a_time", [1, B * H * 2 * V * 15, 10**9])
def test_outputs_and_gradients_are_those_of_the_fused_kernel(
    attended, at_a_time, scale, monkeypatch
):
    monkeypatch.setattr(block_attention, "SCORES_AT_A_TIME", at_a_time)
    tensors, mask, ends = attended
    output, *expected = results(tensors, mask, scale=scale)
    with BlockAttention(mask, ends, V):
        grouped, *gradients = results(tensors, mask, scale=scale)
    torch.testing.assert_close(grouped, output, atol=1e-12, rtol=1e-12)
    for actual, wanted, own in zip(gradients, expected, (0, T, T), strict=True):
        torch.testing.assert_close(actual[:, :, own:], wanted[:, :, own:], atol=1e-12, rtol=1e-12)
        assert not actual[:, :, :own].any()  # the text does not learn


def test_groups_see_no_more_of_the_text_than_their_blocks(attended, monkeypatch):
    monkeypatch.setattr(block_attention, "SCORES_AT_A_TIME", 1)
    tensors, mask, ends = attended
    attention = BlockAttention(mask, ends, V)
    with attention:
        results(tensors, mask)
    assert [group.num_text for group in attention._groups] == ends.amax(0).tolist()
    assert all(group.mask.size(3) == group.num_text + V for group in attention._groups)


def test_under_autocast_it_is_as_exact_as_the_fused_kernel(attended):
    tensors, mask, ends = attended
    exact = results(tensors, mask)
    tensors, mask = [tensor.float() for tensor in tensors], mask.float()
    with torch.autocast("cpu", torch.bfloat16):
        fused = results(tensors, mask)
        with BlockAttention(mask, ends, V):
            grouped = results(tensors, mask)
    assert grouped[0].dtype == fused[0].dtype == torch.bfloat16
    for wanted, theirs, ours, own in zip(exact, fused, grouped, (0, 0, T, T), strict=True):
        assert ours.dtype == theirs.dtype
        wanted, theirs, ours = (x[:, :, own:].double() for x in (wanted, theirs, ours))
        assert (ours - wanted).norm() < 1.5 * (theirs - wanted).norm() + 1e-3 * wanted.norm()


def test_other_calls_are_left_alone(attended):
    (query, key, value), mask, ends = attended
    attention = BlockAttention(mask, ends, V)
    with attention:
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask.clone())
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=0.5)
        few = key[:, :1], value[:, :1]
        F.scaled_dot_product_attention(query, *few, attn_mask=mask, enable_gqa=True)
        ours = threading.Thread(target=results, args=((query, key, value), mask))
        ours.start()
        ours.join()
    assert not attention._groups


def test_users_who_share_texts_are_learnt_from_so(monkeypatch):
    calls = []

    def noted(*arguments):
        calls.append(arguments)
        return BlockAttention(*arguments)

    monkeypatch.setattr(beginnings, "BlockAttention", noted)
    lm, (text, rows, lengths, tokens) = llama(), shared_texts()
    assert can_share(lm, 13)

    def states():
        return read_beginnings(lm, text, rows, lengths, tokens, num_read=1)

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fused = states()
    exact = states()
    assert not calls  # reading, and in full precision, the fused kernel is faster
    with torch.autocast("cpu", torch.bfloat16):
        grouped = states()
    assert len(calls) == 1
    error, theirs = (grouped - exact).norm(), (fused - exact).norm()
    assert error < 1.5 * theirs
