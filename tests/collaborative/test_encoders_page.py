"""What docs/encoders.md shows is what works."""

import re
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModel

PAGE = Path(__file__).parents[2] / "docs" / "encoders.md"
ITEMS = 5


@pytest.fixture
def in_a_shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = [f"i{item}" for item in range(ITEMS)]
    pl.DataFrame({"item_id": ids, "title": ids}).write_ndjson("items.jsonl")
    rows = {"item_id": ["i3", "elsewhere", "i0"], "vector": [[3.0, 0.0], [7.0, 7.0], [0.5, 1.0]]}
    pl.DataFrame(rows).write_parquet("vectors.parquet")


@pytest.mark.usefixtures("in_a_shop")
def test_the_example_of_item_vectors_runs_as_written():
    text = PAGE.read_text("utf-8").split("<!-- run by tests/collaborative", 1)[1]
    exec(compile(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], str(PAGE), "exec"), {})
    encoder = AutoModel.from_pretrained("runs/encoder")
    assert encoder.item_vectors().tolist() == [[0.5, 1], [0, 0], [0, 0], [3, 0], [0, 0]]
    newest = encoder(torch.tensor([[1, 4]])).user_vectors[0]
    torch.testing.assert_close(newest, torch.tensor([0.4 + 3, 0.8]) / 1.8)
