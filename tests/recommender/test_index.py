"""An approximate index names candidates; what comes out is exact, or found by looking at all."""

import sys

import numpy as np
import pytest
import torch
from recommenders import ids, make_recommender

from laser_peft.recommender import best
from laser_peft.recommender.best import Shelf, best_items, recall_of

B, N, R = 5, 499, 7


@pytest.fixture(autouse=True)
def _has_faiss():
    pytest.importorskip("faiss")


@pytest.fixture
def whole(monkeypatch):
    """The users of whom every item is looked at, call by call."""
    calls, scan = [], best._Request.best_of_all

    def counting(self, k):
        calls.append(len(self.scores.user_vectors))
        return scan(self, k)

    monkeypatch.setattr(best._Request, "best_of_all", counting)
    return calls


def index_of(vectors, factory, parameters=None):
    from laser_peft.recommender.approximate import FaissIndex

    return FaissIndex(vectors, factory, parameters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [None, 0.9, 0.3, 0.1])
@pytest.mark.parametrize("k", [1, 7, 600])
def test_an_index_that_misses_nothing_finds_what_an_exact_search_does(dtype, share, k):
    # Whole numbers: exact scores, many of them equal; an index has its own order of those.
    users, vectors = torch.randn(B, R), torch.randn(N, R).to(dtype)
    allowed = None if share is None else np.random.default_rng(1).random(N) < share
    left_out = [np.random.default_rng(size).integers(1, N + 1, 30 * size) for size in range(B)]
    exact = Shelf.of(vectors, allowed)
    indexed = Shelf.of(vectors, allowed, index_of(vectors, "Flat"))
    found = best_items(users, indexed, k, left_out=left_out)
    assert found == best_items(users, exact, k, left_out=left_out)


def test_who_is_left_without_candidates_is_searched_exactly(whole):
    vectors, users = torch.randn(N, R), torch.randn(B, R)
    shelf = Shelf(vectors, index=index_of(vectors, "IVF100,Flat", "nprobe=1"))
    best_items(users, shelf, 2)
    looked_at = sum(whole)
    everything = [np.arange(1, N + 1)] + [np.arange(0)] * (B - 1)
    found = best_items(users, shelf, 2, left_out=everything)
    assert found[0] == []
    assert sum(whole) == 2 * looked_at + 1
    most = [np.arange(1, N - 1)] + [np.arange(0)] * (B - 1)
    assert len(best_items(users, shelf, 2, left_out=most)[0]) == 2


def test_recall_is_the_part_of_the_best_that_is_found():
    vectors = torch.randn(N, R)
    users = torch.randn(B, R)
    assert recall_of(Shelf(vectors, index=index_of(vectors, "Flat")), users, 9) == 1
    narrow = Shelf(vectors, index=index_of(vectors, "IVF50,Flat", "nprobe=1"))
    found, wanted = best_items(users, narrow, 9), best_items(users, Shelf(vectors), 9)
    share = sum(len(set(a) & set(b)) for a, b in zip(found, wanted, strict=True)) / (9 * B)
    assert recall_of(narrow, users, 9) == share < 1


def test_scores_that_are_no_numbers_are_refused():
    vectors = torch.randn(N, R)
    index = index_of(vectors, "Flat")
    users = torch.full((1, R), torch.nan)
    with pytest.raises(ValueError, match="scores are not all finite numbers"):
        best_items(users, Shelf(vectors, index=index), 3)


@pytest.mark.parametrize(
    ("factory", "parameters"), [("IVF0x,Flat", None), ("Nothing", None), ("Flat", "nprob=3")]
)
def test_what_faiss_does_not_know_is_said(factory, parameters):
    with pytest.raises(ValueError, match=f"FAISS cannot make the index '{factory}' with the par"):
        index_of(torch.randn(N, R), factory, parameters)


def test_without_faiss_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'laser-peft\[faiss\]'"):
        index_of(torch.randn(N, R), "Flat")


def test_a_recommender_with_an_index_recommends_what_it_did(
    lm_folder, encoder_folder, shop, tokenizer
):
    recommender = make_recommender(lm_folder, encoder_folder, shop, tokenizer, "fused")
    histories = [["i3"], ["i1", "i7", "i5"], []]
    asked = [{}, {"deny": ["i4", "i9"]}, {"allow": ["i4", "i9"]}, {"exclude_seen": False}]
    expected = [recommender.recommend(histories, 5, **options) for options in asked]
    recommender.use_index("Flat")
    assert [recommender.recommend(histories, 5, **options) for options in asked] == expected
    assert recommender.index_recall(histories, 5) == 1
    assert ids(recommender.session(["i3"]).recommend(5)) == ids(expected[0][0])
    recommender.add_items([{"item_id": "n1", "title": "Thing number 99"}])
    found = recommender.recommend(["i3"], 23)
    recommender.use_index(None)
    assert recommender.recommend(["i3"], 23) == found
    assert "n1" in ids(found)


def test_an_index_of_other_vectors_is_given_up(lm_folder, encoder_folder, shop, tokenizer):
    recommender = make_recommender(lm_folder, encoder_folder, shop, tokenizer, "fused")
    recommender.use_index()
    recommender.model.set_view_weights(0.0, 1.0, 0.0)
    with pytest.warns(UserWarning, match="have changed since the index was made.* use_index once"):
        found = recommender.recommend(["i3"])
    assert recommender.recommend(["i3"]) == found


def test_more_lists_than_items_are_refused_in_our_words(lm_folder, encoder_folder, shop, tokenizer):
    recommender = make_recommender(lm_folder, encoder_folder, shop, tokenizer)
    with pytest.raises(ValueError, match=r"wants 4096 lists, and there are \d+ items; ask for"):
        recommender.use_index("IVF4096,Flat")
    assert recommender.index is None
    with pytest.raises(ValueError, match="recall is a mean over histories, got none"):
        recommender.index_recall([])
