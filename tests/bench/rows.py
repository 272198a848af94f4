"""A row of the table: a figure, what it stands beside, and what was promised of it."""

from enum import StrEnum
from typing import Final

import msgspec


class Figure(StrEnum):
    """Which of a row's figures a promise is about."""

    OURS = "ours"
    ADDED = "added"
    RATIO = "ratio"


class Promise(msgspec.Struct, frozen=True):
    """`figure` is at most (or at least) `bound`."""

    figure: Figure
    bound: float
    at_least: bool = False

    def kept_by(self, value: float) -> bool:
        """Whether `value` is within it."""
        return value >= self.bound if self.at_least else value <= self.bound


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `beside` names what `reference` is a figure of; both in `unit`."""

    part: str
    what: str
    unit: str
    ours: float
    beside: str = ""
    reference: float | None = None
    promise: Promise | None = None
    note: str = ""

    @property
    def added(self) -> float | None:
        """What ours is more than the reference."""
        return None if self.reference is None else self.ours - self.reference

    @property
    def ratio(self) -> float | None:
        """Ours over the reference."""
        return None if not self.reference else self.ours / self.reference

    @property
    def met(self) -> bool | None:
        """Whether the promise is kept; None where none was given."""
        if self.promise is None:
            return None
        value: float | None = getattr(self, self.promise.figure.value)
        assert value is not None, self.what
        return self.promise.kept_by(value)


HEADINGS: Final = ("", "reference", "supervised", "added", "ratio", "promised", "met")


def cells(row: Row) -> tuple[str, ...]:
    """A row's cells, as `HEADINGS` names them."""
    met = {None: "", True: "yes", False: "**no**"}[row.met]
    reference = "" if row.reference is None else f"{number(row.reference)} ({row.beside})"
    added = "" if row.added is None or row.unit not in ("ms", "s") else f"{row.added:+.3f}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    what = f"{row.what}, {row.unit}" if row.unit else row.what
    return (what, reference, number(row.ours), added, ratio, promised(row), met)


def number(value: float) -> str:
    """As many digits as mean something."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def promised(row: Row) -> str:
    """The promise in words."""
    if row.promise is None:
        return ""
    sign = "≥" if row.promise.at_least else "≤"
    bound = f"{row.promise.bound:,.3f}".rstrip("0").rstrip(".")
    name = {Figure.OURS: "", Figure.ADDED: "added ", Figure.RATIO: "ratio "}
    return f"{name[row.promise.figure]}{sign} {bound}"


def markdown(rows: list[Row]) -> str:
    """The table as Markdown, notes below it."""
    table = [HEADINGS, tuple("---" for _ in HEADINGS), *(cells(row) for row in rows)]
    lines = ["| " + " | ".join(line) + " |" for line in table]
    notes = [f"- {row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, "", *notes] if notes else lines)
