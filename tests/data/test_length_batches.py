"""Which texts are read together."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from laser_peft.data.length_batches import length_batches, tokens_at_once

LENGTHS = st.lists(st.integers(0, 50), max_size=30)


@given(LENGTHS, st.none() | st.integers(1, 120), st.none() | st.integers(1, 9))
def test_every_row_is_in_one_batch_that_is_within_the_bounds_and_no_shorter_than_the_next(
    lengths, tokens, most
):
    batches = list(length_batches(lengths, tokens=tokens, most=most))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    flat = [lengths[row] for batch in batches for row in batch]
    assert flat == sorted(flat, reverse=True)
    for batch in batches:
        assert 1 <= len(batch) <= (most or len(lengths))
        padded = len(batch) * max(lengths[row] for row in batch)
        assert tokens is None or len(batch) == 1 or padded <= tokens


def test_an_accelerator_reads_more_at_once():
    assert tokens_at_once(torch.device("cpu")) < tokens_at_once(torch.device("cuda"))
