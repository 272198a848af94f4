"""What a person is told to do about the state of a project."""

import pytest

from supervisor.cli.projects import hint_of
from supervisor.lifecycle.agent import AgentState


def status(state: str, *, desired: str = "running", waiting: bool = False) -> dict[str, object]:
    return {"state": state, "desired": desired, "storeWaiting": waiting}


@pytest.mark.parametrize("state", AgentState)
def test_hint_comes_exactly_where_all_is_not_well(state: AgentState) -> None:
    well = state in {AgentState.STARTING, AgentState.READY, AgentState.DRAINING}

    assert (hint_of(status(state.value, desired="stopped")) is None) is well


def test_stopped_project_that_is_about_to_start_needs_nothing() -> None:
    assert hint_of(status("stopped", desired="running")) is None


def test_store_that_is_away_is_said_before_anything_else() -> None:
    assert "doctor" in str(hint_of(status("ready", waiting=True)))
