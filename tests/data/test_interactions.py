import gzip
import json

import numpy as np
import polars as pl
import pytest

from laser_peft.data import Catalogue, Histories, leave_one_out, read_interactions

CSV = """user_id,item_id,timestamp
b,0071,3
a,x,5
b,y,1
a,y,5
a,z,4
b,x,3
"""
EXPECTED = {"b": ["y", "0071", "x"], "a": ["z", "x", "y"]}  # equal times keep file order


def write(folder, name, content):
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_text(content)
    return path


def as_jsonl(content):
    head, *rows = [line.split(",") for line in content.split()]
    return "\n".join(
        json.dumps(dict(zip(head, [user, item, int(time)], strict=True)))
        for user, item, time in rows
    )


def by_user(frame):
    groups = frame.group_by("user_id", maintain_order=True).agg("item_id")
    return dict(groups.iter_rows())


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.jsonl", "log.jsonl.gz"])
def test_formats_read_alike_oldest_first(tmp_path, name):
    content = as_jsonl(CSV) if "jsonl" in name else CSV
    frame = read_interactions(write(tmp_path, name, content))
    assert by_user(frame) == EXPECTED
    assert list(by_user(frame)) == ["b", "a"]  # users in order of appearance


def test_parquet_reads_alike(tmp_path):
    pl.read_csv(CSV.encode(), schema_overrides={"item_id": pl.String}).write_parquet(
        tmp_path / "log.parquet"
    )
    assert by_user(read_interactions(tmp_path / "log.parquet")) == EXPECTED


def test_other_column_names_and_no_time(tmp_path):
    path = write(tmp_path, "log.csv", "who,what\na,x\nb,y\na,z\n")
    frame = read_interactions(path, user_column="who", item_column="what", time_column=None)
    assert by_user(frame) == {"a": ["x", "z"], "b": ["y"]}


HEAD = "user_id,item_id,timestamp\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", "user,item_id,timestamp\na,x,1\n", "log.csv has no column 'user_id'; it has"),
        ("log.csv", "user_id,item_id\na,x\n", "has no column 'timestamp'"),
        ("log.csv", HEAD, "log.csv has no rows"),
        ("log.csv", "", "cannot read .*log.csv as csv"),
        (
            "log.csv",
            HEAD + "a,x,soon\na,y,1\n",
            "'timestamp' must be a number, and is not in 1 of 2 rows; the first: .*soon",
        ),
        ("log.csv", HEAD + "a,x,\n", "'timestamp' must be a number"),
        ("log.csv", HEAD + "a,x,inf\n", "'timestamp' must be a number"),
        (
            "log.csv",
            HEAD + "a,x,1\n,y,1\n",
            "'user_id' must be filled, and is not in 1 of 2 rows; the first: {'row': 2",
        ),
        ("log.csv", HEAD + "a,,1\n", "'item_id' must be filled"),
        (
            "log.jsonl",
            '{"user_id": "a", "item_id": null, "timestamp": 1}',
            "'item_id' must be filled",
        ),
        (
            "log.jsonl",
            '{"user_id": ["a"], "item_id": "x", "timestamp": 1}',
            "'user_id' must hold one value a row, got List",
        ),
        ("log.jsonl", '{"user_id": "a", ', "cannot read .*log.jsonl as jsonl"),
        ("log.csv.gz", None, "cannot read .*log.csv.gz as csv"),
        ("log.jsonl.gz", None, "cannot read .*log.jsonl.gz as jsonl"),
        ("log.parquet", "PAR0", "cannot read .*log.parquet as parquet"),
        ("log.xlsx", "", "cannot tell the format of log.xlsx; .* .csv, .jsonl, .parquet"),
    ],
)
def test_broken_logs_say_what_is_wrong(tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        path.write_bytes(gzip.compress(CSV.encode())[:20])  # a truncated archive
    else:
        write(tmp_path, name, content)
    with pytest.raises(ValueError, match=message):
        read_interactions(path)


def test_a_missing_file_and_one_column_for_two_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file: .*nowhere.csv"):
        read_interactions(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="three different columns, got 'a', 'a' and 'timestamp'"):
        read_interactions(write(tmp_path, "log.csv", CSV), user_column="a", item_column="a")


@pytest.fixture
def catalogue():
    return Catalogue(pl.DataFrame({"item_id": ["x", "y", "z", "0071"]}))


def test_histories_are_dense_ids_user_by_user(tmp_path, catalogue):
    frame = read_interactions(write(tmp_path, "log.csv", CSV))
    histories = Histories.from_interactions(frame, catalogue)
    assert histories.user_ids == ["b", "a"]
    assert [history.tolist() for history in histories] == [[2, 4, 1], [3, 1, 2]]
    with pytest.raises(IndexError, match="user 2 of 2"):
        histories[2]


def test_an_item_outside_the_catalogue_is_named(tmp_path, catalogue):
    frame = read_interactions(write(tmp_path, "log.csv", CSV + "c,w,1\n"))
    with pytest.raises(ValueError, match=r"1 of 7 items are not in the catalogue of 4: \['w'\]"):
        Histories.from_interactions(frame, catalogue)


def make_histories(*lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Histories(np.arange(1, offsets[-1] + 1), offsets, [str(n) for n in lengths])


def test_leave_one_out_holds_back_the_last_two():
    split = leave_one_out(make_histories(5, 2, 3))
    assert [h.tolist() for h in split.train_histories] == [[1, 2, 3], [6, 7], [8]]
    assert [(e.history.tolist(), e.target) for e in split.validation] == [
        ([1, 2, 3], 4),
        ([8], 9),
    ]
    assert [(e.history.tolist(), e.target) for e in split.test] == [([1, 2, 3, 4], 5), ([8, 9], 10)]


def test_training_examples_never_hold_what_is_held_out():
    split = leave_one_out(make_histories(5, 2, 3))
    every = split.training_examples(every_prefix=True)
    assert [(e.history.tolist(), e.target) for e in every] == [([1], 2), ([1, 2], 3), ([6], 7)]
    last = split.training_examples(every_prefix=False)
    assert [(e.history.tolist(), e.target) for e in last] == [([1, 2], 3), ([6], 7)]


def test_a_log_of_short_histories_cannot_be_split():
    with pytest.raises(ValueError, match="at least 3 events, and none of 2 has"):
        leave_one_out(make_histories(2, 1))
