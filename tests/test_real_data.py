"""Published counts of the real logs in $DATA; skipped where that is not set."""

import os
from pathlib import Path

import pytest

from laser_peft.data import Catalogue, Histories, leave_one_out, read_interactions

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("DATA" not in os.environ, reason="$DATA names no folder of real logs"),
]
COUNTS = {  # users, items, interactions, as published for the 5-core sets
    "amazon-beauty": ("timestamp", 22_363, 12_101, 198_502),
    "amazon-sports": ("position", 35_598, 18_357, 296_337),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_published_ones(name):
    folder = Path(os.environ["DATA"]) / name
    time_column, users, items, interactions = COUNTS[name]
    catalogue = Catalogue.read(folder / "items.jsonl.gz")
    log = read_interactions(folder / "interactions.csv.gz", time_column=time_column)
    histories = Histories.from_interactions(log, catalogue)
    assert (len(histories), len(catalogue), len(histories.items)) == (users, items, interactions)
    split = leave_one_out(histories)
    assert len(split.test) == len(split.validation) == users  # 5-core: everyone has enough
    assert min(map(len, split.train_histories)) >= 3
