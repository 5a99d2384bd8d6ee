"""Our metrics are those of RecTools and RecBole; skipped where they are not installed.

docs/evaluation-parity.md says how to install them, why CI does not, and what this said.
"""

import warnings

import numpy as np
import pytest
import torch

from laser_peft.evaluation import hr_at, mrr_at, ndcg_at, summarise
from laser_peft.evaluation.metrics import CUTOFFS
from laser_peft.evaluation.ranking import MISS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs, about other packages
    pytest.importorskip("rectools")
    import pandas as pd
    from rectools import Columns
    from rectools.metrics import MRR, NDCG, HitRate

pytestmark = pytest.mark.filterwarnings("ignore")
USERS, ITEMS, LISTED = 499, 101, 23


@pytest.fixture(scope="module")
def ranks():
    """Every rank that counts and its neighbours, misses far and near, and chance."""
    random = np.random.default_rng(0)
    chosen = np.arange(LISTED + 3)
    drawn = random.integers(0, ITEMS, USERS - len(chosen) - 7)
    return np.concatenate([chosen, drawn, np.full(7, MISS)])


@pytest.fixture(scope="module")
def tables(ranks):
    """Recommendation lists in which user u's target has the rank ``ranks[u]``."""
    random = np.random.default_rng(1)
    lists, targets = [], random.integers(0, ITEMS, USERS)
    for user, (rank, target) in enumerate(zip(ranks, targets, strict=True)):
        others = random.permutation(np.delete(np.arange(ITEMS), target))
        listed = np.insert(others, min(rank, len(others)), target)[:LISTED]
        if rank >= len(others) + 1:
            listed = others[:LISTED]
        lists += [(user, item, place + 1) for place, item in enumerate(listed)]
    reco = pd.DataFrame(lists, columns=[Columns.User, Columns.Item, Columns.Rank])
    return reco, pd.DataFrame({Columns.User: np.arange(USERS), Columns.Item: targets})


@pytest.mark.parametrize("k", CUTOFFS)
@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (hr_at, "HitRate", {}),
        # Else it divides by the gain of k targets, and a user has one.
        (ndcg_at, "NDCG", {"divide_by_achievable": True}),
        (mrr_at, "MRR", {}),
    ],
    ids=["hr", "ndcg", "mrr"],
)
def test_every_user_gets_the_same_number(ours, theirs, options, k, ranks, tables):
    metric = {"HitRate": HitRate, "NDCG": NDCG, "MRR": MRR}[theirs](k=k, **options)
    expected = metric.calc_per_user(*tables).sort_index().to_numpy()
    np.testing.assert_allclose(ours(k, ranks), expected, rtol=0, atol=1e-9)
    name = {"HitRate": "hr"}.get(theirs, theirs.lower())
    assert summarise(ranks)[f"{name}@{k}"] == pytest.approx(metric.calc(*tables), abs=1e-9)


def test_ndcg_without_the_normalisation_differs_by_the_gain_of_k_targets(ranks, tables):
    k = 10
    plain = NDCG(k=k).calc(*tables)
    gain_of_k_targets = (1 / np.log2(np.arange(2, k + 2))).sum()
    assert summarise(ranks)[f"ndcg@{k}"] == pytest.approx(plain * gain_of_k_targets, abs=1e-9)


@pytest.mark.parametrize(("theirs", "name"), [("Hit", "hr"), ("NDCG", "ndcg"), ("MRR", "mrr")])
def test_recbole_says_the_same_of_the_same_lists(theirs, name, ranks, tables, monkeypatch):
    metrics = pytest.importorskip("recbole.evaluator.metrics")
    monkeypatch.setattr(np, "float", float, raising=False)  # RecBole 1.2.1 still reads this name
    reco, targets = tables
    longest = max(CUTOFFS)
    listed = reco[reco[Columns.Rank] <= longest][Columns.Item].to_numpy().reshape(USERS, longest)
    hits = listed == targets[Columns.Item].to_numpy()[:, None]
    rows = torch.from_numpy(np.column_stack([hits, np.ones(USERS)]).astype(np.int64))
    metric = getattr(metrics, theirs)({"metric_decimal_place": 15, "topk": CUTOFFS})
    expected = metric.calculate_metric({"rec.topk": rows})
    for k in CUTOFFS:
        value = summarise(ranks)[f"{name}@{k}"]
        assert value == pytest.approx(expected[f"{theirs.lower()}@{k}"], abs=1e-9)
