"""The folder of a run: who may write into it, what may be gone on with, and how long it took."""

import json
from dataclasses import asdict, dataclass, replace

import pytest

from laser_peft.data import LogSource
from laser_peft.pipeline import EncoderRun, TrainRun
from laser_peft.runs import (
    adds_seconds,
    check_new,
    check_output,
    save_whole,
    seconds_of,
    start_or_check,
)
from laser_peft.training.checkpoints import last_checkpoint
from laser_peft.whole import write_json

DATA = {"users": 5, "items": 7, "interactions": 31, "sha256": "ab"}
RUN = EncoderRun(interactions=LogSource("log.csv"), items="items.csv")
TRAIN_RUN = TrainRun(**vars(RUN), llm="lm")


@pytest.mark.parametrize("made", ["folder", "leftover", "nothing"])
def test_what_holds_nothing_is_new_with_or_without_resume(tmp_path, made):
    output = tmp_path / "run"
    if made != "nothing":
        output.mkdir()
    if made == "leftover":  # killed in the midst of the first write_json
        (output / "run.unfinished").write_text('{"sett')
    check_new(output)
    for resume in (False, True):
        check_output(output, resume=resume)
    start_or_check(output, RUN, DATA)
    assert [path.name for path in output.iterdir()] == ["run.json"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_is_no_output(tmp_path, resume):
    file = tmp_path / "run"
    file.touch()
    with pytest.raises(FileExistsError, match="run is a file; choose a folder"):
        check_new(file)
    with pytest.raises(FileExistsError, match="run is a file; choose a folder"):
        check_output(file, resume=resume)


def test_what_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match="is there already and not empty; choose another"):
        check_new(tmp_path)
    with pytest.raises(FileExistsError, match=r"not empty; choose .* resume the run in it"):
        check_output(tmp_path, resume=False)
    with pytest.raises(FileExistsError, match=r"not empty; it holds no run to resume"):
        check_output(tmp_path, resume=True)


def test_a_run_may_go_on_as_it_was_started(tmp_path):
    start_or_check(tmp_path, TRAIN_RUN, DATA)
    written = (tmp_path / "run.json").read_text()
    check_output(tmp_path, resume=True)
    start_or_check(tmp_path, TRAIN_RUN, DATA)
    assert (tmp_path / "run.json").read_text() == written
    assert json.loads(written)["settings"] == asdict(TRAIN_RUN)


def test_the_same_data_elsewhere_is_the_same(tmp_path):
    start_or_check(tmp_path, RUN, DATA)
    log = replace(RUN.interactions, path="../elsewhere/*.parquet")
    start_or_check(tmp_path, replace(RUN, interactions=log, items="/items.jsonl"), DATA)


@pytest.mark.parametrize(
    ("run", "data", "message"),
    [
        (
            replace(TRAIN_RUN, seed=3, llm="other"),
            DATA,
            r"other settings: seed \(0, now 3\), llm \('lm', now 'other'\) changed",
        ),
        (RUN, DATA, "other settings: llm, prompt, .*changed"),
        (
            replace(TRAIN_RUN, interactions=LogSource("log.csv", user_column="who")),
            DATA,
            r"other settings: interactions.user_column \('user_id', now 'who'\) changed",
        ),
        (
            TRAIN_RUN,
            DATA | {"items": 11, "sha256": "cd"},
            r"other data: items \(.*, now 11\), sha256 changed",
        ),
    ],
)
def test_another_run_is_refused(tmp_path, run, data, message):
    start_or_check(tmp_path, TRAIN_RUN, DATA)
    with pytest.raises(ValueError, match=message):
        start_or_check(tmp_path, run, data)


def test_what_another_command_left_is_refused(tmp_path):
    write_json(tmp_path / "run.json", {"data": DATA, "seconds": {"popularity": 1.0}})
    with pytest.raises(ValueError, match="other settings: .*seed.* changed"):
        start_or_check(tmp_path, RUN, DATA)


def test_a_damaged_run_is_named(tmp_path):
    start_or_check(tmp_path, RUN, DATA)
    file = tmp_path / "run.json"
    file.write_text(file.read_text()[:23])
    message = r"run\.json is damaged \(.*\); without it .* restore it, or choose another folder"
    with pytest.raises(ValueError, match=message):
        check_output(tmp_path, resume=True)
    with pytest.raises(ValueError, match=message):
        start_or_check(tmp_path, RUN, DATA)


def test_the_newest_checkpoint_whose_state_is_whole_is_the_last(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step in (2, 13, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert last_checkpoint(tmp_path) is None
    for step, state in ((2, "{}"), (11, '{"global_step": 11}'), (13, '{"global_st')):
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-11")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless its hands are moved."""

    @dataclass
    class Clock:
        now: float = 1000.0

    clock = Clock()
    monkeypatch.setattr("laser_peft.runs.time.monotonic", lambda: clock.now)
    return clock


def test_the_parts_of_a_stage_add_up_over_interruptions(tmp_path, clock):
    assert seconds_of(tmp_path) == {}
    cut_off = adds_seconds(tmp_path, "sasrec")
    cut_off.__enter__()
    clock.now += 3
    assert not cut_off.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    clock.now += 50  # until it is resumed
    with adds_seconds(tmp_path, "sasrec"):
        clock.now += 7.5
    with adds_seconds(tmp_path, "laser"):
        clock.now += 11
    assert seconds_of(tmp_path) == {"sasrec": 10.5, "laser": 11.0}


def test_damaged_seconds_are_named(tmp_path):
    (tmp_path / "seconds.json").write_text("{")
    with pytest.raises(ValueError, match=r"seconds\.json is damaged .* delete it"):
        seconds_of(tmp_path)


def test_what_was_half_saved_is_saved_anew(tmp_path):
    class Saved:
        def save_pretrained(self, folder):
            folder.mkdir(exist_ok=True)
            (folder / "new").touch()

    (tmp_path / "sasrec.unfinished").mkdir()
    (tmp_path / "sasrec.unfinished" / "old").touch()
    save_whole(Saved(), tmp_path / "sasrec")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
        "sasrec",
        "sasrec/new",
    ]


def test_resuming_what_is_not_there_is_said(tmp_path, caplog):
    check_output(tmp_path / "typo", resume=True)
    assert f"there is no run in {tmp_path / 'typo'} to resume: a new one starts" in caplog.text
