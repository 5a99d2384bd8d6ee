"""Data sets of the Hugging Face Hub, through ``datasets`` (an extra)."""

import sys
from typing import TYPE_CHECKING

import polars as pl

from .sources import HUB

if TYPE_CHECKING:
    from datasets import Dataset


def load_hub(name: str) -> "Dataset":
    """Loads ``hf://datasets/owner/name``, ``.../owner/name/config`` or either with ``#split``.

    The split is ``train`` where none is named.

    Raises:
        ImportError: if ``datasets`` is not installed.
        ValueError: if the name is not of that form, or the data set cannot be loaded.
    """
    place, _, split = name.removeprefix(HUB).partition("#")
    pieces = place.split("/")
    if len(pieces) not in (2, 3) or not all(pieces):
        raise ValueError(
            f"a data set of the Hub is named {HUB}owner/name, {HUB}owner/name/config, or either "
            f"with #split at its end; got {name}"
        )
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{name} needs the datasets library: pip install 'laser-peft[datasets]'"
        ) from error
    try:
        dataset = datasets.load_dataset("/".join(pieces[:2]), *pieces[2:], split=split or "train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"cannot load {name}: {error}") from error
    return check_dataset(dataset)


def check_dataset(dataset: object) -> "Dataset":
    """Returns what is a ``datasets.Dataset``.

    Raises:
        TypeError: if it is something else, as a dictionary of splits or a frame of pandas is.
    """
    # Whoever has one has imported the library.
    datasets = sys.modules.get("datasets")
    if datasets is not None and isinstance(dataset, datasets.Dataset):
        return dataset
    if isinstance(dataset, pl.LazyFrame):
        advice = "give frame.collect()"
    elif type(dataset).__module__.partition(".")[0] == "pandas":
        advice = "give polars.from_pandas(frame)"
    else:
        advice = "choose one split of it, as in data['train']"
    raise TypeError(
        f"a table must be a path, paths, a polars.DataFrame or a datasets.Dataset, got "
        f"{type(dataset).__name__}; {advice}"
    )


def dataset_frame(dataset: "Dataset") -> pl.DataFrame:
    """Returns the rows of a data set, in its order."""
    frame = dataset.to_polars()
    assert isinstance(frame, pl.DataFrame)
    return frame
