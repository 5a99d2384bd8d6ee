"""What the folder of a run says of how it went: its log and its histories."""

import json
import logging
import warnings

import pytest
from conftest import run_command, stops_training, train_arguments

from laser_peft.run_log import keeps_a_log, start_log
from laser_peft.training import RankingTrainer


def history(output, name):
    lines = (output / "history" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_keeps_its_histories(trained):
    output, _ = trained
    for name, least in (("sasrec", 2), ("laser", 2)):
        rows = history(output, name)
        validations = [row for row in rows if "eval_unmasked_ndcg@10" in row]
        assert len(validations) == least
        assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
        assert any("loss" in row for row in rows)


def test_the_log_says_when_what_was_done_and_what_was_expected(trained):
    log = (trained[0] / "log.txt").read_text()
    lines = log.splitlines()
    finished = next(i for i, line in enumerate(lines) if "run_log: finished" in line)
    lines = lines[: finished + 1]  # other tests go on with this run
    assert " INFO laser_peft.pipeline: estimate: At most about " in lines[0] + log
    for text in ("sasrec: training starts", "laser: training ends, after", "run_log: finished"):
        (line,) = [line for line in lines if text in line]
        assert line[:4].isdigit()
    assert " INFO transformers.trainer: ***** Running training *****" in log


def test_the_console_shows_short_lines(trained):
    printed = trained[1]
    assert "epoch 1: validation ndcg@10 " in printed
    assert "eval_unmasked" not in printed
    assert "Running training" not in printed


# One step in: the SASRec is half done; three: the text reader; five: the SASRec's twin; seven: the
# reader's; nine: the adapter has no checkpoint; ten: it has one.
@pytest.fixture(scope="module", params=[1, 3, 5, 7, 9, 10])
def resumed(request, shop, lm_folder, tmp_path_factory):
    """The folder of a run that was interrupted and gone on with; its log when it was cut off."""
    output = tmp_path_factory.mktemp("resumed") / "run"
    arguments = train_arguments(shop, lm_folder, output)
    with pytest.MonkeyPatch.context() as patch:
        stop_after = stops_training(patch)
        taken = stop_after(request.param)
        cut = run_command(*arguments)
        assert cut.exit_code == 130
        log = (output / "log.txt").read_text()
        stop_after(None)
        result = run_command(*arguments, "--resume")
    assert result.exit_code == 0, result.output
    assert len(taken) > request.param
    # No step is taken again, but for the adapter's before its first checkpoint.
    assert len(taken) - len(set(taken)) == (request.param == 9)
    return output, log


def test_an_interrupted_run_resumes_to_the_same_metrics(resumed, trained):
    actual, expected = (
        json.loads((output / "metrics.json").read_text()) for output in (resumed[0], trained[0])
    )
    assert actual["models"] == expected["models"]


def test_a_resumed_run_appends_and_repeats_no_step(resumed, trained):
    output, log = resumed
    assert log.rstrip().endswith("WARNING laser_peft.run_log: interrupted; --resume goes on")
    for name in ("sasrec", "laser-phase-1", "twin-sasrec", "twin-reading", "laser"):
        steps = [
            [(row["step"], row.get("loss")) for row in history(run, name)]
            for run in (output, trained[0])
        ]
        assert steps[0] == steps[1]
    again = (output / "log.txt").read_text()
    assert again.startswith(log)
    assert again.rstrip().endswith("run_log: finished")


def test_the_root_cause_of_a_crash_is_in_the_log(shop, lm_folder, tmp_path, monkeypatch):
    def crash(self, *args, **kwargs):
        try:
            raise ZeroDivisionError("nothing left")
        except ZeroDivisionError as error:
            raise RuntimeError("the step failed") from error

    monkeypatch.setattr(RankingTrainer, "training_step", crash)
    result = run_command(*train_arguments(shop, lm_folder, tmp_path / "run"))
    assert isinstance(result.exception, RuntimeError)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "ERROR laser_peft.run_log: ended by ZeroDivisionError: nothing left" in log
    assert "Traceback (most recent call last)" in log
    assert 'raise RuntimeError("the step failed") from error' in log


def test_a_refused_run_leaves_the_log_of_the_one_that_is_there(trained, shop, lm_folder):
    file = trained[0] / "log.txt"
    before = file.read_text()
    arguments = train_arguments(shop, lm_folder, trained[0])
    assert run_command(*arguments, "--resume", "--seed", 5).exit_code == 2
    assert file.read_text() == before


def test_lines_from_before_the_folder_was_there_come_first(tmp_path):
    @keeps_a_log
    def run(folder):
        logging.getLogger("laser_peft.somewhere").info("early")
        folder.mkdir()
        start_log(folder)
        logging.getLogger("peft").info("late")
        return 7

    assert run(tmp_path / "run") == 7
    text = (tmp_path / "run" / "log.txt").read_text()
    assert text.index("early") < text.index("late") < text.index("finished")


def test_warnings_are_shown_and_logged(tmp_path):
    @keeps_a_log
    def run():
        start_log(tmp_path)
        warnings.warn("unusual", stacklevel=1)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        run()
    assert "WARNING warnings: UserWarning: unusual" in (tmp_path / "log.txt").read_text()
    del shown  # pytest's own recorder takes what is shown


def test_logging_is_afterwards_as_it_was_before(tmp_path):
    def state():
        return [
            (logger.level, list(logger.handlers), [handler.level for handler in logger.handlers])
            for logger in map(logging.getLogger, ("laser_peft", "transformers", "peft"))
        ]

    before = state()
    keeps_a_log(lambda: start_log(tmp_path))()
    assert state() == before
    start_log(tmp_path / "nowhere")  # outside of a run it does nothing
