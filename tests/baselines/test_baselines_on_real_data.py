"""Baselines on the real logs in $DATA; skipped where that is not set."""

import os
from pathlib import Path

import pytest

from laser_peft.baselines import Cooccurrence, Popularity, rank_examples
from laser_peft.data import Catalogue, Histories, leave_one_out, read_interactions
from laser_peft.judge import Judge

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("DATA" not in os.environ, reason="$DATA names no folder of real logs"),
]


@pytest.mark.parametrize(
    ("baseline", "unmasked", "masked"),
    [(Popularity, 0.0051, 0.0053), (Cooccurrence, 0.0431, 0.0445)],
)
def test_counting_baselines_on_beauty(baseline, unmasked, masked):
    folder = Path(os.environ["DATA"]) / "amazon-beauty"
    catalogue = Catalogue.read(folder / "items.jsonl.gz")
    log = read_interactions(folder / "interactions.csv.gz")
    histories = Histories.from_interactions(log, catalogue)
    split = leave_one_out(histories)
    judge = Judge.of_test(catalogue, histories, split, "beauty")
    ranks = rank_examples(baseline(split.train_histories, len(catalogue)), judge.examples)
    told = judge.evaluation("baseline", ranks).summary()
    assert told["slices"]["cold"]["users"] == 138
    assert told["metrics"]["unmasked"]["ndcg@10"] == pytest.approx(unmasked, abs=5e-5)
    assert told["metrics"]["masked"]["ndcg@10"] == pytest.approx(masked, abs=5e-5)
