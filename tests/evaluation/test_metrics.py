from fractions import Fraction
from math import log2

import numpy as np
import pytest

from laser_peft.evaluation import (
    MISS,
    hr_at,
    mrr_at,
    ndcg_at,
    paired_bootstrap,
    per_user,
    summarise,
)

RANKS = np.array([0, 3, 9, 10, 19, 20, MISS])


@pytest.mark.parametrize(("k", "hits"), [(5, 2), (10, 3), (20, 5)])
def test_the_hit_rate_is_the_fraction_of_targets_among_the_first_k(k, hits):
    assert hr_at(k, RANKS).mean() == float(Fraction(hits, 7))


@pytest.mark.parametrize(
    ("k", "total"),
    [
        (5, 1 + 1 / log2(5)),
        (10, 1 + 1 / log2(5) + 1 / log2(11)),
        (20, 1 + 1 / log2(5) + 1 / log2(11) + 1 / log2(12) + 1 / log2(21)),
    ],
)
def test_ndcg_discounts_by_the_logarithm_of_the_place(k, total):
    assert ndcg_at(k, RANKS).mean() == pytest.approx(total / 7, abs=1e-15)


@pytest.mark.parametrize(
    ("k", "total"),
    [
        (5, Fraction(5, 4)),  # 1 + 1/4
        (10, Fraction(27, 20)),  # and 1/10
        (20, Fraction(27, 20) + Fraction(1, 11) + Fraction(1, 20)),
    ],
)
def test_the_reciprocal_rank_is_one_over_the_place(k, total):
    assert mrr_at(k, RANKS).mean() == pytest.approx(float(total / 7), abs=1e-15)


def test_a_summary_is_the_mean_of_every_metric_over_users():
    summary = summarise(RANKS)
    assert list(summary) == [f"{m}@{k}" for m in ("hr", "ndcg", "mrr") for k in (5, 10, 20)]
    for name, values in per_user(RANKS).items():
        assert values.shape == (7,)
        assert summary[name] == values.mean()
    assert summarise(RANKS, [3])["hr@3"] == 1 / 7


def test_bootstrap_interval_is_that_of_resampled_users():
    generator = np.random.default_rng(0)
    first = generator.integers(0, 2, 400).astype(float)
    second = generator.integers(0, 2, 400).astype(float)
    plain = [(second - first)[generator.integers(0, 400, 400)].mean() for _ in range(4000)]
    difference = paired_bootstrap(first, second)
    assert difference.mean == pytest.approx((second - first).mean())
    assert difference.low == pytest.approx(np.quantile(plain, 0.025), abs=0.01)
    assert difference.high == pytest.approx(np.quantile(plain, 0.975), abs=0.01)
    assert paired_bootstrap(first, second) == difference


def test_a_model_does_not_differ_from_itself():
    values = np.array([0.0, 1.0, 0.5])
    assert paired_bootstrap(values, values) == (0, 0, 0)


def test_no_users_and_unequal_users_are_refused():
    with pytest.raises(ValueError, match="no users"):
        summarise(np.array([], dtype=int))
    with pytest.raises(ValueError, match=r"the same users twice, got shapes \(2,\) and \(3,\)"):
        paired_bootstrap(np.zeros(2), np.zeros(3))
