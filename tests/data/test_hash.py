"""The hash by which two people know that they have the same data."""

import polars as pl
import pytest
from logs import CSV, HEAD, frame_of, write

from laser_peft.data import (
    Catalogue,
    Histories,
    describe_data,
    leave_one_out,
    read_interactions,
)

CATALOGUE = Catalogue(pl.DataFrame({"item_id": ["x", "y", "z", "0071"]}))


def hash_of(log, catalogue=CATALOGUE):
    histories = Histories.from_interactions(log, catalogue)
    return describe_data(catalogue, histories, leave_one_out(histories))


def test_the_hash_is_of_the_data_not_of_the_files(tmp_path):
    expected = hash_of(read_interactions(frame_of(CSV)))
    assert expected["users"] == 2
    for name in ("log.csv.gz", "log.jsonl", "log.parquet"):
        assert hash_of(read_interactions(write(tmp_path, name))) == expected
    for place, line in enumerate(CSV.splitlines()[1:]):
        write(tmp_path / "log", f"part-{place}.csv", HEAD + line + "\n")
    assert hash_of(read_interactions(tmp_path / "log")) == expected
    texts = pl.DataFrame({"item_id": ["x", "y", "z", "0071"], "price": [1, 2, None, 4]})
    for name in ("items.csv", "items.parquet", "items.jsonl"):
        getattr(
            texts,
            {"csv": "write_csv", "parquet": "write_parquet", "jsonl": "write_ndjson"}[
                name.split(".")[1]
            ],
        )(tmp_path / name)
    hashes = {
        hash_of(read_interactions(frame_of(CSV)), Catalogue.read(tmp_path / name))["sha256"]
        for name in ("items.csv", "items.parquet", "items.jsonl")
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    "changed",
    [
        CSV.replace("a,z,4", "a,y,4"),
        CSV.replace("b,x,3", "b,x,0"),
        CSV.replace("a,z,4\n", ""),
        CSV + "a,z,4\n",
    ],
)
def test_the_hash_changes_with_any_event_and_order(changed):
    assert (
        hash_of(read_interactions(frame_of(changed)))["sha256"]
        != hash_of(read_interactions(frame_of(CSV)))["sha256"]
    )


def test_the_hash_changes_with_any_text_and_time():
    log = read_interactions(frame_of(CSV))
    plain = hash_of(log)
    for items in (["x", "y", "0071", "z"], ["x", "y", "z", "0071", "w"]):
        other = Catalogue(pl.DataFrame({"item_id": items}))
        assert hash_of(log, other)["sha256"] != plain["sha256"]
    titled = Catalogue(CATALOGUE.frame.with_columns(title=pl.lit("lamp")))
    assert hash_of(log, titled)["sha256"] != plain["sha256"]
    later = hash_of(read_interactions(frame_of(CSV.replace("a,y,5", "a,y,6"))))
    assert later["sha256"] == plain["sha256"]  # the same events in the same order
    assert later["times_sha256"] != plain["times_sha256"]
    untimed = read_interactions(frame_of(CSV), time_column=None)
    assert hash_of(untimed)["times_sha256"] is None


def test_the_hash_tells_whose_events_they_are_and_in_which_order_users_come():
    first, second = ["a,x,1", "a,y,2", "a,z,3"], ["b,z,4", "b,x,5", "b,y,6"]
    hashes = {
        hash_of(read_interactions(frame_of(HEAD + "\n".join(rows) + "\n")))["sha256"]
        for rows in (
            first + second,
            second + first,
            [*first, second[0].replace("b", "a"), *second[1:], "b,0071,7"],
            [*first, *second, "b,0071,7"],  # the same items in a row
        )
    }
    assert len(hashes) == 4


def test_items_that_only_tests_have_are_items_without_training_events():
    told = hash_of(read_interactions(frame_of(HEAD + "a,x,1\na,y,2\na,z,3\n")))
    assert told["items_without_training_events"] == 3  # y, z and 0071
