import numpy as np
import pytest
import torch

from laser_peft.evaluation import (
    PROTOCOLS,
    hr_at,
    mrr_at,
    ndcg_at,
    paired_bootstrap,
    ranks_of_targets,
    summarise,
)
from laser_peft.evaluation.ranking import MISS


def test_metrics_are_the_fractions_worked_by_hand():
    ranks = np.array([0, 3, 9, 10, 20])
    assert hr_at(10, ranks).mean() == 3 / 5
    assert hr_at(5, ranks).mean() == 2 / 5
    assert ndcg_at(10, ranks).mean() == pytest.approx(
        (1 + 1 / np.log2(5) + 1 / np.log2(11)) / 5, abs=1e-12
    )
    assert mrr_at(10, ranks).mean() == pytest.approx((1 + 1 / 4 + 1 / 10) / 5, abs=1e-12)
    assert summarise(ranks, [20])["hr@20"] == 4 / 5


def reference_rank(scores, target, hidden=()):
    """Sort what may be shown by score, the target last among equals, and look it up."""
    items = [item for item in range(1, len(scores) + 1) if item not in hidden]
    return sorted(items, key=lambda item: (-scores[item - 1], item == target)).index(target)


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_equal_a_five_line_reference(ties):
    generator = torch.Generator().manual_seed(1)
    users, items, width, length = 13, 29, 5, 7
    user_vectors = torch.randn(users, width, generator=generator)
    item_vectors = torch.randn(items, width, generator=generator)
    if ties:
        user_vectors, item_vectors = user_vectors.sign(), item_vectors.sign()
    targets = torch.randint(1, items + 1, (users,), generator=generator)
    seen = torch.randint(0, items + 1, (users, length), generator=generator)
    ranks = ranks_of_targets(user_vectors, item_vectors, targets, seen)
    scores = (user_vectors @ item_vectors.T).numpy()
    for user in range(users):
        target, had = int(targets[user]), set(seen[user].tolist()) - {0}
        assert ranks[user, 0] == reference_rank(scores[user], target)
        expected = MISS if target in had else reference_rank(scores[user], target, had)
        assert ranks[user, 1] == expected


def test_a_tie_counts_against_the_target():
    same = torch.ones(1, 2)
    ranks = ranks_of_targets(same, torch.ones(5, 2), torch.tensor([1]), torch.zeros(1, 1).long())
    assert ranks.tolist() == [[4, 4]]


def test_masking_takes_out_what_was_seen_and_padding_hides_nothing():
    items = torch.tensor([[3.0], [2.0], [1.0]])
    user, target = torch.ones(1, 1), torch.tensor([3])
    ranks = ranks_of_targets(user, items, target, torch.tensor([[1, 0, 0]]))
    assert dict(zip(PROTOCOLS, ranks[0].tolist(), strict=True)) == {"unmasked": 2, "masked": 1}


def test_a_target_seen_before_is_a_miss_when_masked():
    items = torch.tensor([[3.0], [2.0], [1.0]])
    ranks = ranks_of_targets(torch.ones(1, 1), items, torch.tensor([1]), torch.tensor([[1]]))
    assert ranks.tolist() == [[0, MISS]]
    for metric in (hr_at, ndcg_at, mrr_at):
        assert metric(10, ranks[:, 1].numpy()).tolist() == [0.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_never_win(value):
    users = torch.full((1, 2), value)
    with pytest.raises(ValueError, match="scores must be finite"):
        ranks_of_targets(users, torch.ones(3, 2), torch.tensor([1]), torch.zeros(1, 1).long())


def test_bootstrap_interval_is_that_of_resampled_users():
    generator = np.random.default_rng(0)
    first = generator.integers(0, 2, 400).astype(float)
    second = generator.integers(0, 2, 400).astype(float)
    plain = [(second - first)[generator.integers(0, 400, 400)].mean() for _ in range(4000)]
    difference = paired_bootstrap(first, second)
    assert difference.mean == pytest.approx((second - first).mean())
    assert difference.low == pytest.approx(np.quantile(plain, 0.025), abs=0.01)
    assert difference.high == pytest.approx(np.quantile(plain, 0.975), abs=0.01)
    assert paired_bootstrap(first, second) == difference


def test_no_users_and_unequal_users_are_refused():
    with pytest.raises(ValueError, match="no users"):
        summarise(np.array([], dtype=int))
    with pytest.raises(ValueError, match=r"the same users twice, got shapes \(2,\) and \(3,\)"):
        paired_bootstrap(np.zeros(2), np.zeros(3))
