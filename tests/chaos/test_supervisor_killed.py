"""Seeded SIGKILLs of the supervisor: nothing is lost, nothing doubled, no turn runs twice.

`CHAOS_ROUNDS` kills (7 unless told, one at each place) from `CHAOS_SEED`; a failure names both.
"""

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.chaos import oracle
from tests.chaos.rounds import Chaos, Place
from tests.rig import rig

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", len(Place)))
SEED = int(os.environ.get("CHAOS_SEED", "20261120"))
ROUND_DEADLINE = 90.0


@pytest.mark.codex
@pytest.mark.timeout(60 + ROUNDS * ROUND_DEADLINE)
async def test_killed_supervisor_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    async with rig(tmp_path, punch_spools=False) as under_fire, asyncio.TaskGroup() as tasks:
        chaos = Chaos(under_fire, rng)
        reading = await chaos.prepare(tasks)
        number = 0
        while chaos.kills < ROUNDS:
            for place in rng.sample(list(Place), len(Place)):
                async with asyncio.timeout(ROUND_DEADLINE):
                    await chaos.round(number, place)
                number += 1
        lines = oracle.check_stream(under_fire, chaos.project, chaos.reader)
        oracle.check_cursors(chaos.reader)
        reading.cancel()
        print(f"seed {SEED}: {chaos.kills} kills in {number} rounds, {lines} lines, none lost")
        under_fire.shut()
        assert under_fire.processes() == []
