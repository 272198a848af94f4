"""A supervisor as a process of its own, made to be killed: `python -m tests.victim JSON`.

Prints one JSON line when it serves; ends in order on SIGTERM. Its faults are adapters around the
real ones, handed to the composition root: the code under test is not touched.
"""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

import msgspec

from supervisor import logs
from supervisor.app import running
from supervisor.clock import SystemClock
from supervisor.ports.runtime import Launch, Process
from supervisor.ports.store import Batch
from supervisor.runtimes.host import HostRuntime
from supervisor.settings import Settings
from supervisor.stores.sql import SqlStore


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Where to SIGKILL oneself."""

    after_spawn: bool = False
    """Between the spawn of an app-server and the record of its pid."""
    commit: int | None = None
    """In that commit, counted from 1."""
    commit_delay_ms: float | None = None
    """Into the commit; None: just before it. Negative: just after it."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is told, as JSON on its command line."""

    settings: dict[str, object]
    faults: Faults = Faults()
    log: str | None = None


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingStore(SqlStore):
    """Dies in one commit."""

    def __init__(self, url: str, faults: Faults) -> None:
        super().__init__(url, clock=SystemClock())
        self._faults = faults
        self._commits = 0

    async def commit(self, batch: Batch) -> None:
        self._commits += 1
        if self._commits != self._faults.commit:
            await super().commit(batch)
            return
        delay = self._faults.commit_delay_ms
        if delay is None:
            _die()
        elif delay < 0:
            await super().commit(batch)
            _die()
        else:
            threading.Timer(delay / 1000, _die).start()
            await super().commit(batch)


class DyingRuntime(HostRuntime):
    """Dies when an app-server has been spawned, before anybody knows its pid."""

    async def start(self, launch: Launch) -> Process:  # type: ignore[override]
        await super().start(launch)
        _die()
        raise AssertionError("still alive")


async def _main(orders: Orders) -> None:
    settings = Settings(**orders.settings)  # type: ignore[arg-type]
    faults = orders.faults
    store = None
    if faults.commit is not None:
        url = settings.database_url or f"sqlite:///{settings.state_dir}/supervisor.db"
        store = DyingStore(url, faults)
    runtime = DyingRuntime() if faults.after_spawn else None
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with running(settings, store=store, runtime=runtime) as supervisor:
        sys.stdout.buffer.write(msgspec.json.encode(supervisor.addresses, enc_hook=str) + b"\n")
        sys.stdout.flush()
        await told.wait()


if __name__ == "__main__":
    given = msgspec.json.decode(sys.argv[1], type=Orders)
    if given.log:
        level = str(given.settings.get("log_level", "info"))
        logs.configure(level, "json", Path(given.log).open("a", buffering=1))  # noqa: SIM115
    asyncio.run(_main(given))
