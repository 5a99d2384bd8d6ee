import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from laser_peft.evaluation import (
    MISS,
    SLICES,
    Evaluation,
    compare,
    describe_targets,
    paired_bootstrap,
    per_user,
    slices_of,
)

DAY = 86_400.0
USERS = 7
RANKS = np.array([[0, 0], [3, 2], [9, 9], [10, 5], [20, 19], [4, MISS], [100, 90]])


def make_targets(**changes):
    columns = {
        "user_ids": [f"u{user}" for user in range(USERS)],
        "item_ids": [f"i{user}" for user in range(USERS)],
        "training_events": np.array([0, 1, 5, 6, 20, 21, 0]),
        "history_lengths": np.array([2, 4, 5, 9, 10, 11, 4]),
        "times": np.array([DAY, DAY, DAY - 1, 3 * DAY, 0, 5 * DAY + 7, DAY]),
        "times_before": np.array([DAY - 1, DAY, 0, DAY, 0, 5 * DAY, np.nan]),
    }
    return describe_targets(**(columns | changes))


@pytest.fixture
def evaluation():
    return Evaluation("laser", "abc", make_targets(), RANKS)


def users_of(targets):
    return {name: np.flatnonzero(mask).tolist() for name, mask in slices_of(targets).items()}


def test_slices_hold_the_users_that_their_names_say():
    assert users_of(make_targets()) == {
        "cold": [0, 6],
        "1-5 events": [1, 2],
        "6-20 events": [3, 4],
        ">20 events": [5],
        "other day": [0, 3],  # one second over midnight is another day, 23 hours may not be
        "short": [0, 1, 6],
        "long": [4, 5],
    }


def test_without_times_the_slice_of_other_days_is_absent_and_said_so():
    targets = make_targets(times=None, times_before=None)
    assert set(SLICES) - set(slices_of(targets)) == {"other day"}
    told = Evaluation("laser", "abc", targets, RANKS).summary()
    assert "other day" not in told["slices"]
    assert told["absent_slices"] == {"other day": "the log has no times"}


def test_a_summary_says_how_many_users_each_slice_has(evaluation):
    told = evaluation.summary()
    assert told["users"] == USERS
    assert told["metrics"]["unmasked"]["hr@10"] == 4 / 7
    assert told["metrics"]["masked"]["hr@10"] == 4 / 7  # the fourth in, the sixth out
    assert told["slices"]["1-5 events"]["users"] == 2
    assert told["slices"]["1-5 events"]["metrics"]["unmasked"]["mrr@10"] == (1 / 4 + 1 / 10) / 2
    assert told["slices"][">20 events"]["metrics"]["masked"]["hr@20"] == 0


def test_a_slice_of_nobody_has_no_metrics(evaluation):
    targets = make_targets(training_events=np.full(USERS, 3))
    told = replace(evaluation, targets=targets).summary()
    assert told["slices"]["cold"] == {"users": 0}
    assert compare(
        replace(evaluation, targets=targets), replace(evaluation, targets=targets, name="other")
    )["slices"]["cold"] == {"users": 0}


def test_what_is_saved_comes_back(evaluation, tmp_path):
    evaluation.save(tmp_path / "laser")
    loaded = Evaluation.load(tmp_path / "laser")
    assert (loaded.name, loaded.data_hash) == ("laser", "abc")
    np.testing.assert_array_equal(loaded.ranks, RANKS)
    assert loaded.targets.equals(evaluation.targets)
    assert json.loads((tmp_path / "laser" / "metrics.json").read_text()) == evaluation.summary()
    assert sorted(file.name for file in (tmp_path / "laser").iterdir()) == [
        "metrics.json",
        "ranks.parquet",
    ]


def test_the_saved_table_says_a_miss_with_null_and_days_in_whole_numbers(evaluation, tmp_path):
    evaluation.save(tmp_path)
    frame = pl.read_parquet(tmp_path / "ranks.parquet")
    assert frame.row(5, named=True) == {
        "user_id": "u5",
        "item_id": "i5",
        "training_events": 21,
        "history_length": 11,
        "days_since_last_event": 0,
        "rank_unmasked": 4,
        "rank_masked": None,
    }
    assert frame["days_since_last_event"].to_list() == [1, 0, 0, 2, 0, 0, None]


def test_a_comparison_is_the_paired_bootstrap_of_every_metric_in_every_slice(evaluation):
    better = replace(evaluation, name="better", ranks=np.maximum(RANKS - 2, 0))
    told = compare(evaluation, better)
    assert told["users"] == USERS
    assert list(told["models"]) == ["laser", "better"]
    after = per_user(better.ranks[:, 0])
    for name, before in per_user(RANKS[:, 0]).items():
        expected = paired_bootstrap(before, after[name])._asdict()
        assert told["difference"]["unmasked"][name] == expected
        assert told["difference"]["unmasked"][name]["mean"] >= 0
    assert told["slices"]["short"]["users"] == 3
    few = np.array([0, 1, 6])
    before, after = (per_user(ranks[few, 1])["mrr@20"] for ranks in (RANKS, better.ranks))
    expected = paired_bootstrap(before, after)
    assert told["slices"]["short"]["difference"]["masked"]["mrr@20"] == expected._asdict()
    assert json.loads(json.dumps(told)) == told


def test_users_are_matched_by_id_whatever_their_order(evaluation):
    other = replace(evaluation, name="other", ranks=RANKS[::-1].copy())
    order = np.random.default_rng(0).permutation(USERS)
    shuffled = replace(other, targets=other.targets[order], ranks=other.ranks[order])
    assert compare(evaluation, shuffled) == compare(evaluation, other)


def test_a_slice_that_one_of_the_two_cannot_tell_is_left_out(evaluation):
    timeless = make_targets(times=None, times_before=None)
    other = replace(evaluation, name="other", targets=timeless)
    for pair in ((evaluation, other), (other, evaluation)):
        told = compare(*pair)
        assert "other day" not in told["slices"]
        assert "other day" in told["absent_slices"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "laser"}, "both runs are called 'laser'"),
        ({"data_hash": "xyz"}, "different data, of hash abc and xyz; test both on the same log"),
        (
            {"targets": make_targets(user_ids=[*"abc", "u3", "u4", "u5", "u6"])},
            r"different users: other lacks 3, among them \['u0', 'u1', 'u2'\]",
        ),
        (
            {"targets": make_targets(item_ids=["i0", "i1", "x", "i3", "i4", "i5", "y"])},
            "differ in item_id for 2 of 7 users, first for 'u2': 'i2' and 'x'",
        ),
        (
            {"targets": make_targets(training_events=np.array([0, 1, 5, 6, 20, 22, 0]))},
            "differ in training_events for 1 of 7 users, first for 'u5': 21 and 22",
        ),
    ],
)
def test_only_tests_on_the_same_users_are_compared(evaluation, changes, message):
    with pytest.raises(ValueError, match=message):
        compare(evaluation, replace(evaluation, **({"name": "other"} | changes)))


def test_users_that_only_the_second_has_are_found_too(evaluation):
    fewer = replace(evaluation, name="fewer", targets=make_targets()[:5], ranks=RANKS[:5])
    with pytest.raises(ValueError, match=r"fewer lacks 2, among them \['u5', 'u6'\]"):
        compare(fewer, evaluation)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_ids": ["u0"] * USERS}, r"1 users have more than one target: \['u0'\]"),
        ({"item_ids": ["i0"]}, "every column needs one value a user, got .*'item_id': 1"),
    ],
)
def test_targets_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        make_targets(**changes)


@pytest.mark.parametrize(
    ("targets", "ranks"),
    [(make_targets(), RANKS[:, 0]), (make_targets(), RANKS[:3]), (make_targets()[:0], RANKS[:0])],
)
def test_an_evaluation_has_two_ranks_a_user(targets, ranks):
    with pytest.raises(ValueError, match=r"laser needs ranks of shape \(users, 2\)"):
        Evaluation("laser", "abc", targets, ranks)


def test_a_folder_without_an_evaluation_is_said_with_those_within(evaluation, tmp_path):
    with pytest.raises(FileNotFoundError, match="no ranks.parquet.*train, evaluate and baselines"):
        Evaluation.load(tmp_path)
    evaluation.save(tmp_path / "evaluation" / "laser")
    with pytest.raises(FileNotFoundError, match="did you mean one of .*laser"):
        Evaluation.load(tmp_path)
    (tmp_path / "evaluation" / "laser" / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match="no metrics.json"):
        Evaluation.load(tmp_path / "evaluation" / "laser")


def cut(folder):
    file = folder / "ranks.parquet"
    file.write_bytes(file.read_bytes()[:100])


def drop_a_column(folder):
    file = folder / "ranks.parquet"
    pl.read_parquet(file).drop("rank_masked").write_parquet(file)


def with_ranks(values):
    def spoil(folder):
        ranks = pl.Series("rank_unmasked", values)
        frame = pl.read_parquet(folder / "ranks.parquet").with_columns(ranks)
        frame.write_parquet(folder / "ranks.parquet")

    return spoil


def test_a_folder_may_be_called_anything(evaluation, tmp_path):
    for name in ("seed[1]", "m?", "mA", "[b]x[/b]"):
        replace(evaluation, name=name).save(tmp_path / name)
    for name in ("seed[1]", "m?", "mA", "[b]x[/b]"):
        assert Evaluation.load(tmp_path / name).name == name


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_ranks([0, 1, 2, 3, 4, 5, -5]), "laser needs ranks from 0 on, got -5"),
        (with_ranks([0, 1, 2, 3, 4, 5, None]), "no missing ones in the first"),
        (with_ranks([0.0, 1.7, 2, 3, 4, 5, 6]), "must hold whole numbers in rank_unmasked"),
        (lambda folder: (folder / "metrics.json").write_bytes(b"\xff"), "does not hold a saved"),
        (cut, "does not hold a saved evaluation"),
        (drop_a_column, "rank_masked"),
        (lambda folder: (folder / "metrics.json").write_text("{"), "does not hold a saved"),
        (lambda folder: (folder / "metrics.json").write_text("{}"), "'name'"),
    ],
)
def test_a_spoilt_file_is_refused(evaluation, tmp_path, spoil, message):
    evaluation.save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        Evaluation.load(tmp_path)
