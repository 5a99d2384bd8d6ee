"""Saved tests through the commands: train and evaluate write them, compare reads them."""

import json

import numpy as np
import pytest
from conftest import run_command

from laser_peft.evaluation import Evaluation, compare


def test_train_saves_the_ranks_behind_its_table(trained):
    output, printed = trained
    metrics = json.loads((output / "metrics.json").read_text())
    saved = [Evaluation.load(output / "evaluation" / name) for name in ("sasrec", "laser")]
    seconds = metrics.pop("seconds")
    assert set(seconds) == {"sasrec", "laser", "test"}
    assert compare(*saved) == metrics
    for evaluation in saved:
        told = metrics["models"][evaluation.name]
        assert evaluation.summary()["metrics"] == told
        assert f"{told['unmasked']['ndcg@10']:.4f}/{told['masked']['ndcg@10']:.4f}" in printed
    assert "short: " in printed


def test_evaluate_finds_the_ranks_of_training_and_saves_them(trained, shop, tmp_path):
    output, _ = trained
    arguments = ["evaluate", output / "recommender", "--interactions"]
    arguments += [shop / "interactions.csv.gz", "--output", tmp_path / "again"]
    assert run_command(*arguments).exit_code == 0
    for name in ("sasrec", "laser"):
        first = Evaluation.load(output / "evaluation" / name)
        second = Evaluation.load(tmp_path / "again" / name)
        assert first.data_hash == second.data_hash
        np.testing.assert_array_equal(first.ranks, second.ranks)
    refused = run_command(*arguments)
    assert refused.exit_code == 2
    assert "is there already and not empty; choose another folder" in refused.stderr


def test_an_evaluation_that_breaks_off_leaves_no_folder(trained, shop, tmp_path, monkeypatch):
    arguments = ["evaluate", trained[0] / "recommender", "--interactions"]
    arguments += [shop / "interactions.csv.gz", "--output", tmp_path / "tested"]
    save = Evaluation.save

    def breaks(self, folder):
        if self.name == "laser":
            raise OSError(28, "No space left on device")
        save(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "save", breaks)
        refused = run_command(*arguments)
    assert refused.exit_code == 2
    assert "there is no room left on the disk" in refused.stderr
    assert not (tmp_path / "tested").exists()
    assert run_command(*arguments).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tested"]


def test_compare_prints_and_writes_every_difference(trained, tmp_path):
    folder = trained[0] / "evaluation"
    file = tmp_path / "comparison.json"
    result = run_command("compare", folder / "sasrec", folder / "laser", "--output", file)
    assert result.exit_code == 0, result.output
    told = json.loads(file.read_text())
    assert told == compare(*(Evaluation.load(folder / name) for name in ("sasrec", "laser")))
    assert "Test, 30 users, whole catalogue: laser - sasrec" in result.output
    for name, part in told["slices"].items():
        assert f"{name}: {part['users']} users" in result.output
        for difference in part.get("difference", {}).get("masked", {}).values():
            assert f"({difference['low']:+.4f} .. {difference['high']:+.4f})" in result.output
    again = run_command("compare", folder / "sasrec", folder / "laser", "--output", file)
    assert again.exit_code == 2
    assert "is there already; choose another file" in again.stderr


def test_runs_of_one_name_are_told_apart_by_their_folders(trained, tmp_path):
    laser = Evaluation.load(trained[0] / "evaluation" / "laser")
    for name in ("one", "two"):
        laser.save(tmp_path / name)
    result = run_command("compare", tmp_path / "one", tmp_path / "two")
    assert result.exit_code == 0
    assert "+0.0000 (+0.0000 .. +0.0000)" in result.output


@pytest.mark.parametrize(
    ("second", "message"),
    [("sasrec", "both runs are called"), ("..", "did you mean one of"), ("x", "no saved eval")],
)
def test_compare_says_what_is_wrong(trained, second, message):
    folder = trained[0] / "evaluation"
    result = run_command("compare", folder / "sasrec", folder / second)
    assert result.exit_code == 2
    assert message in result.stderr
