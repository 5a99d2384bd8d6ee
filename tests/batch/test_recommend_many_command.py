"""``laser-peft recommend-many``, in one process and in two."""

import os
import re
import socket

import polars as pl
import pytest
from conftest import NUM_ITEMS, run_command, run_in_new_processes

USERS = 17


@pytest.fixture
def histories(tmp_path):
    listed = [[f"i{(user + n) % NUM_ITEMS}" for n in range(user % 5)] for user in range(USERS)]
    path = tmp_path / "histories.parquet"
    pl.DataFrame({"user_id": range(USERS), "history": listed}).write_parquet(path)
    return path


def command(trained, histories, output, *more):
    options = ["--histories", histories, "--output", output, "--rows-per-part", 5, "-k", 3]
    return ["recommend-many", trained[0] / "recommender", *options, *more]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def test_it_writes_says_how_fast_and_goes_on(trained, histories, tmp_path):
    out = tmp_path / "out"
    first = run_command(*command(trained, histories, out, "--shard", "1/2"))
    assert first.exit_code == 0, first.output
    assert "Shard 1/2: Parts of other shards are still missing." in first.output
    result = run_command(*command(trained, histories, out))
    assert result.exit_code == 0, result.output
    assert "10 histories had been done before." in result.output
    told = r"7 histories in [\d.]+ s, [\d.]+ a second; peak memory \d+ MiB\.\nAll parts are there\."
    assert re.search(told, result.output)
    found = pl.read_parquet(out / "*.parquet")
    assert found["user_id"].to_list() == list(range(USERS))
    assert found["item_ids"].list.len().to_list() == [3] * USERS


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard", "3/2"], "shard 3/2 does not exist"),
        (["--user-column", "who"], "has no column 'who'"),
        (["--allow", "@none.txt"], "no such file: none.txt"),
        (["--deny", "x"], "deny: 1 of 1 items are not in the catalogue"),
        (["--device", "mars"], "cannot use the device 'mars'"),
        (["--llm", "nowhere/at-all"], "there is no language model 'nowhere/at-all'"),
    ],
)
def test_what_cannot_work_is_said_in_a_line(trained, histories, tmp_path, more, message):
    result = run_command(*command(trained, histories, tmp_path / "out", *more))
    assert result.exit_code == 2
    assert message in result.output
    assert not list(tmp_path.glob("out/*.parquet"))


def test_a_language_model_may_lie_elsewhere(trained, histories, tmp_path, lm_folder):
    run_command(*command(trained, histories, tmp_path / "one"))
    moved = tmp_path / "moved"
    os.symlink(lm_folder, moved)
    result = run_command(*command(trained, histories, tmp_path / "two", "--llm", moved))
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _launched(rank, count, port, arguments):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    result = run_command(*arguments)
    assert result.exit_code == 0, result.output
    refused = run_command(*arguments, "--shard", "1/2")
    assert "leave --shard out" in refused.output


@pytest.mark.slow
def test_two_processes_of_a_launcher_write_the_bits_of_one(trained, histories, tmp_path):
    run_command(*command(trained, histories, tmp_path / "one"))
    arguments = command(trained, histories, tmp_path / "two")
    run_in_new_processes(_launched, 2, free_port(), arguments, count=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_empty_list_of_what_is_allowed_is_an_error(trained, histories, tmp_path):
    empty = tmp_path / "stock.txt"
    empty.touch()
    result = run_command(*command(trained, histories, tmp_path / "out", "--allow", f"@{empty}"))
    assert result.exit_code == 2
    assert "holds no ids, so nothing could be recommended; leave --allow out" in result.output
    assert not (tmp_path / "out").exists()
