import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.buses.subjects import check_inbox, format_subject, parse_subject
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.bus import Subject

TOKENS = st.text("abcXYZ019_-", min_size=1, max_size=64)


@given(project=st.none() | TOKENS, account=TOKENS, service=TOKENS)
def test_what_is_formatted_is_parsed_back(project: str | None, account: str, service: str) -> None:
    text = format_subject(project, account, service)
    assert parse_subject(text) == Subject(project=project, account=account, service=service)


def test_subjects_read_as_conat_has_them() -> None:
    assert format_subject("P", "A") == "codex.project-P.account-A.api"
    assert format_subject(None, "A") == "codex.host.account-A.api"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "codex",
        "codex.host.account-a",
        "codex.host.account-a.api.more",
        "codex.host.account-a.api\n",
        "codex.project-.account-a.api",
        "codex.project-p.account-.api",
        "codex.project-*.account-a.api",
        "codex.project-p.account->.api",
        "codex.project-p q.account-a.api",
        "codex.project-p/../q.account-a.api",
        "codex.project-é.account-a.api",
        "codex.project-p.account-a.b.api",
        "CODEX.host.account-a.api",
        "codex.project-" + "p" * 65 + ".account-a.api",
    ],
)
def test_what_is_no_subject_is_a_bad_request(text: str) -> None:
    with pytest.raises(SupervisorError) as caught:
        parse_subject(text)
    assert caught.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("token", ["", "a.b", "*", ">", "a b", "x" * 65, "é", "a\n"])
def test_a_name_that_is_no_token_makes_no_subject(token: str) -> None:
    for arguments in [(token, "a"), ("p", token), (None, token)]:
        with pytest.raises(SupervisorError) as caught:
            format_subject(*arguments)
        assert caught.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("inbox", ["_INBOX.a", "_INBOX.a.b.c.d", "_INBOX." + "x" * 64])
def test_an_inbox_is_taken(inbox: str) -> None:
    assert check_inbox(inbox) == inbox


@pytest.mark.parametrize(
    "inbox",
    [
        None,
        "",
        "_INBOX",
        "_INBOX.",
        "_INBOX.a.",
        "_INBOX.a.b.c.d.e",
        "_INBOX.*",
        "_INBOX.>",
        "x.a",
        "_INBOX." + "x" * 65,
        '_INBOX."',
        "_INBOX.a\n",
        "_HELLO",
        "_ERROR",
        "_inbox.a",
    ],
)
def test_what_is_no_inbox_is_a_bad_request(inbox: str | None) -> None:
    with pytest.raises(SupervisorError) as caught:
        check_inbox(inbox)
    assert caught.value.code is ErrorCode.BAD_REQUEST


@given(st.text(max_size=80))
def test_an_inbox_never_needs_escaping(text: str) -> None:
    try:
        check_inbox("_INBOX." + text)
    except SupervisorError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", text)
