"""Public data sets by name: from files at an address to two tables."""

import hashlib
import json
import os
from dataclasses import replace

import polars as pl
import pytest
from conftest import run_command
from public_files import json_lines, python_lines, review, serving, zipped_lines

from laser_peft.data import Catalogue, Histories, public, read_interactions
from laser_peft.data.public.building import build_items
from laser_peft.data.public.fetch import Source
from laser_peft.data.public.known import KNOWN
from laser_peft.data.public.records import Item
from laser_peft.data.public.whole_files import read_json, write_json


@pytest.fixture
def server():
    with serving() as server:
        yield server


REVIEWS = json_lines(
    review("A2", "B01", 700), review("A1", "B01", 300), review("A2", "B03", 700),
    review("A2", "B02", 500), review("A2", "B02", 500), review("A1", "B02", 200),
)  # fmt: skip
METADATA = python_lines(
    {"asin": "B09", "title": "Never reviewed"},
    {"asin": "B02", "title": "Second", "categories": [["Beauty", "Nails"]]},
    {"asin": "B02", "title": "Second again"},
    {"asin": "B01", "brand": "Alba"},
)


@pytest.fixture
def beauty(server, monkeypatch):
    """The known name, at a server of our own."""
    files = {"reviews_Beauty_5.json.gz": REVIEWS, "meta_Beauty.json.gz": METADATA}
    server.files.update(files)
    log, metadata = (Source(f"{server.url}/{name}") for name in files)
    dataset = replace(KNOWN["amazon-2014-beauty"], log=log, metadata=metadata)
    monkeypatch.setitem(KNOWN, dataset.name, dataset)
    return dataset.name


def test_a_download_gives_two_tables_and_counts_what_it_did(beauty, tmp_path):
    tables = public.download(beauty, tmp_path, progress=False)
    assert tables.counts == {
        "interactions": 6,
        "interactions_repeated": 1,
        "users": 2,
        "items": 3,
        "items_without_title": 2,
        "items_without_metadata": 1,
        "metadata_rows_repeated": 1,
        "metadata_rows_without_events_left_out": 1,
    }
    assert pl.read_parquet(tables.items).rows() == [
        ("B01", None, "Alba", None),
        ("B03", None, None, None),
        ("B02", "Second", None, ["Beauty", "Nails"]),
    ]
    told = json.loads((tmp_path / "dataset.json").read_text())
    assert told["name"] == beauty
    assert told["counts"] == tables.counts
    assert not list(tmp_path.rglob("*.part"))


def test_the_published_order_breaks_ties_of_time(beauty, tmp_path):
    tables = public.download(beauty, tmp_path, progress=False)
    log = read_interactions(tables.interactions)
    histories = Histories.from_interactions(log, Catalogue.read(tables.items))
    # B01 = 1, B03 = 2, B02 = 3. A2: B02 twice at 500, then B01 and B03 at 700, as in the file.
    assert histories.items.tolist() == [3, 3, 1, 2, 3, 1]


def test_items_without_events_are_kept_when_asked_for(beauty, tmp_path):
    tables = public.download(beauty, tmp_path, all_items=True, progress=False)
    assert Catalogue.read(tables.items).item_ids == ["B01", "B03", "B02", "B09"]
    assert tables.counts["metadata_rows_without_events_kept"] == 1
    assert tables.counts["items_without_metadata"] == 1


def test_a_second_run_downloads_nothing_and_gives_the_same(beauty, server, tmp_path):
    first = public.download(beauty, tmp_path, progress=False)
    content = first.interactions.read_bytes(), first.items.read_bytes()
    assert public.download(beauty, tmp_path, progress=False).counts == first.counts
    assert (first.interactions.read_bytes(), first.items.read_bytes()) == content
    assert len(server.asked) == 2


def test_what_comes_last_is_the_description(beauty, tmp_path, monkeypatch):
    with monkeypatch.context() as stopped:
        stopped.setattr(public, "write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            public.download(beauty, tmp_path, progress=False)
    assert {file.name for file in tmp_path.iterdir()} == {
        "raw",
        "interactions.parquet",
        "items.parquet",
    }
    public.download(beauty, tmp_path, progress=False)  # not taken for tables of another origin
    assert (tmp_path / "dataset.json").is_file()


def test_a_file_that_is_not_yet_whole_leaves_the_old_one(tmp_path, monkeypatch):
    write_json({"a": 1}, tmp_path / "a.json")
    with monkeypatch.context() as stopped:
        stopped.setattr(os, "replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_json({"a": 2}, tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_a_description_that_cannot_be_read_is_named(beauty, tmp_path):
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="dataset.json is no JSON .*; remove it and run"):
        public.download(beauty, tmp_path, progress=False)


def test_of_the_items_without_events_those_kept_are_counted():
    rows = [Item("9", "Heat", "", []), Item("9", "Heat again", "", []), Item("1", "Red", "", [])]
    frame, counts = build_items(rows, ["1"], all_items=True)
    assert frame["item_id"].to_list() == ["1", "9"]
    assert counts["metadata_rows_without_events_kept"] == 1
    assert counts["metadata_rows_repeated"] == 1


def test_a_column_of_which_nothing_is_known_is_left_out():
    frame, _ = build_items([Item("1", "Heat", "", [])], ["1"], all_items=False)
    assert frame.columns == ["item_id", "title"]


def test_a_log_without_events_is_said(beauty, server, tmp_path):
    server.files["reviews_Beauty_5.json.gz"] = zipped_lines("")
    with pytest.raises(ValueError, match="the file of reviews holds none"):
        public.download(beauty, tmp_path, progress=False)


def test_another_folder_is_asked_for_where_data_would_be_lost(beauty, tmp_path):
    public.download(beauty, tmp_path / "a", progress=False)
    with pytest.raises(ValueError, match="holds amazon-2014-beauty; choose another folder for mov"):
        public.download("movielens-1m", tmp_path / "a", progress=False)
    (tmp_path / "interactions.parquet").touch()
    with pytest.raises(ValueError, match="holds interactions.parquet of another origin"):
        public.download(beauty, tmp_path, progress=False)


def test_unknown_names_are_answered_with_near_ones(tmp_path):
    with pytest.raises(ValueError, match="called 'amazon-beauty' here; did you mean amazon-"):
        public.download("amazon-beauty", tmp_path)
    with pytest.raises(ValueError, match="called 'xyz' here. All names: laser"):
        public.download("xyz", tmp_path)
    with pytest.raises(ValueError, match="movielens-1m has no file a.gz; checksums are for ml-1m"):
        public.download("movielens-1m", tmp_path, sha256={"a.gz": "0" * 64})


def test_every_known_name_says_where_from_and_whom_to_cite():
    assert len(KNOWN) == 24 + 29 + 28 + 1
    for dataset in KNOWN.values():
        assert dataset.log.url.startswith("https://")
        assert dataset.metadata.url.startswith("https://")
        assert dataset.citation
        assert dataset.licence
    assert KNOWN["amazon-2018-amazon-fashion"].log.file_name == "AMAZON_FASHION_5.json.gz"


def test_the_command_prints_counts_citation_licence_and_what_comes_next(beauty, tmp_path):
    folder = tmp_path / "beauty"
    checksum = f"meta_Beauty.json.gz={hashlib.sha256(METADATA).hexdigest()}"
    result = run_command("download", beauty, "--output", folder, "--sha256", checksum)
    assert result.exit_code == 0, result.output
    for text in ("interactions repeated", "Cite: R. He", "Licence: none stated", "Page: https:"):
        assert text in result.output
    inputs = f"--interactions {folder}/interactions.parquet --items {folder}/items.parquet"
    assert f"Next: laser-peft train {inputs} --llm MODEL --output RUN" in result.output


def test_the_next_command_can_be_pasted(beauty, tmp_path):
    folder = tmp_path / "my data"
    result = run_command("download", beauty, "--output", folder)
    assert f"--interactions '{folder}/interactions.parquet' --items '{folder}" in result.output


def test_the_command_lists_the_known_names():
    listed = run_command("download", "--list").output
    assert all(name in listed for name in KNOWN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["movielens-1m"], "say which data set and where to: laser-peft download NAME --output"),
        (["nothing", "--output", "x"], "no public data set is called 'nothing'"),
        (["movielens-1m", "--output", "x", "--sha256", "abc"], "digits, got 'abc'"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, message):
    result = run_command("download", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
