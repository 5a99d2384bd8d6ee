"""Recommends for every row of a table, part by part.

Every part is computed by itself: which process does it, and after how many interruptions, makes no
difference to a bit of it.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from laser_peft.recommender import LaserRecommender, Recommendation

from .fingerprint import fingerprint
from .histories import HISTORY, USER, HistoryTable, UnknownItems
from .output import PartFolder
from .shards import Shard

SCHEMA = {"item_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BatchSettings:
    """What decides the output, beside histories and recommender.

    Args:
        k: items a user, at least 1.
        exclude_seen: leave out what is in a user's history.
        unknown_items: ``"error"``: an item that the catalogue does not know is one, before the
            work begins; ``"skip"``: it is left out of the history.
        batch_size: users at a time, at least 1.
        rows_per_part: users of a file of the output, at least 1: what a kill may lose.

    Raises:
        ValueError: if a number is below one, or ``unknown_items`` is something else.
    """

    k: int = 10
    exclude_seen: bool = True
    unknown_items: UnknownItems = "error"
    batch_size: int = 32
    rows_per_part: int = 2048

    def __post_init__(self) -> None:
        for name in ("k", "batch_size", "rows_per_part"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.unknown_items not in ("error", "skip"):
            raise ValueError(f"unknown_items is 'error' or 'skip', got {self.unknown_items!r}")


@dataclass(frozen=True)
class Summary:
    """What a call has done.

    Args:
        histories: that it recommended for.
        seconds: that this took, without what came before the first of them.
        skipped: items of histories that the catalogue does not know.
        found: histories of its parts that were there already.
        is_done: whether all parts of all shards are there.
    """

    histories: int
    seconds: float
    skipped: int
    found: int
    is_done: bool


def recommend_table(
    recommender: LaserRecommender,
    table: HistoryTable | str | Path,
    output: str | Path,
    settings: BatchSettings | None = None,
    *,
    shard: Shard | None = None,
    allow: Collection[str] | None = None,
    deny: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Writes recommendations for the histories of a table, or those that are not there yet.

    Args:
        recommender: what recommends.
        table: of the histories; or where it is, as :meth:`HistoryTable.open` takes it.
        output: folder of the parts: ``user_id`` as in the table, ``item_ids`` best first, and
            their ``scores`` in float32.
        settings: None: the defaults.
        shard: the share of the parts that this call does; None: all.
        allow: ids that alone may be recommended. None: all.
        deny: ids that may not be.
        progress: called after each part with the histories done and those to do.

    Raises:
        FileExistsError: if the folder holds something else.
        ValueError: before the first part: if the folder's job is of other histories, another
            recommender or other settings, an item is unknown, a history is null, or a part that is
            there is damaged; later if a score is not a finite number.
    """
    settings, shard = settings or BatchSettings(), shard or Shard()
    table = table if isinstance(table, HistoryTable) else HistoryTable.open(table)
    recommender.shelf(settings.k, allow=allow, deny=deny)  # its errors come first
    folder = PartFolder(Path(output))
    data = _data_of(recommender, table, allow, deny)
    folder.check(settings, data)
    num_parts = -(-len(table) // settings.rows_per_part)
    parts = {part: _rows_of(part, table, settings) for part in shard.of(num_parts)}
    waiting = {part: rows for part, rows in parts.items() if not folder.has(part, len(rows))}
    unknown: set[str | None] = set()
    for rows in waiting.values():
        unknown |= table.unknown_items(recommender.catalogue, rows, settings.unknown_items)
    folder.start(settings, data)  # nothing is written for a job that cannot be done
    to_do, done, skipped = sum(map(len, waiting.values())), 0, 0
    started = time.monotonic()
    for part, rows in waiting.items():
        frame = table.rows(rows.start, rows.stop)
        histories, left_out = _without(frame[HISTORY].to_list(), unknown)
        found = recommender.recommend_many(
            histories,
            settings.k,
            exclude_seen=settings.exclude_seen,
            allow=allow,
            deny=deny,
            batch_size=settings.batch_size,
        )
        folder.write(part, _output_frame(frame[USER], list(found)))
        done, skipped = done + len(rows), skipped + left_out
        if progress is not None:
            progress(done, to_do)
    seconds = time.monotonic() - started
    there = sum(map(len, parts.values())) - to_do
    return Summary(done, seconds, skipped, there, folder.finish(num_parts))


def _rows_of(part: int, table: HistoryTable, settings: BatchSettings) -> range:
    start = part * settings.rows_per_part
    return range(start, min(start + settings.rows_per_part, len(table)))


def _without(histories: list[list[str]], unknown: set[str | None]) -> tuple[list[list[str]], int]:
    if not unknown:
        return histories, 0
    kept = [[item for item in history if item not in unknown] for history in histories]
    return kept, sum(map(len, histories)) - sum(map(len, kept))


def _output_frame(users: pl.Series, found: Sequence[list[Recommendation]]) -> pl.DataFrame:
    columns = {
        "item_ids": [[item.item_id for item in items] for items in found],
        "scores": [[item.score for item in items] for items in found],
    }
    return pl.DataFrame([users, *pl.DataFrame(columns, schema=SCHEMA)])


def _data_of(
    recommender: LaserRecommender,
    table: HistoryTable,
    allow: Collection[str] | None,
    deny: Collection[str] | None,
) -> dict[str, object]:
    return {
        "histories": len(table),
        "histories_sha256": table.sha256(),
        "user_column": table.user_column,
        "history_column": table.history_column,
        "recommender_sha256": fingerprint(recommender),
        "allow_sha256": _sha256(allow),
        "deny_sha256": _sha256(deny),
    }


def _sha256(ids: Collection[str] | None) -> str | None:
    """Hashes a set of ids: their order makes no difference."""
    if ids is None:
        return None
    return hashlib.sha256("\n".join(sorted(set(ids))).encode()).hexdigest()
