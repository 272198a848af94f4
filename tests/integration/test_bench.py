"""The benchmark runs, small, where it needs no codex: rows, JSON, and the table of the page."""

from pathlib import Path

import pytest

from tests.bench.report import BEGIN, END, Machine, Report, write_docs
from tests.bench.rows import Figure, Promise, Row, cells
from tests.bench.sampling import percentile
from tests.benching import quick


async def test_a_quick_run_without_codex_fills_its_rows(tmp_path: Path) -> None:
    rows = await quick(tmp_path, "parsing", "agents")
    assert {row["part"] for row in rows} == {"parsing", "agents"}
    assert len(rows) == 7


def row(ours: float, promise: Promise | None, reference: float | None = None) -> Row:
    return Row(
        part="p", what="w", unit="ms", ours=ours, beside="b", reference=reference, promise=promise
    )


@pytest.mark.parametrize(
    ("ours", "reference", "promise", "met"),
    [
        (2.0, None, None, None),
        (2.0, None, Promise(Figure.OURS, 2), True),
        (2.1, None, Promise(Figure.OURS, 2), False),
        (0.9, 0.5, Promise(Figure.ADDED, 0.5), True),
        (1.1, 0.5, Promise(Figure.ADDED, 0.5), False),
        (80.0, 100.0, Promise(Figure.RATIO, 0.75, at_least=True), True),
        (70.0, 100.0, Promise(Figure.RATIO, 0.75, at_least=True), False),
    ],
)
def test_a_promise_is_met_or_not(
    ours: float, reference: float | None, promise: Promise | None, met: bool | None
) -> None:
    made = row(ours, promise, reference)
    assert made.met is met
    assert cells(made)[-1] == {None: "", True: "yes", False: "**no**"}[met]


def test_a_percentile_is_a_sample() -> None:
    samples = [float(n) for n in range(100, 0, -1)]
    assert percentile(samples, 0.99) == 99
    assert percentile(samples, 1) == 100
    assert percentile([7.0], 0.5) == 7


def test_the_table_goes_between_the_markers_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Head\n{BEGIN}\nold\n{END}\ntail\n")
    machine = Machine(
        commit="abc", date="2026-01-01", cpu="c", cores=2, kernel="6", python="3", codex="0"
    )
    report = Report(machine=machine, quick=False, rows=[row(2.5, Promise(Figure.OURS, 3))])
    for _ in range(2):
        write_docs(report, page)
    text = page.read_text()
    assert text.startswith(f"# Head\n{BEGIN}\n")
    assert text.endswith(f"{END}\ntail\n")
    assert "old" not in text
    assert text.count("| w, ms |") == 1
    assert "Commit abc" in text


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    machine = Machine(commit="", date="", cpu="", cores=1, kernel="", python="", codex="")
    with pytest.raises(ValueError, match="lacks"):
        write_docs(Report(machine=machine, quick=False, rows=[]), page)
    assert page.read_text() == "nothing here"
