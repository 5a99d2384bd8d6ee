import numpy as np
import pytest
import torch

from laser_peft.recommender import best
from laser_peft.recommender.best import Shelf, best_items

B, N, R = 5, 211, 7


def plain(users, vectors, k, left_out, allowed):
    """The whole matrix of scores, sorted; equal ones in the order of the ids."""
    scores = (users.double() @ vectors.double().T).float()
    found = []
    for row, own in zip(scores.tolist(), left_out, strict=True):
        order = sorted(range(len(row)), key=lambda item: (-row[item], item))
        kept = [i for i in order if allowed[i] and i + 1 not in own.tolist()]
        found.append([(i + 1, row[i]) for i in kept[:k]])
    return found


@pytest.mark.parametrize("block", [1, 13, 211, 2048])
@pytest.mark.parametrize("share", [None, 0.1, 0.6, 0.0])
@pytest.mark.parametrize("k", [1, 29, 999])
def test_they_are_those_of_a_full_sort(monkeypatch, block, share, k):
    monkeypatch.setattr(best, "BLOCK", block)
    # Whole numbers: their scores are exact, and many of them equal, negative and zero too.
    users, vectors = (torch.randint(-2, 3, (size, R)).float() for size in (B, N))
    users[0] = 0
    vectors[17] = -0.0
    allowed = None if share is None else np.random.default_rng(1).random(N) < share
    left_out = [np.random.default_rng(size).integers(1, N + 1, 3 * size) for size in range(B)]
    found = best_items(users, Shelf.of(vectors, allowed), k, left_out=left_out)
    every = np.ones(N, dtype=bool) if allowed is None else allowed
    assert found == plain(users, vectors, k, left_out, every)


def test_equal_vectors_are_equal_whatever_stands_around_them(monkeypatch):
    monkeypatch.setattr(best, "BLOCK", 13)
    vectors = torch.randn(N, R)
    vectors[1::2] = vectors[3]
    users = torch.randn(B, R)
    for found in best_items(users, Shelf(vectors), N):
        tied = [dense for dense, _ in found if dense % 2 == 0]
        assert tied == sorted(tied)
        assert len({score for dense, score in found if dense % 2 == 0}) == 1
    alone = best_items(users[2:3], Shelf(vectors), 31)
    assert alone[0] == best_items(users, Shelf(vectors), 31)[2]


def test_memory_does_not_grow_with_the_catalogue(monkeypatch):
    widths = []
    keys = best._keys
    monkeypatch.setattr(best, "BLOCK", 13)
    monkeypatch.setattr(
        best, "_keys", lambda scores, start: (widths.append(scores.size(1)), keys(scores, start))[1]
    )
    best_items(torch.randn(B, R), Shelf(torch.randn(N, R)), 3)
    assert len(widths) == 17
    assert max(widths) == 13


def test_nobody_and_an_empty_shelf_give_nothing():
    assert best_items(torch.randn(0, R), Shelf(torch.randn(N, R)), 3) == []
    assert best_items(torch.randn(2, R), Shelf(torch.randn(0, R)), 3) == [[], []]
