"""The approval's table against traces and a list of what each state takes, both by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.lifecycle.approval import (
    TERMINAL,
    WINNING,
    ApprovalEvent,
    ApprovalState,
    next_state,
)
from supervisor.lifecycle.table import IllegalTransition

TRACES = {
    "answered and confirmed": "answer>answered resolved>resolved",
    "expired, declined and confirmed": "expire>answered resolved>resolved",
    "nobody can answer it": "refuse>refused",
    "the app-server settles it by itself": "resolved>abandoned",
    "its turn ends first": "turn_ended>abandoned",
    "its app-server dies first": "agent_ended>abandoned",
    "answered, but the turn ends before codex says so": "answer>answered turn_ended>abandoned",
    "answered, but the app-server dies": "answer>answered agent_ended>abandoned",
}

TAKES = {
    "waiting": "answer expire refuse resolved turn_ended agent_ended",
    "answered": "resolved turn_ended agent_ended",
    "resolved": "",
    "abandoned": "",
    "refused": "",
}

events = st.lists(st.sampled_from(ApprovalEvent), max_size=20)


@pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES.keys())
def test_the_approval_follows_the_trace(trace: str) -> None:
    state = ApprovalState.WAITING
    for edge in trace.split():
        event, expected = edge.split(">")
        state = next_state(state, ApprovalEvent(event))
        assert state == expected


@pytest.mark.parametrize("state", ApprovalState)
@pytest.mark.parametrize("event", ApprovalEvent)
def test_each_state_takes_its_events_and_refuses_the_others(
    state: ApprovalState, event: ApprovalEvent
) -> None:
    if event in TAKES[state].split():
        next_state(state, event)
        return
    with pytest.raises(IllegalTransition):
        next_state(state, event)


def test_answers_are_these_three_and_ends_these_three() -> None:
    assert {"answer", "expire", "refuse"} == WINNING
    assert {"resolved", "abandoned", "refused"} == TERMINAL


@given(events)
def test_at_most_one_answer_wins(happening: list[ApprovalEvent]) -> None:
    state, winners = ApprovalState.WAITING, 0
    for event in happening:
        try:
            state = next_state(state, event)
        except IllegalTransition:
            continue
        winners += event in {"answer", "expire", "refuse"}
    assert winners <= 1


@given(events)
def test_resolved_means_that_somebody_answered(happening: list[ApprovalEvent]) -> None:
    state, answered = ApprovalState.WAITING, False
    for event in happening:
        try:
            state = next_state(state, event)
        except IllegalTransition:
            continue
        answered = answered or event in {"answer", "expire"}
    assert answered or state is not ApprovalState.RESOLVED


@given(events)
def test_nothing_waits_for_a_dead_app_server(happening: list[ApprovalEvent]) -> None:
    state = ApprovalState.WAITING
    for event in [*happening, ApprovalEvent.AGENT_ENDED]:
        try:
            state = next_state(state, event)
        except IllegalTransition:
            continue
    assert state in {"resolved", "abandoned", "refused"}
