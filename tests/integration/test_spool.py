"""The FIFO and the spool, with real pipes and files."""

import asyncio
import fcntl
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from supervisor.agents.fifo import FifoWriter
from supervisor.agents.spool import SpoolPaths, SpoolReader, bound_stderr, punch, tail
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Generation

DEADLINE = 30.0
BLOCK = 4096
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture
def paths(tmp_path: Path) -> SpoolPaths:
    made = SpoolPaths(tmp_path, Generation(3))
    made.make()
    return made


@pytest.fixture
def reading_end(paths: SpoolPaths) -> Iterator[int]:
    """As the app-server has it: read-write, so that it never ends."""
    fd = os.open(paths.stdin, os.O_RDWR | os.O_NONBLOCK)
    yield fd
    os.close(fd)


def drain(fd: int) -> bytes:
    """All that is in the pipe."""
    parts = []
    while select.select([fd], [], [], 0)[0]:
        parts.append(os.read(fd, 1 << 20))
    return b"".join(parts)


async def drain_until(fd: int, done: Callable[[bytes], bool]) -> bytes:
    """Read what comes, letting the writers run in between."""
    got = b""
    async with asyncio.timeout(DEADLINE):
        while not done(got):
            got += drain(fd)
            await asyncio.sleep(0)
    return got


def small_pipe(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, BLOCK)


def test_the_files_of_a_generation_are_nobody_elses(paths: SpoolPaths) -> None:
    assert paths.home.stat().st_mode & 0o777 == 0o700
    assert paths.stdin.is_fifo()
    assert paths.stdin.stat().st_mode & 0o777 == 0o600


def test_leftovers_of_a_start_that_was_never_recorded_are_not_read(paths: SpoolPaths) -> None:
    paths.stdout.write_bytes(b"old\n")
    paths.make()
    assert paths.stdout.read_bytes() == b""
    assert paths.stdin.is_fifo()


def test_removing_takes_everything_and_may_be_repeated(paths: SpoolPaths) -> None:
    paths.stdout.write_bytes(b"x")
    paths.stderr.write_bytes(b"x")
    paths.remove()
    paths.remove()
    assert not paths.home.exists()


def test_a_spool_that_cannot_be_made_is_a_failed_start(tmp_path: Path) -> None:
    with pytest.raises(SupervisorError) as caught:
        SpoolPaths(tmp_path / "nowhere", Generation(1)).make()
    assert caught.value.code is ErrorCode.AGENT_START_FAILED


def test_a_fifo_that_nobody_reads_means_a_dead_app_server(paths: SpoolPaths) -> None:
    with pytest.raises(SupervisorError) as caught:
        FifoWriter(paths.stdin)
    assert caught.value.code is ErrorCode.AGENT_RESTARTED


def test_a_fifo_that_is_gone_means_a_dead_app_server(tmp_path: Path) -> None:
    with pytest.raises(SupervisorError) as caught:
        FifoWriter(tmp_path / "stdin")
    assert caught.value.code is ErrorCode.AGENT_RESTARTED


@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_what_is_no_fifo_is_not_written(paths: SpoolPaths, reading_end: int, kind: str) -> None:
    other = paths.home / "other"
    if kind == "file":
        other.write_bytes(b"")
    else:
        other.symlink_to(paths.stdin)
    with pytest.raises(SupervisorError) as caught:
        FifoWriter(other)
    assert caught.value.code is ErrorCode.STATE_DIRECTORY_UNSAFE


async def test_a_short_line_is_written_at_once(paths: SpoolPaths, reading_end: int) -> None:
    writer = FifoWriter(paths.stdin)
    assert writer.try_write_line(b'{"id":1}')
    assert drain(reading_end) == b'{"id":1}\n'
    writer.close()


async def test_the_longest_line_of_one_write_fills_it(paths: SpoolPaths, reading_end: int) -> None:
    writer = FifoWriter(paths.stdin)
    assert writer.try_write_line(b"x" * (select.PIPE_BUF - 1))
    assert not writer.try_write_line(b"x" * select.PIPE_BUF)
    assert len(drain(reading_end)) == select.PIPE_BUF
    writer.close()


async def test_a_line_with_a_newline_in_it_is_refused(paths: SpoolPaths, reading_end: int) -> None:
    writer = FifoWriter(paths.stdin)
    for line in (b"a\n", b"a\nb", b"a\n" + b"b" * select.PIPE_BUF):
        with pytest.raises(ValueError, match="newline"):
            await writer.write_line(line)
    assert drain(reading_end) == b""
    writer.close()


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_a_line_larger_than_the_pipe_arrives_whole_under_either_loop(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], paths: SpoolPaths
) -> None:
    line = ('{"text":"' + "häßlich 🦊 " * 150_000 + '"}').encode()
    assert len(line) > 2 << 20
    got = bytearray()

    def read(fd: int) -> None:
        while len(got) < len(line) + 1:
            got.extend(os.read(fd, 1 << 20))

    async def scenario() -> None:
        writer = FifoWriter(paths.stdin)
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            group.create_task(writer.write_line(line))
            # Behind the long one there is no way past.
            group.create_task(asyncio.to_thread(read, fd))
        writer.close()

    fd = os.open(paths.stdin, os.O_RDWR)
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(scenario())
    finally:
        os.close(fd)
    assert bytes(got) == line + b"\n"


async def test_lines_of_many_writers_come_whole_and_in_order(
    paths: SpoolPaths, reading_end: int
) -> None:
    writer = FifoWriter(paths.stdin)
    small_pipe(reading_end)
    lines = [bytes([97 + n]) * size for n, size in enumerate([10, 9000, 10, 5000, 4095, 4096, 1])]
    async with asyncio.TaskGroup() as group:
        for line in lines:
            group.create_task(writer.write_line(line))
        got = await drain_until(reading_end, lambda got: got.count(b"\n") == len(lines))
    assert got == b"".join(line + b"\n" for line in lines)
    assert writer.queued == 0
    writer.close()


async def test_a_short_line_never_overtakes_one_that_waits(
    paths: SpoolPaths, reading_end: int
) -> None:
    writer = FifoWriter(paths.stdin)
    small_pipe(reading_end)
    async with asyncio.TaskGroup() as group:
        group.create_task(writer.write_line(b"a" * 10_000))
        await asyncio.sleep(0)
        assert writer.queued == 1
        # There is room, but not for this one's turn.
        drain(reading_end)
        assert not writer.try_write_line(b"short")
        await drain_until(reading_end, lambda got: got.endswith(b"\n"))
    writer.close()


async def test_every_moment_leaves_whole_characters_in_the_pipe(
    paths: SpoolPaths, reading_end: int
) -> None:
    writer = FifoWriter(paths.stdin)
    small_pipe(reading_end)
    line = ("x" + "€" * 9000).encode()
    seen = b""
    async with asyncio.TaskGroup() as group:
        group.create_task(writer.write_line(line))
        while not seen.endswith(b"\n"):
            seen += drain(reading_end)
            # What a supervisor killed now would leave behind.
            seen.decode("utf-8")
            await asyncio.sleep(0)
    assert seen == line + b"\n"
    writer.close()


async def test_a_line_cancelled_in_the_middle_spoils_no_other(
    paths: SpoolPaths, reading_end: int
) -> None:
    writer = FifoWriter(paths.stdin)
    small_pipe(reading_end)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await writer.write_line(b"a" * 10_000)
    torn = drain(reading_end)
    assert torn == b"a" * BLOCK
    assert writer.queued == 0
    await writer.write_line(b"whole")
    await writer.write_line(b"next")
    assert drain(reading_end) == b"\nwhole\nnext\n"
    writer.close()


async def test_a_line_cancelled_before_its_end_is_no_whole_line(
    paths: SpoolPaths, reading_end: int
) -> None:
    """Its last piece would be the newline alone: the next line's would carry it out."""
    writer = FifoWriter(paths.stdin)
    small_pipe(reading_end)
    line = b'{"a":"' + b"x" * (BLOCK - 8) + b'"}'
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await writer.write_line(line)
    torn = drain(reading_end)
    assert 0 < len(torn) < len(line) == BLOCK
    await writer.write_line(b"next")
    assert drain(reading_end) == b"\nnext\n"
    writer.close()


async def test_a_line_cancelled_before_its_first_byte_leaves_none(
    paths: SpoolPaths, reading_end: int
) -> None:
    writer = FifoWriter(paths.stdin)
    small_pipe(reading_end)
    assert writer.try_write_line(b"x" * (BLOCK - 1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await writer.write_line(b"never")
    drain(reading_end)
    await writer.write_line(b"next")
    assert drain(reading_end) == b"next\n"
    writer.close()


async def test_a_newline_ends_what_a_predecessor_left(paths: SpoolPaths, reading_end: int) -> None:
    os.write(reading_end, b'{"id":1,"met')
    writer = FifoWriter(paths.stdin)
    await writer.write_newline()
    await writer.write_line(b"{}")
    assert drain(reading_end).split(b"\n") == [b'{"id":1,"met', b"{}", b""]
    writer.close()


async def test_a_reader_that_dies_fails_the_next_line(paths: SpoolPaths) -> None:
    fd = os.open(paths.stdin, os.O_RDWR)
    writer = FifoWriter(paths.stdin)
    os.close(fd)
    with pytest.raises(SupervisorError) as caught:
        await writer.write_line(b"{}")
    assert caught.value.code is ErrorCode.AGENT_RESTARTED
    writer.close()


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("end", ["reader dies", "writer closed"])
def test_a_line_that_waits_fails_when_the_pipe_ends(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], paths: SpoolPaths, end: str
) -> None:
    fd = os.open(paths.stdin, os.O_RDWR)

    async def scenario() -> None:
        writer = FifoWriter(paths.stdin)
        small_pipe(fd)

        async def end_it() -> None:
            assert writer.queued == 1
            if end == "writer closed":
                writer.close()
            else:
                os.close(fd)

        async with asyncio.timeout(DEADLINE):
            error, ended = await asyncio.gather(
                writer.write_line(b"a" * 10_000), end_it(), return_exceptions=True
            )
        assert ended is None
        assert isinstance(error, SupervisorError)
        assert error.code is ErrorCode.AGENT_RESTARTED
        writer.close()
        writer.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())
    if end == "writer closed":
        os.close(fd)


def test_reading_goes_on_where_it_stopped(paths: SpoolPaths) -> None:
    paths.stdout.write_bytes(b"0123456789")
    reader = SpoolReader(paths.stdout, 4)
    assert reader.read(3) == b"456"
    assert reader.offset == 7
    assert reader.read() == b"789"
    assert reader.read() == b""
    with paths.stdout.open("ab") as spool:
        spool.write(b"more")
    assert reader.read() == b"more"
    assert (reader.offset, reader.size()) == (14, 14)
    reader.close()
    reader.close()


def test_a_read_is_never_larger_than_asked(paths: SpoolPaths) -> None:
    content = bytes(range(256)) * 8192
    paths.stdout.write_bytes(content)
    reader = SpoolReader(paths.stdout)
    parts = []
    while part := reader.read(100_000):
        assert len(part) <= 100_000
        parts.append(part)
    assert b"".join(parts) == content
    reader.close()


def test_a_spool_that_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SpoolReader(tmp_path / "stdout")


def test_a_punched_front_costs_no_disk_and_moves_no_offset(paths: SpoolPaths) -> None:
    paths.stdout.write_bytes(b"x" * 10 * BLOCK + b"kept")
    reader = SpoolReader(paths.stdout, 10 * BLOCK)
    before = paths.stdout.stat().st_blocks
    assert punch(paths.stdout, 9 * BLOCK + 1)
    assert before - paths.stdout.stat().st_blocks == 9 * BLOCK // 512
    assert reader.size() == 10 * BLOCK + 4
    assert reader.read() == b"kept"
    # Rounded down: the byte at the bound has its block still.
    assert reader.hole_at(9 * BLOCK - 1)
    assert not reader.hole_at(9 * BLOCK)
    assert not reader.hole_at(9 * BLOCK + 1)
    reader.close()


def test_a_hole_is_told_from_the_end(paths: SpoolPaths) -> None:
    paths.stdout.write_bytes(b"x" * BLOCK)
    os.truncate(paths.stdout, 3 * BLOCK)
    reader = SpoolReader(paths.stdout)
    assert not reader.hole_at(0)
    assert reader.hole_at(2 * BLOCK)
    assert not reader.hole_at(3 * BLOCK)
    assert not reader.hole_at(9 * BLOCK)
    reader.close()


def test_a_descriptor_can_be_punched_and_nothing_to_punch_is_no_failure(paths: SpoolPaths) -> None:
    paths.stdout.write_bytes(b"x" * 2 * BLOCK)
    fd = os.open(paths.stdout, os.O_WRONLY)
    assert punch(fd, 100)
    assert punch(fd, BLOCK)
    os.close(fd)
    assert paths.stdout.read_bytes() == b"\0" * BLOCK + b"x" * BLOCK


def test_where_no_hole_can_be_punched_that_is_said() -> None:
    reading, writing = os.pipe()
    assert not punch(writing, 10 * BLOCK)
    os.close(reading)
    os.close(writing)


def test_stderr_is_kept_within_bounds_and_its_end_readable(paths: SpoolPaths) -> None:
    limit = 8 * BLOCK
    with paths.stderr.open("ab", buffering=0) as stderr:
        for n in range(5000):
            stderr.write(b"%07d\n" % n * 20)
            bound_stderr(paths.stderr, limit)
            assert paths.stderr.stat().st_blocks * 512 <= limit + 2 * BLOCK
    assert paths.stderr.stat().st_size == 5000 * 160
    assert tail(paths.stderr, 16) == b"0004999\n0004999\n"
    whole = tail(paths.stderr, 1 << 30)
    assert limit <= len(whole) <= limit + 2 * BLOCK
    assert whole.strip(b"\0") == whole


def test_a_small_stderr_is_left_alone(paths: SpoolPaths) -> None:
    paths.stderr.write_bytes(b"hello")
    assert bound_stderr(paths.stderr, BLOCK) == 0
    assert tail(paths.stderr, 3) == b"llo"
    assert tail(paths.stderr, 100) == b"hello"


def test_no_stderr_is_an_empty_one(tmp_path: Path) -> None:
    assert bound_stderr(tmp_path / "stderr", BLOCK) == 0
    assert tail(tmp_path / "stderr", 100) == b""


def test_a_stderr_that_is_all_hole_has_no_end_to_show(paths: SpoolPaths) -> None:
    paths.stderr.touch()
    os.truncate(paths.stderr, 5 * BLOCK)
    assert tail(paths.stderr, 100) == b""
