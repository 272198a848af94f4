"""One connection of a supervisor to its proxy. One request at a time, answered in order."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import msgspec

from supervisor.credentials import messages
from supervisor.credentials.packets import Channel
from supervisor.errors import ErrorCode, SupervisorError

ANSWER_SECONDS: Final = 10.0
_DECODE: Final = msgspec.json.Decoder(messages.Answer)


class Call:
    """Every method raises `connection_lost` when the proxy has gone, or does not answer: the
    connection is of no use then. What the proxy refuses is raised with the code it gave."""

    def __init__(self, channel: Channel, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._channel = channel
        self._answer_seconds = answer_seconds
        self._turn = asyncio.Lock()
        self.lost = asyncio.Event()
        """Set as soon as the connection is known to be of no use."""
        self.silent = False
        """Whether that is for want of an answer."""
        self.pid = channel.peer_pid
        # None: there will be no more. One that nobody asked for is one too many.
        self._answers: asyncio.Queue[messages.Answer | None] = asyncio.Queue(1)

    async def read(self) -> None:
        """Read until the proxy has gone; run it in a task, beside the rest."""
        try:
            while (packet := await self._channel.receive()) is not None:
                with packet:
                    self._answers.put_nowait(_DECODE.decode(packet.data()))
        except (SupervisorError, msgspec.DecodeError, UnicodeDecodeError, asyncio.QueueFull):
            pass  # it is no proxy, or none of ours
        finally:
            self.lost.set()
            self._channel.close()
            with contextlib.suppress(asyncio.QueueFull):
                self._answers.put_nowait(None)

    async def hello(self) -> messages.Welcome:
        """Who it is."""
        answer = await self._ask(messages.Hello())
        if not isinstance(answer, messages.Welcome):
            raise _lost("the proxy answers something else")
        return answer

    async def markers(self) -> set[str]:
        """Of all containers it serves."""
        found: set[str] = set()
        after = ""
        while True:
            answer = await self._ask(messages.List(after))
            if not isinstance(answer, messages.Listed):
                raise _lost("the proxy answers something else")
            found.update(each.marker for each in answer.containers)
            if not answer.more or not answer.containers:
                return found
            after = answer.containers[-1].marker

    async def tell(self, request: messages.Request, descriptors: Sequence[int] = ()) -> None:
        """Have it do something."""
        await self._ask(request, descriptors)

    async def _ask(
        self, request: messages.Request, descriptors: Sequence[int] = ()
    ) -> messages.Answer:
        async with self._turn:
            if self.lost.is_set():
                raise _lost("the proxy has gone")
            answered = False
            try:
                self._channel.send(msgspec.json.encode(request), descriptors)
                answer = await self._answer()
                answered = True
            finally:
                if not answered:
                    # The next answer would be taken for that of another request.
                    self.lost.set()
        if isinstance(answer, messages.Refused):
            raise _refusal(answer)
        return answer

    async def _answer(self) -> messages.Answer:
        try:
            async with asyncio.timeout(self._answer_seconds):
                answer = await self._answers.get()
        except TimeoutError:
            self.silent = True
            raise _lost(f"the proxy does not answer within {self._answer_seconds:g} s") from None
        if answer is None:
            raise _lost("the proxy has gone")
        return answer


def _refusal(answer: messages.Refused) -> SupervisorError:
    try:
        code = ErrorCode(answer.code)
    except ValueError:
        code = ErrorCode.MODEL_UNREACHABLE
    return SupervisorError(code, f"the proxy refuses: {answer.message}")


def _lost(why: str) -> SupervisorError:
    return SupervisorError(ErrorCode.CONNECTION_LOST, why)
