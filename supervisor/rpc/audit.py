"""The audit log, to read."""

from typing import Annotated

import msgspec
from pydantic import Field

from supervisor.ports.store import AuditRow
from supervisor.rpc.methods import Identifier, Method, Params, ProjectCall, Result


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
)
