"""What a user can get wrong, each with the message that says so."""

import gzip
import warnings
from datetime import time, timedelta

import polars as pl
import pytest
from logs import CSV, HEAD, frame_of, make_histories, write

from laser_peft.data import (
    Catalogue,
    LogSource,
    cuts_at,
    k_core,
    leave_one_out,
    prepare,
    read_interactions,
    time_split,
)


def text(name, content):
    """A log of that text."""

    def read(folder):
        (folder / name).write_text(content)
        return read_interactions(folder / name)

    return read


def raw(name, content):
    """A log of those bytes."""

    def read(folder):
        (folder / name).write_bytes(content)
        return read_interactions(folder / name)

    return read


def column(**changed):
    """A log of one row, in a frame, with other columns."""
    row = {"user_id": ["a"], "item_id": ["x"], "timestamp": [1]} | changed
    return lambda folder: read_interactions(pl.DataFrame(row, strict=False))


def setting(**settings):
    """A good log read with settings."""
    return lambda folder: read_interactions(frame_of(CSV), **settings)


def ids(*values):
    """A log of those users, as a file of text has them."""
    rows = "".join(f"{value},x,1\n" for value in values)
    return raw("log.csv", f"user_id,item_id,timestamp\n{rows}".encode())


def folder_of(*names):
    """A folder of good logs."""

    def read(folder):
        for name in names:
            write(folder, f"log/{name}")
        (folder / "log").mkdir(exist_ok=True)
        return read_interactions(folder / "log")

    return read


def json_parts(*parts):
    """A folder of JSON lines."""

    def read(folder):
        (folder / "log").mkdir()
        for place, content in enumerate(parts):
            (folder / f"log/part-{place}.json").write_text(content)
        return read_interactions(folder / "log")

    return read


def items(content, name="items.csv", **settings):
    """A catalogue of that text."""

    def read(folder):
        (folder / name).write_text(content)
        return Catalogue.read(folder / name, **settings)

    return read


def linked(folder):
    """A folder of parts and of a link to a folder."""
    write(folder, "elsewhere/part-0.csv")
    write(folder, "log/part-1.csv")
    (folder / "log/day=2").symlink_to(folder / "elsewhere")
    return read_interactions(folder / "log")


def dangling(folder):
    """A glob that matches a link to nothing."""
    write(folder, "part-1.csv")
    (folder / "part-2.csv").symlink_to(folder / "nothing.csv")
    return read_interactions(folder / "part-*.csv")


def split_at(first, last, times=(1, 2, 3, 4)):
    histories = make_histories(4, times=times)
    return lambda folder: time_split(histories, validation_from=first, test_from=last)


def core(*minimums):
    log = read_interactions(frame_of(CSV))
    return lambda folder: k_core(log, min_user_events=minimums[0], min_item_events=minimums[1])


def twice(folder):
    path = write(folder, "log.csv")
    return read_interactions([path, folder / "." / "log.csv"])


ZIPPED = gzip.compress(CSV.encode() * 99)
FILES = {
    "no such file": (
        lambda folder: read_interactions(folder / "nowhere.csv"),
        "no such file: .*nowhere.csv",
    ),
    "a glob that matches nothing": (
        lambda folder: read_interactions(folder / "part-*.csv"),
        "no file matches .*part-\\*.csv",
    ),
    "an empty list": (lambda folder: read_interactions([]), "list of files to read is empty"),
    "a file named twice": (twice, "named more than once, and would count twice: .*log.csv"),
    "an empty folder": (folder_of(), "log holds no data files; did the job .* finish"),
    "a job that has not finished": (
        folder_of("part-0.csv", "_temporary/0/part-1.csv"),
        "holds _temporary: the job that writes it runs still or has failed",
    ),
    "a Delta table": (
        folder_of("part-0.parquet", "_delta_log/0.json"),
        "is a Delta table, whose folder also holds deleted rows",
    ),
    "an unknown format": (
        text("log.xlsx", ""),
        "cannot tell the format of log.xlsx; .* .csv, .jsonl, .ndjson, .json, .parquet",
    ),
    "an empty file": (text("log.csv", ""), "cannot read .*log.csv as csv: empty CSV"),
    "a header alone": (text("log.csv", HEAD), "log.csv has no rows"),
    "a link to a folder": (linked, "day=2 is no file but a link to a folder or to nothing"),
    "a link to nothing": (dangling, "part-2.csv is no file but a link to a folder or to nothing"),
    "JSON behind a mark": (
        raw("log.jsonl", b'\xef\xbb\xbf{"user_id": "a", "item_id": "x", "timestamp": 1}\n'),
        "log.jsonl as jsonl: .*; it must be one object a line, UTF-8 without a byte order mark",
    ),
    "parts of JSON without a column": (
        json_parts('{"user_id": "a"}', '{"user_id": "b"}'),
        "log has no column 'item_id', 'timestamp'; it has 'user_id'",
    ),
    "a cut archive of CSV": (raw("log.csv.gz", ZIPPED[:-30]), "cannot read .*log.csv.gz as csv"),
    "a cut archive of JSON": (
        raw("log.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99)[:-10]),
        "cannot read .*log.jsonl.gz as jsonl",
    ),
    "cut JSON": (text("log.jsonl", '{"user_id": "a", '), "cannot read .*log.jsonl as jsonl"),
    "a JSON array": (text("log.json", "[1, 2]"), "cannot read .*log.json as json"),
    "no Parquet": (text("log.parquet", "PAR0"), "cannot read .*log.parquet as parquet"),
    "more fields than columns": (
        text("log.csv", HEAD + "a,x,1\na,x,1,2\n"),
        "cannot read .*log.csv as csv: found more fields",
    ),
    "an open quote": (text("log.csv", HEAD + 'a,"x,1\nb,y,2\n'), "cannot read .*log.csv as csv"),
    "a column twice": (
        raw("log.csv", b"user_id,item_id,user_id,timestamp\na,x,b,1\n"),
        "log.csv has the column 'user_id' more than once",
    ),
    "another encoding": (
        raw("log.csv", HEAD.encode() + "é,x,1\n".encode("latin-1")),
        "cannot read .*log.csv as csv: invalid utf",
    ),
}
COLUMNS = {
    "no user column": (
        text("log.csv", "user,item_id,timestamp\na,x,1\n"),
        "log.csv has no column 'user_id'; it has 'user', 'item_id', 'timestamp'",
    ),
    "no time column": (
        text("log.csv", "user_id,item_id\na,x\n"),
        "has no column 'timestamp'; .* --user-column, .* time_column=None .--time-column ''",
    ),
    "one column for two": (
        setting(user_column="item_id"),
        "need 3 different columns, got 'item_id', 'item_id', 'timestamp'",
    ),
    "lists of users": (
        column(user_id=[["a"]]),
        "the DataFrame: column 'user_id' must hold one value a row, got List",
    ),
    "users with a fraction": (
        column(user_id=[71.0]),
        "'user_id' must hold text or whole numbers, got Float64; .* astype\\('Int64'\\)",
    ),
    "items that are true or false": (column(item_id=[True]), "'item_id' must hold .* got Boolean"),
    "bytes that are no text": (column(item_id=[b"\xff"]), "'item_id' holds bytes that are not"),
    "lists of times": (column(timestamp=[[1]]), "'timestamp' must hold times .* got List"),
    "spans of time": (column(timestamp=[timedelta(1)]), "must hold times .* got Duration"),
    "times of day": (column(timestamp=[time(12)]), "must hold times .* got Time"),
}
ROWS = {
    "no user": (text("log.csv", HEAD + "a,x,1\n,y,1\n"), "1 row: user_id is missing; .* row 2 "),
    "a blank user": (text("log.csv", HEAD + "  ,x,1\n"), "1 row: user_id is missing"),
    "no item": (text("log.csv", HEAD + "a,,1\n"), "1 row: item_id is missing"),
    "no time": (text("log.csv", HEAD + "a,x,\n"), "1 row: timestamp is missing"),
    "a short row": (text("log.csv", HEAD + "a,x\n"), "1 row: timestamp is missing"),
    "an empty line": (text("log.csv", HEAD + "a,x,1\n\na,x,2\n"), "user_id is missing; .* row 2"),
    "null in JSON": (
        text("log.jsonl", '{"user_id": "a", "item_id": null, "timestamp": 1}'),
        "1 row: item_id is missing",
    ),
    "a time in words": (
        text("log.csv", HEAD + "a,x,soon\na,y,1\n"),
        "1 row: timestamp is no time; the first: row 1 .*timestamp='soon'",
    ),
    "a date that is none": (
        text("log.csv", HEAD + "a,x,2014-02-30\n"),
        "1 row: timestamp is no time; .*2014-02-30",
    ),
    "an endless time": (text("log.csv", HEAD + "a,x,inf\n"), "1 row: timestamp is not finite"),
    "a time that is not a number": (column(timestamp=[float("nan")]), "timestamp is not finite"),
    "an unknown item": (
        setting(catalogue=Catalogue(pl.DataFrame({"item_id": ["x", "y", "z", "71"]}))),
        "1 row: item is not in the catalogue; .*item_id='0071'",
    ),
    "no row that is good": (
        lambda folder: read_interactions(frame_of(HEAD + "a,x,soon\n"), on_bad_rows="drop"),
        "the DataFrame: 1 of 1 rows cannot be used",
    ),
}
SETTINGS = {
    "an unknown unit": (setting(time_unit="min"), "time_unit must be one of s, ms, us, ns, got"),
    "an unknown policy": (setting(on_bad_rows="skip"), "must be 'raise' or 'drop', got 'skip'"),
    "a core of nothing": (core(0, 5), "min_user_events must be at least 1, got 0"),
    "a core of less": (core(5, -1), "min_item_events must be at least 1, got -1"),
    "a core that nothing is in": (
        core(2, 5),
        "no event is left of 6 where every user keeps at least 2 and every item at least 5",
    ),
    "histories too short to split": (
        lambda folder: leave_one_out(make_histories(2, 1)),
        "at least 3 events, and none of 2 has",
    ),
    "a split by time without times": (
        lambda folder: time_split(make_histories(4), validation_from=1, test_from=2),
        "needs times, and the log was read without",
    ),
    "cuts in the wrong order": (split_at(3, 2), r"validation_from \(3\) must be before test_from"),
    "nothing to learn from": (split_at(1, 2), r"no events before validation_from \(1\); times run"),
    "nothing to choose by": (split_at(2.5, 2.6), r"no events between the cuts \(2.5, 2.6\)"),
    "nothing to judge by": (split_at(2, 9), r"no events from test_from \(9\) on .* 1.0 to 4.0"),
    "shares of nothing": (
        lambda folder: cuts_at(make_histories(4, times=range(4)), test=0),
        "shares above 0 that leave some events to learn from, got test=0 ",
    ),
    "shares of everything": (
        lambda folder: cuts_at(make_histories(4, times=range(4)), test=0.5, validation=0.5),
        "got test=0.5 and validation=0.5",
    ),
    "a folder that is in use": (
        lambda folder: prepare(LogSource(str(write(folder, "log.csv"))), None, folder),
        "is there and not empty; choose another folder",
    ),
}
ITEMS = {
    "no id column": (
        items("asin,title\na,b\n"),
        "items.csv has no column 'item_id'; it has 'asin', 'title'",
    ),
    "no items": (items("item_id\n"), "items.csv has no rows"),
    "an item without an id": (
        items("item_id,title\na,lamp\n,chair\n"),
        "1 items of the catalogue have no item_id; the first: row 2 .*chair",
    ),
    "an item twice": (items("item_id\na\nb\na\n"), "2 items of the catalogue share an id"),
    "an id with a fraction": (
        items('{"item_id": 7.5}', "items.jsonl"),
        "'item_id' must hold text or whole numbers, got Float64",
    ),
    "a frame without ids": (
        lambda folder: Catalogue(pl.DataFrame({"asin": ["a"], "title": ["b"]})),
        "the catalogue needs a column 'item_id', got 'asin', 'title'; rename",
    ),
}
TABLE = FILES | COLUMNS | ROWS | SETTINGS | ITEMS


@pytest.mark.parametrize("kind", TABLE)
def test_bad_input_is_said(tmp_path, kind):
    act, message = TABLE[kind]
    with pytest.raises((ValueError, FileNotFoundError, FileExistsError), match=message):
        act(tmp_path)


WERE_FLOATS = [("71.0", "42.0"), ("1e+16", "1.0000000000000002e+16")]
LIKE_FLOATS = [("71.0", "7"), ("1.2", "1.3"), ("1e5", "12e4"), ("v1.0", "v2.0")]


@pytest.mark.parametrize("values", WERE_FLOATS)
def test_ids_that_were_floats_are_warned_of(tmp_path, values):
    with pytest.warns(UserWarning, match=r"every user_id is a number with a fraction, .*Int64"):
        log = ids(*values)(tmp_path)
    assert sorted(log.frame()["user_id"]) == sorted(values)


@pytest.mark.parametrize("values", LIKE_FLOATS)
def test_ids_that_only_look_like_floats_are_not(tmp_path, values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log = ids(*values)(tmp_path)
    assert sorted(log.frame()["user_id"]) == sorted(values)


@pytest.mark.parametrize("header", [",user_id,item_id,timestamp", "a,user_id,item_id,timestamp,a"])
def test_other_columns_may_have_no_name_or_one_twice(tmp_path, header):
    row = ",".join("0" for _ in header.split(","))
    log = raw("log.csv", f"{header}\n{row}\n".encode())(tmp_path)
    assert len(log) == 1
