"""The decisions for an intent in doubt, as a table written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import ErrorCode
from supervisor.lifecycle.reconcile import (
    Decision,
    Doubt,
    Evidence,
    Fail,
    Search,
    SendAgain,
    Settle,
    reconcile,
)

RESTARTED = Fail(ErrorCode.AGENT_RESTARTED)
ANSWERED = Settle(Evidence.ANSWERED)
FOUND = Settle(Evidence.FOUND)

ACTING = [
    "thread/start",
    "turn/start",
    "turn/steer",
    "turn/interrupt",
    "thread/name/set",
    "thread/archive",
    "thread/resume",
]


@pytest.mark.parametrize("method", ACTING)
@pytest.mark.parametrize("same_generation", [True, False])
@pytest.mark.parametrize("found", [True, False, None])
def test_an_answer_in_the_spool_is_the_outcome(
    method: str, same_generation: bool, found: bool | None
) -> None:
    assert reconcile(Doubt(method, True, same_generation, found)) == ANSWERED


@pytest.mark.parametrize(
    ("method", "same_generation", "found", "decision"),
    [
        ("turn/start", True, None, Search()),
        ("turn/start", True, True, FOUND),
        ("turn/start", True, False, SendAgain()),
        ("turn/start", False, None, Search()),
        ("turn/start", False, True, FOUND),
        ("turn/start", False, False, RESTARTED),
        ("turn/steer", True, None, Search()),
        ("turn/steer", True, True, FOUND),
        ("turn/steer", True, False, SendAgain()),
        ("turn/steer", False, None, Search()),
        ("turn/steer", False, True, FOUND),
        ("turn/steer", False, False, RESTARTED),
        ("turn/interrupt", True, None, RESTARTED),
        ("turn/interrupt", False, None, RESTARTED),
        ("thread/name/set", True, None, SendAgain()),
        ("thread/name/set", False, None, RESTARTED),
        ("thread/archive", True, None, SendAgain()),
        ("thread/archive", False, None, RESTARTED),
        ("thread/resume", True, None, SendAgain()),
        ("thread/resume", False, None, RESTARTED),
        ("thread/start", True, None, RESTARTED),
        ("thread/start", False, None, RESTARTED),
        ("review/start", True, None, RESTARTED),
    ],
)
def test_an_unanswered_intent_is_settled_by_what_is_known(
    method: str, same_generation: bool, found: bool | None, decision: Decision
) -> None:
    assert reconcile(Doubt(method, False, same_generation, found)) == decision


@given(st.sampled_from(ACTING), st.booleans(), st.booleans(), st.booleans())
def test_after_a_search_there_is_always_an_end(
    method: str, answered: bool, same_generation: bool, found: bool
) -> None:
    assert reconcile(Doubt(method, answered, same_generation, found)) != Search()


@given(st.text(), st.booleans(), st.sampled_from([True, False, None]))
def test_nothing_is_sent_again_to_another_app_server(
    method: str, answered: bool, found: bool | None
) -> None:
    for name in (method, *ACTING):
        assert reconcile(Doubt(name, answered, False, found)) != SendAgain()
