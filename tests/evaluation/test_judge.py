import numpy as np
import polars as pl
import pytest

from laser_peft.data import Catalogue, Histories, leave_one_out
from laser_peft.data.sequences import training_events
from laser_peft.judge import Judge

DAY = 86_400.0
CATALOGUE = Catalogue(pl.DataFrame({"item_id": list("abcde")}))
# ann: a b c d, bob: e (too short to test), cid: b a a
HISTORIES = Histories(
    np.array([1, 2, 3, 4, 5, 2, 1, 1]),
    np.array([0, 4, 5, 8]),
    ["ann", "bob", "cid"],
    times=np.array([0, 1, 2, 2 + 3 * DAY, 7, 5, 6, 7]),
)


def test_the_judge_knows_every_target_and_what_came_before_it():
    split = leave_one_out(HISTORIES)
    judge = Judge.of_test(CATALOGUE, HISTORIES, split, "hash")
    assert judge.targets.rows() == [
        # trained on: ann's a and b, bob's e, cid's b
        ("ann", "d", 0, 3, 3),
        ("cid", "a", 1, 2, 0),
    ]
    evaluation = judge.evaluation("model", np.zeros((2, 2), dtype=np.int64))
    assert (evaluation.name, evaluation.data_hash) == ("model", "hash")
    assert evaluation.targets is judge.targets


def test_a_log_without_times_gives_no_days():
    timeless = Histories(HISTORIES.items, HISTORIES.offsets, HISTORIES.user_ids)
    judge = Judge.of_test(CATALOGUE, timeless, leave_one_out(timeless), "hash")
    assert judge.targets["days_since_last_event"].to_list() == [None, None]


def test_training_events_count_what_is_not_held_out():
    split = leave_one_out(HISTORIES)
    assert training_events(split.train_histories, 5).tolist() == [0, 1, 2, 0, 0, 1]
    assert training_events([], 2).tolist() == [0, 0, 0]


@pytest.mark.parametrize("items", [[1, 2, 3, 5, 5, 2, 1, 1], [1, 2, 3]])
def test_a_split_of_other_histories_is_refused(items):
    split = leave_one_out(HISTORIES)
    offsets = HISTORIES.offsets if len(items) == 8 else np.array([0, 3, 3, 3])
    other = Histories(np.array(items), offsets, HISTORIES.user_ids)
    with pytest.raises(ValueError, match="the split does not belong to these histories"):
        Judge.of_test(CATALOGUE, other, split, "hash")
