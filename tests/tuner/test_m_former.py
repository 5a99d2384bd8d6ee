import pytest
import torch

from laser_peft.losses import router_balance_loss
from laser_peft.tuner.experts import ExpertFeedForward, Router
from laser_peft.tuner.m_former import MFormer

B, L, C, P, E, M, D = 3, 5, 7, 11, 4, 8, 13


def make_m_former(num_experts_per_user=2, **changes):
    sizes = {
        "num_prefix_tokens": P,
        "collaborative_dim": C,
        "dim": M,
        "lm_dim": D,
        "num_layers": 3,
        "num_heads": 2,
        "hidden_dim": 17,
        "cross_attention_frequency": 2,
        "moe": "ffn",
        "num_experts": E,
        "num_experts_per_user": num_experts_per_user,
        "dropout": 0.0,
        "output_scale": 0.3,
    }
    torch.manual_seed(0)
    return MFormer(**sizes | changes)


@pytest.fixture(params=["ffn", "query", "none"])
def m_former(request):
    return make_m_former(moe=request.param)


@pytest.fixture
def states():
    return torch.randn(B, L, C)


FULL = torch.ones(B, L, dtype=torch.bool)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_vote(m_former, states, side):
    parts = [torch.full((B, 3, C), torch.nan), states]
    masks = [torch.zeros(B, 3, dtype=torch.bool), FULL]
    if side == "right":
        parts.reverse()
        masks.reverse()
    plain = m_former(states, FULL)
    padded = m_former(torch.cat(parts, 1), torch.cat(masks, 1))
    torch.testing.assert_close(padded.prefix, plain.prefix)
    if m_former.moe != "none":
        torch.testing.assert_close(padded.router_probs, plain.router_probs)
        assert torch.equal(padded.router_chosen, plain.router_chosen)


def test_batch_mates_do_not_matter(m_former, states):
    alone = m_former(states[1:2], FULL[1:2])
    together = m_former(states, FULL)
    torch.testing.assert_close(alone.prefix[0], together.prefix[1])


def test_history_changes_the_prefix(m_former, states):
    assert not torch.allclose(m_former(states, FULL).prefix, m_former(states + 1, FULL).prefix)


@pytest.mark.parametrize("length", [0, L])
def test_user_without_history_is_no_special_case(m_former, length):
    mask = torch.zeros(B, length, dtype=torch.bool)
    output = m_former(torch.randn(B, length, C), mask)
    assert output.prefix.isfinite().all()
    torch.testing.assert_close(output.prefix[0], output.prefix[1])  # nothing to tell them apart


@pytest.mark.parametrize("k", [1, 2, E])
def test_router_weights_sum_to_one_over_k_experts(states, k):
    router = Router(dim=C, num_experts=E, num_experts_per_user=k)
    weights, probs, chosen = router(states, FULL)
    torch.testing.assert_close(weights.sum(1), torch.ones(B))
    assert torch.equal((weights > 0).sum(1), torch.full((B,), k))
    assert torch.equal(weights > 0, chosen)
    torch.testing.assert_close((probs * chosen).sum(1), probs.topk(k).values.sum(1))


@pytest.mark.parametrize("moe", ["ffn", "query"])
@pytest.mark.parametrize("k", [1, 2])
def test_router_learns_from_the_prefix_alone(states, moe, k):
    m_former = make_m_former(moe=moe, num_experts_per_user=k)
    m_former(states, FULL).prefix.square().sum().backward()
    # Without the constant in the scaling, what is left at k = 1 is rounding noise below 1e-6.
    assert m_former.router.gate.weight.grad.abs().max() > 1e-4


def test_every_parameter_learns_when_all_experts_are_picked(states, m_former):
    m_former = make_m_former(moe=m_former.moe, num_experts_per_user=E)
    m_former(states, FULL).prefix.square().sum().backward()
    without = [
        name for name, p in m_former.named_parameters() if p.grad is None or not p.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("moe", ["ffn", "query"])
def test_order_of_experts_does_not_matter(states, moe):
    m_former = make_m_former(moe=moe)
    before = m_former(states, FULL)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        m_former.router.gate.weight.copy_(m_former.router.gate.weight[order])
        if moe == "query":
            m_former.queries.copy_(m_former.queries[order])
        else:
            for block in m_former.blocks:
                for parameter in block.experts.parameters():
                    parameter.copy_(parameter[order])
    after = m_former(states, FULL)
    torch.testing.assert_close(after.prefix, before.prefix)
    torch.testing.assert_close(after.router_probs, before.router_probs[:, order])


@pytest.mark.parametrize("k", [1, 3])
def test_query_experts_equal_a_loop_over_users_and_sets(states, k):
    """Each chosen set alone in an M-Former without a mixture, weighed by the router."""
    m_former = make_m_former(moe="query", num_experts_per_user=k)
    actual = m_former(states, FULL)
    alone = make_m_former(moe="none")
    shared = {n: v for n, v in m_former.state_dict().items() if "router" not in n}
    for user in range(B):
        picked = actual.router_probs[user] * actual.router_chosen[user]
        expected = 0
        for index in actual.router_chosen[user].nonzero().flatten():
            alone.load_state_dict(shared | {"queries": m_former.queries[index : index + 1]})
            own = alone(states[user : user + 1], FULL[:1]).prefix[0]
            expected = expected + picked[index] / picked.sum() * own
        torch.testing.assert_close(actual.prefix[user], expected)


def test_one_expert_equals_no_mixture(states):
    one = make_m_former(num_experts=1, num_experts_per_user=1)
    none = make_m_former(moe="none")
    none.load_state_dict({n: v for n, v in one.state_dict().items() if "router" not in n})
    torch.testing.assert_close(one(states, FULL).prefix, none(states, FULL).prefix)


def test_experts_equal_a_loop_over_users():
    experts = ExpertFeedForward(dim=M, hidden_dim=17, num_experts=E)
    queries, weights = torch.randn(B, P, M), torch.rand(B, E)
    expected = torch.stack(
        [
            sum(
                weights[user, e]
                * (
                    torch.nn.functional.gelu(
                        queries[user] @ experts.weight_in[e] + experts.bias_in[e]
                    )
                    @ experts.weight_out[e]
                    + experts.bias_out[e]
                )
                for e in range(E)
            )
            for user in range(B)
        ]
    )
    torch.testing.assert_close(experts(queries, weights), expected)


def test_dropout_is_at_work_in_training_only(states):
    m_former = make_m_former(dropout=0.5)
    attention = m_former.blocks[0].self_attention
    queries = torch.randn(B, P, M)
    for module, inputs in ((m_former, (states, FULL)), (attention, (queries, queries))):
        one, two = (module.train()(*inputs)[0] for _ in range(2))
        assert not torch.equal(one, two)
        one, two = (module.eval()(*inputs)[0] for _ in range(2))
        assert torch.equal(one, two)


def test_prefix_starts_at_the_scale_asked_for():
    m_former = make_m_former(dim=64, lm_dim=512, output_scale=0.3)
    std = m_former(torch.randn(B, L, C), FULL).prefix.std().item()
    assert std == pytest.approx(0.3, rel=0.1)


def test_balance_is_one_when_even_and_e_when_one_expert_takes_all():
    even = torch.full((E, E), 1 / E)
    one = torch.zeros(B, E)
    one[:, 2] = 1
    assert router_balance_loss(even, torch.eye(E, dtype=torch.bool)).item() == pytest.approx(1)
    assert router_balance_loss(one, one.bool()).item() == pytest.approx(E)


def test_without_frequency_blocks_do_not_read_history():
    reads = [block.reads_history for block in make_m_former().blocks]
    assert reads == [True, False, True]
