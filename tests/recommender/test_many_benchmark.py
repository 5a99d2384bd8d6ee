"""The benchmarks of a recommender run, and say what their page needs."""

import importlib
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("resource", reason="Windows does not count a process's peak so")
FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def benchmark():
    return importlib.import_module("recommend_many")


@pytest.mark.slow
def test_it_says_speed_and_memory_for_each_number_of_histories(benchmark, trained, capsys):
    folder = str(trained[0] / "recommender")
    benchmark.main([folder, "--histories", "17", "29", "--batch-size", "5", "--repeats", "3"])
    printed = capsys.readouterr().out
    told = r"^23 items; one new history, 3 calls: median [\d.]+ ms \([\d.]+ to [\d.]+\)$"
    assert re.search(told, printed, re.MULTILINE)
    rows = r"^\| (\d+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \| \d+ MiB \|$"
    assert re.findall(rows, printed, re.MULTILINE) == ["17", "29"]


@pytest.mark.slow
def test_a_server_under_load_answers_all_and_refuses_what_it_must(trained, capsys):
    serving = importlib.import_module("serving")
    serving.main([str(trained[0] / "recommender"), "--seconds", "1", "--clients", "1", "3"])
    printed = capsys.readouterr()
    rows = (
        r"^\| (\d) \| [1-9]\d* \| [\d.]+ \| \d+ ms \| \d+ ms \| [1-9]\d* \| 0 \| \d+ to \d+ MiB \|$"
    )
    assert re.findall(rows, printed.out, re.MULTILINE) == ["1", "3"], printed


def test_its_histories_hold_different_items_and_are_drawn_as_they_are_asked_for(benchmark):
    ids = [f"i{item}" for item in range(23)]
    histories = list(islice(benchmark.draw_histories(ids, np.random.default_rng(0)), 101))
    assert all(len(set(history)) == len(history) >= 5 for history in histories)
    assert {item for history in histories for item in history} == set(ids)


@pytest.mark.parametrize(("users", "histories"), [("1", 4), ("3", 12)])
def test_one_event_finds_the_same_items_either_way(trained, capsys, users, histories):
    asked = ["--rounds", "4", "--correction", "1", "--users", users]
    importlib.import_module("one_event").main([str(trained[0] / "recommender"), *asked])
    printed = capsys.readouterr().out
    assert f"the same ten items in {histories} of {histories}" in printed
    assert re.findall(r"^\| (the whole history|in a session) \|", printed, re.MULTILINE)
