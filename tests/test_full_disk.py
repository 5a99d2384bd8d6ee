"""A full disk: one kind of error, whichever library finds it, and nothing harmed."""

import errno
import logging
import sys

import polars as pl
import pytest
from safetensors import SafetensorError

from laser_peft.full_disk import says_when_the_disk_is_full
from laser_peft.run_log import _LogFile

WORDS = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError(WORDS),
        pl.exceptions.ComputeError("underlying IO error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0"),
    ],
)
def test_every_librarys_word_for_it_is_understood(error):
    def write(text, *, at):
        raise error

    with pytest.raises(OSError, match="no room left on the disk: free some") as caught:
        says_when_the_disk_is_full(write)("a", at=3)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.__cause__ is error


def test_what_another_error_follows_from_counts():
    def write():
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as error:
            raise RuntimeError("could not save") from error

    with pytest.raises(OSError, match="no room left"):
        says_when_the_disk_is_full(write)()


def test_other_errors_and_results_pass():
    def write(value):
        if value < 0:
            raise ValueError("below zero")
        return value

    assert says_when_the_disk_is_full(write)(3) == 3
    with pytest.raises(ValueError, match="below zero"):
        says_when_the_disk_is_full(write)(-1)


@pytest.mark.skipif(sys.platform != "linux", reason="it has /dev/full")
def test_a_log_that_cannot_be_written_prints_no_traceback(capsys):
    file = _LogFile("/dev/full")
    file.emit(logging.LogRecord("a", logging.INFO, __file__, 1, "text", None, None))
    file.close()
    assert capsys.readouterr().err == ""
