import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laser_peft.data import PaddingCollator
from laser_peft.training.item_dropout import leave_items_out


def batch_of(histories):
    return PaddingCollator()(
        [{"input_ids": np.asarray(h[:-1]), "labels": np.asarray(h[1:])} for h in histories]
    )


def pairs_of(batch):
    chosen = batch["labels"] != -100
    assert torch.equal(chosen, batch["input_ids"] != 0)
    return [
        list(zip(ids[keep].tolist(), labels[keep].tolist(), strict=True))
        for ids, labels, keep in zip(batch["input_ids"], batch["labels"], chosen, strict=True)
    ]


@given(
    st.lists(st.lists(st.integers(1, 99), min_size=2, max_size=7, unique=True), min_size=1),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.booleans(),
)
def test_what_is_left_are_the_pairs_of_a_shorter_history(histories, probability, flipped):
    batch = batch_of(histories)
    if flipped:  # padding on the other side
        widths = (batch["labels"] != -100).sum(1).tolist()
        batch = {
            name: torch.stack(
                [row.roll(row.numel() - n) for row, n in zip(values, widths, strict=True)]
            )
            for name, values in batch.items()
        }
    thinned = leave_items_out(batch["input_ids"], batch["labels"], probability)
    for history, pairs in zip(histories, pairs_of(thinned), strict=True):
        assert pairs, "a user must teach something"
        kept = [pairs[0][0], *(label for _, label in pairs)]
        assert [item for item in history if item in kept] == kept  # in order
        assert pairs == list(zip(kept[:-1], kept[1:], strict=True))


def test_what_is_left_out_is_padding():
    batch = batch_of([[3, 1, 2, 5, 4], [5, 4]])
    torch.manual_seed(1)
    thinned = leave_items_out(batch["input_ids"], batch["labels"], 0.5)
    assert torch.equal(thinned["attention_mask"], thinned["input_ids"] != 0)
    assert not torch.equal(thinned["attention_mask"], batch["attention_mask"].bool())


def test_nothing_is_left_out_at_zero():
    batch = batch_of([[3, 1, 2], [5, 4]])
    thinned = leave_items_out(batch["input_ids"], batch["labels"], 0.0)
    assert pairs_of(thinned) == [[(3, 1), (1, 2)], [(5, 4)]]


def test_items_are_left_out_as_often_as_asked():
    torch.manual_seed(0)
    history = list(range(1, 102))
    batch = batch_of([history] * 101)
    thinned = leave_items_out(batch["input_ids"], batch["labels"], 0.3)
    kept = np.mean([len(pairs) + 1 for pairs in pairs_of(thinned)])
    assert kept == pytest.approx(0.7 * 101, abs=2)  # 4 standard errors are 1.8
