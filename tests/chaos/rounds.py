"""One round: a turn, and a supervisor killed at a place the seed chooses."""

import asyncio
import random
from enum import StrEnum
from typing import Any

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.testing.numbered import UNICODE_SIZE
from tests.chaos import oracle
from tests.chaos.reader import Reader
from tests.rig import ASKING, FREE, Rig
from tests.victim import Faults


class Place(StrEnum):
    """Where the supervisor is killed."""

    SLOW_TEXT = "slow text"
    FAST_TEXT = "fast text"
    SPAWN = "between spawn and record"
    APPROVAL = "an approval waits"
    COMMIT = "in a commit"
    FIFO_WRITE = "in the FIFO write"
    ADOPTION = "in adoption"


class Turn(msgspec.Struct, kw_only=True):
    """What a round asks the agent to do, and what the model's side of it must look like."""

    tag: str
    prompt: str
    text: int
    size: int = 7
    unicode: bool = False
    requests: int = 1
    padding: str = ""


class Chaos:
    """A rig under fire. One project, one thread for each approval policy, many rounds."""

    def __init__(self, rig: Rig, rng: random.Random, tasks: asyncio.TaskGroup) -> None:
        self.rig = rig
        self.rng = rng
        self.tasks = tasks
        self.project = ""
        self.threads: dict[str, str] = {}
        self.reader: Reader
        self.kills = 0

    async def prepare(self) -> asyncio.Task[None]:
        """Start a supervisor, two threads with a turn each, and the reader."""
        await self.rig.start()
        async with self.rig.dial() as client:
            self.project = await self.rig.open(client)
            self.reader = Reader(self.rig, self.project)
            reading = self.tasks.create_task(self.reader.run())
            for name, params in (("free", FREE), ("asking", ASKING)):
                started = await client.call(self.project, "startThread", params)
                assert isinstance(started, dict)
                self.threads[name] = started["threadId"]
        for name in ("free", "asking"):
            turn = Turn(tag=f"first-{name}", prompt="mock:text n=3", text=3)
            await self.finish(name, turn, await self.send(name, turn))
        return reading

    async def persistent(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Call until it is answered: what an idempotency key is for."""
        while True:
            try:
                async with self.rig.dial() as client:
                    await self.rig.open(client)
                    result = await client.call(self.project, method, params)
                    assert isinstance(result, dict)
                    return result
            except SupervisorError as e:
                if not e.retryable:
                    raise
                await asyncio.sleep(0.02)

    async def send(self, thread: str, turn: Turn) -> str:
        """Submit the turn, however often that takes; its id."""
        params = {
            "threadId": self.threads[thread],
            "text": f"{turn.tag} {turn.padding}\n{turn.prompt}",
            "idempotencyKey": turn.tag,
        }
        return str((await self.persistent("sendMessage", params))["turnId"])

    async def finish(self, thread: str, turn: Turn, turn_id: str) -> None:
        """Wait for the turn's end as the reader sees it, and judge."""
        reader = self.reader
        await reader.until(lambda r: r.ends(turn_id))
        assert reader.ends(turn_id) == ["completed"], (turn.tag, reader.ends(turn_id))
        oracle.check_text(reader, turn_id, turn.text, turn.size, unicode=turn.unicode)
        oracle.check_ran_once(self.rig, turn.tag, turn.requests)

    async def reborn(self, faults: Faults | None = None) -> None:
        """SIGKILL, and a successor."""
        if self.rig.alive:
            self.rig.kill()
        else:
            self.rig.reap()
        self.kills += 1
        await self.rig.start(faults)

    async def round(self, number: int, place: Place) -> None:
        """One turn and one kill (adoption: two)."""
        tag = f"round-{number:04d}-{place.name}"
        await _ROUNDS[place](self, tag)


async def _slow_text(chaos: Chaos, tag: str) -> None:
    turn = Turn(tag=tag, prompt="mock:text n=60 delay=0.02", text=60)
    turn_id = await chaos.send("free", turn)
    await asyncio.sleep(chaos.rng.uniform(0, 1.2))
    await chaos.reborn()
    await chaos.finish("free", turn, turn_id)


async def _fast_text(chaos: Chaos, tag: str) -> None:
    turn = Turn(tag=tag, prompt="mock:text n=8000", text=8000)
    turn_id = await chaos.send("free", turn)
    await asyncio.sleep(chaos.rng.uniform(0, 0.4))
    await chaos.reborn()
    await chaos.finish("free", turn, turn_id)


async def _spawn(chaos: Chaos, tag: str) -> None:
    await chaos.persistent("stopProject", {})
    await chaos.reborn(Faults(after_spawn=True))
    async with chaos.rig.dial() as client:
        try:
            await chaos.rig.open(client)
            await client.call(chaos.project, "pingProject", {})
        except SupervisorError as e:
            if not e.retryable:
                raise
        else:
            raise AssertionError("it outlived its spawn")
    await chaos.reborn()
    turn = Turn(tag=tag, prompt="mock:text n=5", text=5)
    await chaos.finish("free", turn, await chaos.send("free", turn))


async def _approval(chaos: Chaos, tag: str) -> None:
    prompt = f"mock:exec cmd='touch {tag}'; mock:text n=5"
    turn = Turn(tag=tag, prompt=prompt, text=5, requests=2)
    turn_id = await chaos.send("asking", turn)
    if chaos.rng.random() < 0.5:
        await asyncio.sleep(chaos.rng.uniform(0, 0.1))
    else:
        await chaos.reader.until(lambda r: _asked(r, turn_id))
    await chaos.reborn()
    await chaos.reader.until(lambda r: _asked(r, turn_id))
    answering = chaos.tasks.create_task(_answer(chaos, turn_id))
    if chaos.rng.random() < 0.5:
        await asyncio.sleep(chaos.rng.uniform(0, 0.05))
        await chaos.reborn()
    await answering
    await chaos.finish("asking", turn, turn_id)
    assert (chaos.rig.project_dir / tag).exists()


def _asked(reader: Reader, turn_id: str) -> bool:
    method = "item/commandExecution/requestApproval"
    return any(
        m["method"] == method and m["params"]["turnId"] == turn_id for m in reader.messages()
    )


async def _answer(chaos: Chaos, turn_id: str) -> None:
    waiting = (await chaos.persistent("listApprovals", {}))["approvals"]
    mine = [a["approvalId"] for a in waiting if a["turnId"] == turn_id]
    for approval in mine:
        answer = {"approvalId": approval, "decision": "accept"}
        try:
            await chaos.persistent("answerApproval", answer)
        except SupervisorError as e:
            # Committed, and the supervisor killed before it could say so.
            if e.code is not ErrorCode.APPROVAL_SETTLED:
                raise


async def _commit(chaos: Chaos, tag: str) -> None:
    delay = chaos.rng.choice([None, -1.0, chaos.rng.uniform(0, 6)])
    await chaos.reborn(Faults(commit=chaos.rng.randint(1, 12), commit_delay_ms=delay))
    prompt = f"mock:exec cmd='touch {tag}'; mock:text n=20 delay=0.01"
    turn = Turn(tag=tag, prompt=prompt, text=20, requests=2)
    sending = chaos.tasks.create_task(chaos.send("free", turn))
    await asyncio.sleep(chaos.rng.uniform(0.5, 1.0))
    await chaos.reborn()
    await chaos.finish("free", turn, await sending)


async def _fifo_write(chaos: Chaos, tag: str) -> None:
    padding = "é漢😀ß" * (2 * 1024 * 1024 // 11)
    turn = Turn(
        tag=tag,
        prompt=f"mock:text n=10 size={UNICODE_SIZE} text=unicode",
        text=10,
        size=UNICODE_SIZE,
        unicode=True,
        padding=padding,
    )
    sending = chaos.tasks.create_task(chaos.send("free", turn))
    await asyncio.sleep(chaos.rng.uniform(0, 0.12))
    await chaos.reborn()
    await chaos.finish("free", turn, await sending)


async def _adoption(chaos: Chaos, tag: str) -> None:
    turn = Turn(tag=tag, prompt="mock:text n=100 delay=0.02", text=100)
    turn_id = await chaos.send("free", turn)
    await chaos.reborn()
    await asyncio.sleep(chaos.rng.uniform(0, 0.05))
    await chaos.reborn()
    await chaos.finish("free", turn, turn_id)


_ROUNDS = {
    Place.SLOW_TEXT: _slow_text,
    Place.FAST_TEXT: _fast_text,
    Place.SPAWN: _spawn,
    Place.APPROVAL: _approval,
    Place.COMMIT: _commit,
    Place.FIFO_WRITE: _fifo_write,
    Place.ADOPTION: _adoption,
}
