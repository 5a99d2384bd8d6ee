import sys

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from logs import CSV, EXPECTED, HEAD, by_user, frame_of, write

from laser_peft.data import Catalogue, interactions, read_interactions, tables

NAMES = [
    f"log.{name}"
    for name in ("csv", "csv.gz", "csv.zst", "jsonl", "jsonl.gz", "jsonl.zst", "json", "ndjson.gz")
] + ["log.parquet", "part-0.c000.snappy.parquet"]


@pytest.mark.parametrize("name", NAMES)
def test_formats_read_alike_oldest_first(tmp_path, name):
    log = read_interactions(write(tmp_path, name))
    assert by_user(log) == EXPECTED
    assert list(by_user(log)) == ["b", "a"]  # users in order of appearance
    assert log.times.tolist() == [1, 3, 3, 4, 5, 5]


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.jsonl", "log.parquet"])
def test_a_file_reads_alike_however_many_rows_at_a_time(tmp_path, monkeypatch, name, rows):
    numbers = CSV + "c,x,7\nb,0071,3\nd,,8\n"
    content = numbers if name.endswith("parquet") else numbers + ",x,9\ne,x,soon\n"
    path = write(tmp_path, name, content) if "json" not in name else tmp_path / name
    if "json" in name:
        frame_of(content).write_ndjson(path)
    options = {"on_bad_rows": "drop"}
    whole = read_interactions(path, **options)
    sizes = []
    read = tables.read_parts

    def counting(*args, **kwargs):
        for part in read(*args, **kwargs):
            sizes.append(len(part.frame))
            yield part

    monkeypatch.setattr(tables, "ROWS_AT_A_TIME", rows)
    monkeypatch.setattr(interactions, "read_parts", counting)
    parts = read_interactions(path, **options)
    assert len(sizes) > 1
    assert max(sizes) <= rows
    assert parts.report == whole.report  # rows are counted from the file's first
    assert parts.user_ids.to_list() == whole.user_ids.to_list()
    assert parts.item_ids.to_list() == whole.item_ids.to_list()
    assert parts.frame().equals(whole.frame())
    with pytest.raises(ValueError, match="row 9 ") as caught:
        read_interactions(path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="row 9 ") as expected:
        read_interactions(path)
    assert str(caught.value) == str(expected.value)


def test_a_frame_and_a_data_set_read_alike():
    datasets = pytest.importorskip("datasets")
    assert by_user(read_interactions(frame_of(CSV))) == EXPECTED
    backwards = datasets.Dataset.from_polars(frame_of(CSV).reverse())
    chosen = backwards.select(range(len(backwards) - 1, -1, -1))  # rows by an index
    assert by_user(read_interactions(chosen)) == EXPECTED


def split_rows(folder, names):
    """Writes two rows of the log to each of three files."""
    rows = CSV.splitlines(keepends=True)[1:]
    for place, name in enumerate(names):
        write(folder, name, HEAD + "".join(rows[2 * place : 2 * place + 2]))


PARTS = ["part-00000.csv", "part-00001.csv.gz", "part-00002.parquet"]


def test_a_folder_of_parts_is_one_log_without_hidden_files(tmp_path):
    split_rows(tmp_path / "log", PARTS)
    for hidden in ("_SUCCESS", ".part-00000.csv.crc", "_staging/part-00000.csv"):
        (tmp_path / "log" / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / "log" / hidden).write_text("no data")
    log = read_interactions(tmp_path / "log")
    assert by_user(log) == EXPECTED
    assert read_interactions(str(tmp_path / "log")).report == log.report
    assert by_user(read_interactions(tmp_path / "log" / "part-*")) == EXPECTED
    assert by_user(read_interactions([tmp_path / "log" / name for name in PARTS])) == EXPECTED


def test_a_list_keeps_its_order_and_a_row_is_named_by_its_file(tmp_path):
    split_rows(tmp_path, PARTS)
    log = read_interactions([tmp_path / name for name in PARTS[::-1]])
    assert list(by_user(log)) == ["a", "b"]
    write(tmp_path, "part-00001.csv.gz", HEAD + "a,x,1\na,,2\n")
    with pytest.raises(ValueError, match="the first: row 2 part-00001.csv.gz"):
        read_interactions([tmp_path / name for name in PARTS])


def test_parts_are_in_the_order_of_their_numbers(tmp_path):
    for place in (10, 9, 1):
        write(tmp_path / "log", f"data_{place}.csv", HEAD + f"a,i{place},0\n")
    for source in (tmp_path / "log", tmp_path / "log" / "data_*.csv"):
        assert by_user(read_interactions(source)) == {"a": ["i1", "i9", "i10"]}


def test_empty_parts_are_parts(tmp_path):
    write(tmp_path / "log", "part-0.csv", HEAD)
    (tmp_path / "log/part-00.csv").touch()
    (tmp_path / "log/part-00.json").touch()
    write(tmp_path / "log", "part-1.csv")
    assert by_user(read_interactions(tmp_path / "log")) == EXPECTED


def test_a_folder_that_a_glob_matches_is_one_of_parts(tmp_path):
    write(tmp_path, "log/2014.csv", HEAD + "a,x,1\n")
    write(tmp_path, "log/2015.csv/part-0.csv", HEAD + "a,y,1\n")
    write(tmp_path, "log/2016.csv", HEAD + "a,z,1\n")
    (tmp_path / "log/_logs").mkdir()
    for pattern in ("log/*", "log/**"):  # the second matches the parts too, and their folders
        assert by_user(read_interactions(tmp_path / pattern)) == {"a": ["x", "y", "z"]}


def test_a_name_is_no_pattern_where_there_is_such_a_file(tmp_path):
    for kind in ("csv", "jsonl", "parquet"):
        for name, right in (("log[1]", True), ("log1", False), ("star*", True), ("starX", False)):
            write(tmp_path, f"{name}.{kind}", CSV if right else HEAD + "c,x,1\n")
        for name in ("log[1]", "star*"):
            assert by_user(read_interactions(tmp_path / f"{name}.{kind}")) == EXPECTED
    for folder in ("run[2]", "run2"):
        (tmp_path / folder).mkdir()
        catalogue = Catalogue(pl.DataFrame({"item_id": [folder]}))
        catalogue.save(tmp_path / folder / "catalogue.parquet")
    path = tmp_path / "run[2]" / "catalogue.parquet"
    assert Catalogue.load(path).item_ids == Catalogue.load(path.parent).item_ids == ["run[2]"]


def test_a_column_that_writers_of_json_left_out_is_null(tmp_path):
    write(tmp_path, "log/part-0.jsonl")
    (tmp_path / "log/part-1.jsonl").write_text('{"user_id": "c", "item_id": "x"}\n')
    with pytest.raises(ValueError, match="1 row: timestamp is missing; the first: row 1 part-1"):
        read_interactions(tmp_path / "log")
    log = read_interactions(tmp_path / "log", on_bad_rows="drop")
    assert by_user(log) == EXPECTED


def test_folders_named_by_a_value_are_a_column(tmp_path):
    for day, rows in (("2014-07-02", "a,y\nb,z\n"), ("2014-07-01", "a,x\n")):
        write(tmp_path, f"log/day={day}/part.csv", "user_id,item_id\n" + rows)
    write(tmp_path, "log/day=2014-07-03%2012%3A00/part.csv", "user_id,item_id\na,w\n")
    for source in (tmp_path / "log", tmp_path / "log" / "day=*" / "*.csv"):
        log = read_interactions(source, time_column="day")
        assert by_user(log) == {"a": ["x", "y", "w"], "b": ["z"]}
    (tmp_path / "log/day=__HIVE_DEFAULT_PARTITION__").mkdir()
    write(tmp_path, "log/day=__HIVE_DEFAULT_PARTITION__/part.csv", "user_id,item_id\na,w\n")
    null = "__HIVE_DEFAULT_PARTITION__/part.csv"
    with pytest.raises(ValueError, match=f"1 row: day is missing; the first: row 1 day={null}"):
        read_interactions(tmp_path / "log", time_column="day")
    # One file is one file, wherever it lies.
    with pytest.raises(ValueError, match="has no column 'day'"):
        read_interactions(tmp_path / "log/day=2014-07-01/part.csv", time_column="day")


def test_parquet_of_spark_and_duckdb_reads_as_it_is(tmp_path):
    """Dictionaries, bytes, decimals, 96-bit timestamps: what such jobs make of ids and times."""
    day = pa.array([1_404_172_800_000_000, 1_404_172_800_500_000], pa.timestamp("us"))
    kinds = {
        "text": pa.array(["0071", "x"]),
        "dictionary": pa.array(["0071", "x"]).dictionary_encode(),
        "bytes": pa.array([b"0071", b"x"]),
        "integer": pa.array([9_007_199_254_740_993, 71], pa.int64()),
        "decimal": pa.array([9_007_199_254_740_993, 71]).cast(pa.decimal128(38, 0)),
    }
    for old in (True, False):
        table = pa.table(kinds | {"timestamp": day})
        pq.write_table(table, tmp_path / "log.parquet", use_deprecated_int96_timestamps=old)
        for name in kinds:
            log = read_interactions(
                tmp_path / "log.parquet",
                user_column="bytes" if name == "text" else "text",
                item_column=name,
            )
            whole = name in ("integer", "decimal")
            # The last digit of 2**53 + 1 would not outlive a float.
            expected = ["9007199254740993", "71"] if whole else ["0071", "x"]
            assert log.item_ids.to_list() == expected
            assert log.times.tolist() == [1_404_172_800.0, 1_404_172_800.5]


def test_json_lines_keep_every_digit_of_an_id(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"user_id": 9007199254740993, "item_id": "0071", "timestamp": 1}\n'
        '{"user_id": 12345678901234567890123, "item_id": 71, "timestamp": 2.5}\n'
    )
    log = read_interactions(path)
    assert log.user_ids.to_list() == ["9007199254740993", "12345678901234567890123"]
    assert log.item_ids.to_list() == ["0071", "71"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set in a folder: what load_dataset takes for a name, without a network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    for name in ("train", "later"):
        write(tmp_path, f"shop/log/{name}.parquet", CSV if name == "train" else HEAD + "c,x,9\n")
    (tmp_path / "shop/log/README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  data_files:\n"
        "  - split: train\n    path: train.parquet\n"
        "  - split: later\n    path: later.parquet\n---\n"
    )


@pytest.mark.usefixtures("hub")
def test_a_data_set_of_the_hub_reads_by_name_configuration_and_split():
    assert by_user(read_interactions("hf://datasets/shop/log")) == EXPECTED
    assert by_user(read_interactions("hf://datasets/shop/log/all#later")) == {"c": ["x"]}
    assert len(Catalogue.read("hf://datasets/shop/log#later")) == 1


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shop", "is named hf://datasets/owner/name, .* got hf://datasets/shop"),
        ("shop/log/all/more", "is named hf://datasets/owner/name"),
        ("shop/log#test", "cannot load hf://datasets/shop/log#test: Unknown split"),
        ("shop/nothing", "cannot load hf://datasets/shop/nothing"),
    ],
)
def test_a_wrong_name_on_the_hub_is_said(name, message):
    with pytest.raises(ValueError, match=message):
        read_interactions(f"hf://datasets/{name}")


def test_without_the_extra_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'laser-peft\[datasets\]'"):
        read_interactions("hf://datasets/owner/name")


def test_other_objects_are_refused():
    datasets = pytest.importorskip("datasets")
    data = datasets.DatasetDict({"train": datasets.Dataset.from_polars(frame_of(CSV))})
    with pytest.raises(TypeError, match=r"got DatasetDict; choose one split .* data\['train'\]"):
        read_interactions(data)


def test_frames_of_other_kinds_are_refused_with_what_to_do(monkeypatch):
    monkeypatch.delitem(sys.modules, "datasets", raising=False)  # nobody needs it for that
    with pytest.raises(TypeError, match=r"got LazyFrame; give frame.collect\(\)"):
        read_interactions(frame_of(CSV).lazy())
    pandas = type("DataFrame", (), {"__module__": "pandas.core.frame"})
    with pytest.raises(TypeError, match=r"got DataFrame; give polars.from_pandas\(frame\)"):
        read_interactions(pandas())


def test_of_a_data_set_only_the_columns_of_the_log_are_read(monkeypatch):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_polars(frame_of(CSV).with_columns(image=pl.lit("large")))
    read = []
    to_polars = datasets.Dataset.to_polars
    monkeypatch.setattr(
        datasets.Dataset, "to_polars", lambda one: read.append(one.column_names) or to_polars(one)
    )
    assert by_user(read_interactions(data)) == EXPECTED
    assert read == [["user_id", "item_id", "timestamp"]]


def test_parts_of_a_catalogue_may_know_different_things(tmp_path):
    (tmp_path / "items").mkdir()
    (tmp_path / "items/part-0.jsonl").write_text('{"item_id": 71, "title": "lamp"}\n')
    (tmp_path / "items/part-1.jsonl").write_text('{"item_id": "0071", "brand": "Alba"}\n')
    catalogue = Catalogue.read(tmp_path / "items")
    assert catalogue.item_ids == ["71", "0071"]
    assert catalogue.attributes() == [{"title": "lamp"}, {"brand": "Alba"}]
    pl.DataFrame({"item_id": ["x"], "title": [["a", "list"]]}).write_parquet(
        tmp_path / "items/part-2.parquet"
    )
    with pytest.raises(ValueError, match="parts of items hold a column in ways that do not go"):
        Catalogue.read(tmp_path / "items")
