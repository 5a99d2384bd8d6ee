"""The command that causes faults: a small run of it, and what it counts as a clear error."""

import importlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from laser_peft import BiTuningConfig
from laser_peft.data import PromptTemplate

FOLDER = Path(__file__).parents[2] / "examples" / "reliability"


def load(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FOLDER), *sys.path])
        return importlib.import_module(name)


faults, fuzz, mutations, table = map(load, ("faults", "fuzz", "mutations", "table"))


@pytest.mark.skipif(sys.platform != "linux", reason="it forks and kills")
@pytest.mark.slow  # models are trained, killed and trained again
def test_a_small_run_survives_and_is_told(tmp_path):
    page = tmp_path / "page.md"
    begin, end = table.marks("kills")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    asked = ["--kills", "6", "--commands", "train-encoder", "prepare", "add_items and save"]
    asked += ["--inputs", "60", "--tries", "1", "--parts", "kills", "limits", "fuzz"]
    # In a process of its own: here polars has threads, which a fork would lack.
    done = subprocess.run(
        [sys.executable, FOLDER / "run.py", "--output", page, *asked],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith("before\n")
    assert "\nafter\n" in text
    assert "old" not in text
    for words in ("| train-encoder: ", "| prepare | ", "| loss is NaN | ", "| files of --config |"):
        assert words in text


@pytest.mark.parametrize(
    ("call", "is_clear"),
    [
        (lambda: BiTuningConfig(num_prefix_tokens=-1), True),
        (lambda: json.loads("{"), False),
        (lambda: PromptTemplate().describe(3), False),  # an operator raises in a line of ours
    ],
)
def test_only_an_error_that_we_raise_in_our_words_is_clear(call, is_clear):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert fuzz.is_clear(caught.value) == is_clear


def test_the_same_seed_damages_in_the_same_way():
    value = {"a": [1, {"b": "c"}], "d": None}
    for change, before in ((mutations.mutated_json, value), (mutations.mutated_bytes, b"abcdef")):
        drawn = [[repr(change(before, random.Random(seed))) for seed in range(20)] for _ in "ab"]
        assert drawn[0] == drawn[1]
        assert len(set(drawn[0])) > 10
    assert value == {"a": [1, {"b": "c"}], "d": None}
