"""What one request to the scripted model asks for: read from its body, decided purely.

A response of the model ends with its first tool call, or with the script. The number of tool
outputs that follow the last prompt says how many calls are behind us.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec

from supervisor.testing.directives import (
    ALWAYS,
    Call,
    Cut,
    DirectiveError,
    Fail,
    Patch,
    Script,
    Stall,
    Step,
    Text,
    parse_script,
)

_OUTPUTS: Final = frozenset({"function_call_output", "custom_tool_call_output"})
_INJECTED: Final = (
    "<environment_context>",
    "<turn_aborted>",
    "<user_instructions>",
    "<user_shell_command>",
    "<subagent_notification>",
    "# AGENTS.md instructions",
)
"""How messages of role `user` begin that Codex writes itself."""

PLAIN: Final = Text(n=3, msg="The scripted model has read this. ")
DONE: Final = Text(n=2, msg="All done. ")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request's body, as far as it matters. Every field is a claim of the client."""

    prompt: str
    answered: int
    """Tool outputs after the prompt."""
    thread_id: str | None
    turn_id: str | None
    model: str | None

    @property
    def prompt_hash(self) -> str:
        """sha256 hex of the prompt."""
        return sha256(self.prompt.encode("utf-8", "surrogatepass")).hexdigest()


class _Body(msgspec.Struct, frozen=True):
    input: list[dict[str, Any]] = msgspec.field(default_factory=list)
    client_metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    model: str | None = None


def read_request(body: bytes) -> Asked:
    """Raises `ValueError` for a body that is no Responses API request."""
    try:
        decoded = msgspec.json.decode(body, type=_Body)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a Responses API request: {error}") from error
    prompt, answered = "", 0
    for item in reversed(decoded.input):
        if item.get("type") in _OUTPUTS:
            answered += 1
        elif item.get("role") == "user":
            text = _text_of(item.get("content"))
            if not text.lstrip().startswith(_INJECTED):
                prompt = text
                break
    return Asked(
        prompt=prompt,
        answered=answered,
        thread_id=_string(decoded.client_metadata.get("thread_id")),
        turn_id=_string(decoded.client_metadata.get("turn_id")),
        model=decoded.model,
    )


def steps_of_response(script: Script, answered: int, attempt: int) -> Script:
    """The steps one response performs: those after call number `answered`, up to the next call.

    `attempt` counts from 1. Steps that misbehave a number of times are replaced by the text they
    spoiled, or left out, once that number is reached. Never empty.
    """
    if not script:
        return (PLAIN,)
    chosen: list[Step] = []
    behind = 0
    for step in script:
        is_call = isinstance(step, Call | Patch)
        if behind == answered:
            if (behaved := _behave(step, attempt)) is not None:
                chosen.append(behaved)
            if is_call or isinstance(behaved, Fail | Cut):
                break
        behind += is_call
    return tuple(chosen) or (DONE,)


def directive_script(prompt: str) -> Script:
    """`parse_script`, an unreadable directive becoming a refusal that says why."""
    try:
        return parse_script(prompt)
    except DirectiveError as error:
        return (Fail(status=400, code="invalid_prompt", msg=str(error), times=ALWAYS),)


def _behave(step: Step, attempt: int) -> Step | None:
    if not isinstance(step, Fail | Cut | Stall) or step.times == ALWAYS or attempt <= step.times:
        return step
    return None if isinstance(step, Fail) else step.text


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None
