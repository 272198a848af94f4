"""The demonstration's judges: what is lost, doubled or left behind does not pass."""

import subprocess
from collections.abc import Iterator
from io import StringIO
from typing import Any

import psutil
import pytest
from rich.console import Console

from supervisor.cli.demo_parts import FILES, Verdict
from supervisor.cli.demo_stage import Stage
from supervisor.cli.demo_viewer import Viewer
from supervisor.settings import environment, load


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage.build()
    yield made
    made.clear()


def event(n: int, prev: int) -> dict[str, Any]:
    return {"type": "event", "cursor": f"e.{n}", "prev": f"e.{prev}", "message": {"method": "x"}}


def viewer(stage: Stage, *pairs: tuple[int, int], snapshots: int = 1) -> Viewer:
    made = Viewer(stage, "p", Console(file=StringIO()))
    made.events = [event(n, prev) for n, prev in pairs]
    made._snapshots = ["e.0"] * snapshots
    return made


def test_chain_of_events_is_unbroken(stage: Stage) -> None:
    assert viewer(stage, (1, 0), (2, 1), (5, 2)).unbroken()


@pytest.mark.parametrize(
    "pairs",
    [
        [(2, 1), (3, 2)],
        [(1, 0), (3, 2)],
        [(1, 0), (1, 0), (2, 1)],
        [(1, 0), (2, 1), (1, 2)],
    ],
    ids=["first lost", "one lost", "doubled", "came again"],
)
def test_lost_and_doubled_events_are_seen(stage: Stage, pairs: list[tuple[int, int]]) -> None:
    assert not viewer(stage, *pairs).unbroken()


def test_second_snapshot_is_a_loss(stage: Stage) -> None:
    assert not viewer(stage, (1, 0), snapshots=2).unbroken()


def test_verdict_holds_only_if_all_of_it_does() -> None:
    verdict = Verdict("part")
    verdict.check(True, "good")
    assert verdict.ok
    verdict.check([], "bad")
    assert not verdict.ok
    assert (verdict.facts, verdict.problems) == (["good"], ["bad"])


def test_settings_of_the_stage_leave_nothing_to_other_places(stage: Stage) -> None:
    stage.furnish("http://127.0.0.1:1/v1", FILES)

    hostile = stage.root / "hostile.toml"
    hostile.write_text('project_roots = ["/nowhere"]\nlog_format = "console"\n')
    loaded = load({}, env={}, config_file=stage.root / "config.toml", system_file=hostile)

    assert loaded == stage.settings


def test_process_that_was_left_running_is_named_and_ended(stage: Stage) -> None:
    env = {**environment(), "CODEX_HOME": str(stage.codex_home)}
    left = subprocess.Popen(["sleep", "60"], env=env)

    (told,) = stage.clear()

    assert told == f"{left.pid} sleep 60"
    left.wait(30)
    assert not psutil.pid_exists(left.pid)
    assert not stage.root.exists()
    assert stage.clear() == []
