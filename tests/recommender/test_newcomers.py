"""Users of whom nothing is known are recommended what was had most often."""

import numpy as np
import pytest
import torch
from conftest import NUM_ITEMS
from recommenders import make_recommender

from laser_peft.recommender.best import Shelf, best_items
from laser_peft.recommender.newcomers import best_or_most_had

N, R = 9, 4
EVENTS = torch.tensor([3, 0, 7, 7, 1, 0, 9, 2, 5])
MOST_HAD = [7, 3, 4, 9, 1, 8, 5, 2, 6]  # of equal counts the lower dense id


@pytest.fixture
def vectors():
    return torch.randn(N, R, generator=torch.Generator().manual_seed(0))


def found(users, shelf, left_out=None, events=EVENTS, k=N):
    return best_or_most_had(users, shelf, k, left_out=left_out, events=lambda: events)


def test_batch_mates_of_a_newcomer_are_found_as_without(vectors):
    users = torch.randn(5, R, generator=torch.Generator().manual_seed(1))
    users[[1, 4]] = 0
    left_out = [np.array([row + 1]) for row in range(5)]
    best = found(users, Shelf(vectors), left_out)
    expected = best_items(users, Shelf(vectors), N, left_out=left_out)
    assert [best[row] for row in (0, 2, 3)] == [expected[row] for row in (0, 2, 3)]
    for row in (1, 4):
        assert best[row] == [(i, float(EVENTS[i - 1])) for i in MOST_HAD if i != row + 1]


@pytest.mark.parametrize("allowed", [[3, 5, 7], [5, 9]])  # by a mask, and on a table of their own
def test_only_what_is_offered_is_found(vectors, allowed):
    shelf = Shelf.of(vectors, np.isin(np.arange(1, N + 1), allowed))
    assert (shelf.ids is None) == (len(allowed) > N // 4)
    (best,) = found(torch.zeros(1, R), shelf)
    assert best == [(i, float(EVENTS[i - 1])) for i in MOST_HAD if i in allowed]


def test_counts_are_exact_whatever_the_vectors_are_kept_in(vectors):
    many = torch.tensor([1000, 1003, 1001, 100_000, 0, 0, 0, 0, 0])
    for dtype in (torch.bfloat16, torch.float16):
        (best,) = found(torch.zeros(1, R, dtype=dtype), Shelf(vectors.to(dtype)), events=many, k=4)
        assert best == [(4, 100_000.0), (2, 1003.0), (3, 1001.0), (1, 1000.0)]


def test_an_index_of_vectors_is_not_asked_for_counts(vectors):
    shelf = Shelf(vectors, index=object())
    (best,) = found(torch.zeros(1, R), shelf, k=2)
    assert [item for item, _ in best] == MOST_HAD[:2]


def test_where_nobody_counted_the_order_is_the_catalogue_s(vectors):
    (best,) = found(torch.zeros(1, R), Shelf(vectors), events=None, k=3)
    assert best == [(1, 0.0), (2, 0.0), (3, 0.0)]


def test_counts_are_not_asked_for_where_all_are_known(vectors):
    def never():
        raise AssertionError

    users = torch.ones(2, R)
    best = best_or_most_had(users, Shelf(vectors), 2, left_out=None, events=never)
    assert best == best_items(users, Shelf(vectors), 2)


def test_a_new_user_of_a_recommender(lm_folder, encoder_folder, shop, tokenizer):
    made = make_recommender(lm_folder, encoder_folder, shop, tokenizer, "fused")
    read = made.recommend([], k=3)
    assert any(item.score for item in read)
    made.model.base_model.set_view_weights(correction=0.0)
    most_had = [f"i{n}" for n in range(NUM_ITEMS - 1, 0, -1)]  # i7 and i0 were never had
    most_had = [*(name for name in most_had if name != "i7"), "i0", "i7"]
    best = made.recommend([], k=NUM_ITEMS)
    assert [item.item_id for item in best] == most_had
    assert best[0].score == NUM_ITEMS - 1
    assert made.session().recommend(k=2) == best[:2]
    known, new = made.recommend_many([["i3"], []], k=4)
    assert [item.item_id for item in known] == [
        item.item_id for item in made.recommend(["i3"], k=4)
    ]
    assert new == best[:4]


def test_items_that_nobody_counted_are_told_from_those_that_nobody_had(
    lm_folder, encoder_folder, shop, tokenizer
):
    ids = make_recommender(lm_folder, encoder_folder, shop, tokenizer, "collaborative")
    assert ids.model.base_model.item_events() is None
    fused = make_recommender(lm_folder, encoder_folder, shop, tokenizer, "fused").model.base_model
    assert fused.item_events().tolist() == [0, *range(1, 7), 0, *range(8, NUM_ITEMS)]
    vectors = fused.layer.bituning_adapters["default"].items.of_text()
    fused.set_item_text_vectors(vectors)
    fused.add_item_text_vectors(vectors[:2])
    assert fused.item_events() is None
