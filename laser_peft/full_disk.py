"""Says that a disk is full, whichever library has found it out."""

import errno
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# safetensors, polars, tokenizers and torch have words for it, and no class.
WORDS = ("no space left", "quota exceeded", "pytorchstreamwriter failed")


def says_when_the_disk_is_full(
    write: Callable[Parameters, Result],
) -> Callable[Parameters, Result]:
    """Lets a function that writes files raise one kind of error where there is no room for them.

    Raises:
        OSError: with ``errno.ENOSPC``, if a disk is full.
    """

    @functools.wraps(write)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return write(*args, **kwargs)
        except Exception as error:
            if not is_of_room(error):
                raise
            raise OSError(
                errno.ENOSPC,
                "there is no room left on the disk: free some and do the same again, with --resume "
                f"where a run had begun; what was whole before still is ({error})",
            ) from error

    return wrapped


def is_of_room(error: BaseException | None) -> bool:
    """Tells whether an error, or one that it follows from, is of a full disk."""
    while error is not None:
        said = str(error).lower()
        if getattr(error, "errno", None) in NO_ROOM or any(word in said for word in WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
