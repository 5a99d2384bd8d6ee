"""Puts tables of faults, one for each part, between marks of a page."""

from collections.abc import Sequence
from pathlib import Path

from faults import Row

HEADER = ("fault", "where", "how it was caused", "times", "what was lost")


def marks(part: str) -> tuple[str, str]:
    """Returns what stands before and behind the table of a part."""
    begin = f"<!-- begin {part}: written by examples/reliability/run.py -->"
    return begin, f"<!-- end {part} -->"


def write_part(page: Path, part: str, rows: Sequence[Row], *, seconds: float, seed: int) -> None:
    """Exchanges what is between the marks of a part, or appends it.

    Args:
        page: Markdown; what is outside of the marks stays.
        part: whose rows they are.
        rows: of the table.
        seconds: that it took.
        seed: of what was drawn.
    """
    lines = [HEADER, ["---"] * len(HEADER), *(map(str, row) for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    told = (
        f"{part}: {sum(row.tries for row in rows):,} times in all, seed {seed}, "
        f"{seconds / 60:.1f} min; one thread, other jobs beside it."
    )
    begin, end = marks(part)
    text = page.read_text("utf-8") if page.is_file() else ""
    if begin not in text:
        text += f"{begin}\n{end}\n"
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}\n{told}\n\n{table}\n{end}{after}", encoding="utf-8")
