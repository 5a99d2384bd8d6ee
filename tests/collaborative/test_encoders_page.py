"""What docs/encoders.md shows is what works."""

import re
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModel

from laser_peft.evaluation.ranking import MISS

PAGE = Path(__file__).parents[2] / "docs" / "encoders.md"
ITEMS = 5


@pytest.fixture
def in_a_shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = [f"i{item}" for item in range(ITEMS)]
    pl.DataFrame({"item_id": ids, "title": ids}).write_ndjson("items.jsonl")
    rows = {"item_id": ["i3", "elsewhere", "i0"], "vector": [[3.0, 0.0], [7.0, 7.0], [0.5, 1.0]]}
    pl.DataFrame(rows).write_parquet("vectors.parquet")
    # The last item of u0 scores highest after i3: a rank of 0 there, chance for u1.
    events = [("u0", "i1"), ("u0", "i3"), ("u0", "i3"), ("u1", "i0"), ("u1", "i3"), ("u1", "i2")]
    log = [{"user_id": u, "item_id": i, "timestamp": time} for time, (u, i) in enumerate(events)]
    pl.DataFrame(log).write_csv("interactions.csv")


@pytest.mark.usefixtures("in_a_shop")
def test_the_examples_of_item_vectors_run_as_written(capsys):
    text = PAGE.read_text("utf-8").split("test_encoders_page.py -->", 1)[1]
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["ranks"].tolist() == [[0, MISS], [4, 2]]  # u1's target ties with all that score 0
    assert "unmasked {'hr@5': 1.0" in capsys.readouterr().out
    encoder = AutoModel.from_pretrained("runs/encoder")
    assert encoder.item_vectors().tolist() == [[0.5, 1], [0, 0], [0, 0], [3, 0], [0, 0]]
    newest = encoder(torch.tensor([[1, 4]])).user_vectors[0]
    torch.testing.assert_close(newest, torch.tensor([0.4 + 3, 0.8]) / 1.8)
