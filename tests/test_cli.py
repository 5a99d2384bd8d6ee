"""The main job end to end, on a tiny shop, through the command."""

import json
import os
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from conftest import NUM_ITEMS, run_command, run_in_new_processes, train_arguments
from safetensors.torch import load_file

from laser_peft.data import Catalogue
from laser_peft.item_texts import Whitening
from laser_peft.recommender import LaserRecommender
from laser_peft.training import RankingTrainer


def test_train_prints_both_protocols_and_leaves_a_run_that_says_everything(trained):
    output, printed = trained
    assert "unmasked" in printed
    assert "masked ndcg@10: laser - sasrec" in printed
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["users"] == 30
    for model in ("sasrec", "laser"):
        for protocol in ("unmasked", "masked"):
            values = metrics["models"][model][protocol]
            assert set(values) == {f"{m}@{k}" for m in ("hr", "ndcg", "mrr") for k in (5, 10, 20)}
            assert 0 <= values["ndcg@10"] <= values["hr@10"] <= 1
    told = json.loads((output / "run.json").read_text())
    assert told["data"]["users"] == 30
    assert told["data"]["items"] == NUM_ITEMS
    assert told["settings"]["laser"]["epochs"] == 1
    assert told["versions"]["peft"].startswith("0.21")


def test_evaluate_repeats_the_table_of_training(trained, shop):
    output, printed = trained
    result = run_command(
        "evaluate", output / "recommender", "--interactions", shop / "interactions.csv.gz"
    )
    assert result.exit_code == 0, result.output
    table = printed[printed.index("Test, 30 users") : printed.index("Time:")].strip()
    assert table in result.output


def test_a_language_model_that_has_moved_is_found_where_it_is_said_to_be(
    trained, shop, lm_folder, tmp_path
):
    folder = tmp_path / "moved"
    LaserRecommender.from_pretrained(trained[0] / "recommender").save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "nowhere"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "checksums.json").unlink()
    log = ["--interactions", shop / "interactions.csv.gz"]
    for command in (["evaluate", folder, *log], ["inspect", folder], ["recommend", folder, "i1"]):
        lost = run_command(*command)
        assert lost.exit_code == 2
        assert "was trained on the language model 'nowhere'" in lost.stderr
        wrong = run_command(*command, "--llm", "elsewhere")
        assert "there is no language model 'elsewhere'" in wrong.stderr
        assert run_command(*command, "--llm", lm_folder).exit_code == 0


def recommend_elsewhere(rank, folder, directory):
    os.chdir(directory)
    os.environ["COLUMNS"] = "100"
    result = run_command("recommend", folder, "i1", "i2")
    assert result.exit_code == 0, result.stderr
    (directory / "printed.txt").write_text(result.stdout, "utf-8")


def test_recommend_in_a_new_process_and_another_directory(trained, tmp_path):
    folder = trained[0] / "recommender"
    run_in_new_processes(recommend_elsewhere, folder, tmp_path)
    printed = (tmp_path / "printed.txt").read_text("utf-8")
    lines = [line for line in printed.splitlines() if "Thing number" in line]
    assert len(lines) == 10
    expected = LaserRecommender.from_pretrained(folder).recommend(["i1", "i2"])
    assert all(item.title in line for item, line in zip(expected, lines, strict=True))


def test_resuming_a_finished_run_changes_nothing(trained, shop, lm_folder, monkeypatch):
    output, _ = trained
    before = json.loads((output / "metrics.json").read_text())
    monkeypatch.setattr(RankingTrainer, "train", None)  # nothing is trained again
    result = run_command(*train_arguments(shop, lm_folder, output), "--resume")
    assert result.exit_code == 0, result.output
    after = json.loads((output / "metrics.json").read_text())
    assert after["models"] == before["models"]
    for stage in ("sasrec", "laser"):
        assert after["seconds"][stage] == before["seconds"][stage]


def test_a_run_that_goes_on_says_its_items_by_the_map_it_began_with(
    trained, shop, lm_folder, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    before = load_file(run / "recommender" / "adapter_model.safetensors")
    shutil.rmtree(run / "recommender")
    (run / "metrics.json").unlink()
    # Fitted again its directions may turn, by another rounding or another machine's.
    monkeypatch.setattr(Whitening, "fit", None)
    result = run_command(*train_arguments(shop, lm_folder, run), "--resume")
    assert result.exit_code == 0, result.output
    after = load_file(run / "recommender" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_finished_run_is_resumed_from_another_directory(trained, shop, lm_folder, monkeypatch):
    monkeypatch.setattr(RankingTrainer, "train", None)
    monkeypatch.chdir(shop)
    output = os.path.relpath(trained[0])
    arguments = train_arguments(Path(), os.path.relpath(lm_folder), output)
    result = run_command(*arguments, "--resume")
    assert result.exit_code == 0, result.output


def test_other_settings_run_to_the_end_and_are_kept(shop, lm_folder, tmp_path):
    settings = ["--bf16", "--every-prefix", "--no-collaborative-skip", "--prefix-tokens", 3]
    settings += ["--suffix-tokens", 2, "--experts", 1, "--experts-per-user", 1, "--max-items", 4]
    settings += ["--batch-size", 32]
    result = run_command(*train_arguments(shop, lm_folder, tmp_path / "run"), *settings)
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "run" / "recommender" / "adapter_config.json").read_text())
    assert (saved["num_prefix_tokens"], saved["num_suffix_tokens"], saved["num_experts"]) == (
        3,
        2,
        1,
    )
    assert not saved["collaborative_skip"]
    history = [f"i{item}" for item in range(9)]  # longer than the encoder reads
    again = run_command("recommend", tmp_path / "run" / "recommender", *history, "-k", 3)
    assert again.output.count("Thing number") == 3
    log = shop / "interactions.csv.gz"
    told = run_command("evaluate", tmp_path / "run" / "recommender", "--interactions", log)
    table = result.output[result.output.index("Test, 30 users") : result.output.index("Time:")]
    assert table.strip() in told.output  # the test of a bf16 run is what a new process finds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "not empty; choose another folder, or resume"),
        (["--resume", "--seed", "5"], "has other settings: seed (0, now 5) changed"),
    ],
)
def test_a_run_is_never_overwritten_or_mixed(trained, shop, lm_folder, change, message):
    output, _ = trained
    result = run_command(*train_arguments(shop, lm_folder, output), *change)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_folder_that_holds_no_run_is_not_resumed(shop, lm_folder, tmp_path):
    (tmp_path / "sasrec").mkdir()
    result = run_command(*train_arguments(shop, lm_folder, tmp_path), "--resume")
    assert result.exit_code == 2
    assert "holds no run to resume" in result.stderr


def test_square_brackets_in_a_title_are_printed(trained, tmp_path):
    moved = tmp_path / "recommender"
    shutil.copytree(trained[0] / "recommender", moved)
    catalogue = Catalogue.load(moved / "catalogue.parquet")
    titles = pl.Series("title", ["Lamp [/b] [pack of 2]"] * NUM_ITEMS)
    Catalogue(catalogue.frame.with_columns(titles)).save(moved / "catalogue.parquet")
    (moved / "checksums.json").unlink()
    result = run_command("recommend", moved, "i1", "-k", 1)
    assert "Lamp [/b] [pack of 2]" in result.output


def test_histories_too_short_to_train_on_are_said_first(shop, lm_folder, tmp_path):
    log = tmp_path / "log.csv"
    rows = [f"u{user},i{user + item},{item}" for user in range(5) for item in range(3)]
    log.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    arguments = train_arguments(shop, lm_folder, tmp_path / "run")
    result = run_command(*arguments, "--interactions", log)
    assert result.exit_code == 2
    assert "training needs users with at least 4 events" in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--user-column", "who"], "has no column 'who'; it has 'user_id', 'item_id'"),
        (["--experts", "2", "--experts-per-user", "3"], "must be at most num_experts"),
        (["--max-tokens", "20"], "max_tokens (20) must hold the instruction"),
        (["--prefix-tokens", "256"], "257 virtual tokens leave no room in the 256 tokens"),
        (["--llm", "tests"], "cannot load the language model"),
        (["--llm", "nowhere"], "there is no language model 'nowhere'"),
        (["--seed", "-1"], "seed must lie in 0..4294967295, got -1"),
        (["--max-tokens", "250"], "more than the 256 tokens"),
        (["--items", "nowhere.jsonl"], "no such file: nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_line_before_any_work(shop, lm_folder, tmp_path, change, message):
    output = tmp_path / "run"
    result = run_command(*train_arguments(shop, lm_folder, output), *change)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("laser-peft: ")
    assert not output.exists()


def test_recommend_prints_json_of_what_is_allowed(trained, tmp_path):
    folder = trained[0] / "recommender"
    (tmp_path / "ids.txt").write_bytes("\ufeffi3\r\n\r\ni4\r\ni5".encode())
    lists = ["--allow", f"@{tmp_path / 'ids.txt'}", "--allow", "i6", "--deny", "i4", "--deny", "i0"]
    result = run_command("recommend", folder, "i5", "i1", "--json", *lists)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {item["item_id"] for item in found} == {"i3", "i6"}
    expected = LaserRecommender.from_pretrained(folder).recommend(["i5", "i1"], allow=["i3", "i6"])
    assert [item["title"] for item in found] == [item.title for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item.score for item in expected])


def test_recommend_takes_a_new_user(trained):
    result = run_command("recommend", trained[0] / "recommender", "-k", 3)
    assert result.exit_code == 0, result.output
    assert result.output.count("Thing number") == 3


def test_recommend_says_which_list_is_wrong(trained, tmp_path):
    folder = trained[0] / "recommender"
    missing = run_command("recommend", folder, "i1", "--deny", f"@{tmp_path / 'none'}")
    assert missing.exit_code == 2
    assert "no such file" in missing.stderr
    (tmp_path / "ids").write_bytes(b"\xff\xfe\x00")
    damaged = run_command("recommend", folder, "i1", "--deny", f"@{tmp_path / 'ids'}")
    assert "is not text in UTF-8" in damaged.stderr
    unknown = run_command("recommend", folder, "i1", "--allow", "x")
    assert unknown.exit_code == 2
    assert "allow: 1 of 1 items are not in the catalogue of 23: ['x']" in unknown.stderr


def test_recommend_says_what_is_wrong(trained, tmp_path):
    output, _ = trained
    unknown = run_command("recommend", output / "recommender", "i1", "nothing")
    assert unknown.exit_code == 2
    assert "1 of 2 items are not in the catalogue of 23: ['nothing']" in unknown.stderr
    nowhere = run_command("recommend", tmp_path / "nowhere", "i1")
    assert nowhere.exit_code == 2
    assert "there is no folder" in nowhere.stderr
