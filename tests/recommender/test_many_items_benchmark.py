"""The benchmark of many items runs, on few."""

import importlib
import sys
from pathlib import Path

import pytest
from conftest import NUM_ITEMS
from recommenders import make_recommender

from laser_peft import LaserRecommender

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(FOLDER))
    many_items = importlib.import_module("many_items")
    many_items_shop = importlib.import_module("many_items_shop")
TINY = ["--items", "601", "--width", "16", "--users", "3", "--centres", "7", "--rounds", "1"]


def test_searches_are_timed_and_an_index_that_misses_nothing_finds_all(capsys):
    pytest.importorskip("faiss")
    many_items.main(["--only", "search", "--index", "Flat", "--parameters", "", *TINY])
    printed = capsys.readouterr().out
    assert "candidates of Flat: made in" in printed
    assert "recall 1.0000" in printed
    assert printed.count("| exact | ") == 2  # for one user and for three


def test_recall_is_told_of_a_recommender(
    lm_folder, encoder_folder, shop, tokenizer, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("faiss")
    monkeypatch.setattr(many_items, "INDEXES", [("Flat", None)])
    make_recommender(lm_folder, encoder_folder, shop, tokenizer).save_pretrained(tmp_path)
    log = str(shop / "interactions.csv.gz")
    options = ["--recommender", str(tmp_path), "--interactions", log, "--users", "3"]
    many_items.main(["--only", "recall", *options])
    assert "| Flat | None | 1.0000 |" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures as Linux can")
@pytest.mark.skipif(sys.platform != "linux", reason="measures as glibc can")
def test_a_made_up_shop_is_measured(tmp_path, capsys):
    many_items_shop.make_shop(tmp_path, NUM_ITEMS, 8, 0)
    many_items_shop.store_vectors(tmp_path, "bfloat16")
    many_items_shop.measure_shop(tmp_path, 1)
    printed = capsys.readouterr().out
    assert "| load | " in printed
    assert "| deny 12 | " in printed
    shop = LaserRecommender.from_pretrained(tmp_path / "recommender")
    assert shop.item_vectors.shape == (NUM_ITEMS, 16)
