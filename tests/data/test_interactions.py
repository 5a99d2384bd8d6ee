import json
import warnings
from datetime import date, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import CSV, EXPECTED, HEAD, by_user, frame_of, write

from laser_peft.data import (
    Catalogue,
    Histories,
    interactions,
    k_core,
    read_interactions,
)

CATALOGUE = Catalogue(pl.DataFrame({"item_id": ["x", "y", "z", "0071"]}))
BAD = HEAD + "a,x,1\n,y,2\na,w,3\nb,y,soon\nb, ,4\nc,v,5\na,z,inf\na,x,6\nd,y,\n"
examples = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def test_other_column_names_and_no_time(tmp_path):
    path = write(tmp_path, "log.csv", "who,what\na,x\nb,y\na,z\n")
    log = read_interactions(path, user_column="who", item_column="what", time_column=None)
    assert by_user(log) == {"a": ["x", "z"], "b": ["y"]}
    assert log.times is None
    assert log.frame().columns == ["user_id", "item_id"]


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ValueError, match="the DataFrame: 7 of 9 rows") as caught:
        read_interactions(frame_of(BAD), catalogue=CATALOGUE)
    for line in (
        r"1 row: user_id is missing; the first: row 2 (user_id=None, item_id='y', timestamp='2')",
        r"1 row: item_id is missing; the first: row 5 (user_id='b', item_id=' ', timestamp='4')",
        r"1 row: timestamp is missing; the first: row 9",
        r"1 row: timestamp is no time; the first: row 4 (user_id='b', item_id='y', "
        "timestamp='soon')",
        r"1 row: timestamp is not finite; the first: row 7",
        r"2 rows: item is not in the catalogue; the first: row 3 (user_id='a', "
        "item_id='w', timestamp='3.0'); row 6",
        r'on_bad_rows="drop" (--drop-bad-rows)',
    ):
        assert line in str(caught.value)


def test_dropped_rows_are_counted_and_leave_no_trace():
    log = read_interactions(frame_of(BAD), catalogue=CATALOGUE, on_bad_rows="drop")
    assert by_user(log) == {"a": ["x", "x"]}
    report = log.report
    assert (report.rows, report.events, report.users, report.items) == (9, 2, 1, 1)
    assert (report.first_time, report.last_time) == (1, 6)
    dropped = [finding for finding in report.findings if finding.unit == "rows"]
    assert {finding.action for finding in dropped} == {"dropped"}
    assert sum(finding.count for finding in dropped) == 7
    assert report.found("user is left without events") == 3
    assert report.found("item of the catalogue is not in the log") == 3
    assert report.found("anything else") == 0
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_a_clean_log_has_nothing_to_report():
    assert read_interactions(frame_of(CSV), catalogue=CATALOGUE).report.findings == ()


def test_duplicates_are_counted_kept_unless_asked_and_named_by_their_row():
    twice = frame_of(HEAD + "a,,1\na,x,1\na,x,2\nb,x,1\na,x,1\na,y,1\na,x,1\n")
    kept = read_interactions(twice, on_bad_rows="drop")
    assert by_user(kept) == {"a": ["x", "x", "y", "x", "x"], "b": ["x"]}
    dropped = read_interactions(twice, on_bad_rows="drop", drop_duplicates=True)
    assert by_user(dropped) == {"a": ["x", "y", "x"], "b": ["x"]}
    for log, action in ((kept, "kept"), (dropped, "dropped")):
        (found,) = [finding for finding in log.report.findings if "same" in finding.kind]
        assert (found.count, found.action) == (2, action)
        assert [row["row"] for row in found.first] == [5, 7]
        assert found.first[0] == {
            "row": 5,
            "user_id": "a",
            "item_id": "x",
            "timestamp": "1.0",
        }


UTC = timezone.utc
NOON = datetime(2014, 7, 1, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "2014-07-01T12:00:00",
        "2014-07-01 12:00:00",
        "2014-07-01T12:00",
        "2014-07-01T12:00:00Z",
        "2014-07-01 12:00:00 UTC",
        "2014-07-01T12:00:00.000+0000",
        "2014-07-01 14:00:00+02",
        "2014-07-01T06:30:00-05:30",
        " 1404216000 ",
        "1404216000.0",
        "1.404216e9",
    ],
)
def test_a_time_is_seconds_since_1970_however_it_is_written(text):
    log = read_interactions(frame_of(HEAD + f"a,x,{text}\n"))
    assert log.times.tolist() == [NOON]


@pytest.mark.parametrize(
    "value",
    [
        datetime(2014, 7, 1, 12),
        datetime(2014, 7, 1, 14, tzinfo=timezone(timedelta(hours=2))),
        int(NOON),
        NOON,
    ],
)
def test_a_column_of_times_or_numbers_reads_alike(value):
    for dtype in (
        None,
        *([pl.Datetime(unit) for unit in ("ms", "us", "ns")] * (value == datetime(2014, 7, 1, 12))),
    ):
        times = pl.Series([value, None], dtype=dtype)
        frame = pl.DataFrame({"user_id": "a", "item_id": "x", "timestamp": times})
        log = read_interactions(frame, on_bad_rows="drop")
        assert log.times.tolist() == [NOON]
        assert log.report.found("timestamp is missing") == 1


def test_dates_mixed_with_times_are_midnights():
    days = pl.DataFrame({"user_id": "a", "item_id": "x", "timestamp": [date(2014, 7, 1)]})
    assert read_interactions(days).times.tolist() == [NOON - 12 * 3600]
    mixed = read_interactions(frame_of(HEAD + "a,x,2014-07-01\na,y,2014-07-01T12:00\na,z,0\n"))
    assert mixed.times.tolist() == [0, NOON - 12 * 3600, NOON]


@pytest.mark.parametrize(
    ("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)]
)
def test_numbers_have_the_unit_that_is_said(unit, factor):
    texts = frame_of(HEAD + f"a,x,{int(NOON) * factor}\n")
    numbers = texts.with_columns(pl.col("timestamp").cast(pl.Int64))
    for log in (texts, numbers):
        assert read_interactions(log, time_unit=unit).times.tolist() == [NOON]


def test_milliseconds_taken_for_seconds_are_warned_of():
    milliseconds = frame_of(HEAD + f"a,x,{int(NOON)}000\n")
    with pytest.warns(UserWarning, match="beyond the year 5138; .*time_unit='s' .*in ms, us or ns"):
        read_interactions(milliseconds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_interactions(milliseconds, time_unit="ms")


def test_seconds_taken_for_milliseconds_are_warned_of():
    with pytest.warns(UserWarning, match="before the year 1990; .*time_unit='ms' .*larger unit"):
        read_interactions(frame_of(HEAD + f"a,x,{int(NOON)}\n"), time_unit="ms")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_interactions(frame_of(CSV))  # positions will do as seconds


rows = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["x", "y", "z", "0071"]), st.integers(0, 5)),
    min_size=1,
    max_size=40,
)


def log_of(drawn):
    return pl.DataFrame(drawn, schema=["user_id", "item_id", "timestamp"], orient="row")


@examples
@given(rows)
def test_order_is_time_then_file_and_every_event_is_there(drawn):
    log = read_interactions(log_of(drawn))
    histories = Histories.from_interactions(log, CATALOGUE)
    users = list(dict.fromkeys(user for user, _, _ in drawn))
    assert histories.user_ids == users
    place = 0
    for user, history in zip(users, histories, strict=True):
        events = sorted((row for row in drawn if row[0] == user), key=lambda row: row[2])
        assert [CATALOGUE.item_ids[item - 1] for item in history] == [row[1] for row in events]
        times = histories.times[place : place + len(events)]
        assert times.tolist() == [row[2] for row in events]
        place += len(events)
    assert place == len(drawn) == len(log)


@examples
@given(rows, st.integers(1, 4), st.integers(1, 4))
def test_a_core_is_the_largest_log_whose_users_and_items_have_enough(drawn, users, items):
    kept = list(drawn)
    while True:  # the definition, one pass at a time
        left = [
            row
            for row in kept
            if sum(row[0] == other[0] for other in kept) >= users
            and sum(row[1] == other[1] for other in kept) >= items
        ]
        if left == kept:
            break
        kept = left
    log = read_interactions(log_of(drawn))
    if not kept:
        with pytest.raises(ValueError, match=f"no event is left of {len(drawn)} where every user"):
            k_core(log, min_user_events=users, min_item_events=items)
        return
    core = k_core(log, min_user_events=users, min_item_events=items)
    # The order of users is that of their first row before the core was taken.
    assert by_user(core) == by_user(read_interactions(log_of(kept)))
    report = core.report
    assert (report.rows, report.events) == (len(drawn), len(kept))
    kind = f"outside the k-core ({users} events a user, {items} an item)"
    events = [finding.count for finding in report.findings if finding.kind == kind]
    assert sum(events) == len(drawn) - len(kept)
    assert report.users == len({row[0] for row in kept}) == len(core.user_ids)
    assert report.items == len({row[1] for row in kept}) == len(core.item_ids)


def test_many_events_at_one_time_keep_the_order_of_the_file():
    # An unstable sort keeps small logs in order by chance.
    rng = np.random.default_rng(0)
    users, times = rng.integers(0, 100, 5003), rng.integers(0, 5, 5003)
    items = [str(row) for row in range(5003)]
    frame = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times})
    log = read_interactions(frame)
    found = [int(item) for item in log.frame()["item_id"]]
    appeared = {user: place for place, user in enumerate(dict.fromkeys(users.tolist()))}
    assert found == sorted(range(5003), key=lambda row: (appeared[users[row]], times[row], row))


def test_ids_keep_their_spaces():
    log = read_interactions(frame_of(HEAD + " a ,x ,1\na, x,2\n"))
    assert log.user_ids.to_list() == [" a ", "a"]
    assert log.item_ids.to_list() == ["x ", " x"]


def test_histories_are_dense_ids_user_by_user():
    histories = Histories.from_interactions(read_interactions(frame_of(CSV)), CATALOGUE)
    assert histories.user_ids == list(EXPECTED)
    assert [history.tolist() for history in histories] == [[2, 4, 1], [3, 1, 2]]
    assert [history.tolist() for history in histories[1:]] == [[3, 1, 2]]
    assert histories.items.dtype == np.int64
    with pytest.raises(IndexError, match="user 2 of 2"):
        histories[2]


def test_an_item_outside_the_catalogue_is_named():
    log = read_interactions(frame_of(CSV + "c,w,1\n"))
    with pytest.raises(ValueError, match=r"1 of 5 items are not in the catalogue of 4: \['w'\]"):
        Histories.from_interactions(log, CATALOGUE)


@examples
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.0, 1.5])), max_size=20
    ),
    st.booleans(),
)
def test_repeats_are_the_rows_that_are_equal_to_an_earlier_one(rows, all_share_a_hash):
    schema = {"user_id": pl.UInt32, "item_id": pl.UInt32, "timestamp": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    with pytest.MonkeyPatch.context() as patch:
        if all_share_a_hash:
            same = pl.Series([7] * len(rows), dtype=pl.UInt64)
            patch.setattr(pl.DataFrame, "hash_rows", lambda self: same)
        found = interactions._repeats(frame).to_list()
    assert found == [place for place, row in enumerate(rows) if row in rows[:place]]
