"""Errors: every code is complete, and an error says the same everywhere."""

import json
import os

import pytest

from supervisor.errors import ERROR_KINDS, ErrorCode, SupervisorError

SYSEXITS = {getattr(os, name) for name in dir(os) if name.startswith("EX_")} - {os.EX_OK}


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_a_hint_and_a_status_of_sysexits(code: ErrorCode) -> None:
    kind = ERROR_KINDS[code]

    assert kind.hint.endswith((".", ")"))
    assert kind.exit_status in SYSEXITS


def test_no_kind_is_left_of_a_code_that_is_gone() -> None:
    assert set(ERROR_KINDS) == set(ErrorCode)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_codes_are_plain_words_a_client_can_match(code: ErrorCode) -> None:
    assert code.value == code.name.lower()


def test_what_clients_see_is_json_and_says_code_message_hint_and_retry() -> None:
    error = SupervisorError(ErrorCode.TURN_ACTIVE, "a turn is running", details={"turn": "t"})

    assert json.loads(json.dumps(error.as_dict())) == {
        "code": "turn_active",
        "message": "a turn is running",
        "hint": ERROR_KINDS[ErrorCode.TURN_ACTIVE].hint,
        "retryable": True,
        "details": {"turn": "t"},
    }


def test_details_are_left_out_where_there_are_none() -> None:
    assert "details" not in SupervisorError(ErrorCode.INTERNAL, "m").as_dict()


def test_one_error_may_know_better_than_its_code() -> None:
    error = SupervisorError(ErrorCode.INTERNAL, "m", hint="Do that.", retryable=True)

    assert (error.hint, error.retryable) == ("Do that.", True)
    assert SupervisorError(ErrorCode.TURN_ACTIVE, "m", hint="", retryable=False).retryable is False
    assert SupervisorError(ErrorCode.TURN_ACTIVE, "m", hint="").hint == ""


def test_the_message_is_what_is_printed() -> None:
    assert str(SupervisorError(ErrorCode.INTERNAL, "the words")) == "the words"


def test_what_a_client_may_send_again_ends_the_command_line_as_temporary_or_unavailable() -> None:
    retryable = {kind.exit_status for kind in ERROR_KINDS.values() if kind.retryable}

    assert retryable == {os.EX_TEMPFAIL, os.EX_UNAVAILABLE}
