"""Checks and filters a log once, and leaves it as two Parquet files and a report."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from laser_peft.checksums import write_checksums
from laser_peft.whole import new_whole

from .catalogue import Catalogue
from .columns import ITEM
from .coring import k_core
from .description import describe_data
from .interactions import NEVER_HAD
from .logs import LogSource
from .reports import LogReport
from .sequences import Histories
from .splitting import leave_one_out


class Prepared(NamedTuple):
    """What was found in a log, and the counts of what was kept."""

    report: LogReport
    data: dict[str, int | str | None]


def prepare(
    source: LogSource,
    items: str | None,
    output: str | Path,
    *,
    min_user_events: int = 1,
    min_item_events: int = 1,
) -> Prepared:
    """Writes ``interactions.parquet``, ``catalogue.parquet`` and ``report.json``, all or nothing.

    Beside them is ``checksums.json``, by which damage is seen when they are read.

    Reading the two files gives the same data, by its hash, without any further checks failing.

    Args:
        source: the log.
        items: where the items are, see :meth:`.catalogue.Catalogue.read`; None: the items of the
            log are the catalogue, without texts.
        output: folder to make; must be new or empty.
        min_user_events: events that a user must keep, see :func:`.coring.k_core`.
        min_item_events: events that an item must keep. With 2 or more the catalogue loses the
            rarer items too, else it keeps those that nobody has had yet.

    Raises:
        FileExistsError: if the folder holds something.
        FileNotFoundError: if an input file is missing.
        ValueError: for settings or input that cannot work.
    """
    output = Path(output).resolve()  # a folder is put in the place of the one named
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} is there and not empty; choose another folder")
    listed = Catalogue.read(items, item_column=source.item_column) if items else None
    log = source.read(listed)
    log = k_core(log, min_user_events=min_user_events, min_item_events=min_item_events)
    catalogue = listed or Catalogue(pl.DataFrame([log.item_ids.alias(ITEM)]))
    if min_item_events > 1:
        catalogue = catalogue.only(log.item_ids)
        log = replace(log, report=log.report.with_action(NEVER_HAD, "dropped"))
    histories = Histories.from_interactions(log, catalogue)
    data = describe_data(catalogue, histories, leave_one_out(histories))
    settings = {
        "interactions": asdict(source),
        "items": items,
        "min_user_events": min_user_events,
        "min_item_events": min_item_events,
    }
    told = {"data": data, "log": log.report.to_dict(), "settings": settings}
    _write(output, log.frame(), catalogue, told)
    return Prepared(log.report, data)


def _write(output: Path, log: pl.DataFrame, catalogue: Catalogue, told: dict[str, Any]) -> None:
    with new_whole(output) as unfinished:
        log.write_parquet(unfinished / "interactions.parquet")
        catalogue.save(unfinished / "catalogue.parquet")
        text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
        (unfinished / "report.json").write_text(text, encoding="utf-8")
        write_checksums(unfinished, [path.name for path in unfinished.iterdir()], may_change=())
