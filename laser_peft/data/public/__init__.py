"""Public data sets by name: downloaded from their publisher, checked, read into two tables.

>>> from laser_peft.data import public
>>> tables = public.download("amazon-2014-beauty", "data/beauty")  # doctest: +SKIP
>>> tables.interactions, tables.items  # doctest: +SKIP
(Path('data/beauty/interactions.parquet'), Path('data/beauty/items.parquet'))
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .building import build_interactions, build_items
from .fetch import fetch, read_lock
from .known import KNOWN, PublicDataset
from .whole_files import read_json, write_frame, write_json

RAW_FOLDER = "raw"
DESCRIPTION_FILE = "dataset.json"

__all__ = ["KNOWN", "PublicDataset", "PublicTables", "download"]


@dataclass(frozen=True)
class PublicTables:
    """A downloaded data set.

    Args:
        dataset: what it is, with citation and licence.
        interactions: Parquet, one row an event in the published order: ``user_id``, ``item_id``,
            ``timestamp`` in seconds since 1970.
        items: Parquet, one row an item: ``item_id`` and what is known of ``title``, ``brand``,
            ``categories``.
        counts: what was read, kept and left out.
    """

    dataset: PublicDataset
    interactions: Path
    items: Path
    counts: dict[str, int]


def download(
    name: str,
    folder: str | Path,
    *,
    all_items: bool = False,
    sha256: Mapping[str, str] | None = None,
    progress: bool = True,
) -> PublicTables:
    """Downloads a known data set and reads its original files into two tables.

    What is there already is not downloaded again, so files may be put into ``folder/raw`` by hand.

    Args:
        name: one of ``KNOWN``.
        folder: where the tables are written; the original files are kept in ``raw`` inside.
        all_items: keep items of the metadata that nobody has reviewed.
        sha256: checksums that files must have, by file name; where none is given or published,
            that of the first download is remembered and must stay.
        progress: show bars on stderr.

    Raises:
        ValueError: if the name or a file name is unknown, the folder holds another data set, or
            a file is damaged or not in the published format.
        ConnectionError: if a file cannot be downloaded.
        OSError: if a file cannot be written.
    """
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, n=5, cutoff=0.5)
        raise ValueError(
            f"no public data set is called {name!r} here"
            + (f"; did you mean {', '.join(near)}" if near else "")
            + "? All names: laser-peft download --list"
        )
    dataset, folder = KNOWN[name], Path(folder)
    sources = {source.file_name: source for source in (dataset.log, dataset.metadata)}
    checksums = dict(sha256 or {})
    if unknown := checksums.keys() - sources.keys():
        raise ValueError(
            f"{name} has no file {', '.join(sorted(unknown))}; checksums are for "
            f"{', '.join(sources)}"
        )
    _check_folder(folder, dataset)
    raw = {
        file_name: fetch(
            source, folder / RAW_FOLDER, sha256=checksums.get(file_name), progress=progress
        )
        for file_name, source in sources.items()
    }
    interactions = build_interactions(dataset.read_log(raw[dataset.log.file_name]))
    needed = interactions["item_id"].unique(maintain_order=True).to_list()
    rows = dataset.read_items(
        raw[dataset.metadata.file_name], None if all_items else frozenset(needed)
    )
    items, item_counts = build_items(rows, needed, all_items=all_items)
    counts = {
        "interactions": interactions.height,
        "interactions_repeated": interactions.height - interactions.n_unique(),
        "users": interactions["user_id"].n_unique(),
        **item_counts,
    }
    tables = PublicTables(
        dataset, folder / "interactions.parquet", folder / "items.parquet", counts
    )
    description = {
        "name": name,
        "page": dataset.page,
        "files": [source.url for source in sources.values()],
        "counts": counts,
        "citation": dataset.citation,
        "licence": dataset.licence,
    }
    write_frame(items, tables.items)
    write_frame(interactions, tables.interactions)
    write_json(description, folder / DESCRIPTION_FILE)  # last: it says that the tables are there
    return tables


def _check_folder(folder: Path, dataset: PublicDataset) -> None:
    file, log = folder / DESCRIPTION_FILE, dataset.log.file_name
    if file.is_file():
        there = read_json(file).get("name")
        if there != dataset.name:
            raise ValueError(f"{folder} holds {there}; choose another folder for {dataset.name}")
    # A run of ours that was stopped between the tables leaves them without a description.
    elif (folder / "interactions.parquet").exists() and log not in read_lock(folder / RAW_FOLDER):
        raise ValueError(
            f"{folder} holds interactions.parquet of another origin; choose another folder"
        )
