"""What the supervisor answers itself: at once where it can, in order where it cannot."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from supervisor.agents.effects import Asked
from supervisor.agents.fifo import FifoWriter
from supervisor.agents.reactions import QUESTIONS_LIMIT, Reactions
from supervisor.agents.upstream import RequestIds, Upstream
from supervisor.clock import SystemClock
from supervisor.metrics import Metrics
from supervisor.testing.fakes import FakeClock


class Bench:
    """Reactions over a FIFO whose other end the test holds."""

    def __init__(self, path: Path, *, torn: bool = False) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.metrics = Metrics(CollectorRegistry())
        self.upstream = Upstream(
            FifoWriter(path, torn=torn),
            RequestIds("run"),
            in_flight=4,
            write_timeout=30,
            clock=SystemClock(),
            metrics=self.metrics,
        )
        self.reactions = Reactions(self.upstream, FakeClock(), self.metrics)

    def ask(self, number: int, method: str = "new/request", policy: str = "refuse") -> None:
        asked = Asked(b"%d" % number, method, policy, waiting=False, refusal="unknown")
        self.reactions.on_effect(asked)

    def read(self) -> bytes:
        try:
            return os.read(self._fd, 1 << 22)
        except BlockingIOError:
            return b""

    def ids(self) -> list[int]:
        lines = self.read().split(b"\n")[:-1]
        return [msgspec.json.decode(line)["id"] for line in lines if line]

    def refused(self, why: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            "codex_supervisor_server_requests_refused_total", {"reason": why}
        )

    def close(self) -> None:
        self.upstream.close()
        os.close(self._fd)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "fifo")
    yield made
    made.close()


async def test_the_answer_is_written_before_the_question_can_be_checkpointed(bench: Bench) -> None:
    bench.ask(7)
    bench.ask(8, "currentTime/read", "clock")
    # Nothing has been awaited: no commit can have begun.
    first, second = bench.read().splitlines()
    assert msgspec.json.decode(first)["error"]["message"] == "new/request is not offered here"
    assert msgspec.json.decode(second)["result"] == {"currentTimeAt": 1767225600}


async def test_answers_that_have_to_wait_are_written_in_order_and_past_a_bound_not_at_all(
    bench: Bench,
) -> None:
    asked = 0
    while bench.reactions._answers.empty():
        bench.ask(asked)
        asked += 1
    for _ in range(QUESTIONS_LIMIT + 5):
        bench.ask(asked)
        asked += 1
    assert bench.refused("overloaded") == 6
    got: list[int] = []
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        writing = group.create_task(bench.reactions.run())
        while len(got) < asked - 6:
            got += bench.ids()
            await asyncio.sleep(0)
        writing.cancel()
    assert got == list(range(asked - 6))


async def test_behind_a_line_cut_by_a_predecessor_an_answer_begins_a_new_one(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "fifo", torn=True)
    bench.ask(7)
    assert bench.read() == b"", "it would be read as the end of that line"
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        writing = group.create_task(bench.reactions.run())
        said = b""
        while not said.endswith(b"}\n"):
            said += bench.read()
            await asyncio.sleep(0)
        writing.cancel()
    assert said.startswith(b"\n{")
    bench.ask(8)
    assert bench.ids() == [8], "only once"
    bench.close()
