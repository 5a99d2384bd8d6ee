r"""Finds quotes in a CSV file by which rows would run into each other unseen.

A reader tells from the quotes where rows end. Where a quote stands inside a value as it is
(``5" nail``) or behind a backslash (``"5\" nail"``), it takes the rows up to the next quote for
one value, and if nobody looks at that column, nobody sees that they are gone.
"""

from pathlib import Path

import polars as pl

FIELD = r'(?:[^",]*|"(?:[^"]|"")*")'
LINE = rf"^\x{{FEFF}}?{FIELD}(?:,{FIELD})*\r?$"


def check_quotes(path: Path) -> None:
    r"""Reads the file's lines, and checks those that hold quotes.

    A value that holds quotes must be quoted, and they doubled (RFC 4180); it may hold line breaks.
    Such files always pass. Backslashes that happen to make a proper row pass too, as ``"a\"",""``
    does.

    Raises:
        ValueError: if a quote stands where none can, or the last value is not closed.
    """
    opened = 0  # the line on which a value began that has not ended; 0 between rows
    lines = pl.scan_lines(path, row_index_name="number", row_index_offset=1, glob=False)
    quoted = lines.filter(pl.col("line").str.contains('"', literal=True))
    for batch in quoted.collect_batches():
        if batch.is_empty():
            continue
        quotes = batch["line"].str.count_matches('"', literal=True)
        inside = (quotes.cum_sum() + bool(opened)) % 2 == 1  # at the end of each line
        began = inside.shift(1, fill_value=bool(opened))
        mark = {True: '"', False: ""}
        whole = began.replace_strict(mark) + batch["line"] + inside.replace_strict(mark)
        wrong = ~whole.str.contains(LINE)
        if wrong.any():
            number, line = batch.filter(wrong).row(0)
            raise ValueError(_complaint(path, f"its quotes do not pair in line {number}: {line!r}"))
        if inside[-1]:
            opens = batch["number"].filter(inside & ~began)
            opened = opens[-1] if len(opens) else opened
        else:
            opened = 0
    if opened:
        raise ValueError(
            _complaint(path, f"a quoted value that begins in line {opened} does not end")
        )


def _complaint(path: Path, what: str) -> str:
    return (
        f"cannot read {path} as csv: {what}; a value with quotes in it must be quoted, and they "
        "doubled, or rows are lost: write Parquet, or in Spark .option('escape', '\"')"
    )
