import numpy as np

from laser_peft.data import PaddingCollator


def test_ragged_columns_are_padded_and_masked():
    batch = PaddingCollator()(
        [
            {"input_ids": [5, 6], "history": np.array([3]), "seen": [3], "labels": 9},
            {"input_ids": [7], "history": np.array([1, 2]), "seen": [1, 2], "labels": 8},
        ]
    )
    assert batch["input_ids"].tolist() == [[5, 6], [7, 0]]
    assert batch["attention_mask"].tolist() == [[True, True], [True, False]]
    assert batch["history"].tolist() == [[3, 0], [1, 2]]
    assert batch["history_mask"].tolist() == [[True, False], [True, True]]
    assert batch["labels"].tolist() == [9, 8]
    assert "seen_mask" not in batch


def test_labels_of_positions_are_padded_so_that_no_loss_counts_them():
    rows = [{"input_ids": [1, 2], "labels": [2, 3]}, {"input_ids": [4], "labels": [5]}]
    assert PaddingCollator()(rows)["labels"].tolist() == [[2, 3], [5, -100]]
