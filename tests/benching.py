"""Runs `python -m tests.bench --quick`, as `make bench` would be run."""

import asyncio
import json
import math
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

from tests.rig import ROOT


async def quick(directory: Path, *parts: str) -> list[dict[str, Any]]:
    """The rows of these parts, each with figures above zero."""
    file = directory / "bench.json"
    only = [word for part in parts for word in ("--only", part)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.bench", "--quick", "--json", str(file), *only),
        cwd=ROOT,
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-3000:]
    document = json.loads(file.read_bytes())
    assert document["quick"]
    assert document["machine"]["commit"]
    rows = document["rows"]
    for row in rows:
        assert row["what"] in out.decode(), row
        assert math.isfinite(row["ours"]), row
        assert row["ours"] > 0 or row["what"].startswith("memory"), row
        assert row["reference"] is None or row["reference"] > 0, row
    return list(rows)
