"""Logs: one JSON object a line, ids from the context, no credential, and never an exception."""

import asyncio
import io
import json
import logging
import math
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from supervisor import logs

SECRET = "hunter2hunter2"


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    before = list(logging.root.handlers), logging.root.level
    logs.configure("info", "json", stream)
    yield stream
    logging.root.handlers[:], level = before
    logging.root.setLevel(level)
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_has_action_level_and_time_in_utc(out: io.StringIO) -> None:
    logs.get_logger().info("agent_started", pid=7)

    (line,) = lines(out)
    assert list(line)[:3] == ["level", "time", "action"]
    assert (line["action"], line["level"], line["pid"]) == ("agent_started", "info", 7)
    assert datetime.fromisoformat(str(line["time"])).utcoffset() == timedelta(0)


def test_ids_bound_outside_are_in_every_line_inside_and_gone_after(out: io.StringIO) -> None:
    log = logs.get_logger()
    with logs.bound(project="p", generation=3):
        with logs.bound(thread="t"):
            log.info("a")
        log.info("b")
    log.info("c")

    ids = [{k: v for k, v in line.items() if k in ("project", "thread")} for line in lines(out)]
    assert ids == [{"project": "p", "thread": "t"}, {"project": "p"}, {}]


async def test_ids_follow_the_tasks_started_inside_and_do_not_leak_between_them(
    out: io.StringIO,
) -> None:
    async def work(name: str) -> None:
        with logs.bound(thread=name):
            await asyncio.sleep(0)
            logs.get_logger().info(name)

    with logs.bound(project="p"):
        async with asyncio.TaskGroup() as group:
            for name in ("x", "y"):
                group.create_task(work(name))

    told = [(line["action"], line["thread"], line["project"]) for line in lines(out)]
    assert told == [("x", "x", "p"), ("y", "y", "p")]


def test_debug_is_silent_unless_asked_for(out: io.StringIO) -> None:
    log = logs.get_logger()
    log.debug("quiet")
    logs.configure("debug", "json", out)
    log.debug("heard")

    assert [line["action"] for line in lines(out)] == ["heard"]


@pytest.mark.parametrize("name", ["aiohttp.server", "sqlalchemy.pool", "alembic", "asyncio"])
def test_libraries_are_heard_from_warning_on_as_lines_of_ours(out: io.StringIO, name: str) -> None:
    logging.getLogger(name).info("nothing")
    logging.getLogger(name).warning("pool of %d is full", 5)

    (line,) = lines(out)
    assert line["action"] == "library_message"
    assert (line["library"], line["message"]) == (name, "pool of 5 is full")
    assert line["level"] == "warning"


def test_a_library_is_heard_once_however_often_logs_are_configured(out: io.StringIO) -> None:
    logs.configure("info", "json", out)
    logging.getLogger("aiohttp").warning("once")

    assert len(lines(out)) == 1


def test_a_librarys_bad_format_string_costs_nothing_but_its_arguments(out: io.StringIO) -> None:
    (ours,) = (each for each in logging.root.handlers if type(each).__module__ == logs.__name__)
    ours.handle(logging.LogRecord("aiohttp", 30, __file__, 1, "%d things", ("five",), None))

    assert lines(out)[0]["message"] == "%d things"


def test_an_exception_is_a_field_of_its_line(out: io.StringIO) -> None:
    try:
        raise KeyError("k")
    except KeyError:
        logs.get_logger().exception("failed")

    (line,) = lines(out)
    assert "KeyError: 'k'" in str(line["exception"])


@pytest.mark.parametrize(
    "fields",
    [
        {"token": SECRET},
        {"api_key": SECRET},
        {"accessToken": SECRET},
        {"Authorization": SECRET},
        {"set-cookie": SECRET},
        {"params": {"login": {"apiKey": SECRET}}},
        {"headers": [{"proxy-authorization": SECRET}]},
        {"password": {"inside": SECRET}},
        {"secret": SECRET.encode()},
        {"text": f"Authorization: Bearer {SECRET}"},
        {"text": f"basic {SECRET}"},
        {"text": f"http://h/?token={SECRET}&x=1"},
        {"text": f'{{"access_token": "{SECRET}"}}'},
        {"text": f"--api-key={SECRET}"},
        {"text": f"postgresql://me:{SECRET}@db/x"},
        {"text": f"sk-proj-{SECRET}"},
        {"text": f"eyJhbGciOiJub25l.{SECRET}.x"},
        {"raw": f"Bearer {SECRET}".encode()},
        {"words": (f"Bearer {SECRET}",)},
        {f"Bearer {SECRET}": 1},
    ],
    ids=str,
)
def test_what_looks_like_a_credential_never_leaves(
    out: io.StringIO, fields: dict[str, object]
) -> None:
    logs.get_logger().info("x", **fields)

    assert SECRET not in out.getvalue()
    assert "[redacted]" in out.getvalue()


def test_a_credential_in_an_exception_or_a_librarys_message_never_leaves(out: io.StringIO) -> None:
    try:
        raise ValueError(f"Bearer {SECRET}")
    except ValueError:
        logs.get_logger().exception("failed")
    logging.getLogger("aiohttp").warning("sent Bearer %s", SECRET)

    assert SECRET not in out.getvalue()
    assert len(lines(out)) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"token_usage": 5},
        {"idempotency_key": "k1"},
        {"path": "/srv/task-12345678/disk-usage"},
        {"cursor": "e1.5"},
        {"trusted": True},
        {"token_file": "/state/token"},
    ],
    ids=str,
)
def test_what_only_resembles_a_credential_is_shown(
    out: io.StringIO, fields: dict[str, object]
) -> None:
    logs.get_logger().info("x", **fields)

    (line,) = lines(out)
    assert {key: line[key] for key in fields} == fields


def test_an_endless_value_is_cut_and_says_so(out: io.StringIO) -> None:
    logs.get_logger().info("x", text="a" * 1_000_000, items=list(range(100_000)))

    (line,) = lines(out)
    assert str(line["text"]).endswith(f"… [{1_000_000 - logs.TEXT_LIMIT} more]")
    assert len(out.getvalue()) < 2 * logs.TEXT_LIMIT


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Circle(dict[str, object]):
    def __init__(self) -> None:
        super().__init__(me=self)


@pytest.mark.parametrize(
    "value",
    [Hostile(), {Hostile(): 1}, Circle(), "\ud800\0\x1b[2J", b"\xff", 10**5000, math.nan, object()],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("fmt", ["json", "console"])
def test_no_value_can_make_a_line_raise(
    out: io.StringIO, value: object, fmt: logs.LogFormat
) -> None:
    logs.configure("info", fmt, out)
    logs.get_logger().info("x", value=value)

    assert len(out.getvalue().splitlines()) == 1


@given(st.text(), st.dictionaries(st.text().filter(lambda key: key != "event"), st.text()))
def test_any_text_gives_one_line_of_json(action: str, fields: dict[str, str]) -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    logs.get_logger().bind(**fields).info(action)
    structlog.reset_defaults()

    assert json.loads(out.getvalue())
    assert out.getvalue().count("\n") == 1


def test_nothing_an_agent_says_moves_the_cursor_of_a_terminal(out: io.StringIO) -> None:
    logs.configure("info", "console", out)
    logs.get_logger().info("x", said="\x1b[2J\x9b31mgone\r\nfake line")

    assert len(out.getvalue().splitlines()) == 1
    assert not set(out.getvalue()) & {"\x1b", "\x9b", "\r"}


class Closed(io.StringIO):
    def write(self, text: str, /) -> int:
        raise BrokenPipeError


class Full(io.StringIO):
    def flush(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [Closed(), Full()], ids=["closed", "full"])
def test_a_lost_log_stream_does_not_reach_the_caller(out: io.StringIO, stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)

    assert logs.get_logger().info("x") is None
    logging.getLogger("aiohttp").warning("x")
