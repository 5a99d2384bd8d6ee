"""How a log is read, told to the commands; the report is printed and kept."""

import gzip
import json
import sys

import pytest
from conftest import run_command, train_arguments


def test_a_run_keeps_the_report_and_prints_it_before_training(trained):
    output, printed = trained
    assert printed.startswith("Read 175 rows: 175 interactions of 30 users with 23 items.")
    data = json.loads((output / "run.json").read_text())["data"]
    assert (data["log"]["rows"], data["log"]["findings"]) == (175, [])
    assert f"sha256: {data['sha256']}" in printed


def test_bad_rows_stop_a_command_unless_they_are_dropped_and_counted(trained, shop, tmp_path):
    log = tmp_path / "log.csv"
    content = gzip.decompress((shop / "interactions.csv.gz").read_bytes()).decode()
    log.write_text(content + "u0,[i99],2000\nu1,i1,never\n")
    arguments = ["evaluate", trained[0] / "recommender", "--interactions", log]
    refused = run_command(*arguments)
    assert refused.exit_code == 2
    assert "1 row: timestamp is no time; the first: row 177" in refused.stderr
    assert "1 row: item is not in the catalogue; the first: row 176" in refused.stderr
    options = ["--drop-bad-rows", "--drop-duplicates", "--time-unit", "ms"]
    with pytest.warns(UserWarning, match="before the year 1990"):
        dropped = run_command(*arguments, *options)
    assert dropped.exit_code == 0, dropped.output
    assert "Read 177 rows: 175 interactions" in dropped.output
    assert "1 row dropped: item is not in the catalogue" in dropped.output
    assert "row 176 (user_id='u0', item_id='[i99]', timestamp='2.0')" in dropped.output


def test_train_reads_what_prepare_wrote(shop, lm_folder, tmp_path):
    prepared, run = tmp_path / "prepared", tmp_path / "run"
    inputs = ["--interactions", shop / "interactions.csv.gz", "--items", shop / "items.jsonl"]
    done = run_command("prepare", *inputs, "--output", prepared, "--min-user-events", 4)
    assert done.exit_code == 0, done.output
    arguments = train_arguments(shop, lm_folder, run)
    arguments[1:5] = ["--interactions", prepared / "interactions.parquet"]
    result = run_command(*arguments, "--items", prepared / "catalogue.parquet")
    assert result.exit_code == 0, result.output
    told = json.loads((prepared / "report.json").read_text())["data"]
    data = json.loads((run / "run.json").read_text())["data"]
    assert {name: data[name] for name in told} == told


def test_a_missing_package_is_said_in_a_line(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    arguments = ["evaluate", trained[0] / "recommender", "--interactions", "hf://datasets/a/b"]
    result = run_command(*arguments)
    assert result.exit_code == 2
    assert "laser-peft: hf://datasets/a/b needs the datasets library: pip install" in result.stderr
