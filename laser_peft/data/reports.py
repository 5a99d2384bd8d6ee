"""What was found in a log at the border, in numbers and with the first rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

SHOWN = 3  # rows shown of each finding


@dataclass(frozen=True)
class Finding:
    """One kind of thing that a reader of the log should know.

    Args:
        kind: in words, such as ``unknown item``.
        count: how many rows, users or items.
        unit: what is counted: ``rows``, ``users`` or ``items``.
        action: ``dropped``, ``kept``, or empty where there is nothing to decide.
        first: the first of them as texts by column, with ``row`` counted from 1 and, where there
            are several, the ``file``.
    """

    kind: str
    count: int
    unit: str = "rows"
    action: str = ""
    first: tuple[Mapping[str, str | int | None], ...] = ()

    def __str__(self) -> str:
        """Says the finding in a line."""
        shown = f"; the first: {'; '.join(map(say_row, self.first))}" if self.first else ""
        return f"{self.counted}: {self.kind}{shown}"

    @property
    def counted(self) -> str:
        """The count in words, such as ``1 row``."""
        return f"{self.count:,} {self.unit if self.count != 1 else self.unit.removesuffix('s')}"


@dataclass(frozen=True)
class LogReport:
    """How many rows were read, what was found in them, and what is left.

    Args:
        rows: read, broken ones too.
        events: kept.
        users: with events.
        items: with events.
        findings: what was found, and what was left out for it.
        first_time: of the events kept, seconds since 1970; None where the log has no times.
        last_time: likewise.
    """

    rows: int
    events: int = 0
    users: int = 0
    items: int = 0
    findings: tuple[Finding, ...] = ()
    first_time: float | None = None
    last_time: float | None = None

    def found(self, kind: str) -> int:
        """Returns how many there are of a kind, 0 if none."""
        return sum(finding.count for finding in self.findings if finding.kind == kind)

    def with_findings(self, *findings: Finding) -> "LogReport":
        """Adds those findings that have a count."""
        added = tuple(finding for finding in findings if finding.count)
        return replace(self, findings=self.findings + added)

    def with_action(self, kind: str, action: str) -> "LogReport":
        """Says of the findings of a kind what became of them in the end."""
        told = (
            replace(finding, action=action) if finding.kind == kind else finding
            for finding in self.findings
        )
        return replace(self, findings=tuple(told))

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        told = asdict(self)
        told["findings"] = [
            finding | {"first": list(finding["first"])} for finding in told["findings"]
        ]
        return told


def complaint(name: str, bad: int, rows: int, findings: Sequence[Finding]) -> str:
    """Says all that stands in the way of reading a log, and what to do."""
    lines = "".join(f"\n  {finding}" for finding in findings)
    return (
        f"{name}: {bad:,} of {rows:,} rows cannot be used:{lines}\n"
        'correct them, or leave them out and have them counted: on_bad_rows="drop" '
        "(--drop-bad-rows); if items are unknown, is the items file the one of this log?"
    )


def as_json(row: Mapping[str, Any]) -> dict[str, str | int | None]:
    """Makes values of any type printable; the row number stays a number."""
    return {
        name: value if value is None or name == "row" else str(value) for name, value in row.items()
    }


def say_row(row: Mapping[str, str | int | None]) -> str:
    """Says one row in a line."""
    place = [str(row[name]) for name in ("file", "row") if name in row]
    values = [f"{name}={value!r}" for name, value in row.items() if name not in ("file", "row")]
    return f"row {' '.join(reversed(place))} ({', '.join(values)})" if place else ", ".join(values)
