"""The agent's table against traces and a list of what each state takes, both written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.lifecycle.agent import WITH_PROCESS, AgentEvent, AgentState, next_state
from supervisor.lifecycle.table import IllegalTransition

TRACES = {
    "a person starts it and stops it": (
        "start>starting answered>ready stop>draining exited>stopped"
    ),
    "a crash is followed by a restart": (
        "start>starting answered>ready exited>backing_off retry>starting answered>ready"
    ),
    "it never answers and is given up, then released and started": (
        "start>starting exited>backing_off retry>starting exited>backing_off give_up>quarantined "
        "release>stopped start>starting"
    ),
    "a successor adopts it": "adopted>starting answered>ready",
    "a successor finds it dying": "adopted>starting exited>backing_off retry>starting",
    "a successor finds nothing": "vanished>lost retry>starting answered>ready",
    "an adopted one goes before it answers": "adopted>starting vanished>lost give_up>quarantined",
    "an adopted one goes after": "adopted>starting answered>ready vanished>lost stop>stopped",
    "stopped before it answered": "start>starting stop>draining exited>stopped",
    "stopped, and nobody saw the end": "adopted>starting stop>draining vanished>stopped",
    "stopped while it backs off": "start>starting exited>backing_off stop>stopped",
    "a predecessor's quarantine holds": "give_up>quarantined release>stopped start>starting",
    "stopped in quarantine": "start>starting exited>backing_off give_up>quarantined stop>stopped",
}

TAKES = {
    "stopped": "start adopted vanished give_up",
    "starting": "answered exited vanished stop",
    "ready": "exited vanished stop",
    "draining": "exited vanished",
    "backing_off": "retry give_up stop",
    "lost": "retry give_up stop",
    "quarantined": "release stop",
}


@pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES.keys())
def test_the_agent_follows_the_trace(trace: str) -> None:
    state = AgentState.STOPPED
    for edge in trace.split():
        event, expected = edge.split(">")
        state = next_state(state, AgentEvent(event))
        assert state == expected


@pytest.mark.parametrize("state", AgentState)
@pytest.mark.parametrize("event", AgentEvent)
def test_each_state_takes_its_events_and_refuses_the_others(
    state: AgentState, event: AgentEvent
) -> None:
    if event in TAKES[state].split():
        next_state(state, event)
        return
    with pytest.raises(IllegalTransition) as caught:
        next_state(state, event)
    assert (caught.value.state, caught.value.event) == (state, event)
    assert isinstance(caught.value, ValueError)


@given(st.lists(st.sampled_from(AgentEvent), max_size=40))
def test_work_is_never_possible_without_an_answer_since_the_last_start(
    events: list[AgentEvent],
) -> None:
    state, answered = AgentState.STOPPED, False
    for event in events:
        before = state
        try:
            state = next_state(state, event)
        except IllegalTransition:
            continue
        answered = event is AgentEvent.ANSWERED or (answered and state == before)
        assert answered or state is not AgentState.READY


@given(st.lists(st.sampled_from(AgentEvent), max_size=40))
def test_quarantine_is_left_only_by_a_person_or_a_config_change(events: list[AgentEvent]) -> None:
    state = AgentState.STOPPED
    for event in events:
        before = state
        try:
            state = next_state(state, event)
        except IllegalTransition:
            continue
        if before is AgentState.QUARANTINED:
            assert event in {AgentEvent.RELEASE, AgentEvent.STOP}
            assert state is AgentState.STOPPED


def test_a_process_is_there_in_three_states_only() -> None:
    assert {"starting", "ready", "draining"} == WITH_PROCESS
