import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import make_histories

from laser_peft.data import Split, cuts_at, leave_one_out, time_split
from laser_peft.data.sequences import Example, Examples
from laser_peft.data.splitting import (
    NOTHING_AFTER,
    NOTHING_BEFORE,
    REST_OF_TEST,
    REST_OF_VALIDATION,
    TOO_SHORT,
)

examples = settings(max_examples=100, deadline=None, database=None, derandomize=True)


def shown(examples):
    return [(example.history.tolist(), example.target, example.user) for example in examples]


def test_leave_one_out_holds_back_the_last_two():
    split = leave_one_out(make_histories(5, 2, 3))
    assert [h.tolist() for h in split.train_histories] == [[1, 2, 3], [6, 7], [8]]
    assert shown(split.validation) == [([1, 2, 3], 4, 0), ([8], 9, 2)]
    assert shown(split.test) == [([1, 2, 3, 4], 5, 0), ([8, 9], 10, 2)]
    assert split.left_out == {TOO_SHORT: 1}
    assert split.num_training_pairs == 3


def test_training_examples_never_hold_what_is_held_out():
    split = leave_one_out(make_histories(5, 2, 3))
    assert shown(split.training_examples(every_prefix=True)) == [
        ([1], 2, 0),
        ([1, 2], 3, 0),
        ([6], 7, 1),
    ]
    assert shown(split.training_examples(every_prefix=False)) == [([1, 2], 3, 0), ([6], 7, 1)]


def test_examples_are_a_sequence_and_may_be_a_list():
    split = leave_one_out(make_histories(5, 4, 3))
    assert isinstance(split.test[1:], Examples)
    assert shown(split.test[1:]) == shown(split.test)[1:] == shown(list(split.test)[1:])
    assert split.test[-1].target == split.test[np.int64(2)].target == 12
    with pytest.raises(IndexError):
        split.test[3]
    few = Split(split.train_histories[:2] * 2, [Example(np.array([1]), 2, 0)], [])
    assert few.num_training_pairs == 6
    assert [target for _, target, _ in shown(few.training_examples(every_prefix=False))] == [
        3,
        7,
        3,
        7,
    ]


lengths = st.lists(st.integers(0, 7), min_size=1, max_size=9)


@examples
@given(lengths)
def test_leave_one_out_uses_every_event_once(drawn):
    histories = make_histories(*drawn)
    if max(drawn) < 3:
        with pytest.raises(ValueError, match="at least 3 events, and none of"):
            leave_one_out(histories)
        return
    split = leave_one_out(histories)
    assert len(split.train_histories) == len(drawn)
    targets = [example.target for part in (split.validation, split.test) for example in part]
    learnt = split.training.items.tolist()
    assert sorted(learnt + targets) == histories.items.tolist()
    assert split.left_out[TOO_SHORT] + len(split.test) == len(drawn)
    for chosen, tested in zip(split.validation, split.test, strict=True):
        whole = histories[tested.user].tolist()
        assert [*tested.history, tested.target] == whole
        assert [*chosen.history, chosen.target] == whole[:-1]
        assert split.train_histories[chosen.user].tolist() == chosen.history.tolist()


@st.composite
def timed(draw):
    sizes = draw(lengths.filter(sum))
    times = [
        time
        for size in sizes
        for time in sorted(draw(st.lists(st.integers(0, 9), min_size=size, max_size=size)))
    ]
    return make_histories(*sizes, times=times)


def history_times(histories, user):
    return histories.times[histories.offsets[user] : histories.offsets[user + 1]].tolist()


@examples
@given(timed(), st.integers(1, 8), st.integers(1, 3))
def test_a_split_by_time_never_looks_ahead_and_loses_nothing_uncounted(histories, cut, span):
    cuts = {"validation_from": cut, "test_from": cut + span}
    times = [history_times(histories, user) for user in range(len(histories))]
    known = [user_times[0] < cut for user_times in times if user_times]
    validated = any(t and t[0] < cut and any(cut <= time < cut + span for time in t) for t in times)
    tested = any(t and t[0] < cut + span <= t[-1] for t in times)
    if not (any(known) and validated and tested):
        with pytest.raises(ValueError, match="there are no events"):
            time_split(histories, **cuts)
        return
    split = time_split(histories, **cuts)
    when = dict(zip(histories.items.tolist(), histories.times.tolist(), strict=True))
    assert all(when[item] < cut for item in split.training.items.tolist())
    for examples_of, start, stop in (
        (split.validation, cut, cut + span),
        (split.test, cut + span, 10),
    ):
        users = [example.user for example in examples_of]
        assert users == sorted(set(users))
        for example in examples_of:
            whole = histories[example.user].tolist()
            known = example.history.tolist()
            assert known
            assert known == [item for item in whole if when[item] < start]
            assert example.target == whole[len(known)]
            assert start <= when[example.target] < stop
    # Every event is learnt from, a target, or counted; and so is every user.
    assert len(histories.items) == (
        len(split.training.items)
        + len(split.validation)
        + split.left_out[REST_OF_VALIDATION]
        + len(split.test)
        + split.left_out[REST_OF_TEST]
    )
    empty = int((np.diff(histories.offsets) == 0).sum())  # has nothing on either side
    assert len(histories) + empty == (
        len(split.test) + split.left_out[NOTHING_AFTER] + split.left_out[NOTHING_BEFORE]
    )


def test_a_split_by_time_worked_by_hand():
    histories = make_histories(4, 2, 1, 3, times=[1, 5, 8, 9, 1, 2, 9, 4, 7, 7])
    split = time_split(histories, validation_from=5, test_from=8)
    assert [h.tolist() for h in split.train_histories] == [[1], [5, 6], [], [8]]
    assert shown(split.validation) == [([1], 2, 0), ([8], 9, 3)]
    assert shown(split.test) == [([1, 2], 3, 0)]
    assert split.left_out == {
        NOTHING_AFTER: 2,
        NOTHING_BEFORE: 1,
        REST_OF_TEST: 2,
        REST_OF_VALIDATION: 1,
    }


def test_cuts_leave_the_shares_and_tear_no_time_apart():
    histories = make_histories(10, times=range(10))
    assert cuts_at(histories, test=0.2, validation=0.3) == (5, 8)
    few = make_histories(7, times=range(7))
    assert cuts_at(few, test=0.2, validation=0.2) == (3, 5)  # 2 events and 2, for 1.4 asked
    many = make_histories(100, times=range(100))
    assert cuts_at(many, test=0.07, validation=0.29) == (64, 93)  # no event more by rounding
    # Nothing is left to learn from, which the split says.
    assert cuts_at(make_histories(3, times=range(3)), test=0.4, validation=0.5) == (0, 1)
    tied = make_histories(10, times=[0, 0, 1, 1, 1, 1, 1, 2, 2, 2])
    assert cuts_at(tied, test=0.1, validation=0.3) == (1, 2)  # 3 events and 5, for 1 and 3 asked
