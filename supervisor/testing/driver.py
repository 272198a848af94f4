"""A real app-server over plain pipes: what the supervisor is compared with, and nothing more.

No spool, no restart, no broker. One event loop owns it; a reader task takes every line as it
comes, so that a slow test never slows the app-server.
"""

import asyncio
import contextlib
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.testing.codex_config import codex_environment

CHUNK: Final = 1 << 18
MAXIMUM_KEPT: Final = 1_000_000
"""Notifications nobody has taken yet; past it the driver gives up, loudly."""
STDERR_KEPT: Final = 1 << 16
STOP_PATIENCE: Final = 10.0
PIPE_PATIENCE: Final = 1.0

Message = dict[str, Any]
Answer = Callable[[str, Message], object | None]
"""Of a server request's method and params: its result, or None to leave it waiting."""


def accept(method: str, params: Message) -> object | None:
    """Say yes to every approval, take the first option of every question."""
    if method.endswith(("commandExecution/requestApproval", "fileChange/requestApproval")):
        return {"decision": "accept"}
    if method == "item/tool/requestUserInput":
        return {
            "answers": {
                question["id"]: {"answers": [question["options"][0]["label"]]}
                for question in params["questions"]
            }
        }
    if method == "item/tool/call":
        text = f"{params['tool']} was called"
        return {"contentItems": [{"type": "inputText", "text": text}], "success": True}
    return None


def decline(method: str, _params: Message) -> object | None:
    """Say no to every approval; the turn goes on."""
    return {"decision": "decline"} if method.endswith("/requestApproval") else None


class BareAppServer:
    """`async with BareAppServer(argv, ...) as server:` is started, and initialized if asked to.

    Raises `codex_missing` if it cannot be started. `argv` is the whole command, such as
    `[codex, *codex_overrides(url), "app-server"]`. `tap` sees every line first, without its
    newline; a line it says True to is its own, and is not decoded: for measuring.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        answer: Answer = lambda _method, _params: None,
        handshake: bool = True,
        opt_out: Sequence[str] = (),
        tap: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._tap = tap
        self.notifications: asyncio.Queue[Message] = asyncio.Queue(MAXIMUM_KEPT)
        self.server_requests: asyncio.Queue[Message] = asyncio.Queue(MAXIMUM_KEPT)
        self.initialized: Message = {}
        """The result of `initialize`."""
        self.stderr = bytearray()
        """The last `STDERR_KEPT` bytes of it."""
        self._argv, self._env, self._cwd = argv, env, cwd
        self._answer, self._handshake, self._opt_out = answer, handshake, opt_out
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._last_id = 0
        self._ended = False
        self._news = asyncio.Event()
        self._process: Process | None = None
        self._tasks = asyncio.TaskGroup()
        self._readers: tuple[asyncio.Task[None], ...] = ()

    @classmethod
    def codex(
        cls,
        codex: Path,
        codex_home: Path,
        cwd: Path,
        overrides: Sequence[str] = (),
        *,
        answer: Answer = lambda _method, _params: None,
        opt_out: Sequence[str] = (),
        tap: Callable[[bytes], bool] | None = None,
    ) -> Self:
        """The real one, with an environment that holds nothing of the caller's own."""
        argv = [str(codex), *overrides, "app-server"]
        env = codex_environment(codex_home)
        return cls(argv, env=env, cwd=cwd, answer=answer, opt_out=opt_out, tap=tap)

    async def __aenter__(self) -> Self:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=self._env, cwd=self._cwd
            )
        except OSError as error:
            raise SupervisorError(ErrorCode.CODEX_MISSING, str(error)) from error
        await self._tasks.__aenter__()
        self._readers = (
            self._tasks.create_task(self._read_stdout(self._process)),
            self._tasks.create_task(self._read_stderr(self._process)),
        )
        if self._handshake:
            try:
                await self.initialize()
            except BaseException:
                await self.close()
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def process(self) -> Process:
        """The running process."""
        assert self._process is not None, "not started"
        return self._process

    async def initialize(self, name: str = "bare") -> Message:
        """The handshake, once."""
        capabilities = {"experimentalApi": True, "optOutNotificationMethods": list(self._opt_out)}
        info = {"name": name, "title": name, "version": "1"}
        self.initialized = await self.request(
            "initialize", {"clientInfo": info, "capabilities": capabilities}
        )
        await self.notify("initialized")
        return self.initialized

    async def request(self, method: str, params: object) -> Message:
        """Its result. Raises `codex_refused` with Codex's error object in `details["error"]`, and
        `connection_lost` if the process ends first."""
        if self._ended:
            raise self._lost()
        self._last_id += 1
        request_id = self._last_id
        answered: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answered
        try:
            await self.send({"id": request_id, "method": method, "params": params})
            message = await answered
        finally:
            self._waiting.pop(request_id, None)
        if (error := message.get("error")) is not None:
            raise SupervisorError(
                ErrorCode.CODEX_REFUSED, str(error.get("message")), details={"error": error}
            )
        result: Message = message["result"]
        return result

    async def notify(self, method: str, params: object | None = None) -> None:
        """Send a notification."""
        await self.send(
            {"method": method} if params is None else {"method": method, "params": params}
        )

    async def respond(self, request: Message, result: object) -> None:
        """Answer a server request that was left waiting."""
        await self.send({"id": request["id"], "result": result})

    async def send(self, message: object) -> None:
        """Write one message as it is."""
        await self.send_raw(msgspec.json.encode(message) + b"\n")

    async def send_raw(self, data: bytes) -> None:
        """Write bytes as they are; `connection_lost` if the process is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(data)
            await self.process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._lost() from error

    async def until(
        self, method: str, wanted: Callable[[Message], bool] = lambda _: True
    ) -> list[Message]:
        """Take notifications up to the first of `method` whose params are `wanted`; return them
        all, that one last. `connection_lost` if the process ends first. Wrap it in
        `asyncio.timeout`."""
        taken: list[Message] = []
        while True:
            while self.notifications.empty():
                if self._ended:
                    raise self._lost()
                self._news.clear()
                await self._news.wait()
            message = self.notifications.get_nowait()
            taken.append(message)
            if message["method"] == method and wanted(message.get("params", {})):
                return taken

    async def turn(self, thread_id: str, text: str) -> list[Message]:
        """Start a turn and take notifications up to its end."""
        prompt = [{"type": "text", "text": text}]
        await self.request("turn/start", {"threadId": thread_id, "input": prompt})
        return await self.until(
            "turn/completed", lambda params: bool(params["threadId"] == thread_id)
        )

    async def close(self) -> None:
        """Close its stdin, wait for its end, kill it if it does not end. Idempotent."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_PATIENCE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await process.stdin.wait_closed()
        if self._readers:
            await asyncio.wait(self._readers, timeout=PIPE_PATIENCE)
        for reader in self._readers:
            reader.cancel()
        # Commands it left behind may hold its pipes open: their end is not ours to wait for.
        process._transport.close()  # type: ignore[attr-defined]
        await self._tasks.__aexit__(None, None, None)

    async def _read_stdout(self, process: Process) -> None:
        assert process.stdout is not None
        parts: list[bytes] = []
        try:
            while chunk := await process.stdout.read(CHUNK):
                head, *rest = chunk.split(b"\n")
                parts.append(head)
                for line in rest:
                    await self._take(b"".join(parts))
                    parts = [line]
        finally:
            self._ended = True
            self._news.set()
            for answered in self._waiting.values():
                if not answered.done():
                    answered.set_exception(self._lost())

    async def _read_stderr(self, process: Process) -> None:
        assert process.stderr is not None
        while chunk := await process.stderr.read(CHUNK):
            self.stderr += chunk
            del self.stderr[:-STDERR_KEPT]

    async def _take(self, line: bytes) -> None:
        if self._tap is not None and self._tap(line):
            return
        message: Message = msgspec.json.decode(line)
        if "method" not in message:
            answered = self._waiting.get(message["id"])
            if answered is not None and not answered.done():
                answered.set_result(message)
        elif "id" not in message:
            self.notifications.put_nowait(message)
            self._news.set()
        else:
            self.server_requests.put_nowait(message)
            result = self._answer(message["method"], message["params"])
            if result is not None:
                await self.respond(message, result)

    def _lost(self) -> SupervisorError:
        ending = bytes(self.stderr[-500:]).decode("utf-8", "replace")
        return SupervisorError(ErrorCode.CONNECTION_LOST, f"the app-server has ended: {ending}")
