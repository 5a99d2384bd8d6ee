"""The main job with item vectors that the adapter reads itself, in two phases."""

import json

import pytest
from conftest import run_command, train_arguments

from laser_peft import LaserRecommender


@pytest.fixture(scope="module")
def run(shop, lm_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "text"
    result = run_command(*train_arguments(shop, lm_folder, output), "--item-vectors", "text")
    assert result.exit_code == 0, result.output
    return output, result.output


def test_a_run_has_two_phases_and_says_so(run):
    output, printed = run
    assert "for the adapter (25 examples x 2 epochs, " in printed
    for phase in ("laser-phase-1", "laser"):
        assert list((output / "checkpoints" / phase).iterdir())
        assert (output / "history" / f"{phase}.jsonl").is_file()
    saved = json.loads((output / "recommender" / "adapter_config.json").read_text())
    assert (saved["item_vectors"], saved["similarity"]) == ("text", "cosine")
    assert (saved["temperature"], saved["collaborative_skip"]) == (0.05, False)


def test_its_recommender_recommends_and_takes_new_items(run):
    folder = run[0] / "recommender"
    assert run_command("recommend", folder, "i1", "-k", 3).output.count("Thing number") == 3
    recommender = LaserRecommender.from_pretrained(folder)
    recommender.add_items([{"item_id": "new", "title": "Thing number 99"}])
    assert len(recommender.recommend(["i1", "new"], k=99)) == 22
    best = recommender.recommend(["i1"], k=99, exclude_seen=False)
    assert all(abs(item.score) <= 20.001 for item in best)  # cosines over .05


def test_it_is_resumed_before_the_second_phase_has_a_checkpoint(
    run, shop, lm_folder, tmp_path, stop_after
):
    arguments = [*train_arguments(shop, lm_folder, tmp_path / "run"), "--item-vectors", "text"]
    stop_after(2 + 4 + 1)  # of the SASRec, and of the two phases
    assert run_command(*arguments).exit_code == 130
    stop_after(None)
    assert run_command(*arguments, "--resume").exit_code == 0
    name = "recommender/adapter_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (run[0] / name).read_bytes()
