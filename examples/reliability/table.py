"""Puts the table of faults between two marks of a page."""

from collections.abc import Sequence
from pathlib import Path

from faults import Row

BEGIN = "<!-- begin: written by examples/reliability/run.py -->"
END = "<!-- end -->"
HEADER = ("fault", "where", "how it was caused", "times", "what was lost")


def write_page(page: Path, rows: Sequence[Row], *, seconds: float, seed: int) -> None:
    """Exchanges what is between the marks, or writes a page of the table alone.

    Args:
        page: Markdown; what is outside of the marks stays.
        rows: of the table.
        seconds: that it all took.
        seed: of what was drawn.
    """
    lines = [HEADER, ["---"] * len(HEADER), *(map(str, row) for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    kills = sum(row.tries for row in rows if row.fault == "kill -9")
    inputs = sum(row.tries for row in rows if row.fault == "hostile input")
    told = (
        f"{kills:,} kills, {inputs:,} hostile inputs, {sum(row.tries for row in rows):,} faults in "
        f"all; seed {seed}; {seconds / 60:.0f} min, one thread, other jobs beside it."
    )
    text = page.read_text("utf-8") if page.is_file() else f"{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{told}\n\n{table}\n{END}{after}", encoding="utf-8")
