"""What was measured, on what machine: printed, as JSON, and in docs/performance.md."""

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from supervisor.clock import SystemClock
from supervisor.settings import PINNED_CODEX_VERSION
from tests.bench.rows import HEADINGS, Row, cells, markdown
from tests.rig import ROOT

DOCS = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- begin: make bench -->", "<!-- end: make bench -->"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where and of what."""

    commit: str
    date: str
    cpu: str
    cores: int
    kernel: str
    python: str
    codex: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run. With `quick`, its figures mean nothing."""

    machine: Machine
    quick: bool
    rows: list[Row]

    @property
    def words(self) -> str:
        """The machine, in one line."""
        m = self.machine
        return (
            f"Commit {m.commit}, {m.date}; {m.cores} cores of {m.cpu}, Linux {m.kernel}, "
            f"Python {m.python}, codex {m.codex}."
        )


def machine() -> Machine:
    """This one."""
    now: datetime = SystemClock().now()
    return Machine(
        commit=_commit(),
        date=now.astimezone(UTC).date().isoformat(),
        cpu=_cpu(),
        cores=len(_processors()),
        kernel=platform.release().split("-")[0],
        python=platform.python_version(),
        codex=PINNED_CODEX_VERSION,
    )


def _git(*arguments: str) -> str | None:
    try:
        ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return ran.stdout.decode().strip()


def _commit() -> str:
    commit = _git("rev-parse", "--short", "HEAD")
    if commit is None:
        return "unknown"
    # The page this run may write is not part of what is measured.
    changed = _git("status", "--porcelain", "--", ".", f":!{DOCS.relative_to(ROOT)}")
    return f"{commit} and uncommitted changes" if changed else commit


def _processors() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return [line for line in lines if line.startswith("processor")]


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def show(report: Report) -> None:
    """Print it."""
    table = Table(title=report.words, title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if not heading else "right")
    for row in report.rows:
        table.add_row(*(cell.replace("**", "") for cell in cells(row)))
    console = Console(width=None if Console().is_terminal else 150)
    console.print(table)
    for row in report.rows:
        if row.note:
            console.print(f"{row.what}: {row.note}", highlight=False)


def as_json(report: Report) -> bytes:
    """For programs: rows with what follows from them."""
    rows = [
        {**msgspec.to_builtins(row), "added": row.added, "ratio": row.ratio, "met": row.met}
        for row in report.rows
    ]
    document = {"machine": report.machine, "quick": report.quick, "rows": rows}
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"


def write_docs(report: Report, path: Path = DOCS) -> None:
    """Put the table between the markers of the page. Raises ValueError if they are not there."""
    head, begin, rest = path.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} lacks {BEGIN} and {END}")
    body = f"{report.words}\n\n{markdown(report.rows)}"
    path.write_text(f"{head}{begin}\n\n{body}\n\n{end}{tail}")
