"""Reads item vectors from a file and puts them in the order of a catalogue.

Axes: M items in the file, N items in the catalogue, C width.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file
from torch import Tensor

FORMATS = (".safetensors", ".npy", ".parquet")
ITEM, VECTOR = "item_id", "vector"


def read_item_vectors(
    path: str | Path, item_ids: Sequence[str] | None = None
) -> tuple[list[str], Tensor]:
    """Reads vectors and whose they are.

    Args:
        path: ``.parquet`` with the columns ``item_id`` and ``vector`` (a list of numbers a row);
            or ``.npy`` or ``.safetensors`` with one ``(M, C)`` matrix.
        item_ids: ids of the matrix's rows; for the formats that have no ids in them.

    Returns:
        ``M`` item ids and their vectors, ``(M, C)`` float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is of another kind, holds no one matrix, or ids and rows differ.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if path.suffix not in FORMATS:
        raise ValueError(
            f"cannot read item vectors from {path.name}; its name must end in one of "
            f"{', '.join(FORMATS)}"
        )
    if path.suffix == ".parquet":
        if item_ids is not None:
            raise ValueError(f"{path.name} has its own item ids; leave item_ids out")
        return _from_parquet(path)
    if item_ids is None:
        raise ValueError(f"{path.name} holds no item ids; pass item_ids, one a row of its matrix")
    vectors = _from_npy(path) if path.suffix == ".npy" else _from_safetensors(path)
    if vectors.ndim != 2:
        raise ValueError(
            f"{path.name} must hold a matrix (items, width), got the shape {tuple(vectors.shape)}"
        )
    if len(vectors) != len(item_ids):
        raise ValueError(
            f"{path.name} has {len(vectors)} rows and item_ids {len(item_ids)} ids; "
            "is there a row for padding too many?"
        )
    return list(item_ids), vectors.float()


def align_item_vectors(
    item_ids: Sequence[str],
    vectors: Tensor,
    catalogue_ids: Sequence[str],
    *,
    missing: Literal["error", "zero"] = "error",
) -> Tensor:
    """Puts vectors in the order of a catalogue; those of other items are left out.

    Args:
        item_ids: whose the rows of ``vectors`` are.
        vectors: ``(M, C)`` float.
        catalogue_ids: the catalogue's item ids in the order of its dense ids
            (``Catalogue.item_ids``).
        missing: what to do about items of the catalogue without a vector: refuse, or give them
            zeros, with which they score 0 for everyone.

    Returns:
        ``(N, C)`` float, row ``j`` belongs to ``catalogue_ids[j]``.

    Raises:
        ValueError: if ids repeat or do not match the rows, ``missing`` is none of the choices, no
            item of the catalogue has a vector, or some have none and that is not allowed.
    """
    if missing not in ("error", "zero"):
        raise ValueError(f"missing must be 'error' or 'zero', got {missing!r}")
    if vectors.ndim != 2 or len(vectors) != len(item_ids):
        raise ValueError(
            f"there are {len(item_ids)} item ids, and vectors of the shape {tuple(vectors.shape)}; "
            "one row an id is needed"
        )
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    if len(row_of) < len(item_ids):
        twice = Counter(item_ids).most_common(1)[0][0]
        raise ValueError(f"item ids must be distinct, got {twice!r} more than once")
    lacking = [item_id for item_id in catalogue_ids if item_id not in row_of]
    if len(lacking) == len(catalogue_ids) or (lacking and missing == "error"):
        raise ValueError(
            f"{len(lacking)} of the catalogue's {len(catalogue_ids)} items have no vector, the "
            f"first: {lacking[:5]}; the vectors' own ids begin {list(item_ids[:5])}. Are they the "
            "same kind of id? missing='zero' gives the lacking ones zeros, unless all lack one"
        )
    aligned = vectors.new_zeros(len(catalogue_ids), vectors.size(1))
    present = [place for place, item_id in enumerate(catalogue_ids) if item_id in row_of]
    aligned[present] = vectors[[row_of[catalogue_ids[place]] for place in present]]
    return aligned


def _from_parquet(path: Path) -> tuple[list[str], Tensor]:
    frame = pl.read_parquet(path, glob=False)
    lacking = [name for name in (ITEM, VECTOR) if name not in frame.columns]
    if lacking:
        raise ValueError(
            f"{path.name} has no column {', '.join(map(repr, lacking))}; it has "
            f"{', '.join(map(repr, frame.columns))}"
        )
    if not isinstance(frame.schema[VECTOR], pl.List | pl.Array):
        raise ValueError(
            f"{path.name}: column {VECTOR!r} must hold lists of numbers, got {frame.schema[VECTOR]}"
        )
    if frame[ITEM].has_nulls():
        raise ValueError(f"{path.name}: {frame[ITEM].null_count()} vectors have no item_id")
    rows = frame[VECTOR].cast(pl.List(pl.Float32))
    widths = rows.list.len().unique().to_list()
    if len(widths) != 1 or widths == [None]:
        raise ValueError(
            f"{path.name}: every item needs a vector, all equally wide, got the widths {widths[:5]}"
        )
    vectors = torch.from_numpy(rows.list.to_array(widths[0]).to_numpy().copy())
    return frame[ITEM].cast(pl.String).to_list(), vectors


def _from_npy(path: Path) -> Tensor:
    # np.load refuses pickled objects unless it is told otherwise.
    return torch.from_numpy(np.load(path).astype(np.float32))


def _from_safetensors(path: Path) -> Tensor:
    tensors = load_file(path)
    if len(tensors) != 1:
        raise ValueError(
            f"{path.name} must hold one tensor, got {len(tensors)}: {sorted(tensors)[:5]}"
        )
    return next(iter(tensors.values()))
