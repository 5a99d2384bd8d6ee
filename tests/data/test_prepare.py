import json

import polars as pl
import pytest
from conftest import run_command
from logs import CSV, HEAD, by_user, frame_of, write

from laser_peft.data import Catalogue, LogSource, prepare, preparing, read_interactions

LOG = CSV + "a,0071,9\na,,1\nc,w,1\n"
ITEMS = "item_id,title\nx,lamp [/b]\ny,\nz,chair\n0071,table\nv,never had\n"


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "items.csv").write_text(ITEMS)
    log = write(tmp_path, "log.csv", LOG)
    return ["--interactions", log, "--items", tmp_path / "items.csv"]


def test_prepared_files_read_back_as_the_same_data(inputs, tmp_path):
    output = tmp_path / "prepared"
    result = run_command("prepare", *inputs, "--output", output, "--drop-bad-rows")
    assert result.exit_code == 0, result.output
    told = json.loads((output / "report.json").read_text())
    assert {path.name for path in output.iterdir()} == {
        "interactions.parquet",
        "catalogue.parquet",
        "report.json",
        "checksums.json",
    }
    assert told["data"]["interactions"] == 7
    assert (told["log"]["rows"], told["log"]["events"]) == (9, 7)
    assert told["settings"]["interactions"]["drop_bad_rows"]
    for text in ("Read 9 rows: 7 interactions", "dropped", told["data"]["sha256"], "row 9"):
        assert text in result.output
    # Reading what was prepared finds nothing more to say, and gives the same data.
    again = prepare(
        LogSource(str(output / "interactions.parquet")),
        str(output / "catalogue.parquet"),
        tmp_path / "again",
    )
    assert again.data == told["data"]
    assert [finding.unit for finding in again.report.findings] == ["items"]  # never had
    assert Catalogue.load(output / "catalogue.parquet").titles[:2] == ["lamp [/b]", "y"]
    log = read_interactions(output / "interactions.parquet")
    assert by_user(log) == {"b": ["y", "0071", "x"], "a": ["z", "x", "y", "0071"]}


def test_without_drop_bad_rows_nothing_is_written(inputs, tmp_path):
    result = run_command("prepare", *inputs, "--output", tmp_path / "prepared")
    assert result.exit_code == 2
    assert "1 row: item_id is missing; the first: row 8" in result.stderr
    assert "1 row: item is not in the catalogue; the first: row 9" in result.stderr
    assert not (tmp_path / "prepared").exists()


def test_a_core_takes_rare_items_out_of_the_catalogue_too(inputs, tmp_path):
    minimums = ["--min-user-events", 3, "--min-item-events", 2]
    output = tmp_path / "prepared"
    result = run_command("prepare", *inputs, "--output", output, "--drop-bad-rows", *minimums)
    assert result.exit_code == 0, result.output
    assert Catalogue.load(output / "catalogue.parquet").item_ids == ["x", "y", "0071"]
    assert "outside the k-core (3 events a user, 2 an item)" in result.output
    assert len(read_interactions(output / "interactions.parquet")) == 6
    # The catalogue lost what nobody had, and the report says so.
    assert "1 item dropped: item of the catalogue is not in the log" in result.output
    findings = json.loads((output / "report.json").read_text())["log"]["findings"]
    (never,) = [found for found in findings if "of the catalogue is not" in found["kind"]]
    assert never["action"] == "dropped"


def test_an_empty_folder_may_be_named_by_a_dot_or_a_link(inputs, tmp_path, monkeypatch):
    source, items = LogSource(str(inputs[1]), drop_bad_rows=True), str(inputs[3])
    for name in ("here", "linked"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "linked")
    prepare(source, items, tmp_path / "link")
    monkeypatch.chdir(tmp_path / "here")
    prepare(source, items, ".")
    for name in ("here", "linked"):
        assert len(read_interactions(tmp_path / name / "interactions.parquet")) == 7


def test_what_has_no_times_says_how_it_is_read(inputs, tmp_path):
    output = tmp_path / "prepared"
    options = ["--drop-bad-rows", "--time-column", ""]
    result = run_command("prepare", *inputs, "--output", output, *options)
    assert result.exit_code == 0, result.output
    assert "It has no times: read it with --time-column ''" in result.output
    with pytest.raises(ValueError, match="no column 'timestamp'; .*.--time-column ''"):
        read_interactions(output / "interactions.parquet")


def test_without_items_the_catalogue_is_what_the_log_has(tmp_path):
    source = LogSource(str(write(tmp_path, "log.csv")), time_column=None)
    prepare(source, None, tmp_path / "prepared")
    catalogue = Catalogue.load(tmp_path / "prepared" / "catalogue.parquet")
    assert catalogue.item_ids == ["0071", "x", "y", "z"]
    assert catalogue.attributes() == [{}, {}, {}, {}]
    log = pl.read_parquet(tmp_path / "prepared" / "interactions.parquet")
    assert log.columns == ["user_id", "item_id"]


def test_an_interrupted_preparation_leaves_no_folder(tmp_path, monkeypatch):
    source = LogSource(str(write(tmp_path, "log.csv")))

    def stops(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparing.json, "dumps", stops)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, None, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()
    prepare(source, None, tmp_path / "prepared")
    assert (tmp_path / "prepared" / "report.json").is_file()


def test_a_log_without_long_histories_is_prepared_only_if_it_can_be_split(tmp_path):
    with pytest.raises(ValueError, match="at least 3 events"):
        prepare(LogSource(str(write(tmp_path, "log.csv", HEAD + "a,x,1\n"))), None, tmp_path / "p")


def test_attributes_of_every_type_are_said_as_python_says_them():
    frame = pl.DataFrame(
        {
            "item_id": ["a", "b"],
            "title": [" two\n\twords\x1c", None],
            "tags": [["  a ", None, "", "b\u00a0c"], []],
            "sizes": [[1, 2], None],
            "nested": [[["x"], ["y", "z"]], None],
            "price": [2.0, 1e20],
            "year": [1984, None],
            "new": [True, None],
        }
    )
    assert Catalogue(frame).attributes() == [
        {
            "title": "two words",
            "tags": "a, b c",
            "sizes": "1, 2",
            "nested": "x, y, z",
            "price": "2.0",
            "year": "1984",
            "new": "True",
        },
        {"price": "1e+20"},
    ]


def test_a_catalogue_numbers_many_items_at_once():
    catalogue = Catalogue(frame_of("item_id\nz\n0071\nx\n"))
    assert catalogue.dense_array(pl.Series(["x", "z", "x"])).tolist() == [3, 1, 3]
    with pytest.raises(ValueError, match=r"1 of 2 items are not in the catalogue of 3: \['71'\]"):
        catalogue.dense_array(pl.Series(["71", "z"]))


@pytest.mark.parametrize("name", ["interactions.parquet", "catalogue.parquet"])
def test_a_prepared_file_that_was_damaged_is_named(tmp_path, name):
    prepare(LogSource(str(write(tmp_path, "log.csv"))), None, tmp_path / "prepared")
    file = tmp_path / "prepared" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is not the file that was .* prepare the log"):
        Catalogue.read(file)


def test_checksums_of_another_tool_are_nobodys_business(tmp_path):
    log = write(tmp_path, "log.csv")
    (tmp_path / "checksums.json").write_text('{"log.csv": ["another tool"]}')
    assert len(read_interactions(log).users)
