"""``log.txt`` of a run: what the libraries say, with times, and why a run ended before its end.

Of several processes the main one writes it; the others have ``log-1.txt`` and so on.

Lines are kept until the run's folder is there, so that nothing is written for a run that cannot
start; a run that is gone on with appends.
"""

import functools
import logging
import logging.handlers
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec, TextIO, TypeVar

from laser_peft.processes import processes

LOG = "log.txt"
LOGGERS = ("laser_peft", "transformers", "peft", "accelerate")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MOST_LINES_KEPT = 100_000

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
_current: ContextVar[logging.handlers.MemoryHandler | None] = ContextVar("log", default=None)


def keeps_a_log(run: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Lets a function log, from the moment on when it calls :func:`start_log`."""

    @functools.wraps(run)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        handler = logging.handlers.MemoryHandler(
            MOST_LINES_KEPT, flushLevel=logging.CRITICAL + 1, flushOnClose=False
        )
        token = _current.set(handler)
        try:
            with _listening(handler), _warnings_too():
                return _with_its_end(run, *args, **kwargs)
        finally:
            _current.reset(token)
            if handler.target is not None:
                handler.target.close()
            handler.close()

    return wrapped


def start_log(folder: Path) -> None:
    """Writes what was logged so far, and from now on every line, to the folder's log.

    Without :func:`keeps_a_log` around it, it does nothing.
    """
    handler = _current.get()
    if handler is None or handler.target is not None:
        return
    state = processes()
    name = LOG if state.is_main_process else f"log-{state.process_index}.txt"
    file = _LogFile(folder / name, encoding="utf-8")
    file.setFormatter(logging.Formatter(FORMAT))
    handler.setTarget(file)
    handler.flushLevel = logging.NOTSET  # nothing waits: a run may be killed
    handler.flush()


class _LogFile(logging.FileHandler):
    """Goes on without what it cannot write: a full disk stops the run by itself."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def _with_its_end(run: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """Runs it and notes how it ended."""
    try:
        result = run(*args, **kwargs)
    except KeyboardInterrupt:
        logging.getLogger(__name__).warning("interrupted; --resume goes on")
        raise
    except Exception as error:
        _note(__name__, logging.ERROR, f"ended by {_root_cause(error)}", error)
        raise
    _note(__name__, logging.INFO, "finished")
    return result


def _note(name: str, level: int, text: str, error: Exception | None = None) -> None:
    """Puts a line into the log and nowhere else, with the traceback of an error."""
    trace = None if error is None else (type(error), error, error.__traceback__)
    handler = _current.get()
    if handler is not None:
        handler.handle(logging.LogRecord(name, level, __file__, 0, text, None, trace))


def _root_cause(error: BaseException) -> str:
    """Says the first of a chain of errors.

    Example:
        >>> _root_cause(ValueError("no such item"))
        'ValueError: no such item'
    """
    while earlier := error.__cause__ or (not error.__suppress_context__ and error.__context__):
        error = earlier
    return f"{type(error).__name__}: {error}"


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """Hands the handler what the libraries say from INFO on; the console hears what it did."""
    undo: list[Callable[[], None]] = []
    for name in LOGGERS:
        listened = logging.getLogger(name)
        before, level = listened.level, listened.getEffectiveLevel()
        # Without a handler of its own, Python's last resort would have spoken.
        speakers = list(listened.handlers) if listened.hasHandlers() else [_last_resort()]
        for speaker in speakers:
            if speaker.level < level and speaker in listened.handlers:
                undo.append(functools.partial(speaker.setLevel, speaker.level))
                speaker.setLevel(level)
            if speaker not in listened.handlers:
                listened.addHandler(speaker)
                undo.append(functools.partial(listened.removeHandler, speaker))
        listened.addHandler(handler)
        listened.setLevel(min(level, logging.INFO))
        undo.append(functools.partial(listened.removeHandler, handler))
        undo.append(functools.partial(listened.setLevel, before))
    try:
        yield
    finally:
        for step in reversed(undo):
            step()


def _last_resort() -> logging.Handler:
    return logging.lastResort or logging.NullHandler()


@contextmanager
def _warnings_too() -> Iterator[None]:
    """Logs what :mod:`warnings` shows, beside showing it."""
    show = warnings.showwarning

    def show_and_log(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        show(message, category, filename, lineno, file, line)
        text = f"{category.__name__}: {message} ({filename}:{lineno})"
        _note("warnings", logging.WARNING, text)

    warnings.showwarning = show_and_log
    try:
        yield
    finally:
        warnings.showwarning = show
