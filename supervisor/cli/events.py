"""`events`: what a project's agent says, as it comes or as it was."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from supervisor.cli import output
from supervisor.cli.invocation import Invocation, with_options
from supervisor.cli.nouns import ProjectOption

if TYPE_CHECKING:
    from supervisor.cli.listing import Line
    from supervisor.ids import Cursor
    from supervisor.settings import Settings

MERGE_SECONDS = 0.5
"""How long deltas are collected for one line, while they come."""
QUIET_SECONDS = 2.0
"""Of silence after which everything was replayed. Needed where the last numbers are of nothing to
show, so that the present's own cursor never comes."""

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")]
After = Annotated[
    str | None, typer.Option("--after", help="Begin after this cursor; else with a snapshot.")
]
Thread = Annotated[str | None, typer.Option("--thread", help="Only this thread's.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("events")(events)


@with_options
def events(
    invocation: Invocation,
    *,
    follow: Follow = False,
    after: After = None,
    project: ProjectOption = None,
    thread: Thread = None,
) -> None:
    """A project's events, a line each.

    Those after a cursor, or a snapshot; with -f also those to come.
    """
    import asyncio

    from supervisor.cli.calling import project_of
    from supervisor.ids import Cursor

    begin = None if after is None else Cursor.parse(after)
    shown = _JsonLines() if invocation.json else _Table(with_thread=thread is None)
    watch = _followed if follow else _replayed
    asyncio.run(watch(invocation.settings(), project_of(project), thread, begin, shown))


class _Shown(Protocol):
    """Where events go."""

    def take(self, payload: Mapping[str, object]) -> None:
        """One payload of `subscribe`."""

    def flush(self) -> None:
        """There is no more for now."""


class _JsonLines:
    """For programs."""

    def take(self, payload: Mapping[str, object]) -> None:
        """Print it."""
        output.line(payload)

    def flush(self) -> None:
        """Nothing is held back."""


class _Table:
    """Lines for people. Owned by one event loop, which flushes deltas that nothing follows."""

    def __init__(self, *, with_thread: bool) -> None:
        from supervisor.cli.listing import Lines

        self._lines = Lines()
        self._with_thread = with_thread
        self._flush_due = False

    def take(self, payload: Mapping[str, object]) -> None:
        """Print what the payload completes."""
        import asyncio

        self._print(self._lines.take(payload))
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_later(MERGE_SECONDS, self._flush_when_due)

    def flush(self) -> None:
        """Print what was being collected."""
        self._flush_due = False
        self._print(self._lines.flush())

    def _flush_when_due(self) -> None:
        # That nobody reads any more ends the command with the next payload.
        with contextlib.suppress(BrokenPipeError):
            self.flush()

    def _print(self, lines: "Iterable[Line]") -> None:
        for line in lines:
            said = " ".join(line.summary.split())
            thread = f"  [{line.thread}]" if self._with_thread and line.thread else ""
            output.text(f"{line.cursor}  {line.what}  {said}{thread}")


async def _followed(
    settings: "Settings", project: str, thread: str | None, after: "Cursor | None", shown: _Shown
) -> None:
    from contextlib import aclosing

    from supervisor.api.following import follow
    from supervisor.cli.calling import dial
    from supervisor.errors import ErrorCode, SupervisorError

    try:
        async with dial(settings) as client:
            # Nobody there, or no such project: said at once, not after long trying.
            await client.call(project, "projectStatus")
    except SupervisorError as error:
        if error.code is not ErrorCode.AGENT_NOT_READY:
            raise
    payloads = follow(
        lambda: dial(settings), project, thread, after, on_lost=lambda e: output.note(e.message)
    )
    async with aclosing(payloads):
        async for payload in payloads:
            shown.take(payload)


async def _replayed(
    settings: "Settings", project: str, thread: str | None, after: "Cursor | None", shown: _Shown
) -> None:
    import asyncio
    from contextlib import aclosing, suppress

    from supervisor.cli.calling import dial

    loop = asyncio.get_running_loop()
    params = {"threadId": thread, "after": None if after is None else str(after)}
    given: dict[str, object] = {key: value for key, value in params.items() if value is not None}
    async with dial(settings) as client:
        status = await client.call(project, "projectStatus")
        present = str(status["cursor"]) if isinstance(status, dict) else ""
        payloads = client.stream(project, "subscribe", given)
        with suppress(TimeoutError):
            async with aclosing(payloads), asyncio.timeout(QUIET_SECONDS) as quiet:
                async for payload in payloads:
                    assert isinstance(payload, dict)
                    shown.take(payload)
                    if _is_present(payload, present):
                        break
                    quiet.reschedule(loop.time() + QUIET_SECONDS)
    shown.flush()


def _is_present(payload: Mapping[str, object], present: str) -> bool:
    """Whether nothing of before `present` can follow."""
    from supervisor.ids import Cursor

    if payload.get("type") == "snapshot":
        return True
    if payload.get("type") != "event":
        return False
    here, there = Cursor.parse(str(payload["cursor"])), Cursor.parse(present)
    return here.epoch == there.epoch and here.n >= there.n
