"""Only what fits Codex's schema is an answer, and there is always a way to say no."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.protocol.answers import DECISIONS, check_answer, declined, from_decision
from supervisor.protocol.jsonrpc import response
from supervisor.protocol.methods import SERVER_REQUESTS, Policy

COMMAND = "item/commandExecution/requestApproval"
FILES = "item/fileChange/requestApproval"
PERMISSIONS = "item/permissions/requestApproval"
QUESTION = "item/tool/requestUserInput"
ELICITATION = "mcpServer/elicitation/request"
TOOL = "item/tool/call"
LEGACY = ("applyPatchApproval", "execCommandApproval")
ASKED = [m.name for m in SERVER_REQUESTS.values() if m.policy in (Policy.ASK, Policy.TOOL)]

ENTRY = {"access": "read", "path": {"type": "path", "path": "/srv/project"}}
GOOD: list[tuple[str, object]] = [
    *((COMMAND, {"decision": word}) for word in DECISIONS),
    *((FILES, {"decision": word}) for word in DECISIONS),
    (
        COMMAND,
        {"decision": {"acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["ls", "-l"]}}},
    ),
    (
        COMMAND,
        {
            "decision": {
                "applyNetworkPolicyAmendment": {
                    "network_policy_amendment": {"action": "allow", "host": "example.com"}
                }
            }
        },
    ),
    (PERMISSIONS, {"permissions": {}}),
    (PERMISSIONS, {"permissions": {"network": {"enabled": True}}, "scope": "session"}),
    (PERMISSIONS, {"permissions": {"fileSystem": {"entries": [ENTRY], "globScanMaxDepth": 3}}}),
    (
        PERMISSIONS,
        {
            "permissions": {
                "fileSystem": {
                    "entries": [
                        {
                            "access": "write",
                            "path": {
                                "type": "special",
                                "value": {"kind": "project_roots", "subpath": "a"},
                            },
                        },
                        {"access": "deny", "path": {"type": "glob_pattern", "pattern": "*.key"}},
                    ]
                }
            },
            "strictAutoReview": True,
        },
    ),
    (QUESTION, {"answers": {"q1": {"answers": ["B"]}, "q2": {"answers": []}}}),
    (ELICITATION, {"action": "accept", "content": {"name": "x"}, "_meta": {"k": 1}}),
    (ELICITATION, {"action": "cancel"}),
    (
        TOOL,
        {
            "contentItems": [
                {"type": "inputText", "text": "t"},
                {"type": "inputImage", "imageUrl": "data:,"},
                {"type": "inputAudio", "audioUrl": "data:,"},
            ],
            "success": True,
        },
    ),
    (TOOL, {"contentItems": [], "success": False}),
    *(
        (method, {"decision": decision})
        for method in LEGACY
        for decision in (
            "approved",
            "approved_for_session",
            "approved_mcp_policy_amendment",
            "timed_out",
            "abort",
            {"denied": {"rejection": "no"}},
            {"approved_execpolicy_amendment": {"proposed_execpolicy_amendment": ["ls"]}},
            {
                "network_policy_amendment": {
                    "network_policy_amendment": {"action": "deny", "host": "h"}
                }
            },
        )
    ),
]

NOTHING: list[object] = [None, [], "accept", 1, {}, {"foo": 1}]
BAD: list[tuple[str, object]] = [
    *((method, nothing) for method in ASKED for nothing in NOTHING),
    (COMMAND, {"decision": "maybe"}),
    (COMMAND, {"decision": "approved"}),
    (COMMAND, {"decision": {}}),
    (COMMAND, {"decision": {"accept": {}}}),
    (COMMAND, {"decision": {"acceptWithExecpolicyAmendment": {}}}),
    (COMMAND, {"decision": {"acceptWithExecpolicyAmendment": {"execpolicy_amendment": "ls"}}}),
    (COMMAND, {"decision": {"acceptWithExecpolicyAmendment": None}}),
    (
        COMMAND,
        {
            "decision": {
                "acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["ls"]},
                "applyNetworkPolicyAmendment": {
                    "network_policy_amendment": {"action": "allow", "host": "h"}
                },
            }
        },
    ),
    (
        COMMAND,
        {
            "decision": {
                "acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["ls"]},
                "other": 1,
            }
        },
    ),
    (
        COMMAND,
        {
            "decision": {
                "applyNetworkPolicyAmendment": {
                    "network_policy_amendment": {"action": "perhaps", "host": "h"}
                }
            }
        },
    ),
    (FILES, {"decision": {"acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["ls"]}}}),
    (PERMISSIONS, {"permissions": {}, "scope": "forever"}),
    (PERMISSIONS, {"permissions": {"network": {"enabled": "yes"}}}),
    (PERMISSIONS, {"permissions": {"fileSystem": {"globScanMaxDepth": 0}}}),
    (PERMISSIONS, {"permissions": {"fileSystem": {"entries": [{**ENTRY, "access": "own"}]}}}),
    (PERMISSIONS, {"permissions": {"fileSystem": {"entries": [{"access": "read"}]}}}),
    (QUESTION, {"answers": {"q1": ["B"]}}),
    (QUESTION, {"answers": {"q1": {"answers": "B"}}}),
    (ELICITATION, {"action": "acceptForSession"}),
    (TOOL, {"contentItems": [{"type": "inputVideo", "url": "x"}], "success": True}),
    (TOOL, {"contentItems": [{"type": "inputText"}], "success": True}),
    (TOOL, {"contentItems": [], "success": "yes"}),
    ("execCommandApproval", {"decision": "accept"}),
    ("execCommandApproval", {"decision": "denied"}),
    ("execCommandApproval", {"decision": {"denied": {}}}),
    ("execCommandApproval", {"decision": {}}),
    (COMMAND, {"decision": "accept", "note": "\ud800"}),
    (QUESTION, {"answers": {"\udfff": {"answers": []}}}),
    ("attestation/generate", {"token": "x"}),
    ("account/chatgptAuthTokens/refresh", {"accessToken": "x"}),
    ("currentTime/read", {"currentTimeAt": 1}),
    ("no/such/method", {}),
]


@pytest.mark.parametrize(("method", "answer"), GOOD)
def test_an_answer_that_fits_passes_unchanged(method: str, answer: object) -> None:
    assert check_answer(method, answer) == answer


@pytest.mark.parametrize(("method", "answer"), BAD)
def test_an_answer_that_does_not_fit_is_a_bad_request(method: str, answer: object) -> None:
    with pytest.raises(SupervisorError) as caught:
        check_answer(method, answer)
    assert caught.value.code is ErrorCode.BAD_REQUEST


def test_fields_codex_does_not_know_are_dropped() -> None:
    assert check_answer(COMMAND, {"decision": "accept", "x": 1}) == {"decision": "accept"}


@pytest.mark.parametrize("method", ASKED)
def test_no_is_always_an_answer(method: str) -> None:
    answer = declined(method)
    assert check_answer(method, answer) == answer
    json.loads(response(b"0", answer))


@pytest.mark.parametrize(
    ("method", "decision", "answer"),
    [
        *((COMMAND, word, {"decision": word}) for word in DECISIONS),
        *((FILES, word, {"decision": word}) for word in DECISIONS),
        ("execCommandApproval", "accept", {"decision": "approved"}),
        ("execCommandApproval", "acceptForSession", {"decision": "approved_for_session"}),
        ("applyPatchApproval", "cancel", {"decision": "abort"}),
        ("applyPatchApproval", "decline", {"decision": {"denied": {"rejection": "declined"}}}),
        (ELICITATION, "accept", {"action": "accept", "content": {}}),
        (ELICITATION, "decline", {"action": "decline"}),
        (ELICITATION, "cancel", {"action": "cancel"}),
        (PERMISSIONS, "decline", {"permissions": {}}),
        (PERMISSIONS, "cancel", {"permissions": {}}),
        (QUESTION, "decline", {"answers": {}}),
        (QUESTION, "cancel", {"answers": {}}),
        (
            TOOL,
            "decline",
            {"contentItems": [{"type": "inputText", "text": "declined"}], "success": False},
        ),
    ],
)
def test_a_simple_word_becomes_the_answer(method: str, decision: str, answer: object) -> None:
    assert from_decision(method, decision) == answer


def test_accepting_permissions_grants_what_was_asked_and_no_more() -> None:
    asked = {"threadId": "t", "permissions": {"network": {"enabled": True}}}
    params = json.dumps(asked).encode()
    assert from_decision(PERMISSIONS, "accept", params) == {"permissions": asked["permissions"]}
    assert from_decision(PERMISSIONS, "acceptForSession", params) == {
        "permissions": asked["permissions"],
        "scope": "session",
    }


@pytest.mark.parametrize("asked", [None, b"", b"[]", b"{}", b'{"permissions":1}', b"[" * 100_000])
def test_permissions_nobody_asked_for_are_not_granted(asked: bytes | None) -> None:
    with pytest.raises(SupervisorError) as caught:
        from_decision(PERMISSIONS, "accept", asked)
    assert caught.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize(
    ("method", "decision"),
    [
        (QUESTION, "accept"),
        (TOOL, "acceptForSession"),
        (ELICITATION, "acceptForSession"),
        (COMMAND, "yes"),
        (COMMAND, ""),
        ("attestation/generate", "decline"),
        ("no/such/method", "accept"),
    ],
)
def test_a_word_that_cannot_answer_is_a_bad_request(method: str, decision: str) -> None:
    with pytest.raises(SupervisorError) as caught:
        from_decision(method, decision)
    assert caught.value.code is ErrorCode.BAD_REQUEST


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["decision", "answers", "action", "contentItems", "permissions"])
            | st.text(),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from(ASKED), json_values)
def test_any_answer_is_checked_or_refused(method: str, answer: object) -> None:
    try:
        checked = check_answer(method, answer)
    except SupervisorError as error:
        assert error.code is ErrorCode.BAD_REQUEST  # noqa: PT017
    else:
        assert check_answer(method, checked) == checked
