"""The whole benchmark, small, with the real codex. Of its figures nothing is asserted."""

from pathlib import Path

import pytest

from tests.benching import quick

PARTS = ("reads", "acts", "streams", "kills", "starts", "containers")


@pytest.mark.codex
async def test_a_quick_run_fills_the_rows_that_need_codex(tmp_path: Path) -> None:
    rows = await quick(tmp_path, *PARTS)
    assert {row["part"] for row in rows} == set(PARTS)
    assert {row["beside"] for row in rows} >= {"bare stdio", "codex's WebSocket"}
    assert sum(row["met"] is not None for row in rows) >= 8
