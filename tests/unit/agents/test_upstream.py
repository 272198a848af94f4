"""Requests to an app-server: answers in any order, bounds, timeouts, and its end."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from supervisor.agents.effects import Answer
from supervisor.agents.fifo import FifoWriter
from supervisor.agents.upstream import RequestIds, Upstream
from supervisor.broker.entry import parse_line
from supervisor.clock import SystemClock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.metrics import Metrics

PATIENCE = 30.0


class Pipe:
    """A FIFO with an upstream on one end and the test on the other."""

    def __init__(self, path: Path, *, in_flight: int = 4) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.metrics = Metrics(CollectorRegistry())
        self.upstream = Upstream(
            FifoWriter(path),
            RequestIds("run"),
            in_flight=in_flight,
            write_timeout=PATIENCE,
            clock=SystemClock(),
            metrics=self.metrics,
        )

    def read(self) -> list[dict[str, object]]:
        lines = os.read(self._fd, 1 << 20).split(b"\n")
        assert lines.pop() == b""
        return [msgspec.json.decode(line) for line in lines]

    def answer(self, line: bytes) -> bool:
        parsed = parse_line(line)
        assert parsed.id is not None
        return self.upstream.resolve(Answer(msgspec.json.decode(parsed.id), parsed, line))

    @property
    def in_flight(self) -> float | None:
        return self.metrics.registry.get_sample_value(
            "codex_supervisor_upstream_requests_in_flight"
        )

    def close(self) -> None:
        self.upstream.close()
        os.close(self._fd)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    made = Pipe(tmp_path / "fifo")
    yield made
    made.close()


async def until_written(count: int, pipe: Pipe) -> None:
    while pipe.in_flight != count:  # noqa: ASYNC110  # a gauge has no event
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)


async def test_answers_find_their_askers_in_any_order(pipe: Pipe) -> None:
    async with asyncio.TaskGroup() as group:
        asking = [
            group.create_task(pipe.upstream.ask(f"m{n}", {"n": n}, timeout=PATIENCE))
            for n in range(3)
        ]
        await until_written(3, pipe)
        assert [r["id"] for r in pipe.read()] == ["run-1", "run-2", "run-3"]
        for n in (2, 3, 1):
            assert pipe.answer(b'{"id":"run-%d","result":%d}' % (n, n))
        assert [msgspec.json.decode(await each) for each in asking] == [1, 2, 3]
    assert pipe.in_flight == 0


async def test_an_error_keeps_codexs_words_and_overload_is_told_apart(pipe: Pipe) -> None:
    async with asyncio.TaskGroup() as group:
        first = group.create_task(failing(pipe, "a"))
        second = group.create_task(failing(pipe, "b"))
        await until_written(2, pipe)
        pipe.answer(b'{"id":"run-1","error":{"code":-32600,"message":"no \\u0000 such"}}')
        pipe.answer(b'{"id":"run-2","error":{"code":-32001,"message":"busy"}}')
        refused, busy = await first, await second
    assert (refused.code, refused.message) == (ErrorCode.CODEX_REFUSED, "no \0 such")
    assert (busy.code, busy.retryable) == (ErrorCode.OVERLOADED, True)


async def failing(pipe: Pipe, method: str, timeout: float = PATIENCE) -> SupervisorError:
    with pytest.raises(SupervisorError) as caught:
        await pipe.upstream.ask(method, {}, timeout=timeout)
    return caught.value


async def test_no_answer_is_a_timeout_and_its_place_is_free_when_it_comes_late(pipe: Pipe) -> None:
    error = await failing(pipe, "slow", timeout=0.01)
    assert (error.code, error.retryable) == (ErrorCode.CODEX_TIMEOUT, True)
    assert "slow" in error.message
    assert pipe.in_flight == 1, "the app-server still has it"
    assert pipe.answer(b'{"id":"run-1","result":{}}')
    assert pipe.in_flight == 0
    assert not pipe.answer(b'{"id":"run-1","result":{}}')


async def test_an_answer_given_twice_is_taken_once(pipe: Pipe) -> None:
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(pipe.upstream.ask("m", {}, timeout=PATIENCE))
        await until_written(1, pipe)
        assert pipe.answer(b'{"id":"run-1","result":"first"}')
        assert not pipe.answer(b'{"id":"run-1","result":"second"}')
        assert await asking == msgspec.Raw(b'"first"')


async def test_past_the_bound_nothing_is_written_and_our_own_have_a_place_kept(
    pipe: Pipe,
) -> None:
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(pipe.upstream.ask("m", {}, timeout=PATIENCE)) for _ in range(3)]
        await until_written(3, pipe)
        error = await failing(pipe, "one too many")
        assert (error.code, error.retryable) == (ErrorCode.OVERLOADED, True)
        own = pipe.upstream.ask("ours", {}, timeout=PATIENCE, own=True)
        asking.append(group.create_task(own))
        await until_written(4, pipe)
        written = pipe.read()
        assert [r["method"] for r in written] == ["m", "m", "m", "ours"]
        for request in written:
            assert pipe.answer(msgspec.json.encode({"id": request["id"], "result": None}))
        await asyncio.gather(*asking)
    assert pipe.in_flight == 0


async def test_its_end_is_told_to_all_who_wait_and_to_all_who_come(pipe: Pipe) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(failing(pipe, "m")) for _ in range(2)]
        await until_written(2, pipe)
        pipe.upstream.close()
        assert {(await each).code for each in waiting} == {ErrorCode.AGENT_RESTARTED}
    assert pipe.upstream.closed
    assert (await failing(pipe, "late")).code is ErrorCode.AGENT_RESTARTED
    with pytest.raises(SupervisorError):
        await pipe.upstream.write(b"{}\n")


async def test_the_place_of_an_asker_who_went_away_is_free_with_the_answer(pipe: Pipe) -> None:
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(pipe.upstream.ask("m", {}, timeout=PATIENCE))
        await until_written(1, pipe)
        asking.cancel()
    assert pipe.in_flight == 1
    assert pipe.answer(b'{"id":"run-1","result":{}}')
    assert pipe.in_flight == 0


async def test_params_that_are_no_json_are_refused_before_a_place_is_taken(pipe: Pipe) -> None:
    with pytest.raises(SupervisorError) as caught:
        await pipe.upstream.ask("m", {"text": "\ud800"}, timeout=PATIENCE)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert pipe.in_flight == 0


async def test_an_app_server_that_was_never_there_has_ended() -> None:
    nobody = Upstream(
        None,
        RequestIds("run"),
        in_flight=1,
        write_timeout=PATIENCE,
        clock=SystemClock(),
        metrics=Metrics(CollectorRegistry()),
    )
    assert nobody.closed
    with pytest.raises(SupervisorError) as caught:
        await nobody.ask("m", {}, timeout=PATIENCE)
    assert caught.value.code is ErrorCode.AGENT_RESTARTED
