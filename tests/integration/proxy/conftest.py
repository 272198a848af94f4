"""A directory for proxies that are processes, which are ended with their test."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """For a proxy of the supervisor's own; the proxy is ended with the test."""
    made = tmp_path / "proxy"
    yield made
    ours = [p for p in psutil.process_iter() if str(made) in _command(p)]
    for process in ours:
        process.terminate()
    _, left = psutil.wait_procs(ours, timeout=30)
    assert left == []


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
