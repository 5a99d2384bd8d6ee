"""How errors are said: one line on stderr, exit status 2."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from .showing import harmless

USER_ERRORS = (ValueError, OSError, ImportError, MemoryError)


@contextmanager
def one_line_errors(say: Callable[[Exception], str] = str) -> Iterator[None]:
    """Turns an error of the user's input into one line on stderr and exit status 2.

    Args:
        say: makes the line of the error.
    """
    try:
        yield
    except USER_ERRORS as error:
        typer.echo(f"laser-peft: {harmless(say(error))}", err=True)
        raise typer.Exit(2) from error
