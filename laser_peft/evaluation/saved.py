"""One model's test: where it placed every user's target, kept user by user.

A saved one is a folder of two files: ``ranks.parquet``, a row a user, and ``metrics.json``, what
follows from it. Any two over the same test are compared without the models.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from laser_peft.whole import write_file, write_json

from .metrics import summarise
from .ranking import MISS, PROTOCOLS
from .slices import TARGET_COLUMNS, absent_slices, check_users, slices_of

RANKS_FILE, METRICS_FILE = "ranks.parquet", "metrics.json"
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
RANK_COLUMNS = [f"rank_{protocol}" for protocol in PROTOCOLS]


@dataclass(frozen=True)
class Evaluation:
    """The ranks of a model's test.

    Args:
        name: what the model is called in tables.
        data_hash: says what data it was tested on; only equal ones are compared.
        targets: a row a user; :mod:`.slices` says which columns.
        ranks: ``(users, 2)`` int64, 0 = first, a column for each of :data:`.ranking.PROTOCOLS`,
            in the order of ``targets``.

    Raises:
        ValueError: if there is no user, not one row of ranks for each, or a rank below 0.
    """

    name: str
    data_hash: str
    targets: pl.DataFrame
    ranks: np.ndarray

    def __post_init__(self) -> None:
        if self.ranks.shape != (self.targets.height, len(PROTOCOLS)) or not self.targets.height:
            raise ValueError(
                f"{self.name} needs ranks of shape (users, {len(PROTOCOLS)}) for its "
                f"{self.targets.height} users, got {self.ranks.shape}"
            )
        if self.ranks.min() < 0:
            raise ValueError(f"{self.name} needs ranks from 0 on, got {self.ranks.min()}")

    def summary(self) -> dict[str, Any]:
        """Returns what ``metrics.json`` holds.

        Returns:
            ``name``, ``data_sha256``, ``users``; ``metrics``: protocol to metric to mean over
            users; ``slices``: the same for each group, with its number of users; ``absent_slices``:
            those that the log cannot tell, with the reason.
        """
        return {
            "name": self.name,
            "data_sha256": self.data_hash,
            "users": len(self.ranks),
            "metrics": means(self.ranks),
            "slices": {
                name: {"users": int(of_slice.sum())}
                | ({"metrics": means(self.ranks[of_slice])} if of_slice.any() else {})
                for name, of_slice in slices_of(self.targets).items()
            },
            "absent_slices": absent_slices(self.targets),
        }

    def save(self, folder: str | Path) -> None:
        """Writes both files, ``metrics.json`` last, over what is there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        ranks = pl.DataFrame(self.ranks, schema=dict.fromkeys(RANK_COLUMNS, pl.Int64))
        frame = self.targets.hstack(ranks.with_columns(pl.all().replace(MISS, None)))
        write_file(folder / RANKS_FILE, frame.write_parquet)
        write_json(folder / METRICS_FILE, self.summary())

    @classmethod
    def load(cls, folder: str | Path) -> "Evaluation":
        """Loads what :meth:`save` wrote.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file is not what :meth:`save` writes.
        """
        folder = Path(folder)
        _check_there(folder)
        try:
            told = json.loads((folder / METRICS_FILE).read_text("utf-8"))
            name, data_hash = told["name"], told["data_sha256"]
            if not isinstance(name, str) or not isinstance(data_hash, str):
                raise ValueError(f"name and data_sha256 must be texts, got {name!r}, {data_hash!r}")
            frame = pl.read_parquet(folder / RANKS_FILE, glob=False)
            targets = frame.select(*TARGET_COLUMNS).cast(TARGET_COLUMNS)
            ranks = frame.select(RANK_COLUMNS)
        except (*UNREADABLE, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{folder} does not hold a saved evaluation: {error}; {RANKS_FILE} and "
                f"{METRICS_FILE} are written together by Evaluation.save"
            ) from error
        check_users(targets)
        if ranks.dtypes != [pl.Int64] * len(RANK_COLUMNS) or ranks[RANK_COLUMNS[0]].has_nulls():
            raise ValueError(
                f"{folder / RANKS_FILE} must hold whole numbers in {', '.join(RANK_COLUMNS)}, and "
                f"no missing ones in the first; got {ranks.schema}"
            )
        return cls(name, data_hash, targets, ranks.fill_null(MISS).to_numpy())


def means(ranks: np.ndarray) -> dict[str, dict[str, float]]:
    """Averages every metric: protocol to metric to mean over users.

    Args:
        ranks: ``(users, 2)`` int64, 0 = first.
    """
    return {protocol: summarise(ranks[:, column]) for column, protocol in enumerate(PROTOCOLS)}


def _check_there(folder: Path) -> None:
    missing = [name for name in (RANKS_FILE, METRICS_FILE) if not (folder / name).is_file()]
    if not missing:
        return
    within = sorted(str(file.parent) for file in folder.rglob(RANKS_FILE))
    hint = (
        f"did you mean one of {', '.join(within)}?"
        if within
        else "train, evaluate and baselines write such folders"
    )
    raise FileNotFoundError(f"{folder} holds no saved evaluation (no {missing[0]}); {hint}")
