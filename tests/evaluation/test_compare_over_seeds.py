from dataclasses import replace

import numpy as np
import pytest

from laser_peft.evaluation import (
    Evaluation,
    compare,
    compare_over_seeds,
    describe_targets,
    paired_bootstrap,
    per_user,
)

USERS = 41


def a_test(name, seed, **changes):
    random = np.random.default_rng(seed)
    targets = describe_targets(
        **{
            "user_ids": [f"u{user}" for user in range(USERS)],
            "item_ids": [f"i{user % 7}" for user in range(USERS)],
            "training_events": np.arange(USERS) % 30 + 1,  # nobody's target is cold
            "history_lengths": np.arange(USERS) % 13 + 1,
            "times": np.arange(USERS) * 90_000.0,
            "times_before": np.zeros(USERS),
        }
        | changes
    )
    return Evaluation(name, "abc", targets, random.integers(0, 25, (USERS, 2)))


FIRST = [a_test("sasrec", seed) for seed in (0, 1, 2)]
SECOND = [a_test("laser", seed) for seed in (3, 4, 5)]


def test_with_one_test_each_the_differences_are_those_of_compare():
    alone, over = compare(FIRST[0], SECOND[0]), compare_over_seeds(FIRST[:1], SECOND[:1])
    assert over["difference"] == alone["difference"]
    assert over["absent_slices"] == alone["absent_slices"]
    for name, part in alone["slices"].items():
        assert over["slices"][name].get("difference") == part.get("difference")
    told = over["models"]["laser"]["masked"]["ndcg@10"]
    assert told == {"mean": alone["models"]["laser"]["masked"]["ndcg@10"], "std": None}


def test_means_and_spreads_are_over_seeds_and_users_count_with_their_mean():
    told = compare_over_seeds(FIRST, SECOND)
    values = np.array([per_user(test.ranks[:, 0])["hr@10"] for test in SECOND])
    assert told["models"]["laser"]["unmasked"]["hr@10"] == {
        "mean": pytest.approx(values.mean()),
        "std": pytest.approx(values.mean(1).std(ddof=1)),
    }
    before = np.array([per_user(test.ranks[:, 0])["hr@10"] for test in FIRST])
    wanted = paired_bootstrap(before.mean(0), values.mean(0))
    assert told["difference"]["unmasked"]["hr@10"] == wanted._asdict()
    assert told["users"] == USERS


def test_the_same_test_twice_makes_no_interval_narrower():
    once = compare_over_seeds(FIRST[:1], SECOND[:1])["difference"]
    assert compare_over_seeds(FIRST[:1] * 2, SECOND[:1] * 2)["difference"] == once


def test_the_order_of_users_in_a_test_does_not_matter():
    order = np.random.default_rng(6).permutation(USERS)
    shuffled = replace(SECOND[1], targets=SECOND[1].targets[order], ranks=SECOND[1].ranks[order])
    told = compare_over_seeds(FIRST, [SECOND[0], shuffled, SECOND[2]])
    assert told == compare_over_seeds(FIRST, SECOND)


def test_as_many_tests_of_each_are_not_needed():
    told = compare_over_seeds(FIRST, SECOND[:1])
    assert told["models"]["sasrec"]["masked"]["hr@5"]["std"] > 0
    assert told["models"]["laser"]["masked"]["hr@5"]["std"] is None


def test_slices_of_nobody_and_those_that_one_test_cannot_tell_are_said():
    untimed = a_test("laser", 7, times=None, times_before=None)
    told = compare_over_seeds(FIRST, [SECOND[0], untimed])
    assert told["slices"]["cold"] == {"users": 0}
    assert "other day" not in told["slices"]
    assert set(told["absent_slices"]) == {"other day"}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (FIRST, [], "at least one of them, got none"),
        (FIRST, [*SECOND, FIRST[0]], r"tests of one name.*\['laser', 'sasrec'\]"),
        (FIRST, FIRST, "both models are called 'sasrec'"),
        (FIRST, [replace(SECOND[0], data_hash="xyz")], "different data, of hash abc and xyz"),
        (
            [*FIRST, a_test("sasrec", 8, item_ids=["other"] * USERS)],
            SECOND,
            r"sasrec \(test 4\) differ in item_id",
        ),
    ],
)
def test_what_is_no_test_of_two_models_on_the_same_users_is_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        compare_over_seeds(first, second)
