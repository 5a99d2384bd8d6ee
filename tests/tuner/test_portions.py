"""What a processor only reads goes through the language model in portions that fit its caches."""

import itertools

import pytest
import torch
from adapters import T, make_batch, make_model, shapes_read
from conftest import make_lm

from laser_peft.portions import cheapest_parts, portions
from laser_peft.tuner import reading

MOST = 30  # tokens of a portion: two users of 7 + 6, or more of shorter texts


def ragged_batch():
    """Nine users of texts of 0 to 7 tokens, padding anywhere within them."""
    batch = {name: values.repeat(3, 1) for name, values in make_batch().items()}
    generator = torch.Generator().manual_seed(3)
    batch["input_ids"] = torch.randint(1, 40, (9, T), generator=generator)
    batch["attention_mask"] = torch.rand(9, T, generator=generator).sub(0.5).sign().clamp(min=0)
    batch["attention_mask"][0] = 1
    batch["attention_mask"][1:, -1] = 0
    return batch


@pytest.mark.parametrize("fields", [{}, {"layout": "prefix_first"}, {"suffix_reading": "mean"}])
@torch.no_grad()
def test_users_are_those_of_one_batch(lm, encoder_folder, monkeypatch, fields):
    model, batch = make_model(lm, encoder_folder, **fields), ragged_batch()
    whole = model(**batch, return_user_vectors=True).user_vectors
    monkeypatch.setattr(reading, "TOKENS_IN_CACHES", MOST)
    in_portions, shapes = shapes_read(lm, lambda: model(**batch, return_user_vectors=True))
    torch.testing.assert_close(in_portions.user_vectors, whole, atol=1e-5, rtol=1e-5)
    assert len(shapes) > 1
    assert sum(rows for rows, _ in shapes) == 9
    assert all(rows * width <= MOST or rows == 1 for rows, width in shapes)
    assert [width for _, width in shapes] == sorted((w for _, w in shapes), reverse=True)


def test_what_learns_is_read_at_once(encoder_folder, monkeypatch):
    monkeypatch.setattr(reading, "TOKENS_IN_CACHES", MOST)
    lm = make_lm("llama")
    model = make_model(lm, encoder_folder, layout="prefix_first")
    _, shapes = shapes_read(lm, lambda: model(**ragged_batch(), return_user_vectors=True))
    assert shapes[-1] == (9, T + 6)  # before it, trials of what the model can do


def test_every_row_is_in_one_portion_longest_first():
    lengths = [3, 0, 11, 4, 4, 7]
    parts = list(portions(lengths, most_tokens=8))
    assert parts == [[2], [5], [3, 4], [0, 1]]
    assert list(portions([], most_tokens=8)) == []


@pytest.mark.parametrize("grad", [True, False])
def test_users_of_texts_are_those_of_one_batch(lm, encoder_folder, monkeypatch, grad):
    model, generator = make_model(lm, encoder_folder), torch.Generator().manual_seed(3)
    counts = torch.tensor([1, 6, 0, 2, 5])
    rows = torch.repeat_interleave(torch.arange(5), counts)
    rows = rows[torch.randperm(len(rows), generator=generator)]
    batch = {
        "input_ids": torch.randint(1, 40, (5, T), generator=generator),
        "text_rows": rows,
        "text_lengths": torch.randint(0, T, rows.shape, generator=generator),
        "history": torch.randint(1, 10, (len(rows), 3), generator=generator),
    }
    learning = [p for p in model.parameters() if p.requires_grad]

    def read(cost):
        monkeypatch.setattr(reading, "USERS_OF_A_CALL", cost)
        output, shapes = shapes_read(lm, lambda: model(**batch, return_user_vectors=True))
        vectors = output.user_vectors
        if not grad:
            return [vectors], shapes
        grads = torch.autograd.grad(vectors.square().sum(), learning, allow_unused=True)
        return [vectors, *(each for each in grads if each is not None)], shapes

    with torch.set_grad_enabled(grad):
        whole, shapes = read(1_000)
        in_parts, more = read(0)
    for own, expected in zip(in_parts, whole, strict=True):
        torch.testing.assert_close(own, expected, atol=2e-4, rtol=1e-4)
    assert model.can_share_texts(T, 6)
    assert shapes[-1] == (5, 6 * 6)
    assert more[-7::2] == [(1, users * 6) for users in (6, 5, 2, 1)]  # each after its text
    longest = [int(batch["text_lengths"][rows == text].max()) for text in (1, 4, 3, 0)]
    assert [width for _, width in more[-8::2]] == [max(length, 1) for length in longest]
    monkeypatch.setattr(reading, "_is_sharded", lambda _: True)
    with torch.set_grad_enabled(grad):
        assert read(0)[1][-1] == (5, 6 * 6)  # as many calls as other processes make


def test_parts_cost_least_together():
    sizes = [5, 1, 1, 9, 5, 0]
    for cost in (0, 1, 3, 7, 20):
        parts = cheapest_parts(sizes, cost)
        assert sorted(row for part in parts for row in part) == list(range(6))
        found = sum(cost + len(part) * max(sizes[row] for row in part) for part in parts)
        ordered = sorted(sizes, reverse=True)
        least = min(sum(cost + len(part) * part[0] for part in cut) for cut in every_cut(ordered))
        assert found == least
    assert cheapest_parts([], 3) == []


def every_cut(sizes):
    for cuts in itertools.product([False, True], repeat=len(sizes) - 1):
        parts = [[sizes[0]]]
        for size, is_cut in zip(sizes[1:], cuts, strict=True):
            if is_cut:
                parts.append([])
            parts[-1].append(size)
        yield parts
