"""Methods about server requests: what Codex asks, and somebody has to answer."""

from typing import Annotated, Any

import msgspec
from pydantic import Field, model_validator

from supervisor.ports.store import ServerRequestRow
from supervisor.protocol.answers import check_answer, from_decision
from supervisor.rpc.methods import (
    Done,
    Identifier,
    Method,
    Params,
    ProjectCall,
    Result,
    check_nesting,
)


class ListApprovals(Params):
    thread_id: Identifier | None = None
    """Only those of this thread."""


class AnswerApproval(Params):
    """Exactly one of `decision` and `result`."""

    approval_id: Annotated[str, Field(min_length=1, max_length=256)]
    decision: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """A word: `accept`, `acceptForSession`, `decline`, `cancel`."""
    result: dict[str, Any] | None = None
    """The whole result, as Codex's schema has it for that server request."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "AnswerApproval":
        if (self.decision is None) == (self.result is None):
            raise ValueError("give exactly one of decision, result")
        return self


class Approval(Result, frozen=True, kw_only=True):
    approval_id: str
    method: str
    """Codex's server request, such as `item/commandExecution/requestApproval`."""
    thread_id: str | None
    turn_id: str | None
    item_id: str | None
    params: msgspec.Raw
    """Codex's own."""
    state: str
    asked_at: float
    """POSIX seconds."""


class Approvals(Result, frozen=True, kw_only=True):
    approvals: list[Approval]
    """Oldest first."""


async def list_approvals(call: ProjectCall, params: ListApprovals) -> Approvals:
    return Approvals(
        approvals=[
            _shown(row)
            for row in call.agent.waiting()
            if params.thread_id is None or row.thread_id == params.thread_id
        ]
    )


def _shown(row: ServerRequestRow) -> Approval:
    return Approval(
        approval_id=row.approval_id,
        method=row.method,
        thread_id=row.thread_id,
        turn_id=row.turn_id,
        item_id=row.item_id,
        params=msgspec.Raw(row.params),
        state=row.state,
        asked_at=row.asked_at,
    )


async def answer_approval(call: ProjectCall, params: AnswerApproval) -> Done:
    result = _result(call, params)
    await call.agent.answer(call.principal, params.approval_id, result)
    return Done()


def _result(call: ProjectCall, params: AnswerApproval) -> object:
    """What to write. Of a request that waits no more the agent says why, whatever the answer."""
    if params.result is not None:
        check_nesting("result", params.result)
    asked = {row.approval_id: row for row in call.agent.waiting()}.get(params.approval_id)
    if asked is None:
        return params.result or {}
    if params.decision is None:
        return check_answer(asked.method, params.result)
    return from_decision(asked.method, params.decision, asked.params)


METHODS = (
    Method(
        name="listApprovals",
        doc="What waits for an answer: approvals, questions, calls of dynamic tools.",
        params=ListApprovals,
        result=Approvals,
        project=list_approvals,
    ),
    Method(
        name="answerApproval",
        doc="Answer one. The first answer wins; later ones get `approval_settled`.",
        params=AnswerApproval,
        result=Done,
        project=answer_approval,
        acts=True,
    ),
)
