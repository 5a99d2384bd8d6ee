import math

import numpy as np
import pytest
import torch

from laser_peft.evaluation import (
    MISS,
    PROTOCOLS,
    DotProducts,
    hr_at,
    mrr_at,
    ndcg_at,
    ranks_of_scores,
    ranks_of_targets,
)

USERS, ITEMS, WIDTH, LENGTH = 13, 29, 5, 7
CHUNKS = [1, 2, 3, 7, 28, 29, 30, 8192]
NOTHING = torch.zeros(1, 1, dtype=torch.int64)


def reference_rank(scores, target, hidden=()):
    """Sort what may be shown by score, the target last among equals, and look it up."""
    items = [item for item in range(1, len(scores) + 1) if item not in hidden]
    return sorted(items, key=lambda item: (-scores[item - 1], item == target)).index(target)


def draw(*, ties):
    generator = torch.Generator().manual_seed(1)
    user_vectors = torch.randn(USERS, WIDTH, generator=generator)
    item_vectors = torch.randn(ITEMS, WIDTH, generator=generator)
    if ties:
        user_vectors, item_vectors = user_vectors.sign(), item_vectors.sign()
    targets = torch.randint(1, ITEMS + 1, (USERS,), generator=generator)
    # Drawn with repeats, padding in between, and now and then the target itself.
    seen = torch.randint(0, ITEMS + 1, (USERS, LENGTH), generator=generator)
    seen[0, 2], seen[1, :] = targets[0], 0
    seen[2, :4] = seen[2, 4]
    return user_vectors, item_vectors, targets, seen


@pytest.mark.parametrize("chunk_items", CHUNKS)
@pytest.mark.parametrize("ties", [False, True])
def test_ranks_equal_a_plain_reference_for_every_chunk(ties, chunk_items):
    user_vectors, item_vectors, targets, seen = draw(ties=ties)
    ranks = ranks_of_targets(user_vectors, item_vectors, targets, seen, chunk_items=chunk_items)
    scores = (user_vectors.double() @ item_vectors.double().T).float().numpy()
    misses = 0
    for user in range(USERS):
        target, had = int(targets[user]), set(seen[user].tolist()) - {0}
        assert ranks[user, 0] == reference_rank(scores[user], target)
        expected = MISS if target in had else reference_rank(scores[user], target, had)
        assert ranks[user, 1] == expected
        misses += target in had
    assert 0 < misses < USERS


@pytest.mark.parametrize("width", [1, 17, 64, 131])
@pytest.mark.parametrize("chunk_items", [1, 5, 16, 31, 100, 500, 997])
def test_identical_items_are_ties_wherever_the_chunks_end(width, chunk_items):
    """A float32 product gives equal columns unequal last bits, by their place in the matrix."""
    items, target = 997, 8
    item_vectors = torch.randn(items, width)
    item_vectors[500:600] = item_vectors[-13:] = item_vectors[target - 1]
    user_vectors = torch.randn(3, width)
    ranks = ranks_of_targets(
        user_vectors,
        item_vectors,
        torch.full((3,), target),
        torch.zeros(3, 1, dtype=torch.int64),
        chunk_items=chunk_items,
    )
    for user, row in zip(user_vectors.double(), ranks[:, 0].tolist(), strict=True):
        exact = [math.fsum((user * item).tolist()) for item in item_vectors.double()]
        better = sum(score > exact[target - 1] for score in exact)
        assert row == better + 113


def test_the_score_of_an_item_is_the_same_alone_and_in_any_chunk():
    user_vectors, item_vectors = torch.randn(11, 67), torch.randn(101, 67)
    scores = DotProducts(user_vectors, item_vectors)
    whole = scores.of_range(0, 101)
    assert torch.equal(torch.cat([scores.of_range(0, 37), scores.of_range(37, 101)], 1), whole)
    for item in (1, 37, 38, 101):
        assert torch.equal(scores.of_items(torch.full((11,), item)), whole[:, item - 1])


def test_scores_under_autocast_are_those_without():
    user_vectors, item_vectors, targets, seen = draw(ties=False)
    plain = ranks_of_targets(user_vectors, item_vectors, targets, seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ranks_of_targets(user_vectors, item_vectors, targets, seen), plain)


def test_no_more_than_a_chunk_is_scored_at_a_time():
    asked = []

    class Watched(DotProducts):
        def of_range(self, start, stop):
            asked.append((start, stop))
            return super().of_range(start, stop)

    user_vectors, item_vectors, targets, seen = draw(ties=False)
    ranks_of_scores(Watched(user_vectors, item_vectors), ITEMS, targets, seen, chunk_items=11)
    assert asked == [(0, 11), (11, 22), (22, 29)]


def test_a_tie_counts_against_the_target():
    ranks = ranks_of_targets(torch.ones(1, 2), torch.ones(5, 2), torch.tensor([1]), NOTHING)
    assert ranks.tolist() == [[4, 4]]


def test_masking_takes_out_what_was_seen_and_padding_hides_nothing():
    items = torch.tensor([[3.0], [2.0], [1.0]])
    user, target = torch.ones(1, 1), torch.tensor([3])
    ranks = ranks_of_targets(user, items, target, torch.tensor([[1, 0, 0]]))
    assert dict(zip(PROTOCOLS, ranks[0].tolist(), strict=True)) == {"unmasked": 2, "masked": 1}


def test_an_item_seen_twice_is_taken_out_once():
    items = torch.tensor([[3.0], [2.0], [1.0]])
    seen = torch.tensor([[1, 0, 1, 1]])
    ranks = ranks_of_targets(torch.ones(1, 1), items, torch.tensor([3]), seen)
    assert ranks.tolist() == [[2, 1]]


def test_a_target_seen_before_is_a_miss_when_masked():
    items = torch.tensor([[3.0], [2.0], [1.0]])
    ranks = ranks_of_targets(torch.ones(1, 1), items, torch.tensor([1]), torch.tensor([[1]]))
    assert ranks.tolist() == [[0, MISS]]
    for metric in (hr_at, ndcg_at, mrr_at):
        assert metric(10, ranks[:, 1].numpy()).tolist() == [0.0]


def test_users_without_anything_seen_have_one_rank():
    user_vectors, item_vectors, targets, seen = draw(ties=False)
    ranks = ranks_of_targets(user_vectors, item_vectors, targets, seen[:, :0])
    assert np.array_equal(ranks[:, 0], ranks[:, 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("chunk_items", [1, 2, 3])
def test_scores_that_are_no_numbers_never_win(value, chunk_items):
    items = torch.ones(3, 2)
    items[2] = value  # not the target's
    with pytest.raises(ValueError, match="scores must be finite"):
        ranks_of_targets(
            torch.full((1, 2), 1e3), items, torch.tensor([1]), NOTHING, chunk_items=chunk_items
        )
