"""Methods about turns."""

import pathlib
from typing import Annotated, Literal

import msgspec
from pydantic import Field, model_validator

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.places import ProjectPaths
from supervisor.rpc.methods import (
    TEXT_LIMIT,
    Done,
    Identifier,
    Method,
    Name,
    Params,
    Path,
    ProjectCall,
    Result,
)
from supervisor.rpc.paths import inside
from supervisor.rpc.threads import Effort

Text = Annotated[str, Field(min_length=1, max_length=TEXT_LIMIT)]


class TextInput(Params):
    type: Literal["text"]
    text: Text


class ImageInput(Params):
    type: Literal["localImage"]
    path: Path
    """Inside the project; relative to it, or absolute."""


Input = Annotated[
    list[Annotated[TextInput | ImageInput, Field(discriminator="type")]],
    Field(min_length=1, max_length=64),
]


class SendMessage(Params):
    """Exactly one of `text` and `input`."""

    thread_id: Identifier
    text: Text | None = None
    input: Input | None = None
    idempotency_key: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """The same key and message again: the first turn's answer, and nothing done."""
    model: Name | None = None
    """For this turn and those after it."""
    effort: Effort | None = None
    """For this turn and those after it."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "SendMessage":
        if (self.text is None) == (self.input is None):
            raise ValueError("give exactly one of text, input")
        return self


class SteerTurn(Params):
    thread_id: Identifier
    turn_id: Identifier
    text: Text


class InterruptTurn(Params):
    thread_id: Identifier
    turn_id: Identifier


class Sent(Result, frozen=True, kw_only=True):
    turn_id: str
    request_id: str
    """The upstream id; also the `clientId` of the turn's user message."""
    replayed: bool
    """The idempotency key had been used for this message: nothing was done again."""


class _Turn(msgspec.Struct, frozen=True):
    id: str


class _TurnHolder(msgspec.Struct, frozen=True):
    turn: _Turn


_TURN = msgspec.json.Decoder(_TurnHolder)


def turn_input(params: SendMessage, paths: ProjectPaths) -> list[dict[str, str]]:
    """What `turn/start` gets as `input`. Paths are given as the host has them."""
    project = str(paths.host)
    if params.text is not None:
        return [{"type": "text", "text": params.text}]
    return [
        {"type": "text", "text": one.text}
        if isinstance(one, TextInput)
        else _local_image(inside(f"input.{place}.path", project, one.path), paths)
        for place, one in enumerate(params.input or [])
    ]


def _local_image(path: str, paths: ProjectPaths) -> dict[str, str]:
    return {"type": "localImage", "path": str(paths.to_inside(pathlib.Path(path)))}


async def send_message(call: ProjectCall, params: SendMessage) -> Sent:
    upstream: dict[str, object] = {
        "threadId": params.thread_id,
        "input": turn_input(params, call.status.paths),
    }
    if params.model is not None:
        upstream["model"] = params.model
    if params.effort is not None:
        upstream["effort"] = params.effort
    acted = await call.agent.act(
        call.principal, "turn/start", upstream, idempotency_key=params.idempotency_key
    )
    try:
        turn = _TURN.decode(acted.result).turn
    except msgspec.MsgspecError as error:
        raise SupervisorError(
            ErrorCode.CODEX_REFUSED, f"codex answered with no turn: {error}"
        ) from None
    return Sent(turn_id=turn.id, request_id=acted.request_id, replayed=acted.replayed)


async def steer_turn(call: ProjectCall, params: SteerTurn) -> Done:
    upstream: dict[str, object] = {
        "threadId": params.thread_id,
        "expectedTurnId": params.turn_id,
        "input": [{"type": "text", "text": params.text}],
    }
    await call.agent.act(call.principal, "turn/steer", upstream)
    return Done()


async def interrupt_turn(call: ProjectCall, params: InterruptTurn) -> Done:
    upstream: dict[str, object] = {"threadId": params.thread_id, "turnId": params.turn_id}
    await call.agent.act(call.principal, "turn/interrupt", upstream)
    return Done()


METHODS = (
    Method(
        name="sendMessage",
        doc="Start a turn. Answers when Codex has taken it; `subscribe` shows what comes of it.",
        params=SendMessage,
        result=Sent,
        project=send_message,
        acts=True,
        needs_agent=True,
    ),
    Method(
        name="steerTurn",
        doc="Say something to a running turn.",
        params=SteerTurn,
        result=Done,
        project=steer_turn,
        acts=True,
        needs_agent=True,
    ),
    Method(
        name="interruptTurn",
        doc="Stop a running turn. Answers when Codex has taken it; the end comes as an event.",
        params=InterruptTurn,
        result=Done,
        project=interrupt_turn,
        acts=True,
        needs_agent=True,
    ),
)
