"""The supervisor's end: it opens the listeners inside of containers, and has the proxy keep them.

One task does all of it, one container after the other; callers wait for it. When the proxy is lost,
another one is found or started, and every container that lives gets its listeners again.
"""

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from supervisor.credentials import messages
from supervisor.credentials.calling import ANSWER_SECONDS, Call
from supervisor.credentials.netns import listen_inside, open_container
from supervisor.credentials.packets import Channel, dial
from supervisor.credentials.starting import SOCKET_NAME, Starter
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.logs import get_logger
from supervisor.ports.model_access import CONNECT_PORT, MODEL_PORT, Reached
from supervisor.settings_groups import ProxySettings

PATIENCE: Final = 15.0
"""Seconds `open` waits for a proxy. One that is started needs one."""
PING_SECONDS: Final = 30.0
REPLACE_SECONDS: Final = 30.0
"""What is under way in a proxy of ours with other settings may go on for so long. A container can
keep a request under way for ever; and Codex tries one again that was cut."""
_GIVEN_TRIES: Final = 2
"""One may fail because a predecessor is just about to end."""
_DISMISS_SECONDS: Final = 3.0
_BACKOFF_SECONDS: Final = 0.1
_BACKOFF_CAP: Final = 5.0

log = get_logger()


class LinkFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the proxy, for status, doctor and metrics."""

    connected: bool
    pid: int | None
    base_url: str
    credential: bool | None
    """Whether it has one to add; None while it is not connected."""
    served: int
    """Of the containers we know."""
    waiting: int
    """Containers that reach no model now."""
    outdated: bool
    """It runs with other settings than ours, or is of another version."""
    requests: dict[str, int]
    """By outcome, since the proxy started; at most `PING_SECONDS` old."""
    error: str
    """Why it is not connected; "" if it is."""


class _Known:
    """A container that is to reach the model as long as it lives."""

    def __init__(self, reached: Reached, pidfd: int) -> None:
        self.reached = reached
        self.pidfd = pidfd
        self.served = False
        self.tried = asyncio.Event()
        """Since anybody asked last."""
        self.error: SupervisorError | None = None


class ProxyLink:
    """`async with ProxyLink(...) as link:`. Implements `ports.model_access.ModelAccess`.

    `directory` is where a proxy of the supervisor's own is started, unless `settings.socket` names
    one. Leaving the context cuts nobody off.
    """

    def __init__(
        self,
        settings: ProxySettings,
        directory: Path,
        environment: Mapping[str, str],
        *,
        rng: random.Random,
        patience: float = PATIENCE,
        ping_seconds: float = PING_SECONDS,
        replace_seconds: float = REPLACE_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._settings = settings
        self._starter = None
        if settings.socket is None:
            self._starter = Starter(settings, directory, environment)
        self._path = settings.socket or directory / SOCKET_NAME
        self._ports = [MODEL_PORT, *([CONNECT_PORT] if settings.connect_allow else [])]
        self._rng = rng
        self._patience = patience
        self._ping_seconds = ping_seconds
        self._replace_seconds = replace_seconds
        self._answer_seconds = answer_seconds
        self._replace_at: float | None = None
        """By the loop's clock: when one with other settings goes at the latest."""
        self._known: dict[str, _Known] = {}
        self._given_up: set[str] = set()
        """Markers the proxy has yet to be told of."""
        self._wake = asyncio.Event()
        self._welcome: messages.Welcome | None = None
        self._error = "not connected yet"
        self._group = asyncio.TaskGroup()
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._keeper = self._group.create_task(self._keep())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._keeper is not None
        self._keeper.cancel()
        for marker in list(self._known):
            self._forget(marker)
        if self._starter is not None:
            self._starter.release()
        # An error of the context's own is not ours to group.
        await self._group.__aexit__(None, None, None)
        if self._starter is not None and self._welcome is not None:
            await self._dismiss()

    async def _dismiss(self) -> None:
        """Have a proxy of our own end that serves nobody: it would wait for a while first."""
        with contextlib.suppress(SupervisorError, TimeoutError):
            async with asyncio.timeout(_DISMISS_SECONDS), asyncio.TaskGroup() as group:
                call = Call(dial(self._path))
                reader = group.create_task(call.read())
                try:
                    welcome = await call.hello()
                    if welcome.on_demand and welcome.served == 0:
                        await call.tell(messages.End())
                        await call.lost.wait()
                finally:
                    reader.cancel()

    async def open(self, reached: Reached) -> None:
        """Let the container reach the model. One that cannot be served now is tried again as long
        as it lives, or until `close`, although this raises `model_unreachable`."""
        known = self._known.get(reached.marker)
        if known is not None and known.reached != reached:
            self._forget(reached.marker)
            known = None
        if known is None:
            pidfd = open_container(reached.pid, reached.start_ticks)
            known = self._known[reached.marker] = _Known(reached, pidfd)
            self._given_up.discard(reached.marker)
            asyncio.get_running_loop().add_reader(pidfd, self._forget, reached.marker)
        if known.served:
            return
        known.tried.clear()
        self._wake.set()
        try:
            async with asyncio.timeout(self._patience):
                await known.tried.wait()
        except TimeoutError:
            raise _unreachable(f"there is no proxy: {self._error}") from None
        if not known.served:
            raise known.error or _unreachable("the container has ended")

    async def close(self, marker: str) -> None:
        """Serve it no longer. Harmless for one that is unknown."""
        self._forget(marker)
        self._given_up.add(marker)
        self._wake.set()

    def facts(self) -> LinkFacts:
        """As of now, or of the last ping."""
        welcome = self._welcome
        served = sum(known.served for known in self._known.values())
        return LinkFacts(
            connected=welcome is not None,
            pid=welcome.pid if welcome else None,
            base_url=welcome.base_url if welcome else self._settings.base_url,
            credential=welcome.credential if welcome else None,
            served=served,
            waiting=len(self._known) - served,
            outdated=welcome is not None and self._is_outdated(welcome),
            requests=dict(welcome.requests) if welcome else {},
            error="" if welcome else self._error,
        )

    def _forget(self, marker: str) -> None:
        """Also called by the loop when the container has ended; the proxy sees that for itself."""
        known = self._known.pop(marker, None)
        if known is not None:
            asyncio.get_running_loop().remove_reader(known.pidfd)
            os.close(known.pidfd)
            known.served = False
            known.tried.set()

    # -- the task

    async def _keep(self) -> None:
        failures = 0
        while True:
            self._wake.clear()
            try:
                await self._use(await self._connect())
            except SupervisorError as error:
                self._failed(error.message, failures)
            except Exception as error:  # noqa: BLE001  # agents go on, whatever it is
                self._failed(f"{type(error).__name__}: {error}", failures)
            failures = failures + 1 if self._welcome is None else 0
            self._welcome = None
            for known in self._known.values():
                known.served = False
            await self._pause(self._backoff(failures))

    def _failed(self, why: str, failures: int) -> None:
        if self._error != why:
            log.warning("proxy_unreachable", error=why)
        self._error = why
        if self._starter is None or failures < _GIVEN_TRIES:
            return
        # A proxy of ours that does not start will not by waiting.
        for known in self._known.values():
            known.error = _unreachable(f"there is no proxy: {why}")
            known.tried.set()

    async def _connect(self) -> Channel:
        if self._starter is None:
            return dial(self._path)
        return await self._starter.connect()

    async def _use(self, channel: Channel) -> None:
        """Until the proxy has gone. Raises why."""
        call = Call(channel, self._answer_seconds)
        problem = _unreachable("the proxy has gone")
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(call.read())
            reader.add_done_callback(lambda _: self._wake.set())
            try:
                await self._serve(call)
            except SupervisorError as error:
                problem = error
            finally:
                reader.cancel()
        channel.close()
        if call.silent and self._starter is not None:
            self._starter.silent(call.pid)
        raise problem

    async def _serve(self, call: Call) -> None:
        await self._greet(call)
        failures = 0
        while True:
            self._wake.clear()
            await self._tell_given_up(call)
            await self._reach_all(call)
            left = any(not known.served for known in self._known.values())
            failures = failures + 1 if left else 0
            await self._pause(self._backoff(failures) if left else self._until_ping())
            await self._greet(call)

    async def _reach_all(self, call: Call) -> None:
        """All that are not served yet."""
        waiting = [known for known in self._known.values() if not known.served]
        # Each time: a container that is adopted may become known at any time, and a proxy that has
        # served it all along has its ports.
        held = await call.markers() if waiting else set()
        for known in waiting:
            if self._known.get(known.reached.marker) is not known:
                continue  # forgotten meanwhile, and its pidfd closed
            if known.reached.marker in held:
                known.served, known.error = True, None
                known.tried.set()
            else:
                await self._reach(call, known)

    async def _greet(self, call: Call) -> None:
        """Ask who it is: whether it lives, what it counts, and whether it is the one we want."""
        welcome = await call.hello()
        outdated = self._is_outdated(welcome)
        if self._starter is not None:
            self._starter.answered()
            if outdated and welcome.on_demand and self._is_to_go(welcome):
                # Whatever it served is served by the next one.
                log.info("proxy_replaced", pid=welcome.pid, active=welcome.active)
                await call.tell(messages.End())
                raise _unreachable("the proxy ran with other settings, and is replaced")
        if not outdated:
            self._replace_at = None
        if welcome.protocol != messages.PROTOCOL:
            raise _unreachable("the proxy is of a version that this one cannot talk to")
        new = self._welcome is None
        self._welcome, self._error = welcome, ""
        if new:
            log.info("proxy_connected", pid=welcome.pid, base_url=welcome.base_url)
        if new and outdated:
            log.warning("proxy_outdated", pid=welcome.pid, base_url=welcome.base_url)

    def _is_to_go(self, welcome: messages.Welcome) -> bool:
        """Whether one with other settings is not to go on with what is under way."""
        now = asyncio.get_running_loop().time()
        if self._replace_at is None:
            self._replace_at = now + self._replace_seconds
        withdrawn = messages.withdraws(self._settings, welcome)
        return welcome.active == 0 or withdrawn or now >= self._replace_at

    def _until_ping(self) -> float:
        """Seconds."""
        if self._replace_at is None:
            return self._ping_seconds
        left = self._replace_at - asyncio.get_running_loop().time()
        return min(self._ping_seconds, max(0.0, left))

    async def _tell_given_up(self, call: Call) -> None:
        while self._given_up:
            marker = next(iter(self._given_up))
            await call.tell(messages.Close(marker))
            self._given_up.discard(marker)

    async def _reach(self, call: Call, known: _Known) -> None:
        """Open its listeners, and hand them to the proxy."""
        reached = known.reached
        told = messages.Open(
            project=reached.project, generation=reached.generation, marker=reached.marker
        )
        try:
            async with self._listening(known) as descriptors:
                await call.tell(told, descriptors)
        except SupervisorError as error:
            if error.code is ErrorCode.CONNECTION_LOST:
                raise
            if known.error is None:
                log.warning("container_not_served", marker=reached.marker, error=error.message)
            known.error = _unreachable(error.message)
        else:
            known.served, known.error = True, None
        known.tried.set()

    @asynccontextmanager
    async def _listening(self, known: _Known) -> AsyncIterator[list[int]]:
        """The pidfd and the listeners, open meanwhile."""
        # It may end, and be forgotten, at any time.
        pidfd = os.dup(known.pidfd)
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(
            None, listen_inside, known.reached.pid, pidfd, tuple(self._ports)
        )
        try:
            sockets = await asyncio.shield(opening)
            yield [pidfd, *(each.fileno() for each in sockets)]
        finally:
            if opening.done():
                _close(pidfd, opening)
            else:
                # We are told to end; its thread still uses it.
                opening.add_done_callback(partial(_close, pidfd))

    def _is_outdated(self, welcome: messages.Welcome) -> bool:
        return welcome.settings != messages.fingerprint(self._settings)

    def _backoff(self, failures: int) -> float:
        """Full jitter, in seconds."""
        longest = min(_BACKOFF_CAP, _BACKOFF_SECONDS * 2 ** min(failures, 10))
        return self._rng.uniform(0, longest)

    async def _pause(self, seconds: float) -> None:
        """So long, or until somebody wants something."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()


def _close(pidfd: int, opening: "asyncio.Future[list[socket.socket]]") -> None:
    os.close(pidfd)
    if not opening.cancelled() and opening.exception() is None:
        for each in opening.result():
            each.close()


def _unreachable(why: str) -> SupervisorError:
    return SupervisorError(ErrorCode.MODEL_UNREACHABLE, why)
