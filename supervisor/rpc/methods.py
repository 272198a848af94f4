"""What a method is: its name, params, result, scope, and the function that carries it out.

One description serves every transport, the JSON Schema and the documentation. Params come from
outside and are pydantic models: unknown fields refused, no coercion, every string and list bounded.
Results are ours, hence msgspec structs. Names on the wire are camelCase.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from supervisor.clock import Clock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.access import Principal
from supervisor.ports.agent import Agent, Agents, ProjectStatus
from supervisor.ports.bus import Stream

TEXT_LIMIT = 8 * 1024 * 1024
"""Characters of one prompt. A whole frame is bounded by the transport."""
NESTING_LIMIT = 32
"""Of values passed through to Codex: serde_json gives up at 128, and then nobody is answered."""

Identifier = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")]
"""An id Codex gave out."""
Name = Annotated[str, Field(min_length=1, max_length=256)]
Path = Annotated[str, Field(min_length=1, max_length=4096)]
CursorText = Annotated[str, Field(min_length=3, max_length=64)]


class Params(BaseModel):
    """Base of all params."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


class NoParams(Params):
    """None."""


class Result(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all results."""


class Done(Result, frozen=True, kw_only=True):
    """It was done; there is nothing to tell."""


@unique
class Scope(StrEnum):
    """Which subject a method is asked on."""

    HOST = "host"
    PROJECT = "project"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What is true of this supervisor process."""

    version: str
    pid: int
    started: float
    """On `clock`'s monotonic scale, seconds."""
    clock: Clock
    url: Callable[[], str] = str
    """Of the WebSocket, once it listens."""


@dataclass(frozen=True, slots=True)
class HostCall:
    """What a host method may use."""

    principal: Principal
    agents: Agents
    host: HostFacts


@dataclass(frozen=True, slots=True)
class ProjectCall:
    """What a project method may use: the project is the principal's own, that was checked."""

    principal: Principal
    agents: Agents
    agent: Agent

    @property
    def status(self) -> ProjectStatus:
        """As of now. It takes a while to put together: once for what needs it."""
        return self.agent.status()


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method. Exactly one of `host`, `project`, `stream` carries it out."""

    name: str
    doc: str
    params: type[Params]
    result: Any
    """The result's type; of a stream, the type of each payload."""
    host: Callable[[HostCall, Any], Awaitable[object]] | None = None
    project: Callable[[ProjectCall, Any], Awaitable[object]] | None = None
    stream: Callable[[ProjectCall, Any], Awaitable[Stream]] | None = None
    acts: bool = False
    """It changes something."""
    needs_agent: bool = False
    """It waits for a ready app-server first, starting it if need be."""

    @property
    def scope(self) -> Scope:
        return Scope.PROJECT if self.host is None else Scope.HOST

    @property
    def streaming(self) -> bool:
        return self.stream is not None

    def parse(self, value: object) -> Params:
        """The params as a model. Raises `bad_request` naming the field."""
        try:
            return self.params.model_validate(value)
        except ValidationError as error:
            raise bad_params(self.name, error) from None


def bad_params(method: str, error: ValidationError) -> SupervisorError:
    """The first thing wrong with the params, in words."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    said = f"params.{where}" if where else "params"
    return SupervisorError(ErrorCode.BAD_REQUEST, f"{method}: {said[:200]}: {first['msg'][:300]}")


def check_nesting(name: str, value: object) -> None:
    """Raises `bad_request` for a value nested deeper than Codex would read."""
    level: list[object] = [value]
    for _ in range(NESTING_LIMIT):
        below: list[object] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
        if not below:
            return
        level = below
    raise SupervisorError(
        ErrorCode.BAD_REQUEST, f"params.{name} is nested deeper than {NESTING_LIMIT} levels"
    )
