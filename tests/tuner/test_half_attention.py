"""Attention that is written out, a group of queries at a time, is that of the fused kernel."""

import threading

import pytest
import torch
import torch.nn.functional as F
from adapters import make_batch, make_model

from laser_peft.tuner import beginnings, half_attention, reading
from laser_peft.tuner.beginnings import _mask
from laser_peft.tuner.half_attention import BlockAttention, CausalAttention
from laser_peft.tuner.trimming import can_trim

B, H, T, K, V, D = 3, 2, 11, 5, 4, 8
Q = K * V


@pytest.fixture
def attended():
    """Queries, keys and values in double precision, their mask, and what each block sees."""
    generator = torch.Generator().manual_seed(0)
    shapes = (B, H, Q, D), (B, H, T + Q, D), (B, H, T + Q, D + 1)
    tensors = [torch.randn(shape, generator=generator).double() for shape in shapes]
    # In no order, with a block that sees no text, and places that nobody takes, as pads have.
    ends = torch.tensor([[3, 7, 2, 11, 5], [0, 4, 9, 0, 0], [1, 1, 6, 8, 0]])
    return tensors, _mask(ends, T, V, torch.float64), ends


def results(tensors, mask, **options):
    tensors = [tensor.clone().requires_grad_() for tensor in tensors]
    output = F.scaled_dot_product_attention(*tensors, attn_mask=mask, **options)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return output.detach(), *(tensor.grad for tensor in tensors)


@pytest.mark.parametrize("key_heads", [1, H])
@pytest.mark.parametrize("at_a_time", [1, 4, Q, 10**9])
def test_causal_attention_is_that_of_the_fused_kernel(attended, at_a_time, key_heads, monkeypatch):
    monkeypatch.setattr(half_attention, "CAUSAL_QUERIES", at_a_time)
    query, key, value = attended[0]
    tensors = query, key[:, :key_heads, :Q], value[:, :key_heads, :Q]
    options = {"is_causal": True, "enable_gqa": key_heads < H}
    expected = results(tensors, None, **options)
    with CausalAttention() as mode:
        grouped = results(tensors, None, **options)
    assert mode._groups
    for actual, wanted in zip(grouped, expected, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-12, rtol=1e-12)


def test_causal_calls_of_other_kinds_are_left_alone(attended, monkeypatch):
    (query, key, value), mask, _ = attended
    own = query, key[:, :, :Q], value[:, :, :Q]
    with CausalAttention() as mode:
        results(own, None)
        results((query, key, value), mask)
        results(own, None, is_causal=True, dropout_p=0.5)
    assert not mode._groups
    expected = results([tensor[:, :, :6] for tensor in own], None, is_causal=True)
    with CausalAttention() as mode:
        results(own, None, is_causal=True)
        shorter = results([tensor[:, :, :6] for tensor in own], None, is_causal=True)
    for actual, wanted in zip(shorter, expected, strict=True):
        assert torch.equal(actual, wanted)  # the groups are for the first length
    monkeypatch.setattr(half_attention, "LONGEST_CAUSAL", Q - 1)
    with CausalAttention() as mode:
        results(own, None, is_causal=True)
    assert not mode._groups


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("at_a_time", [1, B * H * 2 * V * 15, 10**9])
def test_outputs_and_gradients_are_those_of_the_fused_kernel(
    attended, at_a_time, scale, monkeypatch
):
    monkeypatch.setattr(half_attention, "SCORES_AT_A_TIME", at_a_time)
    tensors, mask, ends = attended
    output, *expected = results(tensors, mask, scale=scale)
    with BlockAttention(mask, ends, V):
        grouped, *gradients = results(tensors, mask, scale=scale)
    torch.testing.assert_close(grouped, output, atol=1e-12, rtol=1e-12)
    for actual, wanted, own in zip(gradients, expected, (0, T, T), strict=True):
        torch.testing.assert_close(actual[:, :, own:], wanted[:, :, own:], atol=1e-12, rtol=1e-12)
        assert not actual[:, :, :own].any()  # the text does not learn


def test_groups_see_no_more_of_the_text_than_their_blocks(attended, monkeypatch):
    monkeypatch.setattr(half_attention, "SCORES_AT_A_TIME", 1)
    tensors, mask, ends = attended
    attention = BlockAttention(mask, ends, V)
    with attention:
        results(tensors, mask)
    assert [group.num_fixed for group in attention._groups] == ends.amax(0).tolist()
    assert all(group.mask.size(3) == group.num_fixed + V for group in attention._groups)


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
        F.scaled_dot_product_attention(query, key[:, :1], value[:, :1], attn_mask=mask)
        ours = threading.Thread(target=results, args=((query, key, value), mask))
        ours.start()
        ours.join()
    assert not attention._groups


def noting(mode, made):
    def make(*arguments):
        made.append(mode(*arguments))
        return made[-1]

    return make


@pytest.mark.parametrize("layout", ["prefix_first", "text_first"])
def test_a_user_is_learnt_from_so_in_half_precision(llama, encoder_folder, layout, monkeypatch):
    modes = []
    for module, mode in ((reading, CausalAttention), (beginnings, BlockAttention)):
        monkeypatch.setattr(module, mode.__name__, noting(mode, modes))
    model, batch = make_model(llama, encoder_folder, layout=layout).eval(), make_batch()
    labels = torch.tensor([1, 2, 3])
    exact = model(**batch, labels=labels)
    assert not modes
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            fused = model(**batch, labels=labels)
        assert not modes
        learnt = model(**batch, labels=labels)
    assert any(mode._groups for mode in modes)
    error = (learnt.user_vectors - exact.user_vectors).norm()
    assert error < 2 * (fused.user_vectors - exact.user_vectors).norm()


def test_compiled_layers_are_called_as_they_are(llama, encoder_folder, monkeypatch):
    modes = []
    monkeypatch.setattr(reading, "CausalAttention", noting(CausalAttention, modes))
    model, batch = make_model(llama, encoder_folder, layout="prefix_first"), make_batch()
    assert can_trim(llama)
    for layer in llama.model.layers:
        layer._compiled_call_impl = layer._call_impl  # what Module.compile sets
    assert not can_trim(llama)
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch, labels=torch.tensor([1, 2, 3])).loss.backward()
    assert not modes
