"""The turn's table against traces and a list of what each state takes, both written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.lifecycle.table import IllegalTransition
from supervisor.lifecycle.turn import TERMINAL, TurnEvent, TurnState, next_state

TRACES = {
    "it runs to its end": "started>in_progress completed>completed",
    "somebody interrupts it": "started>in_progress interrupted>interrupted",
    "codex fails it": "started>in_progress failed>failed",
    "codex refuses it": "refused>failed",
    "the app-server dies under it": "started>in_progress agent_ended>interrupted",
    "the app-server dies before it said anything": "agent_ended>failed",
    "it never arrived": "never_arrived>unsent",
}

TAKES = {
    "submitted": "started refused never_arrived agent_ended",
    "in_progress": "completed interrupted failed agent_ended",
    "completed": "",
    "interrupted": "",
    "failed": "",
    "unsent": "",
}


@pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES.keys())
def test_the_turn_follows_the_trace(trace: str) -> None:
    state = TurnState.SUBMITTED
    for edge in trace.split():
        event, expected = edge.split(">")
        state = next_state(state, TurnEvent(event))
        assert state == expected


@pytest.mark.parametrize("state", TurnState)
@pytest.mark.parametrize("event", TurnEvent)
def test_each_state_takes_its_events_and_refuses_the_others(
    state: TurnState, event: TurnEvent
) -> None:
    if event in TAKES[state].split():
        next_state(state, event)
        return
    with pytest.raises(IllegalTransition):
        next_state(state, event)


def test_the_ends_are_these_four() -> None:
    assert {"completed", "interrupted", "failed", "unsent"} == TERMINAL


@given(st.lists(st.sampled_from(TurnEvent), max_size=20))
def test_a_turn_ends_at_most_once_and_always_with_its_app_server(events: list[TurnEvent]) -> None:
    state, ends = TurnState.SUBMITTED, 0
    for event in [*events, TurnEvent.AGENT_ENDED]:
        try:
            state = next_state(state, event)
        except IllegalTransition:
            continue
        ends += state in TERMINAL
    assert ends == 1
