"""Histories in Parquet, read some rows at a time."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laser_peft.batch import HistoryTable
from laser_peft.batch.histories import ROWS_A_LOOK

HISTORIES = [["i3"], ["i1", "i2", "i5", "i1"], [], ["i0"], ["i7", "i22"], ["i4"], []]
FRAME = pl.DataFrame({"user_id": [f"u{row}" for row in range(7)], "history": HISTORIES})


def write_parts(folder, heights):
    start = 0
    for number, height in enumerate(heights):
        FRAME[start : start + height].write_parquet(folder / f"part_{number}.parquet")
        start += height
    return folder


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_rows_are_those_of_all_parts_one_after_the_other(tmp_path_factory, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, 7), max_size=11)))
    heights = [end - start for start, end in zip([0, *cuts], [*cuts, 7], strict=True)]
    table = HistoryTable.open(write_parts(tmp_path_factory.mktemp("parts"), heights))
    assert len(table) == 7
    start = data.draw(st.integers(0, 6))
    stop = data.draw(st.integers(start + 1, 7))
    assert table.rows(start, stop).equals(FRAME[start:stop])


@pytest.mark.parametrize("kind", [pl.Int64, pl.UInt16, pl.Categorical, pl.String])
def test_items_become_text_and_users_stay_as_they_are(tmp_path, kind):
    items = pl.Series([["71", "8"], []]).cast(pl.List(kind))
    pl.DataFrame({"who": [5, 9], "had": items}).write_parquet(tmp_path / "a.parquet")
    table = HistoryTable.open(tmp_path / "a.parquet", user_column="who", history_column="had")
    read = table.rows(0, 2)
    assert read.to_dict(as_series=False) == {"user_id": [5, 9], "history": [["71", "8"], []]}


def test_what_duckdb_makes_of_a_log_is_read(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    connection = duckdb.connect()
    connection.execute(
        "COPY (SELECT user_id, list(item_id ORDER BY timestamp) AS history FROM (VALUES "
        "('u1', 'i3', 9), ('u2', 'i4', 5), ('u1', 'i1', 2)) AS log(user_id, item_id, timestamp) "
        f"GROUP BY user_id ORDER BY user_id) TO '{tmp_path}' (FORMAT parquet, PER_THREAD_OUTPUT)"
    )
    read = HistoryTable.open(tmp_path).rows(0, 2)
    assert read.sort("user_id")["history"].to_list() == [["i1", "i3"], ["i4"]]


def test_the_hash_is_of_what_is_in_the_files(tmp_path):
    names = ("a", "b", "c")
    for name in names:
        (tmp_path / name).mkdir()
        write_parts(tmp_path / name, [3, 4])
    FRAME[:3].with_columns(user_id=pl.lit("other")).write_parquet(tmp_path / "c/part_0.parquet")
    first, same, other = (HistoryTable.open(tmp_path / name).sha256() for name in names)
    assert first == same != other


def test_unknown_items_are_found_or_named_with_row_and_user(tmp_path, catalogue):
    histories = [*HISTORIES, ["i2", "x9", None]]
    users = [f"u{row}" for row in range(8)]
    frame = pl.DataFrame({"user_id": users, "history": histories})
    frame.write_parquet(tmp_path / "a.parquet")
    table = HistoryTable.open(tmp_path / "a.parquet")
    assert table.unknown_items(catalogue, range(7), "error") == set()
    assert table.unknown_items(catalogue, range(8), "skip") == {"x9", None}
    with pytest.raises(
        ValueError, match=r"row 8 \(user 'u7'\) has the item 'x9', .* of 23; .*skip"
    ):
        table.unknown_items(catalogue, range(3, 8), "error")


def test_a_row_is_named_by_its_number_beyond_the_first_look(tmp_path, catalogue):
    rows = ROWS_A_LOOK + 5
    histories = [["i1"]] * (rows - 2) + [None, ["x"]]
    frame = pl.DataFrame({"user_id": range(rows), "history": histories})
    frame.write_parquet(tmp_path / "a.parquet")
    table = HistoryTable.open(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=rf"row {rows - 1} \(user {rows - 2}\) has null .*empty"):
        table.unknown_items(catalogue, range(rows), "skip")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": ["u"], "history": [["i1"]]}, r"no column 'user_id'; it has 'user', .*--user-col"),
        ({"user_id": ["u"], "items": [["i1"]]}, r"no column 'history'; .*--history-column"),
        ({"user_id": ["u"], "history": ["i1"]}, "must hold lists of item ids.*got String; in SQL"),
        ({"user_id": ["u"], "history": [[0.5]]}, "must hold lists of item ids.*got List"),
        ({"user_id": [], "history": []}, "must hold lists"),
        ({"user_id": pl.Series([], dtype=pl.String), "history": FRAME["history"][:0]}, "no rows"),
    ],
)
def test_a_table_of_another_kind_says_what_is_wrong(tmp_path, columns, message):
    pl.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        HistoryTable.open(tmp_path / "a.parquet")


def test_files_that_are_no_parquet_or_do_not_agree_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        HistoryTable.open(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="cannot read .* as Parquet"):
        HistoryTable.open(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("user_id,history\n")
    with pytest.raises(ValueError, match=r"read from Parquet alone, got a\.csv"):
        HistoryTable.open(tmp_path / "a.csv")
    FRAME.write_parquet(tmp_path / "a.parquet")
    FRAME.with_columns(user_id=1).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="as different types: Int32, String"):
        HistoryTable.open([tmp_path / "a.parquet", tmp_path / "b.parquet"])


def test_a_file_that_is_gone_meanwhile_is_an_error_of_ours(tmp_path):
    table = HistoryTable.open(write_parts(tmp_path, [7]))
    (tmp_path / "part_0.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot read .*part_0.*; is it damaged\?"):
        table.rows(0, 3)
