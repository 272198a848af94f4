"""Methods about threads.

Codex's home may be shared with the person's other projects (lite mode), so a thread is looked at
before it is touched: one of another directory is as unknown as one that never was.
"""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.rpc.methods import (
    Done,
    Identifier,
    Method,
    Name,
    Params,
    Path,
    ProjectCall,
    Result,
    check_nesting,
)
from supervisor.rpc.paths import inside, is_inside
from supervisor.rpc.tools import DynamicTools

MAX_PAGES = 20
"""Pages of Codex's list that one `listThreads` may read past other projects' threads."""

Effort = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
"""What the model advertises: low, medium, high ..."""


class StartThread(Params):
    model: Name | None = None
    cwd: Path | None = None
    """Inside the project; relative to it, or absolute. The project itself if left out."""
    sandbox: Literal["read-only", "workspace-write", "danger-full-access"] | None = None
    approval_policy: Literal["untrusted", "on-request", "never"] | None = None
    """`on-failure` is gone since codex 0.163.0."""
    effort: Effort | None = None
    """The model's reasoning effort."""
    developer_instructions: Annotated[str, Field(max_length=262_144)] | None = None
    dynamic_tools: DynamicTools | None = None
    """Tools that the client carries out: calls arrive as approvals of `item/tool/call`."""


class ListThreads(Params):
    limit: Annotated[int, Field(ge=1, le=100)] = 25
    cursor: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """`nextCursor` of the page before."""
    archived: bool = False


class ReadThread(Params):
    thread_id: Identifier
    include_turns: bool = False


class OneThread(Params):
    thread_id: Identifier


class NameThread(Params):
    thread_id: Identifier
    name: Name


class Started(Result, frozen=True, kw_only=True):
    thread_id: str
    request_id: str
    """The upstream id, under which the audit log has it."""
    thread: msgspec.Raw
    """Codex's answer: the thread, and the settings in force."""


class Threads(Result, frozen=True, kw_only=True):
    threads: list[msgspec.Raw]
    """Codex's thread objects, newest first."""
    next_cursor: str | None


class ThreadRead(Result, frozen=True, kw_only=True):
    thread: msgspec.Raw
    """Codex's thread object."""


class _Place(msgspec.Struct, frozen=True):
    id: str
    cwd: str


class _Page(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]
    nextCursor: str | None = None  # noqa: N815  # Codex's name


class _Holder(msgspec.Struct, frozen=True):
    thread: msgspec.Raw


_PAGE = msgspec.json.Decoder(_Page)
_HOLDER = msgspec.json.Decoder(_Holder)
_PLACE = msgspec.json.Decoder(_Place)


def _place(thread: msgspec.Raw) -> _Place:
    try:
        return _PLACE.decode(thread)
    except msgspec.MsgspecError as error:
        raise SupervisorError(
            ErrorCode.CODEX_REFUSED, f"codex answered with no thread: {error}"
        ) from None


def _held(answer: msgspec.Raw) -> msgspec.Raw:
    try:
        return _HOLDER.decode(answer).thread
    except msgspec.MsgspecError as error:
        raise SupervisorError(
            ErrorCode.CODEX_REFUSED, f"codex answered with no thread: {error}"
        ) from None


async def own_thread(call: ProjectCall, thread_id: str, *, turns: bool = False) -> msgspec.Raw:
    """Codex's object of a thread of this project. `thread_unknown` for any other."""
    answer = await call.agent.ask("thread/read", {"threadId": thread_id, "includeTurns": turns})
    thread = _held(answer)
    if not is_inside(call.status.inside, _place(thread).cwd):
        raise SupervisorError(ErrorCode.THREAD_UNKNOWN, f"thread not found: {thread_id}")
    return thread


def start_params(params: StartThread, project_path: str) -> dict[str, object]:
    """What `thread/start` gets."""
    upstream: dict[str, object] = params.model_dump(
        by_alias=True, exclude_none=True, exclude={"effort", "cwd"}
    )
    if params.dynamic_tools is not None:
        check_nesting("dynamicTools", upstream["dynamicTools"])
    if params.cwd is not None:
        upstream["cwd"] = inside("cwd", project_path, params.cwd)
    if params.effort is not None:
        # thread/start has no field for it; clients cannot send `config` themselves.
        upstream["config"] = {"model_reasoning_effort": params.effort}
    return upstream


async def start_thread(call: ProjectCall, params: StartThread) -> Started:
    upstream = start_params(params, call.status.path)
    acted = await call.agent.act(call.principal, "thread/start", upstream)
    return _started(acted.request_id, acted.result)


async def list_threads(call: ProjectCall, params: ListThreads) -> Threads:
    found: list[msgspec.Raw] = []
    cursor = params.cursor
    for _ in range(MAX_PAGES):
        page = await _page(call, params, cursor, params.limit - len(found))
        found += [one for one in page.data if is_inside(call.status.inside, _place(one).cwd)]
        cursor = page.nextCursor
        if cursor is None or len(found) >= params.limit:
            break
    return Threads(threads=found, next_cursor=cursor)


async def _page(call: ProjectCall, params: ListThreads, cursor: str | None, limit: int) -> _Page:
    upstream: dict[str, Any] = {"limit": limit, "archived": params.archived}
    if cursor is not None:
        upstream["cursor"] = cursor
    answer = await call.agent.ask("thread/list", upstream)
    try:
        return _PAGE.decode(answer)
    except msgspec.MsgspecError as error:
        raise SupervisorError(
            ErrorCode.CODEX_REFUSED, f"codex answered with no list of threads: {error}"
        ) from None


async def read_thread(call: ProjectCall, params: ReadThread) -> ThreadRead:
    return ThreadRead(thread=await own_thread(call, params.thread_id, turns=params.include_turns))


async def resume_thread(call: ProjectCall, params: OneThread) -> Started:
    thread = await own_thread(call, params.thread_id)
    upstream: dict[str, object] = {"threadId": params.thread_id, "cwd": _place(thread).cwd}
    acted = await call.agent.act(call.principal, "thread/resume", upstream)
    return _started(acted.request_id, acted.result)


async def name_thread(call: ProjectCall, params: NameThread) -> Done:
    await own_thread(call, params.thread_id)
    upstream: dict[str, object] = {"threadId": params.thread_id, "name": params.name}
    await call.agent.act(call.principal, "thread/name/set", upstream)
    return Done()


async def archive_thread(call: ProjectCall, params: OneThread) -> Done:
    await own_thread(call, params.thread_id)
    upstream: dict[str, object] = {"threadId": params.thread_id}
    await call.agent.act(call.principal, "thread/archive", upstream)
    return Done()


def _started(request_id: str, answer: msgspec.Raw) -> Started:
    return Started(thread_id=_place(_held(answer)).id, request_id=request_id, thread=answer)


METHODS = (
    Method(
        name="startThread",
        doc="Start a thread.",
        params=StartThread,
        result=Started,
        project=start_thread,
        acts=True,
        needs_agent=True,
    ),
    Method(
        name="listThreads",
        doc="The project's threads, newest first, a page at a time. "
        "A thread without a turn is not listed.",
        params=ListThreads,
        result=Threads,
        project=list_threads,
        needs_agent=True,
    ),
    Method(
        name="readThread",
        doc="One thread, with its turns if asked for (Codex refuses those of a thread "
        "that has none yet).",
        params=ReadThread,
        result=ThreadRead,
        project=read_thread,
        needs_agent=True,
    ),
    Method(
        name="resumeThread",
        doc="Load a stored thread, so that turns can go on in it.",
        params=OneThread,
        result=Started,
        project=resume_thread,
        acts=True,
        needs_agent=True,
    ),
    Method(
        name="nameThread",
        doc="Give a thread a name.",
        params=NameThread,
        result=Done,
        project=name_thread,
        acts=True,
        needs_agent=True,
    ),
    Method(
        name="archiveThread",
        doc="Put a thread away: `listThreads` shows it with `archived` only.",
        params=OneThread,
        result=Done,
        project=archive_thread,
        acts=True,
        needs_agent=True,
    ),
)
