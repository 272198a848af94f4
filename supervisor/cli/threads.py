"""`threads`: list, read, name, archive."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from supervisor.api.client import RpcClient
from supervisor.cli import output
from supervisor.cli.calling import called, connected, project_of
from supervisor.cli.invocation import Invocation, with_options
from supervisor.cli.nouns import ProjectOption, noun
from supervisor.errors import ErrorCode, SupervisorError

PREVIEW = 60
"""Characters of a thread's first prompt that the table shows."""
PAGE = 100
"""Threads asked for at once."""

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")]
Archived = Annotated[bool, typer.Option("--archived", help="Those put away.")]
ThreadId = Annotated[str, typer.Argument(metavar="ID", help="The thread.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    threads = noun(app, "threads", "A project's threads: list (the default), read, name, archive.")
    for name, command in (
        ("list", list_threads),
        ("read", read_thread),
        ("name", name_thread),
        ("archive", archive_thread),
    ):
        threads.command(name)(with_options(command))


def list_threads(
    inv: Invocation, project: ProjectOption = None, limit: Limit = 25, archived: Archived = False
) -> None:
    """Threads, newest first. One without a turn is not listed."""
    name = project_of(project)
    found = connected(inv.settings(), lambda client: _listed(client, name, limit, archived))
    if inv.json:
        output.document({"threads": found})
        return
    rows = [
        (one["id"], when(one.get("updatedAt")), _status(one), one.get("name"), _preview(one))
        for one in found
    ]
    if rows:
        output.table(("thread", "last used (UTC)", "status", "name", "first prompt"), rows)
    else:
        output.note("no threads; `codex-supervisor run PROMPT` starts one")


def read_thread(inv: Invocation, thread_id: ThreadId, project: ProjectOption = None) -> None:
    """One thread, with what was said and done in it."""
    name = project_of(project)
    thread = connected(inv.settings(), lambda client: _read(client, name, thread_id))
    if inv.json:
        output.document(thread)
        return
    output.facts(
        (
            ("thread", thread["id"]),
            ("name", thread.get("name")),
            ("status", _status(thread)),
            ("model", thread.get("model")),
            ("directory", thread.get("cwd")),
            ("started (UTC)", when(thread.get("createdAt"))),
            ("last used (UTC)", when(thread.get("updatedAt"))),
        )
    )
    for line in told(thread):
        output.console().print(output.plain(line))


def name_thread(
    inv: Invocation,
    thread_id: ThreadId,
    name: Annotated[str, typer.Argument(help="Its new name.")],
    project: ProjectOption = None,
) -> None:
    """Give a thread a name."""
    _change(inv, project, "nameThread", {"threadId": thread_id, "name": name})


def archive_thread(inv: Invocation, thread_id: ThreadId, project: ProjectOption = None) -> None:
    """Put a thread away: it is listed with --archived only."""
    _change(inv, project, "archiveThread", {"threadId": thread_id})


def told(thread: dict[str, Any]) -> Iterator[str]:
    """The turns of a thread, in lines for people. What Codex sends is a claim: read leniently."""
    for turn in thread.get("turns") or ():
        yield ""
        yield f"-- turn {turn.get('id')} ({turn.get('status')})"
        for item in turn.get("items") or ():
            yield from _item(item)


def when(seconds: object) -> str | None:
    """POSIX seconds as a date and a time, UTC."""
    if not isinstance(seconds, int | float):
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _item(item: dict[str, Any]) -> Iterator[str]:
    kind = item.get("type")
    if kind == "userMessage":
        parts = (part.get("text") for part in item.get("content") or () if isinstance(part, dict))
        yield "> " + "\n> ".join("\n".join(p for p in parts if isinstance(p, str)).split("\n"))
    elif kind == "agentMessage":
        yield str(item.get("text") or "")
    elif kind == "commandExecution":
        yield f"$ {item.get('command')}  [exit {item.get('exitCode')}]"
    elif kind == "fileChange":
        for change in item.get("changes") or ():
            yield f"~ {change.get('path')}  [{item.get('status')}]"
    elif kind != "reasoning":
        yield f"({kind})"


async def _listed(client: RpcClient, project: str, limit: int, archived: bool) -> list[Any]:
    found: list[Any] = []
    params: dict[str, object] = {"archived": archived}
    while len(found) < limit:
        params["limit"] = min(PAGE, limit - len(found))
        page: Any = await client.call(project, "listThreads", params)
        found += page["threads"]
        if page["nextCursor"] is None:
            break
        params["cursor"] = page["nextCursor"]
    return found[:limit]


async def _read(client: RpcClient, project: str, thread_id: str) -> dict[str, Any]:
    params: dict[str, object] = {"threadId": thread_id, "includeTurns": True}
    try:
        answer: Any = await client.call(project, "readThread", params)
    except SupervisorError as error:
        if error.code is not ErrorCode.CODEX_REFUSED:
            raise
        # Codex refuses the turns of a thread that has none yet.
        answer = await client.call(project, "readThread", {"threadId": thread_id})
    thread: dict[str, Any] = answer["thread"]
    return thread


def _change(inv: Invocation, project: str | None, method: str, params: dict[str, object]) -> None:
    done = called(inv.settings(), project_of(project), method, params)
    if inv.json:
        output.document(done)


def _status(thread: dict[str, Any]) -> str | None:
    said = thread.get("status")
    return said.get("type") if isinstance(said, dict) else None


def _preview(thread: dict[str, Any]) -> str:
    text = " ".join(str(thread.get("preview") or "").split())
    return text if len(text) <= PREVIEW else text[: PREVIEW - 1] + "…"
