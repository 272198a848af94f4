"""The disk's table against traces written by hand, and when the next look is due."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.lifecycle.disk import (
    INITIAL,
    TERMINAL,
    TRANSITIONS,
    DiskEvent,
    DiskState,
    Standing,
    judge,
    next_look,
)
from supervisor.lifecycle.table import IllegalTransition, step

TRACES = {
    "it fits": "fits>within fits>within",
    "over, and freed": "exceeds>over exceeds>over fits>within exceeds>over",
    "over for too long": "exceeds>over exceeds>over grace_ended>stopped",
}
TAKES = {
    "within": "fits exceeds",
    "over": "fits exceeds grace_ended",
    "stopped": "",
}
GRACE = 60.0


@pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES.keys())
def test_the_disk_follows_the_trace(trace: str) -> None:
    state = INITIAL
    for edge in trace.split():
        event, expected = edge.split(">")
        state = step(TRANSITIONS, state, DiskEvent(event))
        assert state == expected


@pytest.mark.parametrize("state", DiskState)
@pytest.mark.parametrize("event", DiskEvent)
def test_each_state_takes_its_events_and_refuses_the_others(
    state: DiskState, event: DiskEvent
) -> None:
    if event in TAKES[state].split():
        step(TRANSITIONS, state, event)
        return
    with pytest.raises(IllegalTransition):
        step(TRANSITIONS, state, event)


def test_the_end_is_this_one() -> None:
    assert {"stopped"} == TERMINAL


@pytest.mark.parametrize(
    ("standing", "exceeds", "looked_at", "expected"),
    [
        (Standing(DiskState.WITHIN, 0), False, 500, Standing(DiskState.WITHIN, 0)),
        (Standing(DiskState.WITHIN, 0), True, 500, Standing(DiskState.OVER, 500)),
        (Standing(DiskState.OVER, 500), True, 559.9, Standing(DiskState.OVER, 500)),
        (Standing(DiskState.OVER, 500), True, 560, Standing(DiskState.STOPPED, 560)),
        (Standing(DiskState.OVER, 500), False, 560, Standing(DiskState.WITHIN, 560)),
    ],
    ids=["fits", "over", "in the grace", "after the grace", "freed at the last moment"],
)
def test_a_look_moves_the_standing(
    standing: Standing, exceeds: bool, looked_at: float, expected: Standing
) -> None:
    assert judge(standing, exceeds=exceeds, looked_at=looked_at, grace=GRACE) == expected


@pytest.mark.parametrize(
    ("standing", "now", "expected"),
    [
        (Standing(DiskState.WITHIN, 0), 1000, 30),
        (Standing(DiskState.OVER, 1000), 1000, 30),
        (Standing(DiskState.OVER, 1000), 1050, 10),
        (Standing(DiskState.OVER, 1000), 1075, 0),
    ],
    ids=["within", "over", "the grace ends sooner", "the grace has ended"],
)
def test_the_next_look_is_due(standing: Standing, now: float, expected: float) -> None:
    assert next_look(standing, now, interval=30, grace=GRACE) == expected


@given(st.lists(st.tuples(st.floats(0.1, 100), st.booleans()), max_size=30))
def test_it_is_stopped_only_after_a_whole_grace_of_nothing_but_excess(
    looks: list[tuple[float, bool]],
) -> None:
    standing, now = Standing(INITIAL, 0.0), 0.0
    over_since: float | None = None
    for pause, exceeds in looks:
        now += pause
        standing = judge(standing, exceeds=exceeds, looked_at=now, grace=GRACE)
        if not exceeds:
            over_since = None
        elif over_since is None:
            over_since = now
        stopped = standing.state is DiskState.STOPPED
        assert stopped == (
            over_since is not None and now - over_since >= GRACE and now > over_since
        )
        if stopped:
            return
