"""The audit log, to read."""

from typing import Annotated

import msgspec
from pydantic import Field

from supervisor.audit.chain import Verdict, verify
from supervisor.ports.store import AuditRow
from supervisor.rpc.methods import Identifier, Method, NoParams, Params, ProjectCall, Result

PAGE = 1000
"""Records checked between two looks at other work."""


class ListAudit(Params):
    after_seq: Annotated[int, Field(ge=-1, le=2**53)] = -1
    """Records after this one."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    thread_id: Identifier | None = None


class AuditRecord(Result, frozen=True, kw_only=True):
    seq: int
    at: float
    """POSIX seconds."""
    kind: str
    phase: str
    account: str
    principal: str
    source: str
    client: str
    host: str
    generation: int
    n: int
    thread_id: str | None
    turn_id: str | None
    item_id: str | None
    detail: msgspec.Raw
    hash: str


class AuditRecords(Result, frozen=True, kw_only=True):
    records: list[AuditRecord]
    """In order of `seq`."""


async def list_audit(call: ProjectCall, params: ListAudit) -> AuditRecords:
    rows = await call.agent.audit(params.after_seq, params.limit, params.thread_id)
    return AuditRecords(records=[_shown(row) for row in rows])


class Verified(Result, frozen=True, kw_only=True):
    ok: bool
    checked: int
    """Good records before the problem, or all of them."""
    head: str
    """The hash of the last good record: noted elsewhere, it proves the chain up to there."""
    problem: str | None
    """`edited`, `gap`, `reordered` or `cut`."""
    at_seq: int | None
    """The number of the first wrong or missing record."""


async def verify_audit(call: ProjectCall, params: NoParams) -> Verified:  # noqa: ARG001
    # The end first: what is appended while we read is left for the next time.
    end = call.agent.audit_end()
    verdict, checked = verify(()), 0
    while verdict.ok:
        rows = await call.agent.audit(verdict.next_seq - 1, PAGE, None)
        rows = [row for row in rows if row.seq < end[0]]
        last = len(rows) < PAGE
        verdict = verify(
            rows,
            start_hash=verdict.head,
            start_seq=verdict.next_seq,
            end=end if last else None,
        )
        checked += verdict.checked
        if last:
            break
    return _found(verdict, checked)


def _found(verdict: Verdict, checked: int) -> Verified:
    return Verified(
        ok=verdict.ok,
        checked=checked,
        head=verdict.head,
        problem=verdict.problem and verdict.problem.value,
        at_seq=verdict.at_seq,
    )


def _shown(row: AuditRow) -> AuditRecord:
    return AuditRecord(
        seq=row.seq,
        at=row.at,
        kind=row.kind,
        phase=row.phase,
        account=row.account,
        principal=row.principal,
        source=row.source,
        client=row.client,
        host=row.host,
        generation=row.generation,
        n=row.n,
        thread_id=row.thread_id,
        turn_id=row.turn_id,
        item_id=row.item_id,
        detail=msgspec.Raw(row.detail),
        hash=row.hash,
    )


METHODS = (
    Method(
        name="listAudit",
        doc="Audit records, in order: who did what, where and when.",
        params=ListAudit,
        result=AuditRecords,
        project=list_audit,
    ),
    Method(
        name="verifyAudit",
        doc="Check the hash chain of all records, up to the end the project's checkpoint knows.",
        params=NoParams,
        result=Verified,
        project=verify_audit,
    ),
)
