"""Who took what, and when: a purchase log read, checked and put in order."""

from pathlib import Path

import polars as pl

from .tables import first_rows, read_table

USER, ITEM, TIME = "user_id", "item_id", "timestamp"


def read_interactions(
    path: str | Path,
    *,
    user_column: str = USER,
    item_column: str = ITEM,
    time_column: str | None = TIME,
) -> pl.DataFrame:
    """Reads a log of interactions, oldest first for every user.

    Equal times keep the order of the file.

    Args:
        path: CSV, JSON lines or Parquet, one row an interaction; see :func:`.tables.read_table`.
        user_column: name of the column that says who.
        item_column: name of the column that says what.
        time_column: name of the column that says when, any number that grows with time. None:
            the file is in order already.

    Returns:
        A frame of text columns ``user_id`` and ``item_id``; users in the order of their first
        row, each user's rows together and oldest first.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, or a row has no user, no item or no readable time.
    """
    columns = {user_column: USER, item_column: ITEM}
    if time_column is not None:
        columns[time_column] = TIME
    if len(columns) < 2 + (time_column is not None):
        raise ValueError(
            "user, item and time need three different columns, got "
            f"{user_column!r}, {item_column!r} and {time_column!r}"
        )
    raw = read_table(path, list(columns))
    frame = raw.select(
        pl.col(name).cast(pl.String if to != TIME else pl.Float64, strict=False).alias(to)
        for name, to in columns.items()
    )
    for name, to in columns.items():
        unusable = ~pl.col(to).is_finite() if to == TIME else pl.col(to) == ""
        bad = pl.col(to).is_null() | unusable
        count = frame.select(bad.sum()).item()
        if count:
            wanted = "a number" if to == TIME else "filled"
            shown = first_rows(raw.select(*columns), frame.select(bad).to_series())
            raise ValueError(
                f"{Path(path).name}: column {name!r} must be {wanted}, and is not in {count} of "
                f"{frame.height} rows; the first: {shown}"
            )
    frame = frame.with_row_index("row")
    by_user = pl.col("row").min().over(USER)
    order = [by_user] if time_column is None else [by_user, pl.col(TIME)]
    return frame.sort(order, maintain_order=True).select(USER, ITEM)
