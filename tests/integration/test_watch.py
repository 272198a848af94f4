"""Being told of growth, by inotify and by polling."""

import asyncio
import errno
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import uvloop

from supervisor.agents.watch import Inotify, Watch, Watcher, system_inotify

DEADLINE = 30.0
MODIFY, Q_OVERFLOW, IGNORED = 0x2, 0x4000, 0x8000
"""From linux/inotify.h."""

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def no_inotify() -> Inotify:
    raise OSError(errno.EMFILE, "too many instances")


class NoWatches:
    """An instance whose uid has used up its watches."""

    def __init__(self) -> None:
        self._real = system_inotify()

    def fileno(self) -> int:
        return self._real.fileno()

    def add_watch(self, path: str, mask: int) -> int:
        raise OSError(errno.ENOSPC, "no watches left")

    def rm_watch(self, wd: int) -> None:
        self._real.rm_watch(wd)

    def close(self) -> None:
        self._real.close()


class Scripted:
    """An instance that says what the test writes into a pipe."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK)
        self.watched: list[str] = []
        self.removed: list[int] = []

    def say(self, *events: tuple[int, int]) -> None:
        os.write(self._writing, b"".join(struct.pack("iIII", wd, m, 0, 0) for wd, m in events))

    def fileno(self) -> int:
        return self._reading

    def add_watch(self, path: str, mask: int) -> int:
        self.watched.append(path)
        return len(self.watched)

    def rm_watch(self, wd: int) -> None:
        self.removed.append(wd)

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)


FACTORIES = {"inotify": system_inotify, "polling": no_inotify, "no watches": NoWatches}


@pytest.fixture(params=FACTORIES)
def factory(request: pytest.FixtureRequest) -> Callable[[], Inotify]:
    return FACTORIES[request.param]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = [tmp_path / f"spool{n}" for n in range(3)]
    for path in made:
        path.touch()
    return made


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def test_growth_is_told_to_those_who_watch_that_file(
    files: list[Path], factory: Callable[[], Inotify]
) -> None:
    watcher = Watcher(inotify_factory=factory, poll_seconds=0.001)
    told = [asyncio.Event() for _ in files]
    for path, event in zip(files, told, strict=True):
        watcher.watch(path, event.set)
    append(files[1], b"x")
    async with asyncio.timeout(DEADLINE):
        await told[1].wait()
        assert not told[0].is_set()
        told[1].clear()
        append(files[2], b"x")
        await told[2].wait()
        append(files[1], b"y")
        await told[1].wait()
    assert not told[0].is_set()
    watcher.close()
    watcher.close()


async def test_two_who_watch_one_file_are_both_told_until_they_stop(
    files: list[Path], factory: Callable[[], Inotify]
) -> None:
    watcher = Watcher(inotify_factory=factory, poll_seconds=0.001)
    first, second = asyncio.Event(), asyncio.Event()
    one = watcher.watch(files[0], first.set)
    two = watcher.watch(files[0], second.set)
    append(files[0], b"x")
    async with asyncio.timeout(DEADLINE):
        await first.wait()
        await second.wait()
        one.close()
        one.close()
        first.clear()
        second.clear()
        append(files[0], b"x")
        await second.wait()
    assert not first.is_set()
    two.close()
    watcher.close()
    # Nothing of it is left in the watcher.
    one.close()
    two.close()


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_inotify_works_under_either_loop(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], files: list[Path]
) -> None:
    async def scenario() -> None:
        watcher = Watcher()
        assert watcher.mode == "inotify"
        told = asyncio.Event()
        watcher.watch(files[0], told.set)
        append(files[0], b"x")
        async with asyncio.timeout(DEADLINE):
            await told.wait()
        watcher.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


async def test_the_mode_says_when_sizes_are_polled(files: list[Path]) -> None:
    without = Watcher(inotify_factory=no_inotify)
    used_up = Watcher(inotify_factory=NoWatches)
    modes = [without.mode, used_up.mode]
    watch = used_up.watch(files[0], lambda: None)
    modes.append(used_up.mode)
    watch.close()
    modes.append(used_up.mode)
    without.close()
    used_up.close()
    assert modes == ["polling", "inotify", "polling", "inotify"]


async def test_a_file_that_is_not_there_cannot_be_watched(
    tmp_path: Path, factory: Callable[[], Inotify]
) -> None:
    watcher = Watcher(inotify_factory=factory)
    with pytest.raises(FileNotFoundError):
        watcher.watch(tmp_path / "nowhere", lambda: None)
    watcher.close()


async def test_a_file_that_is_removed_harms_nobody(
    files: list[Path], factory: Callable[[], Inotify]
) -> None:
    watcher = Watcher(inotify_factory=factory, poll_seconds=0.001)
    told = asyncio.Event()
    gone = watcher.watch(files[0], lambda: None)
    watcher.watch(files[1], told.set)
    files[0].unlink()
    append(files[1], b"x")
    async with asyncio.timeout(DEADLINE):
        await told.wait()
    gone.close()
    watcher.close()


async def test_a_callback_that_fails_does_not_keep_it_from_the_others(
    files: list[Path], factory: Callable[[], Inotify]
) -> None:
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    watcher = Watcher(inotify_factory=factory, poll_seconds=0.001)
    failure = RuntimeError("mine alone")
    told = asyncio.Event()

    def fail() -> None:
        raise failure

    watcher.watch(files[0], fail)
    watcher.watch(files[0], told.set)
    append(files[0], b"x")
    async with asyncio.timeout(DEADLINE):
        await told.wait()
    assert failure in reported
    watcher.close()


async def wakes(files: list[Path], scripted: Scripted, *events: tuple[int, int]) -> list[int]:
    """How often each of three watched files was told, after these events were read at once."""
    watcher = Watcher(inotify_factory=lambda: scripted)
    counts = [0, 0, 0]
    done = asyncio.Event()

    def count(n: int) -> None:
        counts[n] += 1

    for n, path in enumerate(files):
        watcher.watch(path, partial(count, n))
    last = watcher.watch(files[0], done.set)
    scripted.say(*events, (last.wd, MODIFY))
    async with asyncio.timeout(DEADLINE):
        await done.wait()
    watcher.close()
    return counts


async def test_many_events_of_one_file_are_one_call(files: list[Path], scripted: Scripted) -> None:
    events = [(1, MODIFY), (2, MODIFY)] * 50
    assert await wakes(files, scripted, *events) == [1, 1, 0]


async def test_an_overflowed_queue_wakes_everybody_once(
    files: list[Path], scripted: Scripted
) -> None:
    events = [(2, MODIFY), (-1, Q_OVERFLOW)]
    assert await wakes(files, scripted, *events) == [1, 1, 1]


async def test_events_of_a_watch_that_was_closed_are_ignored(
    files: list[Path], scripted: Scripted
) -> None:
    assert await wakes(files, scripted, (99, MODIFY), (99, IGNORED)) == [0, 0, 0]


async def test_a_callback_may_close_another_that_is_due(
    files: list[Path], scripted: Scripted
) -> None:
    watcher = Watcher(inotify_factory=lambda: scripted)
    done = asyncio.Event()
    told: list[str] = []
    others: list[Watch] = []

    def first() -> None:
        told.append("first")
        others[0].close()

    watcher.watch(files[0], first)
    others.append(watcher.watch(files[1], lambda: told.append("second")))
    third = watcher.watch(files[2], done.set)
    scripted.say(*((wd, MODIFY) for wd in (1, 2, third.wd)))
    async with asyncio.timeout(DEADLINE):
        await done.wait()
    assert told == ["first"]
    assert scripted.removed == [2]
    watcher.close()
