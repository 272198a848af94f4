"""The scripted model: a server that speaks the Responses API and does what the prompt says.

It stands in for the paid model in tests, demonstrations and benchmarks; docs/testing-model.md has
the directives. Every request it gets is kept in `requests`, for oracles that must not believe the
program under test. One event loop owns everything here.

As a process: `python -m supervisor.testing.model --port 0 [--log FILE]` prints one line of JSON
with its `base_url`, then serves until SIGTERM or SIGINT.
"""

import argparse
import asyncio
import random
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
from aiohttp import ClientConnectionResetError, web

from supervisor.clock import Clock, SystemClock, system_random
from supervisor.testing import sse
from supervisor.testing.codex_config import MODEL, codex_overrides, config_toml
from supervisor.testing.directives import Call, Cut, Fail, Patch, Script, Stall, Text
from supervisor.testing.ledger import Ledger, ModelRequest, Observe
from supervisor.testing.turns import directive_script, read_request, steps_of_response

__all__ = ["ModelRequest", "ScriptedModel", "codex_overrides", "config_toml"]

MAXIMUM_BODY: Final = 256 << 20
SHOWN_REQUESTS: Final = 1000


class _CutOffError(Exception):
    """The script closes the connection here."""


class ScriptedModel:
    """`async with ScriptedModel() as model:` and point codex at `model.base_url`.

    `observe` is called with each request when it has arrived and again when it has ended.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        port: int = 0,
        observe: Observe | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._ledger = Ledger(self._clock, observe)
        # Item ids must not repeat in a thread that outlives this model.
        self._run = f"{(rng or system_random()).getrandbits(48):012x}"
        self._ids = 0
        self._port = port
        self._released = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Listen on loopback; `OSError` if the port is taken."""
        runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        """For the provider's `base_url`; known once the model has started."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def requests(self) -> list[ModelRequest]:
        """Every request so far, in order of arrival; the last `ledger.MAXIMUM_REQUESTS`."""
        return self._ledger.requests

    def release(self) -> None:
        """Let every response that is stalled now go on to its end; later ones stall again."""
        self._released.set()
        self._released = asyncio.Event()

    async def wait_for_requests(
        self, count: int, wanted: Callable[[ModelRequest], bool] = lambda _: True
    ) -> list[ModelRequest]:
        """Return the `wanted` requests as soon as there are `count` of them."""
        return await self._ledger.wait_for(count, wanted)

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=MAXIMUM_BODY)
        app.router.add_post("/v1/responses", self._respond)
        app.router.add_get("/v1/responses", _refuse_upgrade)
        app.router.add_get("/v1/models", _list_models)
        app.router.add_get("/control/requests", self._show_requests)
        app.router.add_post("/control/release", self._take_release)
        return app

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = read_request(await request.read())
        except ValueError as error:
            return _refusal(400, "invalid_request_error", str(error))
        record = self._ledger.begin(asked, request.headers.get("Authorization"))
        steps = steps_of_response(directive_script(asked.prompt), asked.answered, record.attempt)
        self._ledger.planned(record, tuple(type(step).__name__.lower() for step in steps))
        first, outcome = steps[0], "gone"
        if isinstance(first, Fail) and first.status != 200:
            self._ledger.end(record, "failed")
            return _refusal(first.status, first.code, first.msg, first.retry_after)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            outcome = await self._perform(response, steps)
        except _CutOffError:
            outcome = "cut"
            if request.transport is not None:
                request.transport.close()
        except (ConnectionResetError, ClientConnectionResetError):
            outcome = "gone"
        finally:
            self._ledger.end(record, outcome)
        return response

    async def _perform(self, response: web.StreamResponse, steps: Script) -> str:
        response_id = self._new_id("resp")
        await response.write(sse.created(response_id))
        for step in steps:
            match step:
                case Text():
                    await self._say(response, step)
                case Call() | Patch():
                    call = sse.tool_call(step, self._new_id("item"), self._new_id("call"))
                    await response.write(call)
                case Cut():
                    await self._begin_saying(response, step.text, step.after)
                    raise _CutOffError
                case Stall():
                    await self._stall(response, step)
                case Fail():
                    await response.write(sse.failed(response_id, step.code, step.msg))
                    await response.write_eof()
                    return "failed"
        await response.write(sse.completed(response_id))
        await response.write_eof()
        return "completed"

    async def _stall(self, response: web.StreamResponse, step: Stall) -> None:
        item_id = await self._begin_saying(response, step.text, step.after) if step.after else None
        await self._released.wait()
        if item_id is not None:
            rest = sse.deltas(item_id, step.text, skip=step.after)
            await response.write(b"".join(rest))
            await response.write(sse.message_closed(item_id, step.text.whole()))

    async def _say(self, response: web.StreamResponse, text: Text) -> None:
        item_id = await self._begin_saying(response, text, None)
        await response.write(sse.message_closed(item_id, text.whole()))

    async def _begin_saying(
        self, response: web.StreamResponse, text: Text, limit: int | None
    ) -> str:
        item_id = self._new_id("msg")
        await response.write(sse.message_opened(item_id))
        size = 1 if text.delay else sse.DELTAS_A_WRITE
        for batch in sse.batched(sse.deltas(item_id, text, limit), size):
            await response.write(batch)
            if text.delay:
                await self._clock.sleep(text.delay)
        return item_id

    def _new_id(self, kind: str) -> str:
        self._ids += 1
        return f"{kind}_{self._run}_{self._ids:06d}"

    async def _show_requests(self, _request: web.Request) -> web.Response:
        shown = msgspec.json.encode(self.requests[-SHOWN_REQUESTS:])
        return web.Response(body=shown, content_type="application/json")

    async def _take_release(self, _request: web.Request) -> web.Response:
        self.release()
        return web.Response(status=204)


async def _refuse_upgrade(_request: web.Request) -> web.Response:
    # Codex asks for a WebSocket first with its own provider, and falls back to SSE on 426.
    return web.Response(status=426, headers={"Upgrade": "HTTP/1.1"})


async def _list_models(_request: web.Request) -> web.Response:
    listed = {"object": "list", "data": [{"id": MODEL, "object": "model"}], "models": []}
    return web.json_response(listed)


def _refusal(status: int, code: str, message: str, retry_after: int | None = None) -> web.Response:
    error = {"error": {"message": message, "type": code, "code": code}}
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response(error, status=status, headers=headers)


async def serve(port: int, log: Path | None) -> None:
    """Serve until SIGTERM or SIGINT; each request is one line of `log` when it arrives, and one
    when it ends."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with ExitStack() as files:
        observe: Observe | None = None
        if log is not None:
            # Unbuffered: the log must hold what had happened when this process is killed.
            sink = files.enter_context(log.open("ab", buffering=0))

            def observe(request: ModelRequest) -> None:
                sink.write(msgspec.json.encode(request) + b"\n")

        async with ScriptedModel(port=port, observe=observe) as model:
            sys.stdout.write(msgspec.json.encode({"base_url": model.base_url}).decode() + "\n")
            sys.stdout.flush()
            await stop.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m supervisor.testing.model", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--log", type=Path, help="append each request here, as JSON lines")
    options = parser.parse_args(arguments)
    asyncio.run(serve(options.port, options.log))


if __name__ == "__main__":
    main()
