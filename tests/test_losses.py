import pytest
import torch
import torch.nn.functional as F

from laser_peft.losses import catalogue_cross_entropy, sampled_cross_entropy

B, N, R = 5, 31, 7


@pytest.mark.parametrize(("users", "num_items"), [(1, N), (B, N), (131, 2503)])
@pytest.mark.parametrize("trainable_items", [False, True])
def test_loss_and_gradients_are_the_plain_ones(users, num_items, trainable_items):
    """The last size is worked through in blocks."""
    vectors = torch.randn(users, R, requires_grad=True)
    table = torch.randn(num_items + 1, R, requires_grad=trainable_items)
    labels = torch.randint(1, num_items + 1, (users,))

    def value_and_gradients(value):
        wanted = [vectors, table] if trainable_items else [vectors]
        return [value, *torch.autograd.grad(value, wanted)]

    plain = F.cross_entropy(vectors @ table[1:].T, labels - 1)
    loss = catalogue_cross_entropy(vectors, table[1:], labels)
    torch.testing.assert_close(value_and_gradients(loss), value_and_gradients(plain))
    with torch.no_grad():
        torch.testing.assert_close(catalogue_cross_entropy(vectors, table[1:], labels), plain)


@pytest.mark.parametrize("label", [0, -99, N + 1])
def test_labels_outside_the_catalogue_are_refused(label):
    with pytest.raises(ValueError, match=rf"item ids in 1..{N} \(0 is padding\), got \[{label}\]"):
        catalogue_cross_entropy(torch.randn(2, R), torch.randn(N, R), torch.tensor([1, label]))


def test_loss_of_half_precision_vectors_is_float32():
    vectors = torch.randn(3, R, dtype=torch.bfloat16, requires_grad=True)
    loss = catalogue_cross_entropy(vectors, torch.randn(N, R), torch.tensor([1, 2, N]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert vectors.grad.dtype == torch.bfloat16


def test_all_other_items_as_negatives_are_the_whole_softmax():
    """Each other item once, the label itself drawn too and left out: nothing is estimated."""
    users, items = torch.randn(B, R), torch.randn(N, R)
    labels = torch.randint(1, N + 1, (B,))
    sampled = sampled_cross_entropy(users, items, labels, torch.arange(1, N + 1))
    torch.testing.assert_close(sampled, F.cross_entropy(users @ items.T, labels - 1))


def test_a_sample_estimates_the_sum_over_the_catalogue():
    """By hand: exp of the loss is (e^s_label + (N - 1) / K * sum of e^s_k) / e^s_label."""
    users, items = torch.randn(1, R), torch.randn(N, R)
    scores = (users @ items.T)[0].exp()
    loss = sampled_cross_entropy(users, items, torch.tensor([5]), torch.tensor([1, 7, 7, 5]))
    # 5 is the label: three draws stand for the N - 1 other items.
    others = (N - 1) / 3 * (scores[0] + 2 * scores[6])
    torch.testing.assert_close(loss, ((scores[4] + others) / scores[4]).log())


def test_a_sample_of_labels_alone_still_has_a_loss():
    users, items = torch.randn(2, R), torch.randn(N, R)
    loss = sampled_cross_entropy(users, items, torch.tensor([5, 5]), torch.tensor([5, 5]))
    assert loss == 0


def test_what_a_user_has_had_does_not_compete():
    """The label does, had or not; the sample stands for the items that are left."""
    users, items = torch.randn(2, R), torch.randn(N, R)
    labels, seen = torch.tensor([5, 2]), torch.tensor([[1, 3, 3, 0], [2, 4, 0, 0]])
    everything = torch.arange(1, N + 1)
    scores = users @ items.T
    scores[[0, 0, 1], [0, 2, 3]] = -torch.inf
    loss = sampled_cross_entropy(users, items, labels, everything, seen)
    torch.testing.assert_close(loss, F.cross_entropy(scores, labels - 1))
    few = sampled_cross_entropy(users, items, labels, torch.tensor([1, 4, 7, 7]), seen)
    left = [torch.cat([scores[0, [3]], scores[0, [6, 6]]]), torch.cat([scores[1, [0, 6, 6]]])]
    others = [(N - 1 - had) / 3 * row.exp().sum() for had, row in zip((2, 1), left, strict=True)]
    own = scores[[0, 1], labels - 1].exp()
    torch.testing.assert_close(few, ((own + torch.stack(others)) / own).log().mean())


def test_what_is_had_is_found_in_any_order_and_once():
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(N, R, generator=generator)
    for _ in range(20):
        users = torch.randn(B, R, generator=generator)
        labels = torch.randint(1, 9, (B,), generator=generator)
        drawn = torch.randint(1, 9, (7,), generator=generator)
        seen = torch.randint(0, 9, (B, 6), generator=generator)
        losses = []
        for user, label, had in zip(users, labels.tolist(), seen.tolist(), strict=True):
            others = set(had) - {0, label}
            left = [item for item in drawn.tolist() if item not in others | {label}]
            scores = torch.stack([user @ items[item - 1] for item in [label, *left]])
            stands_for = (N - 1 - len(others)) / max(len(left), 1)
            scores[1:] += torch.tensor(stands_for).log()
            losses.append(scores.logsumexp(0) - scores[0])
        loss = sampled_cross_entropy(users, items, labels, drawn, seen)
        torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_a_user_who_has_had_everything_still_has_a_loss():
    users = torch.randn(1, R, requires_grad=True)
    everything = torch.arange(1, N + 1)
    label = torch.tensor([5])
    loss = sampled_cross_entropy(users, torch.randn(N, R), label, everything, everything[None])
    loss.backward()
    assert loss == 0
    assert not users.grad.any()


@pytest.mark.parametrize("trained", [True, False])
def test_autocast_does_not_reach_the_scores(trained):
    users, items = torch.randn(B, R, requires_grad=trained), torch.randn(N, R)
    labels, drawn = torch.randint(1, N + 1, (B,)), torch.randint(1, N + 1, (3,))
    plain = catalogue_cross_entropy(users, items, labels)
    sampled = sampled_cross_entropy(users, items, labels, drawn)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(catalogue_cross_entropy(users, items, labels), plain)
        assert torch.equal(sampled_cross_entropy(users, items, labels, drawn), sampled)


@pytest.mark.parametrize("negative", [0, N + 1])
def test_negatives_outside_the_catalogue_are_refused(negative):
    with pytest.raises(ValueError, match=rf"negatives must be .* in 1..{N} .* got \[{negative}\]"):
        sampled_cross_entropy(
            torch.randn(1, R), torch.randn(N, R), torch.tensor([1]), torch.tensor([1, negative])
        )


def test_sampled_labels_are_checked():
    with pytest.raises(ValueError, match=rf"labels must be item ids in 1..{N} .* got \[0\]"):
        sampled_cross_entropy(
            torch.randn(1, R), torch.randn(N, R), torch.tensor([0]), torch.tensor([1])
        )
