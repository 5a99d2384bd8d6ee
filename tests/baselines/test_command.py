"""``laser-peft baselines`` on a tiny shop."""

import json

import numpy as np
import pytest
from conftest import run_command

from laser_peft.evaluation import Evaluation


@pytest.fixture(scope="module")
def tested(trained, shop, lm_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("baselines") / "run"
    result = run_command(
        *("baselines", "--interactions", shop / "interactions.csv.gz", "--items"),
        *(shop / "items.jsonl", "--llm", lm_folder, "--sasrec", trained[0] / "sasrec"),
        *("--output", output),
    )
    assert result.exit_code == 0, result.output
    return output, result.output


def test_every_baseline_is_saved_and_printed(tested):
    output, printed = tested
    names = ["popularity", "co-occurrence", "text", "sasrec"]
    for name in names:
        told = Evaluation.load(output / name).summary()
        assert told["name"] == name
        assert told["users"] == 30
        assert name in printed
        values = told["metrics"]
        assert f"{values['unmasked']['mrr@20']:.4f}/" in printed
    run = json.loads((output / "run.json").read_text())
    assert list(run["seconds"]) == names
    assert run["data"]["users"] == 30


def test_the_sasrec_is_judged_as_the_training_run_judged_it(tested, trained):
    found = Evaluation.load(tested[0] / "sasrec")
    expected = Evaluation.load(trained[0] / "evaluation" / "sasrec")
    np.testing.assert_array_equal(found.ranks, expected.ranks)
    folders = [tested[0] / "popularity", trained[0] / "evaluation" / "laser"]
    result = run_command("compare", *folders)
    assert result.exit_code == 0, result.output
    assert "laser - popularity" in result.output


def test_without_models_the_counting_baselines_are_left(shop, tmp_path):
    result = run_command(
        *("baselines", "--interactions", shop / "interactions.csv.gz", "--items"),
        *(shop / "items.jsonl", "--output", tmp_path / "run"),
    )
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "co-occurrence",
        "popularity",
        "run.json",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--llm", "tests"], "config.json"),
        (["--sasrec", "tests"], "config.json"),
        (["--items", "nowhere.jsonl"], "no such file: nowhere.jsonl"),
        (["--output", "tests"], "tests is there already and not empty"),
    ],
)
def test_bad_input_is_one_line_before_any_work(shop, tmp_path, change, message):
    result = run_command(
        *("baselines", "--interactions", shop / "interactions.csv.gz", "--items"),
        *(shop / "items.jsonl", "--output", tmp_path / "run", *change),
    )
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()
