"""Answers to server requests: what fits Codex's response schemas, and the ways to say no.

A malformed answer fails the item it is for, so none is ever written. The shapes are those of the
generated schema (`*Response.json`); unknown fields are dropped, as Codex would drop them.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.protocol.encoding import encode_value

COMMAND: Final = "item/commandExecution/requestApproval"
FILE_CHANGE: Final = "item/fileChange/requestApproval"
PERMISSIONS: Final = "item/permissions/requestApproval"
USER_INPUT: Final = "item/tool/requestUserInput"
ELICITATION: Final = "mcpServer/elicitation/request"
TOOL_CALL: Final = "item/tool/call"
PATCH_LEGACY: Final = "applyPatchApproval"
EXEC_LEGACY: Final = "execCommandApproval"

DECISIONS: Final = ("accept", "acceptForSession", "decline", "cancel")
"""The simple words. `decline`: the turn goes on; `cancel`: it is interrupted."""

_REJECTION: Final = "declined"


class _Exact(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An object of Codex's that takes no other fields."""


class _Open(msgspec.Struct, omit_defaults=True):
    """An object whose other fields Codex ignores."""


class _ExecpolicyAmendment(_Open):
    execpolicy_amendment: list[str]


class _NetworkRule(_Open):
    action: Literal["allow", "deny"]
    host: str


class _NetworkAmendment(_Open):
    network_policy_amendment: _NetworkRule


class _CommandAmendment(_Exact, rename="camel"):
    accept_with_execpolicy_amendment: _ExecpolicyAmendment | UnsetType = UNSET
    apply_network_policy_amendment: _NetworkAmendment | UnsetType = UNSET


class _CommandAnswer(_Open):
    decision: Literal["accept", "acceptForSession", "decline", "cancel"] | _CommandAmendment


class _FileChangeAnswer(_Open):
    decision: Literal["accept", "acceptForSession", "decline", "cancel"]


class _LegacyExecpolicy(_Open):
    proposed_execpolicy_amendment: list[str]


class _Denied(_Open):
    rejection: str


class _LegacyDecision(_Exact):
    approved_execpolicy_amendment: _LegacyExecpolicy | UnsetType = UNSET
    network_policy_amendment: _NetworkAmendment | UnsetType = UNSET
    denied: _Denied | UnsetType = UNSET


class _LegacyAnswer(_Open):
    decision: (
        Literal[
            "approved",
            "approved_for_session",
            "approved_mcp_policy_amendment",
            "timed_out",
            "abort",
        ]
        | _LegacyDecision
    )


class _PathAt(_Open, tag="path"):
    path: str


class _GlobAt(_Open, tag="glob_pattern"):
    pattern: str


class _Root(_Open, tag_field="kind", tag="root"):
    pass


class _Minimal(_Open, tag_field="kind", tag="minimal"):
    pass


class _TemporaryDirectory(_Open, tag_field="kind", tag="tmpdir"):
    pass


class _SlashTmp(_Open, tag_field="kind", tag="slash_tmp"):
    pass


class _ProjectRoots(_Open, tag_field="kind", tag="project_roots"):
    subpath: str | None = None


class _UnknownPath(_Open, tag_field="kind", tag="unknown"):
    path: str
    subpath: str | None = None


class _SpecialAt(_Open, tag="special"):
    value: _Root | _Minimal | _TemporaryDirectory | _SlashTmp | _ProjectRoots | _UnknownPath


class _Entry(_Open):
    access: Literal["read", "write", "deny"]
    path: _PathAt | _GlobAt | _SpecialAt


class _FileSystem(_Open, rename="camel"):
    entries: list[_Entry] | None = None
    glob_scan_max_depth: Annotated[int, Meta(ge=1)] | None = None
    read: list[str] | None = None
    write: list[str] | None = None


class _Network(_Open):
    enabled: bool | None = None


class _Permissions(_Open, rename="camel"):
    file_system: _FileSystem | None = None
    network: _Network | None = None


class _PermissionsAnswer(_Open, rename="camel"):
    permissions: _Permissions
    scope: Literal["turn", "session"] = "turn"
    strict_auto_review: bool | None = None


class _Answers(_Open):
    answers: list[str]


class _UserInputAnswer(_Open):
    answers: dict[str, _Answers]


class _ElicitationAnswer(_Open):
    action: Literal["accept", "decline", "cancel"]
    content: Any = None
    meta: Any = msgspec.field(name="_meta", default=None)


class _Text(_Open, tag="inputText", rename="camel"):
    text: str


class _Image(_Open, tag="inputImage", rename="camel"):
    image_url: str


class _Audio(_Open, tag="inputAudio", rename="camel"):
    audio_url: str


class _ToolAnswer(_Open, rename="camel"):
    content_items: list[_Text | _Image | _Audio]
    success: bool


_ANSWERS: Final[dict[str, type[msgspec.Struct]]] = {
    COMMAND: _CommandAnswer,
    FILE_CHANGE: _FileChangeAnswer,
    PERMISSIONS: _PermissionsAnswer,
    USER_INPUT: _UserInputAnswer,
    ELICITATION: _ElicitationAnswer,
    TOOL_CALL: _ToolAnswer,
    PATCH_LEGACY: _LegacyAnswer,
    EXEC_LEGACY: _LegacyAnswer,
}

_LEGACY_WORDS: Final[dict[str, object]] = {
    "accept": "approved",
    "acceptForSession": "approved_for_session",
    "decline": {"denied": {"rejection": _REJECTION}},
    "cancel": "abort",
}


def check_answer(method: str, result: object) -> object:
    """`result` as it goes to Codex, or `bad_request` if it does not fit the method's schema.

    `result` is what JSON decodes to. `bad_request`, too, for a method that nobody is asked about.
    """
    shape = _ANSWERS.get(method)
    if shape is None:
        raise _bad(f"nobody is asked about {method[:100]!r}")
    encode_value(result)  # lone surrogates, and whatever else could not be written later
    try:
        answer = msgspec.convert(result, type=shape)
    except msgspec.ValidationError as error:
        raise _bad(f"this is no answer to {method}: {str(error)[:200]}") from error
    decision = getattr(answer, "decision", None)
    if isinstance(decision, _Exact) and _chosen(decision) != 1:
        raise _bad(f"this is no answer to {method}: a decision is exactly one thing")
    return msgspec.to_builtins(answer)


def _chosen(decision: _Exact) -> int:
    return sum(getattr(decision, f) is not UNSET for f in decision.__struct_fields__)


def declined(method: str) -> object:
    """The answer that says no and lets the turn go on. `bad_request` as `check_answer`."""
    return from_decision(method, "decline")


def from_decision(method: str, decision: str, asked: bytes | Raw | None = None) -> object:
    """The answer for one of `DECISIONS`.

    `asked` is the request's params: `accept` of a permissions request grants what they ask for,
    `accept` for the turn, `acceptForSession` for the session. `bad_request` where the word cannot
    answer: questions and tools want an answer of their own, an elicitation has no session.
    """
    if decision not in DECISIONS:
        raise _bad(f"a decision is one of {', '.join(DECISIONS)}")
    make = _BY_WORD.get(method)
    if make is None:
        raise _bad(f"nobody is asked about {method[:100]!r}")
    return check_answer(method, make(decision, asked))


def _word(decision: str, asked: bytes | Raw | None) -> object:
    del asked
    return {"decision": decision}


def _legacy(decision: str, asked: bytes | Raw | None) -> object:
    del asked
    return {"decision": _LEGACY_WORDS[decision]}


def _permissions(decision: str, asked: bytes | Raw | None) -> object:
    if decision in ("decline", "cancel"):
        return {"permissions": {}}
    try:
        wanted = msgspec.json.decode(asked or b"", type=dict[str, Any])["permissions"]
    except (ValueError, KeyError, RecursionError) as error:
        raise _bad("what the request asks for is needed to grant it") from error
    return {"permissions": wanted, "scope": "turn" if decision == "accept" else "session"}


def _user_input(decision: str, asked: bytes | Raw | None) -> object:
    del asked
    if decision.startswith("accept"):
        raise _bad("a question wants answers, not a decision")
    return {"answers": {}}


def _elicitation(decision: str, asked: bytes | Raw | None) -> object:
    del asked
    if decision == "acceptForSession":
        raise _bad("an elicitation is accepted once: say accept")
    return {"action": decision, "content": {} if decision == "accept" else None}


def _tool(decision: str, asked: bytes | Raw | None) -> object:
    del asked
    if decision.startswith("accept"):
        raise _bad("a tool call wants the tool's result, not a decision")
    items = [{"type": "inputText", "text": _REJECTION}]
    return {"contentItems": items, "success": False}


_BY_WORD: Final[dict[str, Callable[[str, bytes | Raw | None], object]]] = {
    COMMAND: _word,
    FILE_CHANGE: _word,
    PERMISSIONS: _permissions,
    USER_INPUT: _user_input,
    ELICITATION: _elicitation,
    TOOL_CALL: _tool,
    PATCH_LEGACY: _legacy,
    EXEC_LEGACY: _legacy,
}


def _bad(message: str) -> SupervisorError:
    return SupervisorError(ErrorCode.BAD_REQUEST, message)
