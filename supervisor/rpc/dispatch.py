"""From a frame to a method and back: validate, check the principal, call, encode.

The account in the subject must be the connection's own, whatever else is right about a request. A
project of another account is as unknown as one that does not exist.
"""

import asyncio
from dataclasses import dataclass

import msgspec
import structlog

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.access import Principal
from supervisor.ports.agent import Agent, Agents
from supervisor.ports.bus import API, Stream, Subject
from supervisor.rpc.describe import REGISTRY
from supervisor.rpc.meter import RpcMeter
from supervisor.rpc.methods import HostCall, HostFacts, Method, Params, ProjectCall, Scope
from supervisor.rpc.refusals import translated

READY_TIMEOUT = 30.0
"""Seconds a request waits for a starting app-server."""

_log = structlog.get_logger(__name__)
_ENCODER = msgspec.json.Encoder()


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


_REQUEST = msgspec.json.Decoder(_Request)
_VALUE = msgspec.json.Decoder()


class Dispatcher:
    """The `Service` of the methods. Holds no state of its own; one serves every connection."""

    def __init__(
        self,
        agents: Agents,
        host: HostFacts,
        meter: RpcMeter,
        *,
        ready_timeout: float = READY_TIMEOUT,
    ) -> None:
        self._agents = agents
        self._host = host
        self._meter = meter
        self._ready_timeout = ready_timeout

    def accept(
        self, principal: Principal, subject: Subject, payload: msgspec.Raw
    ) -> "MethodExchange":
        """See `Service`."""
        name = "unknown"
        try:
            if subject.account != principal.account:
                raise SupervisorError(
                    ErrorCode.FORBIDDEN, "the subject names another account than the connection's"
                )
            request = _decode(payload)
            method = _method(subject, request.method)
            name = method.name
            call = self._call(principal, subject)
            params = method.parse(_value(request.params))
        except SupervisorError as error:
            self._meter.request(name, error.code.value, 0.0)
            raise
        return MethodExchange(
            method=method,
            call=call,
            params=params,
            host=self._host,
            meter=self._meter,
            ready_timeout=self._ready_timeout,
        )

    def _call(self, principal: Principal, subject: Subject) -> HostCall | ProjectCall:
        if subject.project is None:
            return HostCall(principal, self._agents, self._host)
        return ProjectCall(principal, self._agents, self._owned(principal, subject.project))

    def _owned(self, principal: Principal, project: str) -> Agent:
        """One error for both, worded alike: nobody learns which projects others have."""
        try:
            agent = self._agents.get(project)
        except SupervisorError as error:
            if error.code is not ErrorCode.PROJECT_UNKNOWN:
                raise
        else:
            if agent.account == principal.account:
                return agent
        raise SupervisorError(ErrorCode.PROJECT_UNKNOWN, f"no project {project}")


@dataclass(slots=True, kw_only=True)
class MethodExchange:
    """One accepted request."""

    method: Method
    call: HostCall | ProjectCall
    params: Params
    host: HostFacts
    meter: RpcMeter
    ready_timeout: float

    @property
    def streaming(self) -> bool:
        return self.method.streaming

    @property
    def acts(self) -> bool:
        return self.method.acts

    async def result(self) -> bytes:
        """The result, JSON. Raises `SupervisorError` only."""
        answer = await self._measured()
        assert isinstance(answer, bytes)
        return answer

    async def stream(self) -> Stream:
        """The open stream. Raises `SupervisorError` only."""
        answer = await self._measured()
        assert not isinstance(answer, bytes)
        return answer

    async def _measured(self) -> bytes | Stream:
        clock = self.host.clock
        began = clock.monotonic()
        code: str | None = None
        try:
            return await self._carry_out()
        except asyncio.CancelledError:
            code = ErrorCode.CONNECTION_LOST.value
            raise
        except SupervisorError as error:
            shown = translated(error)
            code = shown.code.value
            if shown is error:
                raise
            raise shown from error
        except Exception:  # noqa: BLE001  # the last wall: whatever it is, the connection lives
            code = ErrorCode.INTERNAL.value
            _log.exception("request failed", action="rpc_internal", method=self.method.name)
            raise SupervisorError(ErrorCode.INTERNAL, f"{self.method.name} failed") from None
        finally:
            self.meter.request(self.method.name, code, clock.monotonic() - began)

    async def _carry_out(self) -> bytes | Stream:
        method, call = self.method, self.call
        if isinstance(call, HostCall):
            assert method.host is not None
            return _ENCODER.encode(await method.host(call, self.params))
        if method.needs_agent:
            await call.agent.ready(self.ready_timeout)
        if method.stream is not None:
            return await method.stream(call, self.params)
        assert method.project is not None
        return _ENCODER.encode(await method.project(call, self.params))


def _decode(payload: msgspec.Raw) -> _Request:
    try:
        return _REQUEST.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SupervisorError(
            ErrorCode.BAD_REQUEST,
            f'the payload is not {{"method": ..., "params": ...}}: {str(error)[:200]}',
        ) from None


def _value(raw: msgspec.Raw) -> object:
    """What the params say: no malformed JSON, lone surrogate or absurd nesting gets through."""
    try:
        return _VALUE.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SupervisorError(
            ErrorCode.BAD_REQUEST, f"the params are not JSON: {str(error)[:200]}"
        ) from None


def _method(subject: Subject, name: str) -> Method:
    if subject.service != API:
        raise SupervisorError(ErrorCode.METHOD_UNKNOWN, f"no service {subject.service}")
    method = REGISTRY.get(name)
    if method is None:
        raise SupervisorError(ErrorCode.METHOD_UNKNOWN, f"no method {name[:64]!a}")
    here = Scope.HOST if subject.project is None else Scope.PROJECT
    if method.scope is not here:
        wanted = "codex.host" if method.scope is Scope.HOST else "a project's"
        raise SupervisorError(
            ErrorCode.BAD_REQUEST, f"{name} is asked on {wanted} subject, not on this one"
        )
    return method
