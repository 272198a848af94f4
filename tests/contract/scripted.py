"""Scripts in place of an app-server, and how to wait for what they do."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

from supervisor.agents.spool import SpoolPaths
from supervisor.ids import Generation, ProjectId
from supervisor.ports.runtime import MARKER_VARIABLE, Launch

T = TypeVar("T")

DEADLINE = 30.0

ECHO = "echo up; while read -r line; do echo got $line; done"
"""Answers each line."""

STUBBORN = "trap '' TERM; echo up; while :; do sleep 600; done"
"""Does not end when asked to."""

DAEMON = "setsid sh -c 'setsid sleep 600 & echo up >&3' 3>&1; exec sleep 600"
"""Leaves a grandchild behind in a session of its own, below init."""


class Scripts:
    """Launches of scripts, each with a spool of its own, below one directory."""

    def __init__(self, directory: Path, marker: str) -> None:
        self.marker = marker
        self.project = directory / "project"
        self.spools = directory / "spools"
        self.project.mkdir()
        self.spools.mkdir()
        self._generation = 0

    def launch(self, script: str, **changes: object) -> Launch:
        self._generation += 1
        paths = SpoolPaths(self.spools, Generation(self._generation))
        paths.make()
        made = Launch(
            project=ProjectId("p"),
            generation=paths.generation,
            directory=self.project,
            argv=["/bin/sh", "-c", script],
            env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
            marker=self.marker,
            stdin=paths.stdin,
            stdout=paths.stdout,
            stderr=paths.stderr,
        )
        return msgspec.structs.replace(made, **changes)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something of another process, which tells nobody."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def said(launch: Launch, text: str) -> None:
    """Wait until the spool has `text`."""
    await until(lambda: text.encode() in launch.stdout.read_bytes())


async def soon(awaitable: Awaitable[T]) -> T:
    """Its result, or a failure instead of a test that hangs."""
    async with asyncio.timeout(DEADLINE):
        return await awaitable


def carriers(marker: str) -> set[int]:
    """The pids of live processes with this marker."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARKER_VARIABLE) == marker:
                found.add(process.pid)
    return found
