"""Seeded SIGKILLs of the supervisor: nothing is lost, nothing doubled, no turn runs twice.

`--chaos-kills` of them (one at each place unless told) from `--chaos-seed`; a failure names both.
"""

import asyncio
import random
from pathlib import Path

import pytest

from tests.chaos import oracle
from tests.chaos.rounds import Chaos, Place
from tests.rig import rig

ROUND_DEADLINE = 90.0


@pytest.mark.codex
@pytest.mark.timeout(7200)  # each round has a deadline of its own
async def test_killed_supervisor_loses_nothing_and_doubles_nothing(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    kills = pytestconfig.getoption("chaos_kills") or len(Place)
    seed = pytestconfig.getoption("chaos_seed")
    rng = random.Random(seed)
    async with rig(tmp_path, punch_spools=False) as under_fire, asyncio.TaskGroup() as tasks:
        chaos = Chaos(under_fire, rng, tasks)
        reading = await chaos.prepare()
        number = 0
        while chaos.kills < kills:
            for place in rng.sample(list(Place), len(Place)):
                async with asyncio.timeout(ROUND_DEADLINE):
                    await chaos.round(number, place)
                number += 1
        lines = oracle.check_stream(under_fire, chaos.project, chaos.reader)
        oracle.check_cursors(chaos.reader)
        reading.cancel()
        print(f"seed {seed}: {chaos.kills} kills in {number} rounds, {lines} lines, none lost")
        under_fire.shut()
        assert under_fire.processes() == []
