"""The scan against a plain twin: whatever it leaves out, what is found must be the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from laser_peft.recommender import best, scan
from laser_peft.recommender.best import Shelf, best_items

B, N, R, K = 5, 3001, 7, 3  # K + SPARE groups are few of so many items


def plain(users, shelf, k, left_out=None):
    """Every score in float64, sorted; equal ones in the order of the ids."""
    scores = (users.double() @ shelf.vectors.double().T).float()
    ids = shelf.ids.tolist() if shelf.ids is not None else range(1, len(shelf.vectors) + 1)
    is_open = shelf.is_open.tolist() if shelf.is_open is not None else [True] * len(ids)
    found = []
    for user, row in enumerate(scores.tolist()):
        own = set() if left_out is None else set(left_out[user].tolist())
        items = zip(ids, row, is_open, strict=True)
        kept = [(item, score) for item, score, there in items if there and item not in own]
        found.append(sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:k])
    return found


@pytest.fixture
def scored_in_full(monkeypatch):
    """Counts the users of whom every item is scored exactly, call by call."""
    users, best_of_all = [], best._Request.best_of_all

    def counting(self, k):
        users.append(len(self.scores.user_vectors))
        return best_of_all(self, k)

    monkeypatch.setattr(best._Request, "best_of_all", counting)
    return users


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_best_are_those_of_a_full_sort(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    def values(*shape):
        numbers = random.integers(-span, span + 1, shape) if whole else random.normal(size=shape)
        return torch.from_numpy(numbers).float()

    size, users, k, span = draw(33, 401), draw(1, 3), draw(1, 12), draw(0, 3)
    random = np.random.default_rng(draw(0, 2**32 - 1))
    whole = data.draw(st.booleans(), "whole numbers: exact scores, many of them equal")
    vectors = values(size, R)
    copies = draw(0, size)
    vectors[random.integers(0, size, copies)] = vectors[random.integers(0, size, 1)]
    allowed = random.random(size) < 0.7 if data.draw(st.booleans(), "some closed") else None
    shelf = Shelf.of(vectors, allowed)
    left_out = [random.integers(1, size + 1, draw(0, size)) for _ in range(users)]
    vectors_of_users = values(users, R)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best, "FEW", 0.9)  # or so small a catalogue would not be scanned
        patch.setattr(best, "SPARE", draw(0, 2))
        patch.setattr(scan, "CHUNK", 32 * draw(1, 4))
        found = best_items(vectors_of_users, shelf, k, left_out=left_out)
    assert found == plain(vectors_of_users, shelf, k, left_out)


@pytest.mark.parametrize("users", [1, B])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_scan_is_enough_where_scores_differ(scored_in_full, users, dtype):
    vectors, users = torch.randn(N, 61, dtype=dtype), torch.randn(users, 61, dtype=dtype)
    left_out = [np.arange(1, 301)] * len(users)
    assert best_items(users, Shelf(vectors), K, left_out=left_out) == plain(
        users, Shelf(vectors), K, left_out
    )
    assert scored_in_full == []


def test_only_who_cannot_be_told_apart_is_scored_in_full(scored_in_full):
    vectors, users = torch.randn(N, 61), torch.randn(B, 61)
    users[2] = 0  # all items are as good
    found = best_items(users, Shelf(vectors), K)
    assert found == plain(users, Shelf(vectors), K)
    assert [item for item, _ in found[2]] == [1, 2, 3]
    assert scored_in_full == [1]


def test_some_equal_items_are_found_by_looking_at_more_groups(scored_in_full):
    vectors, users = torch.randn(10_301, R), torch.randn(1, R)
    vectors[::1500] = 9 * users  # seven equal ones, in groups of their own: more than K + SPARE
    found = best_items(users, Shelf(vectors), K)
    assert found == plain(users, Shelf(vectors), K)
    assert [item for item, _ in found[0]] == [1, 1501, 3001]
    assert scored_in_full == []


def test_an_order_that_float32_does_not_see_is_found():
    # Scores of 1 and a bit, left over from 1e6 - 1e6: float32 rounds the bit away in its sums.
    bits = torch.rand(N).double() * 1e-3
    large = torch.full_like(bits, 1e6)
    vectors = torch.stack([large, 1 + bits, -large, bits], 1).float()
    users = torch.ones(1, 4)
    assert best_items(users, Shelf(vectors), K) == plain(users, Shelf(vectors), K)


def check_error(users, vectors):
    """Scans, and compares the largest score of each group, the last of which is not full."""
    none = torch.empty(0, dtype=torch.int64)
    found = scan.scan(users, vectors, scan.longest(vectors), None, (none, none))
    with torch.autocast("cpu", enabled=False):
        scores = users.double() @ vectors.double().T
    padded = torch.nn.functional.pad(scores, (0, -len(vectors) % scan.GROUP), value=-torch.inf)
    exact = padded.unflatten(1, (-1, scan.GROUP)).amax(2)
    assert ((found.maxima - exact).abs() <= found.error[:, None]).all()


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_no_score_is_off_by_more_than_is_said(precision):
    users, vectors = torch.randn(B, 61), torch.randn(N, 61)
    users[1] *= 1e-25
    users[3] *= 1e12
    vectors[::3] *= 1e-18
    vectors[1::3] *= torch.logspace(-30, 3, len(vectors[1::3]))[:, None]
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        check_error(users, vectors)
        found = best_items(users, Shelf(vectors), K)
    finally:
        torch.set_float32_matmul_precision(before)
    assert found == plain(users, Shelf(vectors), K)


def test_precision_that_was_set_for_one_backend_is_not_taken_for_full(monkeypatch):
    def unknown():
        raise RuntimeError("mixed settings")

    full = scan._error(R)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", unknown)
    assert scan._error(R) > 1000 * full


def test_autocast_changes_nothing():
    users, shelf = torch.randn(B, 61), Shelf(torch.randn(N, 61))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_error(users, shelf.vectors)
        assert best_items(users, shelf, K) == plain(users, shelf, K)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e25])
def test_lengths_beyond_float32_are_no_trap(scale):
    users, vectors = torch.randn(B, R) / scale**0.5, torch.randn(N, R) * scale
    if scale < 1:
        check_error(users, vectors)
    assert best_items(users, Shelf(vectors), K) == plain(users, Shelf(vectors), K)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38, -3e38])
@pytest.mark.parametrize("where", ["item", "user"])
def test_a_score_that_is_no_number_is_an_error_even_if_it_would_not_be_found(value, where):
    users, vectors = torch.randn(B, R).abs() + 2, torch.randn(N, R)
    (vectors[17] if where == "item" else users[3]).fill_(value)
    allowed = np.arange(N) != 17
    with pytest.raises(ValueError, match="not all finite"):
        best_items(users, Shelf.of(vectors, allowed), K, left_out=[np.array([18])] * B)


def test_scores_that_are_all_too_small_for_float32_are_an_error():
    users, vectors = torch.full((B, R), 2e25), torch.full((N, R), -1e15)
    with pytest.raises(ValueError, match="not all finite"):
        best_items(users, Shelf(vectors), K)


def test_the_last_item_is_found_once():
    users, vectors = torch.ones(1, R), torch.randn(N, R)
    vectors[-1] = 9  # in a group that is not full
    assert best_items(users, Shelf(vectors), K) == plain(users, Shelf(vectors), K)


def test_lengths_are_computed_once_a_shelf(monkeypatch):
    calls = []
    monkeypatch.setattr(
        best, "longest", lambda vectors: (calls.append(1), scan.longest(vectors))[1]
    )
    shelf = Shelf(torch.randn(N, R))
    for _ in range(3):
        best_items(torch.randn(B, R), shelf, K)
    assert calls == [1]


class _Largest(TorchDispatchMode):
    """Sees how many numbers the largest new tensor holds."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.seen = max(self.seen, result.untyped_storage().nbytes() // result.itemsize)
        return result


def test_no_more_is_held_than_a_chunk_and_one_score_of_each_group(monkeypatch):
    monkeypatch.setattr(scan, "CHUNK_SCORES", 2**12)
    users, shelf = torch.randn(29, 3), Shelf(torch.randn(20_011, 3))
    with _Largest() as largest:
        best_items(users, shelf, 2)
    assert largest.seen <= max(29 * 20_011 / scan.GROUP + 29, shelf.vectors.numel())
