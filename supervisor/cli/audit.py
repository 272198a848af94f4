"""`audit`: list what was done by whom, and verify that nobody changed the list."""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from supervisor.api.client import RpcClient
from supervisor.cli import output
from supervisor.cli.calling import called, connected, project_of
from supervisor.cli.invocation import Invocation, with_options
from supervisor.cli.nouns import ProjectOption, noun
from supervisor.errors import ErrorCode, SupervisorError

PAGE = 1000
COLUMNS = ("seq", "when (UTC)", "who", "thread/turn", "kind", "what")

_SHORT = 8
"""Of an id, its last characters tell it from its neighbours: the first ones are a time."""
_TOLD = ("command", "path", "decision", "state", "exit_kind", "more")
"""Parts of a detail that say what a record is about; the method, where none of them does."""

Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind", "-k", help="Only this kind, such as command.run, or command. May repeat."
    ),
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")]
After = Annotated[
    int | None,
    typer.Option("--after", min=0, help="From the record after this seq on; else the newest."),
]
Thread = Annotated[str | None, typer.Option("--thread", "-t", help="Only of this thread.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    audit = noun(app, "audit", "Who did what, where and when: list (the default), verify.")
    audit.command("list")(with_options(list_audit))
    audit.command("verify")(with_options(verify_audit))


def list_audit(
    inv: Invocation,
    project: ProjectOption = None,
    *,
    kind: Kinds = None,
    limit: Limit = 100,
    after: After = None,
    thread: Thread = None,
) -> None:
    """Audit records, in order: the newest, or those after --after."""
    name, wanted = project_of(project), tuple(kind or ())

    async def talk(client: RpcClient) -> list[Any]:
        found = _matching(client, name, after, thread, wanted)
        if after is None:
            return list(deque([record async for record in found], maxlen=limit))
        first = []
        async for record in found:
            first.append(record)
            if len(first) == limit:
                break
        return first

    records = connected(inv.settings(), talk)
    if inv.json:
        output.document({"records": records})
    elif records:
        output.table(COLUMNS, rows(records, to_the_end=after is None or len(records) < limit))
    else:
        output.note("no records")


def verify_audit(inv: Invocation, project: ProjectOption = None) -> None:
    """Check the hash chain: any edit, gap, reordering or cut tail is found."""
    name = project_of(project)
    found = called(inv.settings(), name, "verifyAudit")
    if not found["ok"]:
        raise SupervisorError(
            ErrorCode.STORE_CORRUPT,
            f"the audit log of {name} is not what was written: {found['problem']} at record "
            f"{found['atSeq']}; the {found['checked']} before it are good",
            hint="Compare with a backup: somebody changed the database.",
            details=found,
        )
    if inv.json:
        output.document(found)
    else:
        output.facts((("records", found["checked"]), ("chain", "whole"), ("head", found["head"])))


def rows(
    records: Sequence[dict[str, Any]], *, to_the_end: bool = False
) -> Iterable[tuple[object, ...]]:
    """Records as rows of a table with `COLUMNS`. `to_the_end`: there are none after them."""
    ended = {one["detail"].get("exec_id") for one in records if one["phase"] == "outcome"}
    for one in records:
        exec_id = one["detail"].get("exec_id")
        is_open = to_the_end and exec_id is not None and exec_id not in ended
        yield (
            one["seq"],
            datetime.fromtimestamp(one["at"], UTC).strftime("%Y-%m-%d %H:%M:%S"),
            f"{one['account']}/{one['principal']} {one['source']}",
            "/".join(text[-_SHORT:] for text in (one["threadId"], one["turnId"]) if text),
            f"{one['kind']} {one['phase']}",
            what(one["detail"]) + (", nobody said how it ended" if is_open else ""),
        )


def what(detail: dict[str, Any]) -> str:
    """A record's detail in a few words."""
    words = [f"{detail[name]}" for name in _TOLD if detail.get(name) is not None]
    if not words and detail.get("method") is not None:
        words.append(str(detail["method"]))
    if detail.get("exit_code") is not None:
        words.append(f"exit {detail['exit_code']}")
    if detail.get("duration_ms") is not None:
        words.append(f"{detail['duration_ms']} ms")
    if detail.get("diff_bytes") is not None:
        words.append(f"{detail.get('kind')}, {detail['diff_bytes']} bytes of diff")
    if detail.get("exec_id") is not None:
        words.append(f"exec {detail['exec_id']}")
    if isinstance(detail.get("trusted"), bool):
        words.append("trusted" if detail["trusted"] else "untrusted")
    if detail.get("pid") is not None:
        words.append(f"pid {detail['pid']}")
    return ", ".join(" ".join(word.split()) for word in words)


async def _matching(
    client: RpcClient, project: str, after: int | None, thread: str | None, kinds: tuple[str, ...]
) -> AsyncIterator[Any]:
    params: dict[str, object] = {"limit": PAGE, "afterSeq": -1 if after is None else after}
    if thread is not None:
        params["threadId"] = thread
    while True:
        page: Any = await client.call(project, "listAudit", params)
        for record in page["records"]:
            if not kinds or any(_is_kind(record["kind"], kind) for kind in kinds):
                yield record
        if len(page["records"]) < PAGE:
            return
        params["afterSeq"] = page["records"][-1]["seq"]


def _is_kind(kind: str, wanted: str) -> bool:
    return kind == wanted or kind.startswith(wanted + ".")
