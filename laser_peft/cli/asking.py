"""What is asked of a saved recommender: options that several commands share, lists of ids."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from laser_peft.recommender import LaserRecommender

Recommender = Annotated[str, typer.Argument(help="Folder of a recommender, or a Hub id.")]
Count = Annotated[int, typer.Option("-k", "--k", min=1, help="How many items.")]
ExcludeSeen = Annotated[bool, typer.Option(help="Leave out items of the history.")]
Allow = Annotated[
    list[str] | None,
    typer.Option(help="Recommend only these: an item id, or @FILE with an id a line. Repeat."),
]
Deny = Annotated[
    list[str] | None,
    typer.Option(help="Never recommend these: an item id, or @FILE with an id a line. Repeat."),
]
LLM = Annotated[
    str | None,
    typer.Option(help="Folder or Hub id of the language model, if it is not where it was."),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Precision of the language model.", show_default="as it was trained with"),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where it runs: cpu, cuda, cuda:1.", show_default="an accelerator if there is one"
    ),
]


def load_on(
    path: str, llm: str | None, dtype: str | None, device: object | None
) -> "LaserRecommender":
    """Loads a recommender as the options say; ``device`` None: the accelerator, if there is one.

    Raises:
        FileNotFoundError: if it, or its language model, is not there.
        ValueError: if there is no such device, or a file is damaged.
    """
    import torch

    from laser_peft.recommender import LaserRecommender

    try:
        wanted = torch.device(str(device)) if device else torch.accelerator.current_accelerator()
        if wanted is not None:
            torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use the device {str(device)!r}: {error}") from error
    is_cpu = wanted is None or wanted.type == "cpu"
    return LaserRecommender.from_pretrained(
        path, llm=llm, dtype=dtype, device_map=None if is_cpu else {"": str(wanted)}
    )


def read_allowed(values: list[str] | None) -> list[str] | None:
    """Does what :func:`read_ids` does, for what alone may be recommended.

    Raises:
        ValueError: if that is nothing, as from a list of stock that failed.
    """
    ids = read_ids(values)
    if ids == []:
        raise ValueError(
            f"--allow {' '.join(values or [])} holds no ids, so nothing could be recommended; "
            "leave --allow out to allow all"
        )
    return ids


def read_ids(values: list[str] | None) -> list[str] | None:
    """Returns the ids that are named, and those in the files that are; None if none is named.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is not text.
    """
    if not values:
        return None
    ids: list[str] = []
    for value in values:
        ids += _lines(Path(value[1:])) if value.startswith("@") else [value]
    return ids


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}; @FILE names a text file with an id a line")
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}") from error
    return [line.removesuffix("\r") for line in lines if line.strip()]
