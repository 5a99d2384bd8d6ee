"""What DuckDB itself writes, and folders as Spark leaves them."""

import os
from datetime import datetime, timezone

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laser_peft.data import read_interactions

NOON = datetime(2014, 7, 1, 12, tzinfo=timezone.utc).timestamp()
EVENTS = [
    (71, "x", "12:00:00.5"),
    (71, "0071", "12:00:01"),
    (9_007_199_254_740_993, "x", "12:00:02"),
]
USERS, ITEMS, TIMES = ["71", "9007199254740993"], ["x", "0071"], [NOON + 0.5, NOON + 1, NOON + 2]


@pytest.fixture
def copy(tmp_path):
    """Has DuckDB write a SELECT over the events, in the order of time, and gives the path."""
    duckdb = pytest.importorskip("duckdb")
    connection = duckdb.connect()
    connection.execute("SET timezone = 'America/New_York'")
    connection.execute("CREATE TYPE items AS ENUM ('x', '0071')")
    connection.execute("CREATE TABLE events (u BIGINT, i VARCHAR, t TIMESTAMP)")
    rows = [(user, item, f"2014-07-01 {time}") for user, item, time in EVENTS]
    connection.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)

    def write(columns, name="log.parquet", options="format parquet"):
        path = tmp_path / name
        connection.execute(
            f"COPY (SELECT {columns} FROM events ORDER BY t) TO '{path}' ({options})"
        )
        return path

    return write


def check(log, times=TIMES):
    assert (log.user_ids.to_list(), log.item_ids.to_list()) == (USERS, ITEMS)
    assert log.times.tolist() == pytest.approx(times, abs=1e-6)


@pytest.mark.parametrize(
    ("user", "item", "time"),
    [
        ("u", "i", "t"),
        ("u::UBIGINT", "i::items", "t::TIMESTAMP_NS"),
        ("u::VARCHAR", "i::VARCHAR::BLOB", "t::TIMESTAMP_MS"),
        ("u::DECIMAL(18, 0)", "i", "t AT TIME ZONE 'UTC'"),  # TIMESTAMP WITH TIME ZONE
        ("u::DECIMAL(38, 0)", "i", "epoch(t)"),
        ("u::HUGEINT::BIGINT", "i", "epoch_ms(t) / 1000"),
    ],
)
def test_columns_of_duckdbs_parquet_read_as_they_are(copy, user, item, time):
    check(read_interactions(copy(f"{user} AS user_id, {item} AS item_id, {time} AS timestamp")))


def test_days_are_their_midnights(copy):
    log = read_interactions(copy("u AS user_id, i AS item_id, t::DATE AS timestamp"))
    check(log, [NOON - 12 * 3600] * 3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("log.csv", "format csv, header"),
        ("log.csv.gz", "format csv, header, compression gzip"),
        ("log.csv.zst", "format csv, header, compression zstd"),
        ("log.json", "format json"),
        ("log", "format parquet, per_thread_output"),
        ("log", "format parquet, partition_by (day)"),
        ("log", "format csv, header, partition_by (day)"),
        ("log.parquet", "format parquet, compression zstd, row_group_size 2048"),
    ],
)
@pytest.mark.parametrize("time", ["t", "t AT TIME ZONE 'UTC'"])
def test_files_and_folders_of_duckdb_read_as_they_are(copy, name, options, time):
    columns = f"u AS user_id, i AS item_id, {time} AS timestamp, t::DATE AS day"
    path = copy(columns, name, options)
    check(read_interactions(path))
    days = [NOON - 12 * 3600] * 3
    check(read_interactions(path, time_column="day"), days)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("u::HUGEINT", "'user_id' must hold text or whole numbers, got Float64"),
        ("u::DECIMAL(38, 2)", r"must hold text or whole numbers, got Decimal"),
        ("uuid()", "'user_id' holds bytes that are not text .* UUID, have it written as text"),
    ],
)
def test_ids_that_duckdb_writes_as_no_text_are_refused(copy, user, message):
    with pytest.raises(ValueError, match=message):
        read_interactions(copy(f"{user} AS user_id, i AS item_id, t AS timestamp"))


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Vienna"])
@pytest.mark.parametrize("written", ["dictionary", "int96", "plain"])
def test_folders_as_spark_leaves_them_read_as_they_are(tmp_path, unit, zone, written):
    moments = [datetime.fromtimestamp(time, timezone.utc) for time in TIMES]
    times = pl.Series(moments).dt.cast_time_unit(unit)  # in UTC
    times = times.dt.convert_time_zone(zone) if zone else times.dt.replace_time_zone(None)
    table = pa.table(
        {
            "user_id": pa.array([user for user, _, _ in EVENTS], pa.int64()),
            "item_id": pa.array([item for _, item, _ in EVENTS]),
            "timestamp": times.to_arrow(),
        }
    )
    if written == "dictionary":
        table = table.set_column(1, "item_id", table["item_id"].dictionary_encode())
    folder = tmp_path / "log" / "country=AT"
    folder.mkdir(parents=True)
    for place, rows in enumerate((table[:1], table[1:1], table[1:])):
        name = f"part-{place:05d}-8f2c.c000.snappy.parquet"
        options = {"use_deprecated_int96_timestamps": written == "int96"}
        pq.write_table(rows, folder / name, use_dictionary=written != "plain", **options)
        (folder / f".{name}.crc").write_bytes(os.urandom(8))
    (tmp_path / "log" / "_SUCCESS").touch()
    (tmp_path / "log" / "_committed_123").write_text("{}")
    check(read_interactions(tmp_path / "log"))
    check(read_interactions(tmp_path / "log" / "country=*"))
